"""What a terminal shows of a sweep."""

from __future__ import annotations

from rich.table import Table

from noetik_rllib.cli.evaluation_tables import plain_table
from noetik_rllib.interpret import words
from noetik_rllib.sweeps.importance import parameter_text
from noetik_rllib.sweeps.outcomes import MINIMISED
from noetik_rllib.sweeps.results import SweepResult, trained_text
from noetik_rllib.sweeps.tradeoff import tradeoff

#: Correlations that chance gives to one parameter in twenty are not worth a line.
_SIGNIFICANT = 0.05
_SHOWN = 3


def trial_table(result: SweepResult) -> Table:
    """Trials by what they reached in the first objective; those of the Pareto front are marked."""
    objectives = result.config.objectives
    columns = list(dict.fromkeys(("reward", *objectives)))
    table = plain_table("trial")
    table.add_column("", width=1)
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_column("trained with")
    first = objectives[0]
    sign = 1 if first in MINIMISED else -1
    for trial in sorted(result.judged, key=lambda one: sign * one.outcomes[first].mean):
        table.add_row(
            trial.name,
            "*" if trial.pareto else "",
            *(f"{trial.outcomes[name].mean:.4f}" for name in columns),
            trained_text(trial),
            style="bold" if trial.pareto else None,
        )
    for trial in result.trials:
        if not trial.outcomes:
            blank = [""] * len(columns)
            to_do = ", to be judged" if trial.status == "stopped" else ""
            blank[0] = f"{trial.status} at {trial.iterations}{to_do}"
            table.add_row(trial.name, "", *blank, parameter_text(trial.parameters), style="dim")
    return table


def remarks(result: SweepResult) -> list[str]:
    """How to read the table, and what else the sweep says."""
    objectives = words.listing([name.replace("_", " ") for name in result.config.objectives])
    lines = [
        f"* Pareto front: no other trial is at least as good in {objectives} and better in one. "
        "Means per recommended video, in simulated sessions of held-out users; results.parquet has "
        "all outcomes with their intervals."
    ]
    if not result.judged:
        return ["No trial is judged yet."]
    origin = ", ".join(f"{name} {value:g}" for name, value in result.reference.items())
    lines.append(f"Hypervolume {result.hypervolume:.6g}, above {origin}.")
    for outcome in result.config.objectives:
        found = sorted(
            (
                (one[outcome], name)
                for name, one in result.importance.items()
                if outcome in one and one[outcome].p_value < _SIGNIFICANT
            ),
            key=lambda pair: -abs(pair[0].correlation),
        )
        if found:
            said = ", ".join(f"{name} {one.correlation:+.2f}" for one, name in found[:_SHOWN])
            lines.append(f"What goes with {outcome} (rank correlation, p < 0.05): {said}.")
    curve = tradeoff(result)
    if curve is not None:
        lines.append(curve.verdict)
    return lines

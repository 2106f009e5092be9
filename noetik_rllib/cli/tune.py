"""``noetik tune``: a sweep with Ray Tune, and its Pareto set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from noetik_rllib.cli.console import out as console
from noetik_rllib.cli.console import progress_bar
from noetik_rllib.cli.types import PATH
from noetik_rllib.errors import UserError

if TYPE_CHECKING:  # importing it imports torch
    from noetik_rllib.sweeps.sweep import SweepResult, Trial


@click.command(epilog="Example: noetik tune tune_configs/reward_weights.yaml --data data/demo")
@click.argument("file", type=PATH)
@click.option("--data", type=PATH, help="Dataset, instead of the file's.")
@click.option(
    "--out",
    "out_path",
    type=PATH,
    help="Folder to write; by default runs/NAME, with the file's name.",
)
@click.option("--num-samples", type=int, help="Trials, instead of the file's number.")
@click.option("--json", "as_json", is_flag=True, help="Print every trial as JSON.")
def tune(
    file: Path, data: Path | None, out_path: Path | None, num_samples: int | None, as_json: bool
) -> None:
    """Sweep the parameters that FILE names; print the trials that no other beats.

    Trials are compared on the same outcomes, whatever reward each was trained on.
    """
    from noetik_rllib.sweeps.config import SweepConfig
    from noetik_rllib.sweeps.sweep import run_sweep

    if num_samples is not None and num_samples < 1:
        raise UserError(f"num-samples is {num_samples}: expected at least 1")
    config = SweepConfig.load(file)
    changes: dict[str, Any] = {"data": data, "num_samples": num_samples}
    config = config.model_copy(update={k: v for k, v in changes.items() if v is not None})
    out_path = out_path or Path("runs") / config.name
    with progress_bar(f"tune {config.name}") as update:
        update(f"trial 1 of {config.num_samples}", 0.0)

        def show(done: int) -> None:
            share = done / config.num_samples
            update(f"{done} of {config.num_samples} trials done", share)

        result = run_sweep(config, out_path, show)
    if as_json:
        click.echo(result.model_dump_json(indent=2))
        return
    console.print(trial_table(result))
    console.print(
        f"* Pareto set: no other trial is at least as good in {', '.join(config.objectives)} and "
        "better in one. Means per recommended video, in simulated sessions of held-out users.",
        style="dim",
        highlight=False,
    )
    console.print(f"Runs: {out_path / 'trials'}", highlight=False, soft_wrap=True)


def trial_table(result: SweepResult) -> Table:
    """Trials by what they reached in the first objective; those of the Pareto set are marked."""
    objectives = result.config.objectives
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("trial", no_wrap=True)
    table.add_column("", width=1)
    for name in ("reward", *objectives):
        table.add_column("mean reward" if name == "reward" else name, justify="right")
    table.add_column("trained on")
    for trial in sorted(result.trials, key=lambda one: -one.outcomes[objectives[0]]):
        table.add_row(
            trial.name,
            "*" if trial.pareto else "",
            *(f"{trial.outcomes[name]:.4f}" for name in ("reward", *objectives)),
            _parameters(trial),
            style="bold" if trial.pareto else None,
        )
    return table


def _parameters(trial: Trial) -> str:
    parts = []
    for name, value in trial.parameters.items():
        if isinstance(value, dict):
            parts += [f"{key} {weight:.2f}" for key, weight in value.items() if weight]
        else:
            parts.append(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(parts)

"""``SWEEP/report.html``: what a sweep found, on one page without any reference to the outside."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from noetik_rllib.evaluation.result import Interval
from noetik_rllib.interpret import words
from noetik_rllib.report.html import read, templates, write_page
from noetik_rllib.report.sweep_plots import (
    front_plots,
    importance_plots,
    parallel_plot,
    plain,
    tradeoff_plots,
    trial_rows,
)
from noetik_rllib.sweeps.importance import parameter_text
from noetik_rllib.sweeps.outcomes import MINIMISED
from noetik_rllib.sweeps.results import SweepResult, trained_text
from noetik_rllib.sweeps.search import Choice, Grid, Uniform
from noetik_rllib.sweeps.tradeoff import tradeoff

#: How trials end, in the order in which they are counted, as readers see it.
_STATUSES = {
    "finished": "finished",
    "stopped": "stopped early",
    "failed": "failed",
    "unfinished": "unfinished",
}


def _interval(one: Interval) -> str:
    return f"{one.low:.4f} to {one.high:.4f}"


def _headlines(result: SweepResult) -> list[str]:
    """What there is to know first, in words that follow from the numbers."""
    judged = result.judged
    ended = [
        f"{count} {plain_status}"
        for status, plain_status in _STATUSES.items()
        if (count := sum(trial.status == status for trial in result.trials))
    ]
    front = [trial.name for trial in judged if trial.pareto]
    said = [
        f"{words.plural(len(result.trials), 'trial')}, {', '.join(ended)}; "
        f"{words.listing(front)} {'is' if len(front) == 1 else 'are'} beaten by no other in "
        f"{words.listing([plain(name) for name in result.config.objectives])} at once."
    ]
    for name in result.config.objectives:
        means = [trial.outcomes[name].mean for trial in judged]
        best = judged[int(np.argmin(means) if name in MINIMISED else np.argmax(means))]
        one = best.outcomes[name]
        which = "Lowest" if name in MINIMISED else "Highest"
        said.append(
            f"{which} {plain(name)}: {one.mean:.4f} ({_interval(one)}), trial {best.name}, trained "
            f"with {trained_text(best)}."
        )
    return said


def _searched(result: SweepResult) -> list[tuple[str, str]]:
    """Name and range of everything that was searched."""
    config = result.config
    rows = []
    if config.reward is not None:
        signals = words.listing([plain(name) for name in config.reward.simplex])
        rows.append(("reward", f"weights on the simplex over {signals}"))
    for name, search in config.search.items():
        if isinstance(search, Grid):
            text = "each of " + ", ".join(map(str, search.grid))
        elif isinstance(search, Choice):
            text = "one of " + ", ".join(map(str, search.choice))
        elif isinstance(search, Uniform):
            scale = " on a log scale" if search.scale == "log" else ""
            text = f"{search.low:g} to {search.high:g}{scale}"
        rows.append((name, text))
    return rows


def _context(result: SweepResult, directory: Path) -> dict[str, Any]:
    config = result.config
    judged = result.judged
    curve = tradeoff(result)
    folder = shlex.quote(str(directory))
    best = next((trial.name for trial in trial_rows(result) if trial.pareto), None)
    return {
        "name": config.name,
        "config": config,
        "result": result,
        "headlines": _headlines(result) if judged else [],
        "front": front_plots(result) if judged else [],
        "parallel": parallel_plot(result),
        "importance": importance_plots(result),
        "copies": any(trial.lineage for trial in judged),
        "curve": curve,
        "tradeoff": tradeoff_plots(curve) if curve else [],
        "rows": trial_rows(result),
        "outcomes": result.outcomes,
        "searched": _searched(result),
        "commands": [
            f"noetik tune --show {folder}",
            *(
                f"noetik {command} {folder}/trials/{best}"
                for command in ("evaluate", "report")
                if best
            ),
        ],
    }


def render(result: SweepResult, directory: Path) -> str:
    """Return the page of a sweep as HTML.

    Args:
        result: of the sweep, as far as it is.
        directory: its folder, for the commands.
    """
    environment = templates()
    environment.filters["plain"] = plain
    environment.filters["parameters"] = parameter_text
    environment.filters["trained"] = trained_text
    environment.filters["interval"] = _interval
    environment.globals["style"] = Markup(read("style.css"))
    return environment.get_template("sweep_page.html").render(_context(result, directory))


def write_sweep_report(result: SweepResult, directory: Path) -> Path:
    """Write ``report.html`` of a sweep's folder, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    return write_page(render(result, directory), directory)

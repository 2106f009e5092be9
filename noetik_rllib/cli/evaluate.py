"""``noetik evaluate``: a run's policy against the baselines, in simulated sessions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from noetik_rllib.cli.console import out as console
from noetik_rllib.cli.console import progress_bar

if TYPE_CHECKING:  # importing it imports torch
    from noetik_rllib.evaluation.result import EvaluationResult, Interval

#: Columns of the table: metric and heading.
_COLUMNS = (("reward", "mean reward"), ("click", "click rate"), ("watch_ratio", "watch ratio"))
_LABELS = {"iql": "IQL (this run)"}


@click.command(epilog="Example: noetik evaluate runs/demo --users 500 --json")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--users", type=int, default=1_000, show_default=True, help="The most held-out users."
)
@click.option("--sessions", type=int, default=2, show_default=True, help="Sessions of each user.")
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same result.")
@click.option("--json", "as_json", is_flag=True, help="Print the content of metrics.json.")
def evaluate(run: Path, users: int, sessions: int, seed: int, as_json: bool) -> None:
    """Compare a run's policy with behaviour cloning, popularity and chance.

    Users held out from training are simulated by a model that was fitted on them alone. Writes
    RUN/metrics.json.
    """
    from noetik_rllib.evaluation.evaluate import evaluate as evaluate_run
    from noetik_rllib.runs import Run

    opened = Run.open(run)
    with progress_bar("evaluate") as update:
        result = evaluate_run(
            opened, users=users, sessions_per_user=sessions, seed=seed, progress=update
        )
    if as_json:
        click.echo(result.model_dump_json(indent=2))
        return
    console.print(comparison(result))
    console.print(remarks(result), style="dim", highlight=False)


def comparison(result: EvaluationResult) -> Table:
    """The policies side by side, as a terminal shows them; ``noetik demo`` prints the same."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("policy", no_wrap=True)
    for _, heading in _COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("videos shown", justify="right")
    for name, metrics in result.policies.items():
        table.add_row(
            _LABELS.get(name, name.replace("_", " ")),
            *(_interval(metrics[metric]) for metric, _ in _COLUMNS),
            f"{result.distinct_videos[name]:,}",
            style="bold" if name == result.policy else None,
        )
    table.add_row(
        "logged (real answers)", *(f"{result.logged[metric]:.3f}" for metric, _ in _COLUMNS), ""
    )
    return table


def remarks(result: EvaluationResult) -> str:
    """What a reader must know to read the table."""
    quality = result.judge.quality
    auc, calibration = quality.auc["click"], quality.calibration["click"]
    lines = [
        f"Means per video over {result.users:,} held-out users, {result.sessions_per_user} "
        f"simulated sessions of {result.steps} videos each, with 95 % intervals.",
        "The users are simulated by a model of their earlier rows, whose clicks on "
        f"{quality.rows:,} later rows "
        + ("cannot be checked" if auc is None else f"have AUC {auc:.3f}")
        + ("" if calibration is None else f" and {calibration:.2f} of the real rate")
        + ".",
    ]
    for name, difference in result.differences.items():
        reward = difference["reward"]
        lines.append(
            f"Reward against {name.replace('_', ' ')}: {reward.mean:+.3f} "
            f"[{reward.low:+.3f}, {reward.high:+.3f}]"
        )
    return "\n".join(lines)


def _interval(interval: Interval) -> str:
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"

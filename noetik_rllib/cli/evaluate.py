"""``noetik evaluate``: a run's policy against the baselines, in simulated sessions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from noetik_rllib.cli.console import out as console
from noetik_rllib.cli.console import progress_bar
from noetik_rllib.cli.types import PATH, SEED

if TYPE_CHECKING:  # importing it imports torch
    from noetik_rllib.evaluation.evaluation_result import EvaluationResult
    from noetik_rllib.evaluation.result import Interval

#: Columns of the table: metric and heading.
_COLUMNS = (("reward", "mean reward"), ("click", "click rate"), ("watch_ratio", "watch ratio"))
_LABELS = {"iql": "IQL (this run)"}


@click.command(epilog="Example: noetik evaluate runs/demo --users 500 --json")
@click.argument("run", type=PATH)
@click.option(
    "--users", type=int, default=1_000, show_default=True, help="The most held-out users."
)
@click.option(
    "--seeds",
    type=int,
    default=5,
    show_default=True,
    help="Sessions of each user, with the seeds SEED, SEED + 1 ...",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Same seed, same result.")
@click.option("--json", "as_json", is_flag=True, help="Print the content of metrics.json.")
def evaluate(run: Path, users: int, seeds: int, seed: int, as_json: bool) -> None:
    """Compare a run's policy with behaviour cloning, popularity and chance.

    Users held out from training are simulated by a model that was fitted on them alone. Writes
    RUN/metrics.json.
    """
    from noetik_rllib.evaluation.evaluate import evaluate as evaluate_run
    from noetik_rllib.runs import Run

    opened = Run.open(run)
    with progress_bar("evaluate") as update:
        result = evaluate_run(opened, users=users, seeds=seeds, seed=seed, progress=update)
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
    table.add_column("videos", justify="right", no_wrap=True)
    for name, metrics in result.sessions.policies.items():
        table.add_row(
            label(name),
            *(_interval(metrics[metric]) for metric, _ in _COLUMNS),
            f"{result.sessions.distinct_videos[name]:,}",
            style="bold" if name == result.policy else None,
        )
    logged = (f"{result.judge.logged[metric]:.3f}        " for metric, _ in _COLUMNS)
    table.add_row("logged (real answers)", *logged, "", style="dim")
    return table


def label(policy: str) -> str:
    """What a policy is called in text."""
    return _LABELS.get(policy, policy.replace("_", " "))


def remarks(result: EvaluationResult) -> str:
    """What a reader must know to read the table."""
    sessions = result.sessions
    lines = [
        f"Reward {label(result.policy)} minus {label(name)}: {_signed(difference['reward'])}"
        for name, difference in sessions.differences.items()
    ]
    lines += [
        f"Means per video, with 95 % intervals over {sessions.users:,} users held out from "
        f"training, in {len(sessions.seeds)} simulated sessions of {sessions.steps} videos each. "
        "'videos': how many different ones were shown.",
        _trust(result),
    ]
    return "\n".join(lines)


def _trust(result: EvaluationResult) -> str:
    """How far the simulated users can be trusted."""
    judge = result.judge
    text = f"The users' answers are simulated. On {judge.quality.rows:,} later rows of theirs"
    auc, calibration = judge.quality.auc["click"], judge.quality.calibration["click"]
    known = []
    if auc is not None:
        known.append(f"AUC {auc:.3f}")
    if calibration is not None:
        known.append(f"{calibration:.2f} times the real click rate")
    text += f": {', '.join(known)}." if known else " there was no click to check them by."
    if not judge.fitted_on.uniform_rows:
        text += (
            " The log has too few random exposures of these users to learn what they think of "
            "videos that the platform would not show them: such videos are overrated here."
        )
    elif judge.quality_uniform and judge.quality_uniform.calibration["click"] is not None:
        uniform = judge.quality_uniform
        text += (
            f" On {uniform.rows:,} later random exposures: {uniform.calibration['click']:.2f} "
            "times the real click rate."
        )
    return text


def _interval(interval: Interval) -> str:
    """A mean and half the width of its interval, which is near enough symmetric."""
    return f"{interval.mean:.3f} ± {(interval.high - interval.low) / 2:.3f}"


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"

"""``noetik tune``: a sweep with Ray Tune, resumed if need be, and its Pareto front."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from noetik_rllib.cli.console import err, progress_bar
from noetik_rllib.cli.console import out as console
from noetik_rllib.cli.errors import clean_end
from noetik_rllib.cli.types import PATH
from noetik_rllib.errors import UserError

if TYPE_CHECKING:  # importing it imports torch
    from noetik_rllib.sweeps.config import SweepConfig
    from noetik_rllib.sweeps.results import SweepResult


@click.command(epilog="Example: noetik tune tune_configs/reward_weights.yaml --data data/demo")
@click.argument("file", type=PATH, required=False)
@click.option("--data", type=PATH, help="Dataset, instead of the file's.")
@click.option(
    "--out",
    "out_path",
    type=PATH,
    help="Folder to write; by default NAME in the file's 'storage', runs.",
)
@click.option("--num-samples", type=int, help="Draws, instead of the file's number.")
@click.option(
    "--address", help="Ray cluster to run on, e.g. auto; by default RAY_ADDRESS, or this machine."
)
@click.option(
    "--resume",
    type=PATH,
    metavar="DIR",
    help="Go on with the sweep in DIR: no finished trial runs again.",
)
@click.option("--show", type=PATH, metavar="DIR", help="Print the sweep in DIR, as far as it is.")
@click.option("--json", "as_json", is_flag=True, help="Print every trial as JSON.")
def tune(
    *,
    file: Path | None,
    data: Path | None,
    out_path: Path | None,
    num_samples: int | None,
    address: str | None,
    resume: Path | None,
    show: Path | None,
    as_json: bool,
) -> None:
    """Sweep the parameters that FILE names; print the trials that no other beats.

    Trials are compared on the same outcomes, whatever reward each was trained on. Writes
    results.json, results.parquet and report.html beside the trials' runs.
    """
    _check_usage(file, data, out_path, num_samples, resume, show)
    if show is not None:
        from noetik_rllib.sweeps.sweep import show_sweep

        _print(show_sweep(show), show, as_json)
        return
    if address is not None:
        if address.startswith("ray://"):
            raise UserError(
                f"address '{address}': Ray Client is not supported; give HOST:PORT or auto on a "
                "host of the cluster"
            )
        os.environ["RAY_ADDRESS"] = address
    if resume is not None:
        from noetik_rllib.sweeps.sweep import resume_sweep

        folder = resume
        result = _watched(resume, lambda update: resume_sweep(folder, update))
        _finish(result, resume, as_json)
        return
    assert file is not None  # see _check_usage
    from noetik_rllib.sweeps.sweep import run_sweep

    config = _config(file, data, num_samples)
    place = out_path or config.storage / config.name
    _finish(_watched(place, lambda update: run_sweep(config, place, update)), place, as_json)


def _check_usage(
    file: Path | None,
    data: Path | None,
    out_path: Path | None,
    num_samples: int | None,
    resume: Path | None,
    show: Path | None,
) -> None:
    """Refuse what does not go together.

    Raises:
        click.UsageError: one option too many, or none.
        UserError: a number of samples below 1.
    """
    given = [one for one in (file, resume, show) if one is not None]
    if len(given) != 1:
        raise click.UsageError("Expected one of FILE, --resume DIR and --show DIR.")
    if file is None and any(one is not None for one in (data, out_path, num_samples)):
        raise click.UsageError(
            "--data, --out and --num-samples are for a new sweep: one that was begun keeps its own."
        )
    if num_samples is not None and num_samples < 1:
        raise UserError(f"num-samples is {num_samples}: expected at least 1")


def _config(file: Path, data: Path | None, num_samples: int | None) -> SweepConfig:
    from noetik_rllib.sweeps.config import SweepConfig

    changes: dict[str, Any] = {"data": data, "num_samples": num_samples}
    given = {name: value for name, value in changes.items() if value is not None}
    return SweepConfig.load(file).model_copy(update=given)


def _watched(
    folder: Path, run: Callable[[Callable[[str, float], None]], SweepResult]
) -> SweepResult:
    """Run a sweep under a progress bar; where it is stopped, say how to go on."""
    from noetik_rllib.sweeps.search import is_sweep

    try:
        with clean_end(), progress_bar(f"tune {folder.name}") as update:
            return run(update)
    except (KeyboardInterrupt, SystemExit):
        if is_sweep(folder):
            err.print(
                f"Go on with 'noetik tune --resume {folder}'", highlight=False, soft_wrap=True
            )
        raise


def _finish(result: SweepResult, folder: Path, as_json: bool) -> None:
    from noetik_rllib.report.sweep_page import write_sweep_report

    _print(result, folder, as_json)
    path = write_sweep_report(result, folder)
    if not as_json:
        console.print(f"The whole report: {path}", highlight=False, soft_wrap=True)


def _print(result: SweepResult, folder: Path, as_json: bool) -> None:
    from noetik_rllib.cli.sweep_tables import remarks, trial_table

    if as_json:
        click.echo(result.model_dump_json(indent=2))
        return
    console.print(trial_table(result))
    for line in remarks(result):
        console.print(line, style="dim", highlight=False)
    console.print(f"Runs: {folder / 'trials'}", highlight=False, soft_wrap=True)
    failed = [trial for trial in result.trials if trial.status == "failed"]
    if failed:
        err.print(
            f"{len(failed)} of {len(result.trials)} trials failed; {failed[0].name}: "
            f"{failed[0].error}. 'noetik tune --resume {folder}' tries them again.",
            highlight=False,
            soft_wrap=True,
        )

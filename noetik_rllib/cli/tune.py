"""``noetik tune``: a sweep with Ray Tune, resumed if need be, and its Pareto front."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from noetik_rllib.cli.console import cluster_messages, err, progress_bar
from noetik_rllib.cli.console import out as console
from noetik_rllib.cli.errors import clean_end
from noetik_rllib.cli.types import PATH, PLACE
from noetik_rllib.errors import UserError
from noetik_rllib.places import split

if TYPE_CHECKING:  # importing it imports torch
    from noetik_rllib.sweeps.config import SweepConfig
    from noetik_rllib.sweeps.results import SweepResult


@click.command(epilog="Example: noetik tune tune_configs/reward_weights.yaml --data data/demo")
@click.argument("file", type=PATH, required=False)
@click.option("--data", type=PLACE, help="Dataset, or its URI, instead of the file's.")
@click.option(
    "--storage",
    type=PLACE,
    help="Folder or URI below which the sweep is kept as NAME, instead of the file's.",
)
@click.option(
    "--out",
    "out_path",
    type=PATH,
    help="Folder to write; by default NAME in 'storage', or in runs where that is a URI.",
)
@click.option("--num-samples", type=int, help="Draws, instead of the file's number.")
@click.option(
    "--address", help="Ray cluster to run on, e.g. auto; by default RAY_ADDRESS, or this machine."
)
@click.option(
    "--resume",
    type=PLACE,
    metavar="DIR",
    help="Go on with the sweep in DIR, or at a URI: no finished trial runs again.",
)
@click.option(
    "--show",
    type=PLACE,
    metavar="DIR",
    help="Print the sweep in DIR, or at a URI, as far as it is.",
)
@click.option("--json", "as_json", is_flag=True, help="Print every trial as JSON.")
def tune(
    *,
    file: Path | None,
    data: Path | str | None,
    storage: Path | str | None,
    out_path: Path | None,
    num_samples: int | None,
    address: str | None,
    resume: Path | str | None,
    show: Path | str | None,
    as_json: bool,
) -> None:
    """Sweep the parameters that FILE names; print the trials that no other beats.

    Trials are compared on the same outcomes, whatever reward each was trained on. Writes
    results.json, results.parquet and report.html beside the trials' runs.
    """
    changes = {"data": data, "storage": storage, "num_samples": num_samples}
    changes = {name: value for name, value in changes.items() if value is not None}
    _check_usage(file, changes, out_path, resume, show)
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
        from noetik_rllib.sweeps.storage import fetch_sweep
        from noetik_rllib.sweeps.sweep import resume_sweep

        if isinstance(resume, str):
            folder = out_path or Path("runs") / split(resume)[1]
            fetch_sweep(resume, folder)
        else:
            folder = resume
        _finish(_watched(folder, lambda update: resume_sweep(folder, update)), folder, as_json)
        return
    assert file is not None  # see _check_usage
    from noetik_rllib.sweeps.sweep import run_sweep

    config = _config(file, changes)
    parent = Path("runs") if isinstance(config.storage, str) else config.storage
    folder = out_path or parent / config.name
    if config.uri is not None:
        err.print(f"Sweep: {folder}, kept at {config.uri}", highlight=False, soft_wrap=True)
    _finish(_watched(folder, lambda update: run_sweep(config, folder, update)), folder, as_json)


def _check_usage(
    file: Path | None,
    changes: dict[str, Any],
    out_path: Path | None,
    resume: Path | str | None,
    show: Path | str | None,
) -> None:
    """Refuse what does not go together.

    Raises:
        click.UsageError: one option too many, or none.
        UserError: a number of samples below 1.
    """
    given = [one for one in (file, resume, show) if one is not None]
    if len(given) != 1:
        raise click.UsageError("Expected one of FILE, --resume DIR and --show DIR.")
    if file is None and (changes or (out_path is not None and not isinstance(resume, str))):
        raise click.UsageError(
            "--data, --storage, --out and --num-samples are for a new sweep: one that was begun "
            "keeps its own. Only with --resume URI, --out says where its folder is here."
        )
    if changes.get("num_samples", 1) < 1:
        raise UserError(f"num-samples is {changes['num_samples']}: expected at least 1")


def _config(file: Path, changes: dict[str, Any]) -> SweepConfig:
    from noetik_rllib.sweeps.config import SweepConfig
    from noetik_rllib.sweeps.sweep import check_sweep

    config = SweepConfig.load(file).model_copy(update=changes)
    try:
        check_sweep(config)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return config


def _watched(
    folder: Path, run: Callable[[Callable[[str, float], None]], SweepResult]
) -> SweepResult:
    """Run a sweep under a progress bar; where it is stopped, say how to go on."""
    from noetik_rllib.sweeps.config import SweepConfig
    from noetik_rllib.sweeps.search import CONFIG_NAME, is_sweep

    try:
        with clean_end(), progress_bar(f"tune {folder.name}") as update, cluster_messages():
            return run(update if err.is_terminal else _with_time_left(update))
    except (KeyboardInterrupt, SystemExit):
        if is_sweep(folder):
            place = SweepConfig.load(folder / CONFIG_NAME).uri or folder
            err.print(f"Go on with 'noetik tune --resume {place}'", highlight=False, soft_wrap=True)
        raise


def _with_time_left(update: Callable[[str, float], None]) -> Callable[[str, float], None]:
    """Say in each line how long it will take, where there is no bar to show it."""
    first: list[tuple[float, float]] = []  # when a trial was first heard of, and what was done

    def tell(doing: str, share: float) -> None:
        now = time.monotonic()
        if "trials done" in doing and not first:
            first.append((now, share))
        elif first and share > first[0][1]:
            left = (now - first[0][0]) * (1 - share) / (share - first[0][1])
            doing += f", {timedelta(seconds=round(left))} left"
        update(doing, share)

    return tell


def _finish(result: SweepResult, folder: Path, as_json: bool) -> None:
    from noetik_rllib.report.sweep_page import write_sweep_report
    from noetik_rllib.sweeps.storage import open_sweep

    _print(result, folder, as_json)
    path = write_sweep_report(result, folder)
    open_sweep(folder).keep(path.name)
    if not as_json:
        console.print(f"The whole report: {path}", highlight=False, soft_wrap=True)


def _print(result: SweepResult, place: Path | str, as_json: bool) -> None:
    from noetik_rllib.cli.sweep_tables import remarks, trial_table

    if as_json:
        click.echo(result.model_dump_json(indent=2))
        return
    console.print(trial_table(result))
    for line in remarks(result):
        console.print(line, style="dim", highlight=False)
    console.print(f"Runs: {place}/trials", highlight=False, soft_wrap=True)
    failed = [trial for trial in result.trials if trial.status == "failed"]
    if failed:
        err.print(
            f"{len(failed)} of {len(result.trials)} trials failed; {failed[0].name}: "
            f"{failed[0].error}. 'noetik tune --resume {place}' tries them again.",
            highlight=False,
            soft_wrap=True,
        )

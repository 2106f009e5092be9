"""``noetik user-model``: fit a model of the users' answers and say how good it is."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click
from rich.table import Table

from noetik_rllib.cli.console import err as stderr
from noetik_rllib.cli.console import out as console
from noetik_rllib.cli.console import progress_bar
from noetik_rllib.cli.types import PATH, SEED
from noetik_rllib.data.signals import BINARY_SIGNALS
from noetik_rllib.errors import UserError
from noetik_rllib.io import make_directory

if TYPE_CHECKING:  # importing it imports torch
    from noetik_rllib.envs.response_quality import ResponseQuality


@click.group(name="user-model")
def user_model() -> None:
    """Model what users answer to a video."""


@user_model.command(epilog="Example: noetik user-model fit data/tiny --out models/judge")
@click.argument("data", type=PATH)
@click.option(
    "--out", type=PATH, required=True, help="Folder to write; an older model is replaced."
)
@click.option(
    "--part",
    type=click.Choice(["train", "judge"]),
    default="judge",
    show_default=True,
    help="Users to fit on: those that policies train on, or those held out to judge by.",
)
@click.option(
    "--family",
    type=click.Choice(["pooled", "attentive"]),
    help="Kind of network; by default attentive for train and pooled for judge.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Same seed, same weights.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def fit(data: Path, out: Path, part: str, family: str | None, seed: int, as_json: bool) -> None:
    """Fit a user model on the rows of DATA before the split, and test it on those after it.

    The table is about the users of the same part: their later rows (test), and those of their
    uniformly exposed rows that lie after the split (random).
    """
    from noetik_rllib.envs.response_fit import fit_response_model, remark_on_exposure
    from noetik_rllib.envs.response_model import MODEL_NAME
    from noetik_rllib.envs.response_quality import assess
    from noetik_rllib.offline.dataset import OfflineDataset

    in_the_way = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if in_the_way and not (out / MODEL_NAME).is_file():
        raise UserError(f"{out} exists already and is no user model: choose another --out")
    _check_writable(out)
    dataset = OfflineDataset(data)
    with progress_bar("user model") as update:
        model = fit_response_model(
            dataset,
            part,
            family=cast(Literal["pooled", "attentive"] | None, family),
            seed=seed,
            progress=lambda share: update("fitting", 0.95 * share),
        )
        update("testing", 0.95)
        users = dataset.users.user_id[dataset.users.held_out == (part == "judge")]
        quality = {"test": assess(model, dataset, "test", users)}
        if dataset.manifest.parts["random"].rows:
            quality["random"] = assess(model, dataset, "random", users, from_split=True)
        model.save(out)
    remark = remark_on_exposure(model.record)
    if remark:
        stderr.print(f"Warning: {remark}", highlight=False, soft_wrap=True)
    if as_json:
        result = {
            "model": str(out),
            "family": model.config.family,
            "fitted_on": model.record.model_dump(mode="json"),
            "quality": {
                name: found.model_dump(mode="json") if found else None
                for name, found in quality.items()
            },
        }
        click.echo(json.dumps(result, indent=2))
        return
    record = model.record
    console.print(
        f"[bold]{out}[/bold]: {model.config.family} user model, fitted on {record.rows:,} rows of "
        f"{record.users:,} users ({record.uniform_rows:,} rows uniformly exposed); stopped after "
        f"{record.epochs} epochs by {record.validation_rows:,} later rows",
        highlight=False,
        soft_wrap=True,
    )
    for name, found in quality.items():
        if found:
            console.print(f"{name}: {found.rows:,} rows of {found.users:,} users", highlight=False)
            console.print(_table(found))
        else:
            console.print(f"{name}: no row of these users after the split", highlight=False)


def _check_writable(out: Path) -> None:
    """Refuse a folder that cannot be written, before minutes of fitting."""
    make_directory(out.parent)
    try:
        tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.").cleanup()
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}") from None


def _table(quality: ResponseQuality) -> Table:
    """The quality, signal by signal."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("signal", no_wrap=True)
    for heading in ("events", "AUC", "GAUC", "log loss", "ECE", "predicted / real"):
        table.add_column(heading, justify="right")
    for name in BINARY_SIGNALS:
        table.add_row(
            name,
            f"{quality.logged_mean[name] * quality.rows:,.0f}",
            _number(quality.auc[name], 4),
            _number(quality.gauc[name], 4),
            _number(quality.log_loss[name], 5),
            _number(quality.calibration_error[name], 4),
            _number(quality.calibration[name], 2),
        )
    table.add_row("watch_ratio", *[""] * 5, _number(quality.calibration["watch_ratio"], 2))
    return table


def _number(value: float | None, digits: int) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"

"""``noetik export``: a run's policy as a program that torch runs alone."""

from __future__ import annotations

import json
from pathlib import Path

import click

from noetik_rllib.cli.console import out as console
from noetik_rllib.cli.types import PATH


@click.command(epilog="Example: noetik export runs/smoke/trials/0001 --out policy")
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, required=True, help="Folder to write.")
@click.option("--overwrite", is_flag=True, help="Replace an export that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print what policy.json says.")
def export(run: Path, out: Path, overwrite: bool, as_json: bool) -> None:
    """Write a run's policy for servers that have torch, but not Noetik, Ray or the data.

    RUN is a run, or a sweep's trial. Writes policy.pt2 (torch.export), videos.parquet and
    policy.json, which says what each number of a state is.
    """
    from noetik_rllib import export as exporting
    from noetik_rllib.runs import Run

    folder = exporting.export(Run.open(run), out, overwrite=overwrite)
    description = (folder / exporting.DESCRIPTION_NAME).read_text(encoding="utf-8")
    if as_json:
        click.echo(description)
        return
    about = json.loads(description)
    console.print(
        f"{folder / exporting.PROGRAM_NAME}: {about['input']} to {about['output']}.",
        highlight=False,
        soft_wrap=True,
    )

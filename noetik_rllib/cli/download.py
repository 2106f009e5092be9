"""``noetik data download``: KuaiRand from its authors, resumable and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from noetik_rllib.cli.console import err, progress_bar
from noetik_rllib.cli.console import out as console
from noetik_rllib.cli.errors import clean_end
from noetik_rllib.cli.types import PATH
from noetik_rllib.data import download as source
from noetik_rllib.data.transfer import ByteProgress
from noetik_rllib.state import MAX_VIDEOS


@contextmanager
def _byte_bar(what: str) -> Iterator[ByteProgress]:
    """Show a bar with bytes, speed and time left; one line per stage where there is no terminal."""
    if not err.is_terminal:
        with progress_bar(what) as update:
            yield lambda doing, done, total: update(doing, 0.0)
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=None)
        stage = ""

        def update_bytes(doing: str, done: int, total: int | None) -> None:
            nonlocal stage
            if doing != stage:
                # Bytes of an earlier day would count as the speed of this one.
                bar.reset(task, description=doing, completed=done, total=total)
                stage = doing
            bar.update(task, completed=done, total=total)

        yield update_bytes


@click.command(epilog="Example: noetik data download --variant pure")
@click.option(
    "--variant",
    type=click.Choice(list(source.VARIANTS)),
    required=True,
    help="pure (194 MB unpacked), 1k (4.3 GB) or 27k (46 GB; 'noetik data prepare' "
    f"refuses it as a whole: it has more than {MAX_VIDEOS:,} videos).",
)
@click.option(
    "--out",
    type=PATH,
    default=Path(),
    show_default=True,
    help="Folder that gets the folder KuaiRand-...",
)
@click.option(
    "--url", default=source.ZENODO, show_default=True, help="Folder of a mirror's archives."
)
@click.option("--keep-archive", is_flag=True, help="Leave the .tar.gz in OUT once it is unpacked.")
@click.option("--overwrite", is_flag=True, help="Replace the folder KuaiRand-... in OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def download(
    *, variant: str, out: Path, url: str, keep_archive: bool, overwrite: bool, as_json: bool
) -> None:
    """Download KuaiRand, check it and unpack it.

    The licence is CC BY-SA 4.0. The same command again continues a download that was cut.
    """
    with clean_end(), _byte_bar("download") as progress:
        try:
            done = source.download(
                source.VARIANTS[variant],
                out,
                url=url,
                keep_archive=keep_archive,
                overwrite=overwrite,
                progress=progress,
                remark=lambda line: err.print(line, highlight=False, markup=False, soft_wrap=True),
            )
        except (KeyboardInterrupt, SystemExit):
            err.print("What came is kept: run the same command again to go on.")
            raise
    if as_json:
        result = {
            "variant": variant,
            "folder": str(done.folder),
            "archive": str(done.archive) if done.archive else None,
            "received_bytes": done.received_bytes,
            "files": done.files,
            "unpacked_bytes": done.unpacked_bytes,
        }
        click.echo(json.dumps(result))
        return
    console.print(
        f"{done.folder}: {done.files} files, {decimal(done.unpacked_bytes)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if done.archive:
        console.print(f"{done.archive} is kept", highlight=False, markup=False, soft_wrap=True)

"""``noetik data prepare`` against ``pyarrow.csv`` alone, on the same files, as whole processes.

Each pair reads the same CSV files: once with ``pyarrow.csv.read_csv`` into memory and nothing
else, once as the whole of ``noetik data prepare``. They take turns, several times; what counts is
the ratio of a pair. At full size (11.7 million rows; making the world takes half a minute on two
idle cores, and 1.2 GB)::

    .venv/bin/noetik data synth --preset 1k --out data/1k-world
    .venv/bin/python benchmarks/data_prepare.py --source data/1k-world
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.table import Table

from noetik_rllib.cli.console import err, out
from noetik_rllib.cli.errors import run
from noetik_rllib.data.layout import find_folder, matching
from noetik_rllib.data.mapping import Mapping

#: What a reader that does nothing else takes: default options, every column, all tables kept.
_PYARROW_ALONE = """
import sys
import pyarrow.csv
tables = [pyarrow.csv.read_csv(path) for path in sys.argv[1:]]
print(sum(map(len, tables)))
"""


def measure(words: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds and its peak memory in GB."""
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    message = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)[:200]}: {message.decode()[-1000:]}")
    return seconds, usage.ru_maxrss * 1024 / 1e9  # Linux counts kilobytes


@click.command()
@click.option(
    "--source",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="Folder of CSV files, as for noetik data prepare.",
)
@click.option("--pairs", default=5, show_default=True, help="Measurements of each, in turn.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(source: Path, pairs: int, as_json: bool) -> None:
    """Print the seconds of both, their ratio pair by pair, and the peak memory."""
    mapping = Mapping.find("kuairand")
    folder = find_folder(source, mapping)
    assert mapping.users is not None
    assert mapping.items is not None
    patterns = [
        *mapping.log.standard,
        *mapping.log.random,
        *mapping.users.files,
        *mapping.items.files,
    ]
    files = [str(path) for path in matching(folder, patterns, required=True)]
    size = sum(Path(file).stat().st_size for file in files)
    noetik = str(Path(sys.executable).with_name("noetik"))
    rows = []
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        dataset = Path(scratch) / "dataset"
        for pair in range(pairs + 1):
            alone = measure([sys.executable, "-c", _PYARROW_ALONE, *files])
            prepare = measure(
                [noetik, "data", "prepare", "--source", str(source), "--out", str(dataset)]
            )
            written = sum(path.stat().st_size for path in dataset.rglob("*") if path.is_file())
            shutil.rmtree(dataset)
            if pair:  # the first pair warms the page cache up
                rows.append((*alone, *prepare))
            err.print(f"pair {pair} of {pairs}: {alone[0]:.1f} s, {prepare[0]:.1f} s")
    alone_s, alone_gb, prepare_s, prepare_gb = (list(column) for column in zip(*rows, strict=True))
    ratios = [ours / theirs for ours, theirs in zip(prepare_s, alone_s, strict=True)]
    result = {
        "csv_bytes": size,
        "dataset_bytes": written,
        "pyarrow_alone_s": alone_s,
        "prepare_s": prepare_s,
        "ratio": {
            "min": min(ratios),
            "median": statistics.median(ratios),
            "max": max(ratios),
        },
        "pyarrow_alone_peak_gb": max(alone_gb),
        "prepare_peak_gb": max(prepare_gb),
    }
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    table = Table("", "seconds (median)", "peak memory, GB", box=None, pad_edge=False)
    for name, seconds, peaks in (
        ("pyarrow alone", alone_s, alone_gb),
        ("prepare", prepare_s, prepare_gb),
    ):
        table.add_row(name, f"{statistics.median(seconds):.1f}", f"{max(peaks):.2f}")
    out.print(table)
    ratio = statistics.median(ratios)
    out.print(
        f"ratio {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) over {pairs} pairs; "
        f"{size / 1e9:.2f} GB of CSV, {written / 1e9:.2f} GB of dataset",
        highlight=False,
    )


if __name__ == "__main__":
    run(main)

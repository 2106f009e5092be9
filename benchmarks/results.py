"""Make docs/results.md: every figure in it, from the command that gives it.

Each experiment writes what it found to docs/results/NAME.json, with its command, its seeds and the
time it took, and the page is written from these files alone. ``make results`` runs all of them,
hours on two cores; one by one::

    .venv/bin/python benchmarks/results.py --only off_policy --only pure_world
    .venv/bin/python benchmarks/results.py --only page

Experiments on real rows need ``--source``, a folder of KuaiRand-Pure's files; those on sweeps need
what ``make demo`` leaves.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from noetik_rllib.cli.console import err
from noetik_rllib.cli.errors import run
from noetik_rllib.errors import UserError
from noetik_rllib.io import atomic_path, write_json

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "results.md"
PYTHON = ".venv/bin/python"
#: Where worlds and runs are kept for several experiments; git does not see it.
WORLDS = "runs/worlds"
#: Settings of the run on real rows: some three passes over the slice's 116,293 training rows.
REAL_RUN = (
    *("--num-layers", "1", "--share", "encoder", "--batch-size", "1024", "--iterations", "4"),
    *("--actor-lr", "1e-3", "--critic-lr", "1e-3", "--value-lr", "1e-3"),
    *("--target-polyak", "0.02"),
)
REAL_SPLIT = ("--split", "time", "--split-at", "2022-05-01T00:00+08:00")


def benchmark(name: str, *options: str) -> Callable[[Path | None], dict[str, Any]]:
    """An experiment that is a benchmark with ``--json``."""

    def experiment(source: Path | None) -> dict[str, Any]:
        return _run([PYTHON, f"benchmarks/{name}.py", *options, "--json"])

    return experiment


def real_slice(source: Path | None) -> dict[str, Any]:
    """Train and evaluate on real rows, with all baselines."""
    if source is None:
        raise UserError("the experiment real_pure needs --source: a folder of KuaiRand-Pure")
    noetik = ".venv/bin/noetik"
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        data, trained = f"{folder}/data", f"{folder}/run"
        prepare = [noetik, "data", "prepare", "--source", str(source), "--out", data, *REAL_SPLIT]
        _run(prepare, as_json=False)
        _run([noetik, "train", "--data", data, "--out", trained, *REAL_RUN], as_json=False)
        found = _run([noetik, "evaluate", trained, "--baselines", "--json"])
    found["result"]["provenance"]["world"] = None
    # The shown command is without this machine's paths.
    return found | {
        "command": f"noetik train {' '.join(REAL_RUN)}, then noetik evaluate --baselines",
        "split": " ".join(REAL_SPLIT),
    }


def sweep_kills(source: Path | None) -> dict[str, Any]:
    """Kill drivers, trials and hosts; as a module, since the hosts are those of the tests."""
    return _run([PYTHON, "-m", "benchmarks.sweep_kills", "--data", "data/demo", "--json"])


def _run(words: list[str], *, as_json: bool = True) -> dict[str, Any]:
    """Run a command at the root; return what it printed, and how long it took."""
    err.print(" ".join(words), highlight=False)
    start = time.monotonic()
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return {
        "command": " ".join(word for word in words if word != "--json"),
        "seconds": round(time.monotonic() - start),
        "version": version("noetik-rllib"),
        "result": json.loads(done.stdout) if as_json else None,
    }


EXPERIMENTS: dict[str, Callable[[Path | None], dict[str, Any]]] = {
    "pure_world": benchmark("pure_world", "--keep", WORLDS),
    # The worlds and runs that the experiment before it has kept.
    "explanations": benchmark("explanations", "--keep", WORLDS),
    "off_policy": benchmark("off_policy_coverage"),
    # Seed 0 was used to choose the ridge.
    "fitted_q": benchmark("fitted_q_coverage", "--seed", "1"),
    "real_pure": real_slice,
    # They need the dataset and the world that ``make demo`` makes.
    "sweep_cost": benchmark("sweep_cost", "--data", "data/demo"),
    "sweep_hypervolume": benchmark(
        "sweep_hypervolume", "--data", "data/demo", "--world", "data/demo-world"
    ),
    "sweep_kills": sweep_kills,
}


@click.command()
@click.option("--only", multiple=True, help="Experiment to run; 'page' writes the page alone.")
@click.option(
    "--source", type=click.Path(path_type=Path, exists=True), help="Folder of KuaiRand-Pure."
)
def main(only: tuple[str, ...], source: Path | None) -> None:
    """Run experiments and write docs/results.md."""
    from results_page import page

    unknown = set(only) - {*EXPERIMENTS, "page"}
    if unknown:
        raise UserError(
            f"unknown experiment '{min(unknown)}': expected {', '.join(EXPERIMENTS)} or page"
        )
    chosen = [name for name in EXPERIMENTS if not only or name in only]
    if not only and source is None:
        chosen.remove("real_pure")
        err.print("real_pure is left out: it needs --source", highlight=False)
    for name in chosen:
        found = EXPERIMENTS[name](source)
        FOLDER.mkdir(exist_ok=True)
        write_json(FOLDER / f"{name}.json", found)
    with atomic_path(PAGE) as part:
        part.write_text(page(FOLDER), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    run(main)

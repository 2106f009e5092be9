"""Random kills over a sweep: is every trial's result there at the end, once, and the same?

A sweep is run undisturbed. Then it is run again while a process is killed ``--kills`` times, by
SIGKILL, each after a random time: its driver, which is then started again with ``--resume``, or the
process of one of its trials. A kill may fall before the first trial and while results are written.
Run it from a clone after ``make demo``::

    .venv/bin/python benchmarks/sweep_kills.py --data data/demo
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
import numpy as np

from noetik_rllib.cli.errors import run
from noetik_rllib.sweeps.config import SweepConfig
from noetik_rllib.sweeps.folder import SweepFolder
from noetik_rllib.sweeps.results import SweepResult
from noetik_rllib.sweeps.search import is_sweep

NOETIK = [sys.executable, "-c", "from noetik_rllib.cli.main import main; main()", "tune"]


def sweep(data: Path, trials: int, iterations: int) -> SweepConfig:
    """Trials of a second per iteration, with a checkpoint after each."""
    return SweepConfig.model_validate(
        {
            "name": "kills",
            "data": data.resolve(),
            "num_samples": trials,
            "train": {
                "iterations": iterations,
                "steps_per_iteration": 20,
                "embedding_size": 16,
                "num_layers": 1,
                "num_heads": 2,
                "checkpoint_seconds": 0,
            },
            "reward": {"simplex": ["click", "watch_ratio", "like"]},
            "objectives": ["click", "like"],
            "evaluation_users": 50,
            "max_failures": 20,
        }
    )


def start(*words: str) -> subprocess.Popen[bytes]:
    """Start ``noetik tune``; it says nothing but errors."""
    return subprocess.Popen([*NOETIK, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def training(out: Path) -> list[int]:
    """Processes that hold a trial's lock now."""
    found = []
    for lock in sorted((out / "trials").glob(".*.lock")):
        with lock.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                found += [int(word) for word in file.read().split()[:1]]
    return found


def disturbed(config: Path, out: Path, kills: int, mean_seconds: float, seed: int) -> Counter[str]:
    """Run the sweep to its end, killing on the way; return how often whom."""
    rng = np.random.default_rng(seed)
    killed: Counter[str] = Counter()
    wait_for_trials = True
    driver = start(str(config), "--out", str(out))
    while driver.poll() is None:
        if killed.total() < kills:
            # One kill in four may fall while the driver starts, which takes most of the time.
            while wait_for_trials and driver.poll() is None and not training(out):
                time.sleep(0.2)
            time.sleep(rng.exponential(mean_seconds))
            wait_for_trials = rng.random() < 0.75
            trials = training(out) if out.exists() else []
            if driver.poll() is not None:
                break
            if trials and rng.random() < 0.5:
                os.kill(trials[int(rng.integers(len(trials)))], signal.SIGKILL)
                killed["trial"] += 1
                continue
            driver.kill()
            driver.communicate()
            killed["driver"] += 1
            begun = ["--resume", str(out)] if is_sweep(out) else [str(config), "--out", str(out)]
            driver = start(*begun)
        else:
            driver.wait()
    _, errors = driver.communicate()
    if driver.returncode:
        raise SystemExit(errors.decode()[-2000:])
    return killed


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Offline dataset.")
@click.option("--trials", default=12, show_default=True, help="Trials of the sweep.")
@click.option("--iterations", default=20, show_default=True, help="Of 20 gradient steps each.")
@click.option("--kills", default=10, show_default=True, help="At most so many processes.")
@click.option(
    "--seconds", default=5.0, show_default=True, help="Mean time that trials have before a kill."
)
@click.option("--seed", default=0, show_default=True, help="Of the kills.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(
    data: Path, trials: int, iterations: int, kills: int, seconds: float, seed: int, as_json: bool
) -> None:
    """Print what was killed, and what became of the results."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "kills.yaml"
        sweep(data, trials, iterations).save(config)
        whole, out = Path(folder) / "whole", Path(folder) / "sweep"
        undisturbed = start(str(config), "--out", str(whole))
        _, errors = undisturbed.communicate()
        if undisturbed.returncode:
            raise SystemExit(errors.decode()[-2000:])
        killed = disturbed(config, out, kills, seconds, seed)
        expected, found = SweepResult.load(whole), SweepResult.load(out)
        events = SweepFolder(out).events()
    finish = {event.trial: event.time for event in events if event.what == "finish"}
    figures = {
        "drivers_killed": killed["driver"],
        "trials_killed": killed["trial"],
        "trials": trials,
        "finished": len(found.judged),
        "different_results": sum(
            one.outcomes != other.outcomes
            for one, other in zip(expected.trials, found.trials, strict=True)
        ),
        "run_after_their_end": sum(
            event.what == "start" and event.time > finish.get(event.trial, np.inf)
            for event in events
        ),
        "starts": sum(event.what == "start" for event in events),
    }
    if as_json:
        click.echo(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        click.echo(f"{name.replace('_', ' '):24} {value:>6,}")


if __name__ == "__main__":
    run(main)

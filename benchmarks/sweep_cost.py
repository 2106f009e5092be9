"""What a sweep costs beside the training that it is made of, and how often it reads its rows.

Twelve trials of the demo's settings on the CPUs that there are. The bar: the sweep takes at most
1.15 times its trials' training time, added up and divided by how many ran side by side. The rest is
starting, fitting the judge, judging, and Ray's own work. Reading is counted by the kernel: bytes
that the trials' processes read, against the size of the training rows on disk. Run it from a clone
after ``make demo``::

    .venv/bin/python benchmarks/sweep_cost.py --data data/demo
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import click
import ray

from noetik_rllib.cli.demo import DEMO_SETTINGS
from noetik_rllib.cli.errors import run
from noetik_rllib.sweeps.config import SweepConfig
from noetik_rllib.sweeps.folder import SweepFolder, lock_of, read_outcome, trial_configs
from noetik_rllib.sweeps.sweep import run_sweep


def bytes_read(process: int) -> int:
    """Bytes that a process has read from files so far, whether they were cached or not."""
    try:
        lines = Path(f"/proc/{process}/io").read_text().splitlines()
    except OSError:
        return 0
    return int(dict(line.split(": ") for line in lines)["rchar"])


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Offline dataset.")
@click.option("--trials", default=12, show_default=True, help="Trials of the sweep.")
@click.option("--iterations", default=15, show_default=True, help="Of 100 gradient steps each.")
@click.option("--cpus", type=int, help="CPUs, hence trials side by side; all by default.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(data: Path, trials: int, iterations: int, cpus: int | None, as_json: bool) -> None:
    """Print what the sweep took, part by part."""
    config = SweepConfig.model_validate(
        {
            "name": "cost",
            "data": data,
            "num_samples": trials,
            "train": {**DEMO_SETTINGS, "iterations": iterations},
            "reward": {"simplex": ["click", "watch_ratio", "long_view", "like"]},
            "objectives": ["click", "watch_ratio", "like"],
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "sweep"
        settings = trial_configs(config, out)
        read: dict[int, int] = {}

        def watch(doing: str, share: float) -> None:
            for trial in settings:
                lock = lock_of(trial.out)
                if lock.exists() and (owner := lock.read_text().split()):
                    process = int(owner[0])
                    read[process] = max(read.get(process, 0), bytes_read(process))

        begun = time.monotonic()
        ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        side_by_side = min(int(ray.cluster_resources()["CPU"]), trials)
        run_sweep(config, out, watch)
        ray.shutdown()
        whole = time.monotonic() - begun
        outcomes = [read_outcome(trial.out) for trial in settings]
        first = min(event.time for event in SweepFolder(out.resolve()).events())
        last = max(event.time for event in SweepFolder(out.resolve()).events())
    training = sum(one.training_seconds for one in outcomes if one)
    judging = sum(one.judging_seconds for one in outcomes if one)
    size = sum(path.stat().st_size for path in (data / "train").glob("*.parquet"))
    figures = {
        "trials": trials,
        "side_by_side": side_by_side,
        "sweep_seconds": round(whole, 1),
        "training_seconds": round(training, 1),
        "judging_seconds": round(judging, 1),
        "before_first_trial_seconds": round(whole - (last - first), 1),
        "cost": round(whole * side_by_side / training, 3),
        "cost_with_judging": round(whole * side_by_side / (training + judging), 3),
        "train_bytes_on_disk": size,
        "most_bytes_read_by_a_trial_process": max(read.values()),
    }
    if as_json:
        click.echo(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        click.echo(f"{name.replace('_', ' '):36} {value:>14,}")


if __name__ == "__main__":
    run(main)

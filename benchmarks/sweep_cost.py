"""What a sweep costs beside the training that it is made of, and how often it reads its rows.

Twelve trials of the demo's settings on the CPUs that there are. The bar: the sweep takes at most
1.15 times its trials' training time, added up and divided by how many ran side by side. The rest is
starting, fitting the judge, judging, and Ray's own work. That the rows are read from disk once is
proven by destroying them, in a copy of the dataset, when the first trial has trained an iteration:
whatever reads them after that fails. Run it from a clone after ``make demo``::

    .venv/bin/python benchmarks/sweep_cost.py --data data/demo
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path

import click
import ray

from noetik_rllib.cli.demo import DEMO_SETTINGS
from noetik_rllib.cli.errors import run
from noetik_rllib.sweeps.config import SweepConfig
from noetik_rllib.sweeps.folder import SweepFolder, read_outcome, trial_configs
from noetik_rllib.sweeps.sweep import run_sweep


def destroy_rows(part: Path) -> None:
    """Overwrite the rows of Parquet files; what says how many there are stays."""
    for path in part.glob("*.parquet"):
        content = bytearray(path.read_bytes())
        footer = int.from_bytes(content[-8:-4], "little") + 8
        content[4:-footer] = bytes(len(content) - footer - 4)
        path.write_bytes(content)


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Offline dataset.")
@click.option("--trials", default=12, show_default=True, help="Trials of the sweep.")
@click.option("--iterations", default=15, show_default=True, help="Of 100 gradient steps each.")
@click.option("--cpus", type=int, help="CPUs, hence trials side by side; all by default.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(data: Path, trials: int, iterations: int, cpus: int | None, as_json: bool) -> None:
    """Print what the sweep took, part by part."""
    with tempfile.TemporaryDirectory() as folder:
        copy, out = Path(folder) / "data", Path(folder).resolve() / "sweep"
        shutil.copytree(data, copy)
        config = SweepConfig.model_validate(
            {
                "name": "cost",
                "data": copy,
                "num_samples": trials,
                "train": {**DEMO_SETTINGS, "iterations": iterations},
                "reward": {"simplex": ["click", "watch_ratio", "long_view", "like"]},
                "objectives": ["click", "watch_ratio", "like"],
            }
        )
        destroyed: list[float] = []

        def watch(doing: str, share: float) -> None:
            if "at iteration 1 of" in doing and not destroyed:
                destroy_rows(copy / "train")
                destroyed.append(time.time())

        begun = time.monotonic()
        ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        side_by_side = min(int(ray.cluster_resources()["CPU"]), trials)
        result = run_sweep(config, out, watch)
        ray.shutdown()
        whole = time.monotonic() - begun
        outcomes = [read_outcome(trial.out) for trial in trial_configs(config, out)]
        events = SweepFolder(out).events()
        first, last = events[0].time, events[-1].time
    training = sum(one.training_seconds for one in outcomes if one)
    judging = sum(one.judging_seconds for one in outcomes if one)
    figures = {
        "trials": trials,
        "side_by_side": side_by_side,
        "sweep_seconds": round(whole, 1),
        "training_seconds": round(training, 1),
        "judging_seconds": round(judging, 1),
        "before_first_trial_seconds": round(whole - (last - first), 1),
        "cost": round(whole * side_by_side / training, 3),
        "cost_with_judging": round(whole * side_by_side / (training + judging), 3),
        "begun_after_the_rows_were_destroyed": sum(
            event.what == "start" and event.time > destroyed[0] for event in events
        ),
        "finished": len(result.judged),
    }
    if as_json:
        click.echo(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        click.echo(f"{name.replace('_', ' '):36} {value:>14,}")


if __name__ == "__main__":
    run(main)

"""Does it pay to sweep reward weights? Its front against as many runs with the default reward.

Twelve policies trained on weights drawn from the simplex over the objectives, as
``tune_configs/reward_weights.yaml`` has it, and twelve trained with its settings on the default
reward with other seeds, on a synthetic world. All are measured with the world's own
users (``true_course``), so luck in a fitted judge plays no part; the hypervolume of each twelve's
front is compared, above 0 and, more sharply, above the worst of all in each objective. Run it from
a clone after ``make demo``::

    .venv/bin/python benchmarks/sweep_hypervolume.py --data data/demo --world data/demo-world
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click
import numpy as np

from noetik_rllib.cli.errors import run
from noetik_rllib.evaluation.comparison import Course, compare, true_course
from noetik_rllib.evaluation.policies import ActorPolicy
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.runs import Run
from noetik_rllib.sweeps.config import SweepConfig
from noetik_rllib.sweeps.pareto import hypervolume, pareto_front
from noetik_rllib.sweeps.search import is_sweep
from noetik_rllib.sweeps.sweep import resume_sweep, run_sweep

FILE = Path(__file__).resolve().parents[1] / "tune_configs" / "reward_weights.yaml"


def sweep(config: SweepConfig, folder: Path) -> list[Run]:
    """Train a sweep's runs, or what is left of them."""
    result = resume_sweep(folder) if is_sweep(folder) else run_sweep(config, folder)
    return [Run.open(folder / "trials" / trial.name) for trial in result.judged]


def measured(runs: list[Run], course: Course, objectives: list[str]) -> np.ndarray:
    """True means of the objectives, (runs, objectives)."""
    found = []
    for one in runs:
        policy = ActorPolicy.of(one.networks())
        values = compare([policy], course)[0].policies[policy.name]
        found.append([values[name].mean for name in objectives])
    return np.array(found)


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Offline dataset.")
@click.option("--world", type=click.Path(path_type=Path), required=True, help="Its world.")
@click.option("--trials", default=12, show_default=True, help="Runs of each kind.")
@click.option("--users", default=1_000, show_default=True, help="The most held-out users.")
@click.option("--seed", default=0, show_default=True, help="Of the drawn weights.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/hypervolume"),
    show_default=True,
    help="Where the runs go; an interrupted benchmark goes on there.",
)
@click.option("--overwrite", is_flag=True, help="Train all runs again.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(
    data: Path,
    world: Path,
    trials: int,
    users: int,
    seed: int,
    out: Path,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Print both fronts and their hypervolumes."""
    if overwrite:
        shutil.rmtree(out, ignore_errors=True)
    file = SweepConfig.load(FILE).model_dump()
    file |= {"data": data, "evaluation_users": users, "seed": seed}
    changes: dict[str, dict[str, Any]] = {
        "weights": {"num_samples": trials},
        "seeds": {
            "num_samples": 1,
            "reward": None,
            "search": {"seed": {"grid": list(range(trials))}},
        },
    }
    kinds = {
        name: SweepConfig.model_validate(file | {"name": name} | change)
        for name, change in changes.items()
    }
    objectives = kinds["weights"].objectives
    course = true_course(world, OfflineDataset(data), users, 5, 0)
    points = {
        name: measured(sweep(config, out / name), course, objectives)
        for name, config in kinds.items()
    }
    worst = np.concatenate(list(points.values())).min(axis=0)
    figures = {
        name: {
            "hypervolume_above_0": hypervolume(values, np.zeros(len(objectives))),
            "hypervolume_above_worst": hypervolume(values, worst),
            "on_the_front": int(pareto_front(values).sum()),
            "points": values.round(4).tolist(),
        }
        for name, values in points.items()
    }
    if as_json:
        click.echo(json.dumps({"objectives": objectives, **figures}, indent=2))
        return
    click.echo(f"{'':10} {'above 0':>10} {'above worst':>12} {'on front':>9}   best {objectives}")
    for name, one in figures.items():
        best = ", ".join(f"{value:.4f}" for value in points[name].max(axis=0))
        click.echo(
            f"{name:10} {one['hypervolume_above_0']:10.5f} {one['hypervolume_above_worst']:12.3e} "
            f"{one['on_the_front']:9}   {best}"
        )


if __name__ == "__main__":
    run(main)

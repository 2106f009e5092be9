r"""What few reasons cost: reward and explanations over ``interpretability_coeff``.

Runs over coefficients and seeds on a synthetic world. The reward is the true one
(``true_course``); faithfulness and concentration of attributions and of attention are a sweep's
outcomes. Differences to coefficient 0 are paired by seed, with a 95 % t interval over seeds. The
bar: a coefficient that moves concentration or faithfulness, by an interval that excludes 0, while
the reward stays within 2 %. Run it from a clone after ``make demo``::

    .venv/bin/python benchmarks/interpretability_tradeoff.py \
        --data data/demo --world data/demo-world
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import numpy as np
from scipy.stats import t as student

from noetik_rllib.cli.demo import DEMO_SETTINGS
from noetik_rllib.cli.errors import run
from noetik_rllib.evaluation.comparison import compare, true_course
from noetik_rllib.evaluation.policies import ActorPolicy
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.runs import Run
from noetik_rllib.sweeps.config import SweepConfig
from noetik_rllib.sweeps.outcomes import EXPLAINED
from noetik_rllib.sweeps.search import is_sweep
from noetik_rllib.sweeps.sweep import resume_sweep, run_sweep
from noetik_rllib.sweeps.tradeoff import COEFFICIENT, TOLERANCE

MEASURES = ("true_reward", *EXPLAINED)


def difference(values: np.ndarray) -> dict[str, float]:
    """Mean of paired differences (seeds,), with a 95 % t interval; none with one seed."""
    mean = float(values.mean())
    if len(values) < 2:
        return {"mean": mean, "low": float("nan"), "high": float("nan")}
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return {"mean": mean, "low": float(mean - half), "high": float(mean + half)}


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Offline dataset.")
@click.option("--world", type=click.Path(path_type=Path), required=True, help="Its world.")
@click.option("--coefficients", default="0,0.3,3,10", show_default=True, help="0 first.")
@click.option("--seeds", default=3, show_default=True, help="Runs of each coefficient.")
@click.option("--iterations", default=15, show_default=True, help="Of 100 gradient steps each.")
@click.option("--users", default=1_000, show_default=True, help="The most held-out users.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/tradeoff"),
    show_default=True,
    help="Where the runs go; an interrupted benchmark goes on there.",
)
@click.option("--overwrite", is_flag=True, help="Train all runs again.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(
    data: Path,
    world: Path,
    coefficients: str,
    seeds: int,
    iterations: int,
    users: int,
    out: Path,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Print every measure by coefficient, and its change against 0."""
    if overwrite:
        shutil.rmtree(out, ignore_errors=True)
    values = [float(value) for value in coefficients.split(",")]
    config = SweepConfig.model_validate(
        {
            "name": "tradeoff",
            "data": data,
            "train": {**DEMO_SETTINGS, "iterations": iterations},
            "search": {COEFFICIENT: {"grid": values}, "seed": {"grid": list(range(seeds))}},
            "objectives": ["reward", "concentration"],
            "evaluation_users": users,
        }
    )
    result = resume_sweep(out) if is_sweep(out) else run_sweep(config, out)
    course = true_course(world, OfflineDataset(data), users, 5, 0)
    found = {name: np.full((len(values), seeds), np.nan) for name in MEASURES}
    for trial in result.judged:
        place = values.index(trial.parameters[COEFFICIENT]), trial.parameters["seed"]
        policy = ActorPolicy.of(Run.open(out / "trials" / trial.name).networks())
        found["true_reward"][place] = (
            compare([policy], course)[0].policies[policy.name]["reward"].mean
        )
        for name in EXPLAINED:
            found[name][place] = trial.outcomes[name].mean
    rows = []
    for place, value in enumerate(values):
        changes = {name: difference(array[place] - array[0]) for name, array in found.items()}
        cost = -changes["true_reward"]["mean"] / float(found["true_reward"][0].mean())
        rows.append(
            {
                "coefficient": value,
                **{name: float(array[place].mean()) for name, array in found.items()},
                "changes": changes,
                "cost": cost,
                "clearly_more": [name for name in EXPLAINED if changes[name]["low"] > 0],
                "within_tolerance": cost <= TOLERANCE,
            }
        )
    if as_json:
        click.echo(json.dumps({"seeds": seeds, "rows": rows}, indent=2))
        return
    click.echo(f"{'coefficient':>11} {'cost':>7} " + " ".join(f"{name:>32}" for name in MEASURES))
    for row in rows:
        cells = []
        for name in MEASURES:
            change = row["changes"][name]
            interval = f"({change['low']:+.3f} to {change['high']:+.3f})"
            cells.append(f"{row[name]:.4f} {change['mean']:+.4f} {interval}")
        click.echo(
            f"{row['coefficient']:11g} {row['cost']:7.1%} " + " ".join(f"{c:>32}" for c in cells)
        )


if __name__ == "__main__":
    run(main)

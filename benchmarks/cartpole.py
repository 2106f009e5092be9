"""Mean return on CartPole-v1 of what is learnt from logged episodes: DiscreteIQL beside others.

Two logs of 400 episodes are made on the spot, for each seed anew: ``random`` (uniform actions, mean
return 22) and ``mixed`` (half random, half a DQN stopped at a return of 100). All algorithms get
the same rows, gradient steps, batch and network sizes and discount, and act greedily in 20 episodes
that start alike. Run it from a clone::

    .venv/bin/python benchmarks/cartpole.py

d3rlpy's algorithms join in from an environment of their own, as it pins another Gymnasium::

    python3 -m venv d3rlpy-venv && d3rlpy-venv/bin/pip install d3rlpy==2.8.1
    .venv/bin/python benchmarks/cartpole.py --d3rlpy-python d3rlpy-venv/bin/python

RLlib's BC and MARWIL train in RLlib as they are, with two concessions to speed and fairness: rows
do not each become an Episode on their way, and MARWIL's value targets are the discounted returns
that its paper asks for. Left to itself, RLlib takes each row of Parquet for an episode, and
bootstraps after one step.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import statistics
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import gymnasium as gym
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from cartpole_data import ENVIRONMENT, Rows, mixed_rows, play, random_rows, returns, returns_to_go
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.bc import BCConfig
from ray.rllib.algorithms.marwil import MARWILConfig
from ray.rllib.core.columns import Columns
from ray.rllib.offline.offline_prelearner import OfflinePreLearner

from noetik_rllib.cli.errors import run
from noetik_rllib.cluster import connected_ray
from noetik_rllib.iql.config import DiscreteIQLConfig

LOGS: dict[str, Callable[[int, int], Rows]] = {"random": random_rows, "mixed": mixed_rows}
EVALUATION_EPISODES = 20
#: Of every algorithm. d3rlpy's own defaults are learning rates of 6e-5 to 1e-3, batches of 32 to
#: 100 rows and layers of 256.
SHARED = {"learning_rate": 3e-4, "batch_size": 64, "width": 128, "gamma": 0.99}
#: Chosen on seeds 100 to 112 and 200 to 205, which are not among those reported. Rewards are 1 on
#: every row, so they are left as they are, and beta is in units of a step of survival.
EXPECTILE, BETA = 0.5, 10.0
STEPS_PER_ITERATION = 1000


class ColumnsPreLearner(OfflinePreLearner):
    """Hands RLlib's learners the columns of rows as they are, without an Episode for each."""

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what the losses of BC and MARWIL read."""
        return {
            "default_policy/obs": np.stack(batch["obs"]).astype(np.float32),
            "default_policy/actions": batch["actions"],
            "default_policy/value_targets": batch["value_targets"],
        }


def write_parquet(rows: Rows, folder: Path) -> None:
    """Write rows as RLlib reads them, with the returns to go as ``value_targets``."""
    columns: dict[str, Any] = rows | {"value_targets": returns_to_go(rows, SHARED["gamma"])}
    for name in ("obs", "new_obs"):
        columns[name] = pa.FixedSizeListArray.from_arrays(rows[name].ravel(), rows[name].shape[1])
    folder.mkdir()
    pq.write_table(pa.table(columns), folder / "rows.parquet")


def with_spaces(config: Any, folder: Path, seed: int) -> AlgorithmConfig:
    """Complete a config by the data and the spaces of CartPole."""
    env = gym.make(ENVIRONMENT)
    return (
        config.environment(observation_space=env.observation_space, action_space=env.action_space)
        .offline_data(input_=[str(folder)], dataset_num_iters_per_learner=STEPS_PER_ITERATION)
        .training(train_batch_size_per_learner=SHARED["batch_size"], gamma=SHARED["gamma"])
        .debugging(seed=seed)
    )


def iql(folder: Path, seed: int, expectile: float, beta: float) -> AlgorithmConfig:
    """Return the config of ours."""
    rate, width = SHARED["learning_rate"], SHARED["width"]
    return (
        with_spaces(DiscreteIQLConfig(), folder, seed)
        .training(
            expectile=expectile,
            beta=beta,
            actor_lr=rate,
            critic_lr=rate,
            value_lr=rate,
            normalise_reward=False,
        )
        .rl_module(model_config={"hidden_sizes": (width, width)})
    )


def cloning(config: Any, folder: Path, seed: int) -> AlgorithmConfig:
    """Return RLlib's BC or MARWIL."""
    rows = pq.read_metadata(folder / "rows.parquet").num_rows
    width = SHARED["width"]
    return (
        with_spaces(config, folder, seed)
        .training(lr=SHARED["learning_rate"])
        .offline_data(
            input_read_method="read_parquet",
            prelearner_class=ColumnsPreLearner,
            materialize_mapped_data=True,
            map_batches_kwargs={"concurrency": 1},
            # Without these, RLlib does not shuffle, and trains on short last batches.
            iter_batches_kwargs={"local_shuffle_buffer_size": rows, "drop_last": True},
        )
        .rl_module(
            model_config={
                "fcnet_hiddens": [width, width],
                "fcnet_activation": "relu",
                "vf_share_layers": False,
            }
        )
    )


def evaluated(config: AlgorithmConfig, steps: int, seed: int) -> np.ndarray:
    """Train for ``steps`` gradient steps, then return the greedy policy's returns (episodes,)."""
    algorithm = config.build_algo()
    try:
        for _ in range(steps // STEPS_PER_ITERATION):
            algorithm.train()
        module = algorithm.learner_group._learner.module["default_policy"].unwrapped()

        def greedy(states: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                out = module.forward_inference({Columns.OBS: torch.from_numpy(states)})
            return out[Columns.ACTION_DIST_INPUTS].argmax(-1).numpy()

        return returns(play(greedy, EVALUATION_EPISODES, seed + 500))
    finally:
        algorithm.stop()
        del algorithm
        gc.collect()  # ends the iterators of Ray Data, which complain if Ray goes first


def d3rlpy_returns(python: Path, rows: Rows, folder: Path, steps: int, seed: int) -> dict[str, Any]:
    """Run ``cartpole_d3rlpy.py`` and return what it prints: returns by algorithm."""
    np.savez(folder / "rows.npz", **rows)
    options = SHARED | {"steps": steps, "seed": seed, "episodes": EVALUATION_EPISODES}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    script = Path(__file__).with_name("cartpole_d3rlpy.py")
    done = subprocess.run(
        [str(python), str(script), str(folder / "rows.npz"), *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def interval(means: list[float]) -> float:
    """Return half the width of the mean's 95 % confidence interval over seeds (Student's t)."""
    t = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
    return t[len(means)] * statistics.stdev(means) / math.sqrt(len(means))


@click.command()
@click.option("--seeds", default="0,1,2,3,4", show_default=True, help="Of data and training.")
@click.option("--steps", default=5000, show_default=True, help="Gradient steps of each.")
@click.option("--log", "logs", multiple=True, type=click.Choice(list(LOGS)), default=list(LOGS))
@click.option("--episodes", default=400, show_default=True, help="Of a log.")
@click.option("--expectile", default=EXPECTILE, show_default=True, help="Of DiscreteIQL.")
@click.option("--beta", default=BETA, show_default=True, help="Of DiscreteIQL.")
@click.option("--ours-only", is_flag=True, help="Leave out BC and MARWIL.")
@click.option("--d3rlpy-python", type=click.Path(path_type=Path), help="Python that has d3rlpy.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(
    seeds: str,
    steps: int,
    logs: tuple[str, ...],
    episodes: int,
    expectile: float,
    beta: float,
    ours_only: bool,
    d3rlpy_python: Path | None,
    as_json: bool,
) -> None:
    """Compare what offline algorithms learn from logs of CartPole-v1."""
    torch.set_num_threads(1)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    #: Log -> algorithm -> mean return of each seed.
    means: dict[str, dict[str, list[float]]] = {log: defaultdict(list) for log in logs}
    with connected_ray():
        for log in logs:
            for seed in map(int, seeds.split(",")):
                rows = LOGS[log](episodes, seed)
                found = {"the log itself": returns(rows)}
                with tempfile.TemporaryDirectory() as name:
                    folder = Path(name) / "rows"
                    write_parquet(rows, folder)
                    configs = {"DiscreteIQL": iql(folder, seed, expectile, beta)}
                    if not ours_only:
                        configs["RLlib BC"] = cloning(BCConfig(), folder, seed)
                        configs["RLlib MARWIL"] = cloning(MARWILConfig(), folder, seed)
                    for algorithm, config in configs.items():
                        found[algorithm] = evaluated(config, steps, seed)
                    if d3rlpy_python:
                        found |= d3rlpy_returns(d3rlpy_python, rows, Path(name), steps, seed)
                for algorithm, reached in found.items():
                    means[log][algorithm].append(float(np.mean(reached)))
                summary = {name: round(values[-1], 1) for name, values in means[log].items()}
                click.echo(f"{log} seed {seed}: {summary}", err=True)
    result = {"settings": SHARED | {"steps": steps, "expectile": expectile, "beta": beta}, **means}
    if as_json:
        click.echo(json.dumps(result))
        return
    for log, algorithms in means.items():
        click.echo(f"{log}: mean return over seeds {seeds}, 95 % interval, each seed")
        for algorithm, values in algorithms.items():
            half = f"+- {interval(values):5.1f}" if len(values) > 1 else ""
            each = ", ".join(f"{value:.0f}" for value in values)
            click.echo(f"  {algorithm:20} {statistics.mean(values):6.1f} {half}  ({each})")


if __name__ == "__main__":
    run(main)

"""Steps per second of the vectorised environment against single ones stepped in a loop.

Both show random videos to as many users with the same fitted model, in one process, in turn,
several times; what counts is the ratio. Run it from a clone after ``make demo``::

    .venv/bin/python benchmarks/env_throughput.py --data data/demo
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from noetik_rllib.cli.errors import run
from noetik_rllib.envs.kuairand_env import KuaiRandEnv
from noetik_rllib.envs.response_fit import fit_response_model
from noetik_rllib.envs.vector_env import KuaiRandVectorEnv
from noetik_rllib.offline.dataset import OfflineDataset


def single_seconds(envs: list[KuaiRandEnv], actions: np.ndarray) -> tuple[float, float]:
    """Step single environments one after the other through actions (T, B).

    Returns:
        Seconds by the clock, and seconds of this process's own work.
    """
    for place, env in enumerate(envs):
        env.reset(seed=place)
    begun, begun_work = time.perf_counter(), time.process_time()
    for row in actions:
        for env, action in zip(envs, row, strict=True):
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
    return time.perf_counter() - begun, time.process_time() - begun_work


def vector_seconds(envs: KuaiRandVectorEnv, actions: np.ndarray) -> tuple[float, int]:
    """Step all sessions at once through actions (T, B); return the seconds and the steps taken.

    The calls that begin a session anew are no steps of it, but their time counts.
    """
    envs.reset(seed=0)
    steps, over = 0, np.zeros(envs.num_envs, dtype=bool)
    begun = time.perf_counter()
    for row in actions:
        steps += int((~over).sum())
        _, _, terminated, truncated, _ = envs.step(row)
        over = terminated | truncated
    return time.perf_counter() - begun, steps


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Offline dataset.")
@click.option("--envs", default=256, show_default=True, help="Users at a time.")
@click.option("--rounds", default=5, show_default=True, help="Measurements of each, in turn.")
@click.option(
    "--user-model",
    type=click.Choice(["logged", "model", "world"]),
    default="model",
    show_default=True,
    help="Who answers.",
)
@click.option("--world", type=click.Path(path_type=Path), help="World's folder, for 'world'.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(
    data: Path, envs: int, rounds: int, user_model: str, world: Path | None, as_json: bool
) -> None:
    """Measure the throughput of the environments."""
    options: dict[str, object] = {"data": data, "user_model": user_model}
    with tempfile.TemporaryDirectory() as folder:
        if user_model == "world":
            options["world"] = world
        else:
            fit_response_model(OfflineDataset(data), "train").save(Path(folder) / "model")
            options["response_model"] = Path(folder) / "model"
        singles = [KuaiRandEnv(options) for _ in range(envs)]
        together = KuaiRandVectorEnv(envs, options)
    videos = together.dataset.manifest.num_videos
    # 22 calls are two episodes of 10 steps and the two calls that begin them anew.
    actions = np.random.default_rng(0).integers(videos, size=(22, envs))
    single_us, work_us, vector_us = [], [], []
    for round_ in range(rounds + 1):
        seconds, work = single_seconds(singles, actions[:20])
        steps = 20 * envs
        vector, vector_steps = vector_seconds(together, actions)
        if round_:  # the first warms up
            single_us.append(1e6 * seconds / steps)
            work_us.append(1e6 * work / steps)
            vector_us.append(1e6 * vector / vector_steps)
    ratios = [single / vector for single, vector in zip(single_us, vector_us, strict=True)]
    result = {
        "user_model": user_model,
        "envs": envs,
        "videos": videos,
        "rounds": rounds,
        "single_us_per_step": statistics.median(single_us),
        "single_cpu_us_per_step": statistics.median(work_us),
        "vector_us_per_step": statistics.median(vector_us),
        "vector_steps_per_second": 1e6 / statistics.median(vector_us),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(
        f"{envs} users, {videos} videos, user_model '{user_model}': a step takes "
        f"{result['single_us_per_step']:.0f} us in a single environment "
        f"({result['single_cpu_us_per_step']:.0f} us of work) and "
        f"{result['vector_us_per_step']:.1f} us in the vectorised one, "
        f"{result['ratio']:.0f} times less ({min(ratios):.0f} to {max(ratios):.0f} in {rounds} "
        "rounds)"
    )


if __name__ == "__main__":
    run(main)

"""Rows per second of two learners against one with the same global batch, a torch thread each.

"apart" is the upper bound of this machine: two single learners at once, with half the batch each,
that exchange nothing. Where both share a core, as two virtual CPUs do, it is far below 2. All are
measured in turn, several times. Run it from a clone after ``make demo``::

    .venv/bin/python benchmarks/two_learners.py --data data/demo
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import ray
from ray.rllib.algorithms.algorithm import Algorithm

from noetik_rllib.cli.errors import run
from noetik_rllib.iql.config import DiscreteIQLConfig


def build(data: Path, learners: int, batch_size: int, steps: int, width: int) -> Algorithm:
    """Return an algorithm whose learners are processes, of one CPU and hence thread each."""
    return (
        DiscreteIQLConfig()
        .offline_data(input_=[str(data.resolve() / "train")], dataset_num_iters_per_learner=steps)
        .training(train_batch_size_per_learner=batch_size)
        .rl_module(model_config={"embedding_size": width})
        .learners(num_learners=learners, num_cpus_per_learner=1)
        .debugging(seed=0)
        .build_algo()
    )


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Offline dataset.")
@click.option("--batch-size", default=512, show_default=True, help="Of all learners together.")
@click.option("--steps", default=10, show_default=True, help="Gradient steps per measurement.")
@click.option("--repeats", default=9, show_default=True, help="Measurements of each, in turn.")
@click.option("--embedding-size", default=64, show_default=True, help="Width of the networks.")
def main(data: Path, batch_size: int, steps: int, repeats: int, embedding_size: int) -> None:
    """Print rows per second of each, and the ratios to one learner."""
    half = batch_size // 2
    # Bookkeeping, not cores: all five learners exist, and at most two of them work at a time.
    ray.init(num_cpus=6, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    one, two, left, right = (
        build(data, learners, size, steps, embedding_size)
        for learners, size in ((1, batch_size), (2, half), (1, half), (1, half))
    )
    with ThreadPoolExecutor(2) as threads:
        contestants: dict[str, Callable[[], object]] = {
            "one": one.train,
            "two": two.train,
            "apart": lambda: list(threads.map(Algorithm.train, (left, right))),
        }
        speed: dict[str, list[float]] = {name: [] for name in contestants}
        for repeat in range(repeats + 1):
            for name, train in contestants.items():
                begun = time.perf_counter()
                train()
                if repeat:  # the first reads the rows
                    speed[name].append(batch_size * steps / (time.perf_counter() - begun))
    for algorithm in (one, two, left, right):
        algorithm.stop()
    ray.shutdown()

    def ratio(name: str, to: str) -> dict[str, float]:
        ratios = [a / b for a, b in zip(speed[name], speed[to], strict=True)]
        return {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)}

    result = {
        "rows_per_second": {name: statistics.median(values) for name, values in speed.items()},
        "two_to_one": ratio("two", "one"),
        "apart_to_one": ratio("apart", "one"),
        "two_to_apart": ratio("two", "apart"),
    }
    click.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    run(main)

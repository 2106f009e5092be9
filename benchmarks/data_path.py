"""Training rows per second: this package's data path against RLlib's own, on the same Parquet.

Neither trains; all work in batches of 256. Ours draws them out of memory, and while it streams the
rows from disk. RLlib's ``OfflinePreLearner`` maps rows in memory, under ``BCConfig``, whose
pipeline does the least. The three are measured in turn, in this process; what counts is the ratio,
also of the processor's seconds, which a loaded machine disturbs less. Then come an epoch of RLlib's
whole ``OfflineData``, with two such processes and Ray Data around them, and the memory by which an
epoch of ours makes a process grow. Run it from a clone after ``make demo``::

    .venv/bin/python benchmarks/data_path.py --data data/demo
"""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow.parquet as pq
import ray
import torch
from ray.rllib.algorithms.bc import BCConfig
from ray.rllib.offline.offline_prelearner import OfflinePreLearner

from noetik_rllib.cli.errors import run
from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.data import ColumnarOfflineData, dataset_spaces
from noetik_rllib.iql.shard_iterator import ShardIterator
from noetik_rllib.offline.dataset import OfflineDataset

BATCH = 256


def shard(data: Path, residency: str, window_mb: int) -> ShardIterator:
    """Return all rows of a dataset for one learner."""
    config = (
        DiscreteIQLConfig()
        .offline_data(input_=[str(data / "train")])
        .training(data_residency=residency, data_window_mb=window_mb)
    )
    return ColumnarOfflineData(config).sample(BATCH)[0]


def draw(batches: Iterator[dict[str, Any]], number: int | None) -> tuple[float, float]:
    """Draw batches; return rows per second, and per second of this process' own work."""
    begun, begun_work, rows = time.perf_counter(), time.process_time(), 0
    for batch in itertools.islice(batches, number):
        rows += len(next(iter(batch.values())))
    return rows / (time.perf_counter() - begun), rows / (time.process_time() - begun_work)


def stock_config(data: Path) -> BCConfig:
    """Return RLlib's config for the same files."""
    observations, actions = dataset_spaces(OfflineDataset(data))
    return (
        BCConfig()
        .environment(observation_space=observations, action_space=actions)
        .offline_data(
            input_=[str(data.resolve() / "train")],
            # Read and mapped while batches are drawn: keeping either would measure a copy of the
            # result, after a first pass of minutes.
            materialize_data=False,
            materialize_mapped_data=False,
            dataset_num_iters_per_learner=1,
        )
        .training(train_batch_size_per_learner=BATCH)
    )


def stock_batch(data: Path, rows: int) -> dict[str, np.ndarray]:
    """Return rows as Ray Data hands them to an ``OfflinePreLearner``: lists are arrays of objects.

    The columns are those that it reads.
    """
    names = ["eps_id", "obs", "actions", "rewards", "new_obs", "terminateds", "truncateds"]
    path = sorted((data / "train").glob("*.parquet"))[0]
    table = next(pq.ParquetFile(path).iter_batches(rows, columns=names))
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in names}


def peak_mb(data: Path, residency: str, window_mb: int, answer: Any) -> None:
    """Draw an epoch in a process of its own; answer with its memory before, and at its peak."""
    torch.set_num_threads(1)
    part = shard(data, residency, window_mb)
    batches = part.iter_torch_batches(batch_size=BATCH)
    before = memory_mb("VmRSS")
    for _ in itertools.islice(batches, part.rows // BATCH):
        pass
    answer.put((before, memory_mb("VmHWM")))
    answer.close()
    answer.join_thread()
    os._exit(0)  # without waiting for a window that nobody will draw from


def memory_mb(name: str) -> float:
    """Read a line of Linux' account of this process' memory, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(name)) / 1024


def memory(data: Path, residency: str, window_mb: int) -> float:
    """Return by how many MiB drawing an epoch makes a process grow."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    child = context.Process(target=peak_mb, args=(data, residency, window_mb, answer))
    child.start()
    before, peak = answer.get()
    child.join()
    return float(peak - before)


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Offline dataset.")
@click.option("--repeats", default=5, show_default=True, help="Measurements of each, in turn.")
@click.option("--batches", default=4_000, show_default=True, help="Of ours, per measurement.")
@click.option("--stock-batches", default=100, show_default=True, help="Of RLlib's.")
@click.option("--window-mb", default=128, show_default=True, help="Window while streaming.")
def main(data: Path, repeats: int, batches: int, stock_batches: int, window_mb: int) -> None:
    """Print rows per second of each, the ratios, and peaks of memory."""
    logging.disable(logging.WARNING)
    stock_rows = stock_batch(data, BATCH)
    whole = shard(data, "memory", window_mb)
    speed: dict[str, list[tuple[float, float]]] = {"memory": [], "stream": [], "rllib": []}
    # Bookkeeping, not cores: RLlib's two readers would wait for ever for Ray Data's tasks, which
    # find no CPU left on a machine of two.
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        algorithm = stock_config(data).build_algo()
        prelearner = OfflinePreLearner(
            config=algorithm.config,
            spaces=(algorithm.config.observation_space, algorithm.config.action_space),
            module_spec=algorithm.offline_data.module_spec,
        )
        endless = {
            name: shard(data, name, window_mb).iter_torch_batches(batch_size=BATCH)
            for name in ("memory", "stream")
        }
        begun = time.perf_counter()
        draw(endless["memory"], 1)
        load_seconds = time.perf_counter() - begun
        for _ in range(repeats):
            for name, rows in endless.items():
                speed[name].append(draw(rows, batches))
            mapped = (prelearner(stock_rows) for _ in range(stock_batches))
            speed["rllib"].append(draw(mapped, stock_batches))
        for rows in endless.values():
            rows.close()
        (pipeline,) = algorithm.offline_data.sample(BATCH, return_iterator=True, num_shards=0)
        epoch = iter(pipeline.iter_torch_batches(batch_size=BATCH, prefetch_batches=2))
        pipeline_speed, _ = draw(epoch, None)
        algorithm.stop()
    finally:
        ray.shutdown()

    def middle(name: str, clock: int) -> float:
        return statistics.median(values[clock] for values in speed[name])

    def ratio(name: str, clock: int) -> dict[str, float]:
        pairs = zip(speed[name], speed["rllib"], strict=True)
        ratios = [ours[clock] / theirs[clock] for ours, theirs in pairs]
        return {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)}

    result = {
        "rows": whole.rows,
        "decoded_mb": whole.rows * whole.form.row_bytes / 2**20,
        "windows": shard(data, "stream", window_mb).windows,
        "seconds_to_load": load_seconds,
        "rows_per_second": {name: middle(name, 0) for name in speed},
        "rows_per_cpu_second": {name: middle(name, 1) for name in speed},
        "ratio": {name: ratio(name, 0) for name in endless},
        "cpu_ratio": {name: ratio(name, 1) for name in endless},
        "rows_per_second_of_rllib_pipeline": pipeline_speed,
        "grown_mb": {name: memory(data, name, window_mb) for name in endless},
    }
    click.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    run(main)

"""Stock RLlib reads our datasets unchanged: its own BC trains on the Parquet and on the JSON."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from ray.rllib.algorithms.bc import BCConfig

from noetik_rllib.offline.dataset import OfflineDataset


def bc_config(dataset: OfflineDataset) -> BCConfig:
    low, high = dataset.layout.bounds(dataset.manifest.num_videos)
    return (
        BCConfig()
        .environment(
            observation_space=gym.spaces.Box(low, high, dtype=np.float32),
            action_space=gym.spaces.Discrete(dataset.manifest.num_videos),
        )
        .learners(num_learners=0)
        .training(train_batch_size_per_learner=64)
        .evaluation(evaluation_interval=None)
    )


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("file_format", ["parquet", "json"])
def test_rllibs_own_bc_trains_on_the_dataset(tiny_dataset: Path, file_format: str) -> None:
    """Fails if a stock reader cannot open our files, or a column has a type that it refuses."""
    dataset = OfflineDataset(tiny_dataset)
    options = {
        "parquet": {"input_": [str(tiny_dataset / "train")]},
        "json": {
            "input_": [str(tiny_dataset / "json" / "train")],
            "input_read_method": "read_json",
            "input_read_sample_batches": True,
            "input_read_batch_size": 32,
        },
    }[file_format]
    config = bc_config(dataset).offline_data(
        dataset_num_iters_per_learner=1,
        # One reader process: with two, the machine's two CPUs leave none for the read itself.
        map_batches_kwargs={"concurrency": 1, "num_cpus": 0.5},
        **options,
    )
    algorithm = config.build_algo()
    try:
        result = algorithm.train()
    finally:
        algorithm.stop()
    loss = result["learners"]["default_policy"]["total_loss"]
    # A fresh policy is near uniform: its cross-entropy is near ln(videos).
    assert 0.5 < loss / np.log(dataset.manifest.num_videos) < 10

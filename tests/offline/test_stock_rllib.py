"""Stock RLlib reads our datasets unchanged: its BC and MARWIL train on the Parquet and the JSON."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from ray.rllib.algorithms.bc import BCConfig
from ray.rllib.algorithms.marwil import MARWILConfig

from noetik_rllib.offline.dataset import OfflineDataset


def stock_config(
    kind: type[BCConfig] | type[MARWILConfig], dataset: OfflineDataset
) -> BCConfig | MARWILConfig:
    low, high = dataset.layout.bounds(dataset.manifest.num_videos)
    return (
        kind()
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
@pytest.mark.parametrize("kind", [BCConfig, MARWILConfig])
def test_rllibs_own_algorithms_train_on_the_dataset(
    tiny_dataset: Path, kind: type[BCConfig] | type[MARWILConfig], file_format: str
) -> None:
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
    config = stock_config(kind, dataset).offline_data(
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
    learner = result["learners"]["default_policy"]
    assert np.isfinite(learner["total_loss"])
    if kind is BCConfig:
        # A fresh policy is near uniform: its cross-entropy is near ln(videos).
        assert 0.5 < learner["total_loss"] / np.log(dataset.manifest.num_videos) < 10
    else:
        # Beside cloning, MARWIL fits a value to the rewards.
        assert learner["vf_loss"] > 0

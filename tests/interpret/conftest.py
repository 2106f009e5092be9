"""Policies to explain: one with random weights, one that was trained on a known rule."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.runs import Run, TrainConfig, save_policy
from tests.interpret import planted


@pytest.fixture(scope="session")
def untrained_run(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the tiny dataset whose weights are random."""
    directory = tmp_path_factory.mktemp("runs") / "untrained"
    directory.mkdir()
    dataset = OfflineDataset(tiny_dataset)
    torch.manual_seed(0)
    networks = IQLNetworks(NetworkConfig.for_dataset(dataset.manifest), dataset.catalog)
    TrainConfig(data=tiny_dataset, out=directory).save(directory)
    save_policy(directory / "policy", networks, tiny_dataset)
    return Run.open(directory)


@pytest.fixture(scope="session")
def planted_policy() -> IQLNetworks:
    """The policy of ``planted.trained``, which follows one liked event."""
    return planted.trained()

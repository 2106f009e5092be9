"""Behaviour cloning: the baseline that imitates the log, with the run's own actor and effort."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from noetik_rllib.evaluation.policies import ActorPolicy
from noetik_rllib.io import atomic_path
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import Actor
from noetik_rllib.iql.settings import LearningRate
from noetik_rllib.iql.video_tower import VideoFeatures
from noetik_rllib.offline.dataset import OfflineDataset

NAME = "behaviour_cloning"
CACHE = Path("baselines") / f"{NAME}.safetensors"
#: Raised when the same settings no longer give the same weights: older caches are then ignored.
CACHE_VERSION = 1


class CloningConfig(BaseModel):
    """Effort that goes into behaviour cloning: that of the run it is compared with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Gradient steps.
    steps: int = Field(ge=1)
    #: Rows per gradient step, over all learners.
    batch_size: int = Field(ge=1)
    #: Adam's step size, or its schedule over the rows trained on.
    learning_rate: LearningRate
    seed: int = 0

    def learning_rate_at(self, rows: int) -> float:
        """Return the step size after ``rows`` rows: between the points of a schedule, a line."""
        if isinstance(self.learning_rate, float):
            return self.learning_rate
        points, rates = zip(*self.learning_rate, strict=True)
        return float(np.interp(float(rows), points, rates))


class _Clone(nn.Module):
    """An actor with the catalogue that it scores."""

    def __init__(self, config: NetworkConfig, dataset: OfflineDataset) -> None:
        super().__init__()
        self.features = VideoFeatures(config, dataset.catalog)
        self.actor = Actor(config)


def behaviour_cloning(
    dataset: OfflineDataset,
    networks: NetworkConfig,
    config: CloningConfig,
    run_directory: Path,
    progress: Callable[[float], None] | None = None,
) -> ActorPolicy:
    """Return the cloned policy, trained on ``train`` unless the run has it already.

    It is kept in ``baselines/behaviour_cloning.safetensors`` of the run, under a key of all that
    its weights follow from; with another key, or damaged, it is trained again.

    Args:
        dataset: dataset of the run.
        networks: sizes of the run's networks.
        config: effort.
        run_directory: folder of the run.
        progress: called with the share that is done, 0 to 1.
    """
    progress = progress or (lambda share: None)
    key = _key(dataset, networks, config)
    path = run_directory / CACHE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        clone = _Clone(networks, dataset)
    if not _load(path, key, clone):
        _train(clone, dataset, config, progress)
        with atomic_path(path) as part:
            save_file(_weights(clone), part, metadata={"key": key})
    progress(1.0)
    return ActorPolicy(NAME, clone.actor, clone.features)


def _key(dataset: OfflineDataset, networks: NetworkConfig, config: CloningConfig) -> str:
    """SHA-256 of everything that the weights follow from."""
    content = {
        "version": CACHE_VERSION,
        "dataset": dataset.fingerprint,
        "networks": networks.model_dump(mode="json"),
        "effort": config.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _weights(clone: _Clone) -> dict[str, Tensor]:
    """Weights of the actor alone: the catalogue is the dataset's."""
    # The actor's encoder holds the actor's own tower: safetensors refuses a tensor under 2 names.
    return {name: tensor.contiguous() for name, tensor in clone.actor.named_parameters()}


def _load(path: Path, key: str, clone: _Clone) -> bool:
    """Load cached weights into ``clone``; False where there are none under this key."""
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return False
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return False
    with torch.no_grad():
        for name, parameter in clone.actor.named_parameters():
            parameter.copy_(weights[name])
    return True


def _train(
    clone: _Clone,
    dataset: OfflineDataset,
    config: CloningConfig,
    progress: Callable[[float], None],
) -> None:
    """Maximise the likelihood of the logged videos."""
    rows = dataset.load("train", ("obs", "actions"))
    states = torch.as_tensor(rows["obs"].astype(np.float32))
    videos = torch.as_tensor(rows["actions"].astype(np.int64))
    del rows
    optimizer = torch.optim.Adam(clone.actor.parameters(), fused=True)
    shuffle = torch.Generator().manual_seed(config.seed)
    order = torch.empty(0, dtype=torch.int64)
    clone.train()
    for step in range(config.steps):
        while len(order) < config.batch_size:
            order = torch.cat([order, torch.randperm(len(videos), generator=shuffle)])
        index, order = order[: config.batch_size], order[config.batch_size :]
        logits = clone.actor(clone.features, states[index])
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits, videos[index]).backward()
        optimizer.param_groups[0]["lr"] = config.learning_rate_at(step * config.batch_size)
        optimizer.step()
        progress((step + 1) / config.steps)

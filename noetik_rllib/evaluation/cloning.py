"""Behaviour cloning: the baseline that imitates the log, with the run's own actor and effort."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.baseline_cache import Kept, kept
from noetik_rllib.evaluation.policies import ActorPolicy
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import Actor
from noetik_rllib.iql.settings import LearningRate, cosine_decay
from noetik_rllib.iql.video_tower import VideoFeatures
from noetik_rllib.offline.dataset import OfflineDataset

NAME = "behaviour_cloning"
#: Raised when the same settings no longer give the same weights: older ones are then ignored.
CACHE_VERSION = 3


class CloningConfig(BaseModel):
    """Effort that goes into behaviour cloning: that of the run it is compared with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Gradient steps.
    steps: int = Field(ge=1)
    #: Rows per gradient step, over all learners.
    batch_size: int = Field(ge=1)
    #: Adam's step size, or its schedule over the rows trained on.
    learning_rate: LearningRate
    #: Whether the step size falls to 0 along a cosine, as the run's own.
    decay: bool = False
    seed: int = 0

    def learning_rate_at(self, rows: int) -> float:
        """Return the step size after ``rows`` rows: between the points of a schedule, a line."""
        if isinstance(self.learning_rate, float):
            done = rows / (self.steps * self.batch_size) if self.decay else 0.0
            return cosine_decay(self.learning_rate, done)
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

    Args:
        dataset: dataset of the run.
        networks: sizes of the run's networks.
        config: effort.
        run_directory: folder of the run, where it is kept (``baseline_cache``).
        progress: called with the share that is done, 0 to 1.

    Raises:
        UserError: ``train`` holds no video that was chosen for its user.
    """
    progress = progress or (lambda share: None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        clone = _Clone(networks, dataset)
        made_from = {
            "version": CACHE_VERSION,
            "dataset": dataset.fingerprint,
            "networks": networks.model_dump(mode="json"),
            "effort": config.model_dump(mode="json"),
        }

        def train() -> Kept:
            _train(clone, dataset, config, progress)
            # Parameters alone, the catalogue is the dataset's; each once, though the actor's
            # encoder holds the actor's own tower.
            return Kept({name: tensor.data for name, tensor in clone.actor.named_parameters()})

        weights = kept(run_directory, NAME, made_from, train).tensors
    with torch.no_grad():
        for name, parameter in clone.actor.named_parameters():
            parameter.copy_(weights[name])
    progress(1.0)
    return ActorPolicy(NAME, clone.actor, clone.features)


def chosen_rows(dataset: OfflineDataset) -> np.ndarray:
    """Return which rows of ``train`` are no random exposures, and so to be imitated: (R,) bool.

    Raises:
        UserError: none is.
    """
    chosen = np.isnan(dataset.load("train", ("propensity",))["propensity"])
    if not chosen.any():
        raise UserError(
            f"{dataset.directory / 'train'} holds random exposures alone: there is nothing to clone"
        )
    return chosen


def _train(
    clone: _Clone,
    dataset: OfflineDataset,
    config: CloningConfig,
    progress: Callable[[float], None],
) -> None:
    """Maximise the likelihood of the chosen videos, estimated where the catalogue is large."""
    chosen = chosen_rows(dataset)
    rows = dataset.load("train", ("obs", "actions"))
    states = torch.as_tensor(rows["obs"][chosen].astype(np.float32, copy=False))
    videos = torch.as_tensor(rows["actions"][chosen].astype(np.int64))
    del rows
    if clone.actor.sampler is not None:
        clone.actor.sampler.follow(torch.as_tensor(dataset.times_shown("train")))
    optimizer = torch.optim.Adam(clone.actor.parameters(), fused=True)
    shuffle = torch.Generator().manual_seed(config.seed)
    order = torch.empty(0, dtype=torch.int64)
    clone.train()
    for step in range(config.steps):
        while len(order) < config.batch_size:
            order = torch.cat([order, torch.randperm(len(videos), generator=shuffle)])
        index, order = order[: config.batch_size], order[config.batch_size :]
        query = clone.actor.query(clone.actor.encoder(clone.features, states[index]))
        likelihood = clone.actor.log_prob(clone.features, query, videos[index])
        optimizer.zero_grad(set_to_none=True)
        (-likelihood.mean()).backward()
        optimizer.param_groups[0]["lr"] = config.learning_rate_at(step * config.batch_size)
        optimizer.step()
        progress((step + 1) / config.steps)

"""What is compared: anything that scores the whole catalogue in a batch of states."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from noetik_rllib.errors import UserError
from noetik_rllib.iql.networks import Actor, IQLNetworks
from noetik_rllib.iql.video_tower import VideoFeatures
from noetik_rllib.offline.dataset import OfflineDataset

#: States that pass through a transformer at a time: their (B, heads, T, T) attention is 11 MB.
ACTOR_CHUNK = 2_048


class Policy(Protocol):
    """A recommender; what it recommends is the video with the highest score."""

    #: What results and tables call it.
    name: str

    def score(self, states: np.ndarray) -> np.ndarray:
        """Score every video, higher is preferred.

        Args:
            states: (B, state size) float32.

        Returns:
            (B, N) float32, writable and the caller's to change.
        """


class RandomPolicy:
    """Every video with the same probability.

    Args:
        num_videos: size of the catalogue.
        seed: same seed, same calls, same scores.
    """

    def __init__(self, num_videos: int, seed: int = 0) -> None:
        self.name = "random"
        self._num_videos = num_videos
        self._rng = np.random.default_rng(seed)

    def score(self, states: np.ndarray) -> np.ndarray:
        """Independent uniform scores (B, N)."""
        return self._rng.random((len(states), self._num_videos), dtype=np.float32)


class PopularityPolicy:
    """The same videos for everybody: those with the most clicks in ``train``.

    Clicks, not exposures, since exposures only say what the logging policy liked to show; and not
    click rates, whose highest belong to videos that were shown a few times.
    """

    def __init__(self, dataset: OfflineDataset) -> None:
        self.name = "popularity"
        rows = dataset.load("train", ("actions", "click"))
        clicks = np.bincount(
            rows["actions"], weights=rows["click"], minlength=dataset.manifest.num_videos
        )
        self._clicks = clicks.astype(np.float32)

    def score(self, states: np.ndarray) -> np.ndarray:
        """Clicks of each video, the same for every state, (B, N)."""
        return np.tile(self._clicks, (len(states), 1))


class ActorPolicy:
    """A trained actor; its score is the logit.

    Args:
        name: what results call it.
        actor: the network.
        features: catalogue that it scores.
    """

    def __init__(self, name: str, actor: Actor, features: VideoFeatures) -> None:
        self.name = name
        self._actor = actor.eval()
        self._features = features

    @classmethod
    def of(cls, networks: IQLNetworks, name: str = "iql") -> ActorPolicy:
        """Return the policy of a run."""
        return cls(name, networks.actor, networks.features)

    def score(self, states: np.ndarray) -> np.ndarray:
        """Logits (B, N).

        Raises:
            UserError: a score is not a number, so the weights are not.
        """
        device = self._features.numeric.device
        scores = np.empty((len(states), len(self._features.numeric)), dtype=np.float32)
        with torch.no_grad():
            for first in range(0, len(states), ACTOR_CHUNK):
                rows = slice(first, first + ACTOR_CHUNK)
                chunk = torch.from_numpy(np.require(states[rows], requirements="W"))
                scores[rows] = self._actor(self._features, chunk.to(device)).cpu().numpy()
        if not np.isfinite(scores).all():
            raise UserError(
                f"policy '{self.name}' gives scores that are not numbers: its training diverged, "
                "train it again with a smaller learning rate"
            )
        return scores

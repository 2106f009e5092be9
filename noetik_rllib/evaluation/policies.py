"""What is evaluated: anything that recommends a video in a state.

Shapes: B states, N videos of the catalogue, k videos wanted, t videos shown before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch

from noetik_rllib.errors import UserError
from noetik_rllib.iql.networks import Actor, IQLNetworks
from noetik_rllib.iql.retrieval import top_of_chunk
from noetik_rllib.iql.video_tower import VideoFeatures
from noetik_rllib.offline.dataset import OfflineDataset

#: States that pass through a transformer at a time: their (B, heads, T, T) attention is 11 MB.
ACTOR_CHUNK = 2_048
#: Scores held at a time: 80 MB of float32 (2,637 states of KuaiRand-Pure's 7,583 videos).
SCORES_AT_A_TIME = 20_000_000


class Policy(Protocol):
    """A recommender that chooses one video per state, the same in the same call.

    ``user_id`` (B,) int64 says whose states they are. Most policies do not look at it; those that
    know the truth, or remember users, do.
    """

    #: What results and tables call it.
    name: str

    def recommend(self, states: np.ndarray, user_id: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """Choose the video that is shown next, (B,) int64.

        Args:
            states: (B, state size) float32.
            user_id: (B,) int64.
            shown: videos shown before in the same session, (B, t) int64, oldest first. Policies
                that rank do not repeat one.
        """
        ...

    def top_k(self, states: np.ndarray, user_id: np.ndarray, k: int) -> np.ndarray:
        """Return the k videos that it would show first, best first, (B, k) int64."""
        ...

    def score(self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """Score one video per state, (B,) float32: of two, it prefers the higher."""
        ...


class ScoringPolicy(ABC):
    """A policy that scores the whole catalogue, and shows what it scores highest.

    Args:
        name: what results call it.
        num_videos: size of the catalogue N.
    """

    def __init__(self, name: str, num_videos: int) -> None:
        self.name = name
        self.num_videos = num_videos

    @abstractmethod
    def score_all(self, states: np.ndarray, user_id: np.ndarray) -> np.ndarray:
        """Score every video, (B, N) float32, writable and the caller's to change."""

    def recommend(self, states: np.ndarray, user_id: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """Choose the video of the highest score that was not shown; see ``Policy``."""
        best = np.empty(len(states), dtype=np.int64)
        for rows in self._chunks(len(states)):
            scores = self.score_all(states[rows], user_id[rows])
            np.put_along_axis(scores, shown[rows], -np.inf, axis=1)
            best[rows] = scores.argmax(axis=1)
        return best

    def top_k(self, states: np.ndarray, user_id: np.ndarray, k: int) -> np.ndarray:
        """Return the k highest scored, equal ones in order of their index; see ``Policy``."""
        best = np.empty((len(states), k), dtype=np.int64)
        for rows in self._chunks(len(states)):
            scores = torch.from_numpy(self.score_all(states[rows], user_id[rows]))
            best[rows] = top_of_chunk(scores, k)[1].numpy()
        return best

    def score(self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """Score one video per state, (B,) float32; see ``Policy``."""
        chosen = np.empty(len(states), dtype=np.float32)
        for rows in self._chunks(len(states)):
            scores = self.score_all(states[rows], user_id[rows])
            chosen[rows] = np.take_along_axis(scores, videos[rows, None], axis=1)[:, 0]
        return chosen

    def _chunks(self, count: int) -> Iterator[slice]:
        size = max(1, SCORES_AT_A_TIME // self.num_videos)
        for first in range(0, count, size):
            yield slice(first, first + size)


class RandomPolicy(ScoringPolicy):
    """Every video with the same probability.

    Args:
        num_videos: size of the catalogue.
        seed: same seed, same calls, same scores.
    """

    def __init__(self, num_videos: int, seed: int = 0) -> None:
        super().__init__("random", num_videos)
        self._rng = np.random.default_rng(seed)

    def score_all(self, states: np.ndarray, user_id: np.ndarray) -> np.ndarray:
        """Independent uniform scores (B, N)."""
        return self._rng.random((len(states), self.num_videos), dtype=np.float32)

    def score(self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """Independent uniform scores (B,): no need to draw those of the other videos."""
        return self._rng.random(len(states), dtype=np.float32)


class FixedPolicy(ScoringPolicy):
    """The same scores of the videos for everybody.

    Args:
        name: what results call it.
        scores: of the videos, (N,).
    """

    def __init__(self, name: str, scores: np.ndarray) -> None:
        super().__init__(name, len(scores))
        self._scores = scores.astype(np.float32)

    def score_all(self, states: np.ndarray, user_id: np.ndarray) -> np.ndarray:
        """Scores (B, N), the same in every row."""
        return np.tile(self._scores, (len(states), 1))

    def score(self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """Score one video per state, (B,) float32; see ``Policy``."""
        return self._scores[videos]


def popularity(dataset: OfflineDataset) -> FixedPolicy:
    """The same videos for everybody: those with the most clicks in ``train``.

    Clicks, not exposures, since exposures only say what the logging policy liked to show; and not
    click rates, whose highest belong to videos that were shown a few times.
    """
    rows = dataset.load("train", ("actions", "click"))
    clicks = np.bincount(
        rows["actions"], weights=rows["click"], minlength=dataset.manifest.num_videos
    )
    return FixedPolicy("popularity", clicks)


class ActorPolicy:
    """A trained actor; its score is the logit. No matrix of states x videos is ever held.

    Its weights must not change afterwards: the catalogue is embedded once.

    Args:
        name: what results call it.
        actor: the network.
        features: catalogue that it scores.
    """

    def __init__(self, name: str, actor: Actor, features: VideoFeatures) -> None:
        self.name = name
        self._actor = actor.eval()
        self._features = features
        self._catalogue = actor.embed_catalogue(features)
        self._device = features.numeric.device

    @classmethod
    def of(cls, networks: IQLNetworks, name: str = "iql") -> ActorPolicy:
        """Return the policy of a run."""
        return cls(name, networks.actor, networks.features)

    def recommend(self, states: np.ndarray, user_id: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """Choose the video of the highest logit that was not shown; see ``Policy``."""
        return self.best(states, 1, shown)[0][:, 0]

    def top_k(self, states: np.ndarray, user_id: np.ndarray, k: int) -> np.ndarray:
        """Return the k videos of the highest logits; see ``Policy``."""
        return self.best(states, k)[0]

    def score(self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """Logits (B,) of one video each; see ``Policy``."""
        scores = np.empty(len(states), dtype=np.float32)
        for rows in actor_chunks(len(states)):
            query = self._query(states[rows])
            index = torch.as_tensor(videos[rows], device=self._device)
            logits = (query * self._catalogue.videos[index]).sum(1) + self._catalogue.biases[index]
            scores[rows] = logits.cpu().numpy()
        check_finite(self.name, scores)
        return scores

    def best(
        self, states: np.ndarray, k: int, shown: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Videos (B, k) of the highest logits, without those of ``shown`` (B, t), and the logits.

        Best first; logits (B, k) are float32.
        """
        best = np.empty((len(states), k), dtype=np.int64)
        highest = np.empty((len(states), k), dtype=np.float32)
        for rows in actor_chunks(len(states)):
            exclude = None if shown is None else torch.as_tensor(shown[rows], device=self._device)
            videos, logits = self._actor.recommend(
                self._features, self._tensor(states[rows]), k, exclude, self._catalogue
            )
            best[rows], highest[rows] = videos.cpu().numpy(), logits.cpu().numpy()
        check_finite(self.name, highest)
        return best, highest

    def _query(self, states: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            encoded = self._actor.encoder(self._features, self._tensor(states))
            return self._actor.query(encoded) * self._actor.scale

    def _tensor(self, states: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.require(states, np.float32, "W")).to(self._device)


def check_finite(policy: str, scores: np.ndarray) -> None:
    """Refuse scores that are not numbers: they would recommend anything.

    Raises:
        UserError: one is not finite, so the weights are not.
    """
    if not np.isfinite(scores).all():
        raise UserError(
            f"policy '{policy}' gives scores that are not numbers: its training diverged, "
            "train it again with a smaller learning rate"
        )


def actor_chunks(count: int) -> Iterator[slice]:
    """Yield slices of at most ``ACTOR_CHUNK`` of ``count`` states."""
    for first in range(0, count, ACTOR_CHUNK):
        yield slice(first, first + ACTOR_CHUNK)

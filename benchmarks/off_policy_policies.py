"""Policies of ``off_policy_coverage.py``: of any quality, and witnessed by the world's truth."""

from __future__ import annotations

import numpy as np

from noetik_rllib.data.signals import BINARY_SIGNALS, SIGNALS
from noetik_rllib.data.world import SyntheticWorld
from noetik_rllib.data.world_config import TABS
from noetik_rllib.evaluation.policies import Policy, RandomPolicy, ScoringPolicy, popularity
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.state import CONTEXT_NAMES

_FIRST_TAB = CONTEXT_NAMES.index("tab_0")
_TABS = slice(_FIRST_TAB, _FIRST_TAB + len(TABS))


class TastePolicy(ScoringPolicy):
    """Shows what a user likes apart from habit and satiation, seen through noise.

    Args:
        name: what the table calls it.
        world: that knows.
        dataset: made from it.
        gain: 1 for the best videos, -1 for the worst.
        noise: its standard deviation, log-odds.
        seed: of the noise.
    """

    def __init__(
        self,
        name: str,
        world: SyntheticWorld,
        dataset: OfflineDataset,
        gain: float,
        noise: float,
        seed: int,
    ) -> None:
        super().__init__(name, dataset.manifest.num_videos)
        self._world, self._video_id = world, dataset.catalog.video_id
        self._gain, self._noise = gain, noise
        self._rng = np.random.default_rng(seed)

    def score_all(self, states: np.ndarray, user_id: np.ndarray) -> np.ndarray:
        """True utility without history, and noise (B, N)."""
        users = np.repeat(user_id, self.num_videos)
        videos = np.tile(self._video_id, len(user_id))
        utility = self._world.plain_utility(users, videos).reshape(len(user_id), -1)
        noise = self._noise * self._rng.standard_normal(utility.shape)
        return np.asarray((self._gain * utility + noise).astype(np.float32))

    def score(self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """Of one video each, (B,)."""
        utility = self._world.plain_utility(user_id, self._video_id[videos])
        noise = self._noise * self._rng.standard_normal(len(utility))
        return np.asarray((self._gain * utility + noise).astype(np.float32))


class SameTagsPolicy(ScoringPolicy):
    """Videos that share tags with what the user clicked in the recent history."""

    def __init__(self, dataset: OfflineDataset) -> None:
        super().__init__("tags of recent clicks", dataset.manifest.num_videos)
        self._layout = dataset.layout
        tags = dataset.catalog.tags
        self._has = np.zeros((len(tags), int(tags.max()) + 1), dtype=np.float32)
        row, place = np.nonzero(tags >= 0)
        self._has[row, tags[row, place]] = 1.0

    def score_all(self, states: np.ndarray, user_id: np.ndarray) -> np.ndarray:
        """Clicked past events that share a tag, less half of the others that do, (B, N)."""
        parts = self._layout.unpack(states)
        clicked = (parts.feedback[..., BINARY_SIGNALS.index("click")] > 0) - 0.5
        weight = np.where(parts.present, clicked, 0.0).astype(np.float32)
        liked = np.einsum("bh,bht->bt", weight, self._has[parts.video_index])
        return np.asarray(liked @ self._has.T)


class Witness:
    """A policy that tells what its recommendations are truly worth: ``total`` (9,) over rows."""

    def __init__(self, policy: Policy, world: SyntheticWorld, dataset: OfflineDataset) -> None:
        self.name = policy.name
        self._policy, self._world = policy, world
        self._layout, self._video_id = dataset.layout, dataset.catalog.video_id
        self.total = np.zeros(len(SIGNALS))

    def recommend(self, states: np.ndarray, user_id: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """Choose as the policy does, and add up the true expected signals of that."""
        chosen = self._policy.recommend(states, user_id, shown)
        parts = self._layout.unpack(states)
        truth = self._world.response(
            user_id,
            self._video_id[chosen],
            np.where(parts.present, self._video_id[parts.video_index], -1),
            parts.feedback[..., BINARY_SIGNALS.index("click")],
            parts.context[:, _TABS].argmax(axis=1),
        )
        self.total += [truth[name].sum() for name in SIGNALS]
        return chosen

    def top_k(self, states: np.ndarray, user_id: np.ndarray, k: int) -> np.ndarray:
        """As the policy."""
        return self._policy.top_k(states, user_id, k)

    def score(self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """As the policy."""
        return self._policy.score(states, user_id, videos)


def policies(world: SyntheticWorld, dataset: OfflineDataset, seed: int) -> list[Policy]:
    """Return policies from the best to the worst, more or less; the first is ours."""
    return [
        TastePolicy("taste", world, dataset, 1, 0.0, seed),
        TastePolicy("taste, noise 1.5", world, dataset, 1, 1.5, seed + 1),
        TastePolicy("taste, noise 4", world, dataset, 1, 4.0, seed + 2),
        SameTagsPolicy(dataset),
        popularity(dataset),
        RandomPolicy(dataset.manifest.num_videos, seed),
        TastePolicy("against taste", world, dataset, -1, 1.5, seed + 3),
    ]

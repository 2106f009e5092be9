"""The standard log's policy: popularity times the platform's view of a user's taste, exactly.

Videos with the same tags are equally to a user's taste, so a video is drawn in two steps: its set
of tags by the user's taste, then the video among those of the set by popularity. That is exact,
and cheap for millions of videos.
"""

from __future__ import annotations

import numpy as np


class StandardPolicy:
    """Softmax over videos of ``log_weight[video] + affinity[user, set of the video]``.

    Args:
        video_set: number of each video's set of tags, (V,) in 0..G-1.
        log_weight: log-odds of each video that all users share, (V,).
        sets: G, the number of sets; those without a video are never shown.
    """

    def __init__(self, video_set: np.ndarray, log_weight: np.ndarray, sets: int) -> None:
        self._set = video_set
        weight = np.exp(log_weight - log_weight.max())
        self._order = np.argsort(video_set, kind="stable")
        self._cumulative = np.cumsum(weight[self._order])
        self._end = np.searchsorted(video_set[self._order], np.arange(sets), side="right")
        bounds = np.concatenate([[0.0], self._cumulative])[np.concatenate([[0], self._end])]
        self._start_weight, self._mass = bounds[:-1], np.diff(bounds)
        self._within = weight / self._mass[video_set]

    def sets(self, affinity: np.ndarray) -> np.ndarray:
        """Return the probability of each set, (N, G), from the affinity of N users, (N, G)."""
        weight = np.exp(affinity - affinity.max(axis=1, keepdims=True)) * self._mass
        return weight / weight.sum(axis=1, keepdims=True)

    def videos(self, affinity: np.ndarray) -> np.ndarray:
        """Return the probability of each video, (N, V), from the affinity of N users, (N, G)."""
        return self.sets(affinity)[:, self._set] * self._within

    def sample(
        self, affinity: np.ndarray, user: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw a video for each of M rows of ``user`` (M,), rows of ``affinity`` (N, G): (M,)."""
        count = affinity.shape[1]
        # One sorted array for all users: user i's cumulative probabilities run from i to i + 1.
        cumulative = np.cumsum(self.sets(affinity), axis=1) + np.arange(len(affinity))[:, None]
        place = np.searchsorted(cumulative.ravel(), user + rng.random(len(user)), side="right")
        chosen = np.clip(place - user * count, 0, count - 1)
        # The last cumulative sum may round to just below 1, and land in a set without videos.
        chosen = np.where(self._mass[chosen] > 0, chosen, self._mass.argmax())
        weight = self._start_weight[chosen] + self._mass[chosen] * rng.random(len(user))
        within = np.searchsorted(self._cumulative, weight, side="right")
        return self._order[np.minimum(within, self._end[chosen] - 1)]

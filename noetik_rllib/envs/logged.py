"""Logged answers by user and video."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.envs.rows import load_rows
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.split import PARTS


class LoggedAnswers:
    """What users really answered to the videos that they were shown.

    Where a user met a video more than once, the first answer counts: the later ones are answers to
    a video that the user knew.

    Args:
        user_id: (R,).
        videos: index of the video, (R,).
        signals: (R, 9), in ``SIGNALS`` order.
        time_ms: time of the answer, (R,).
        num_videos: size of the catalogue.
    """

    def __init__(
        self,
        user_id: np.ndarray,
        videos: np.ndarray,
        signals: np.ndarray,
        time_ms: np.ndarray,
        num_videos: int,
    ) -> None:
        self._num_videos = num_videos
        keys = self._keys(user_id, videos)
        order = np.lexsort((time_ms, keys))
        self._sorted, first = np.unique(keys[order], return_index=True)
        self._signals = signals[order[first]].astype(np.float32)

    @classmethod
    def load(
        cls,
        dataset: OfflineDataset,
        parts: Iterable[str] = PARTS,
        users: Iterable[int] | None = None,
    ) -> LoggedAnswers:
        """Read the answers in ``parts``, of ``users`` only if given; empty parts are skipped.

        Raises:
            UserError: an answer or a video cannot be meant (``load_rows``).
        """
        chosen = None if users is None else list(users)
        columns = ("user_id", "actions", "time_ms", *SIGNALS)
        rows = [
            load_rows(dataset, part, columns, users=chosen)
            for part in parts
            if dataset.manifest.parts[part].rows
        ]
        joined = {name: np.concatenate([part[name] for part in rows]) for name in columns}
        return cls(
            joined["user_id"],
            joined["actions"],
            np.stack([joined[name] for name in SIGNALS], axis=1),
            joined["time_ms"],
            dataset.manifest.num_videos,
        )

    def __len__(self) -> int:
        return len(self._sorted)

    def find(self, user_id: np.ndarray, videos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Look up answers of users (B,) to videos (B,).

        Returns:
            ``found`` (B,) bool, and the signals of those found, (found.sum(), 9) float32.
        """
        if not len(self):
            return np.zeros(len(user_id), dtype=bool), self._signals
        keys = self._keys(user_id, videos)
        place = np.minimum(np.searchsorted(self._sorted, keys), len(self) - 1)
        found = self._sorted[place] == keys
        return found, self._signals[place[found]]

    def _keys(self, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """One int64 per pair: ids below 2^39 and 2^24 videos keep clear of its 63 bits."""
        return user_id.astype(np.int64) * self._num_videos + videos

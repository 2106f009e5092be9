"""The additive baseline: how far a reward is foretold by who is asked and which video it is."""

from __future__ import annotations

import numpy as np

from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.offline.dataset import OfflineDataset

#: Rows of the overall mean that are mixed into a user's and a video's; the best pair is taken.
SHRINKAGES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
#: Share of the rows, the latest, that decide between them.
VALIDATION_SHARE = 0.1
#: Sweeps over users and videos; each brings the error down some tenfold.
_SWEEPS = 10


class AdditiveBaseline:
    """Expected reward of a pair: overall mean + user bias + video bias, by ridge regression.

    The biases minimise the squared error plus ``shrinkage`` times their squares, so that one of n
    rows is drawn towards 0 by the factor n / (n + shrinkage): the posterior mean where biases are
    normal, with shrinkage the ratio of the rows' variance to the biases' (Koren 2010, "Factor in
    the Neighbors", section 2.1, has the same predictor). Users and videos have a shrinkage each:
    that pair of ``SHRINKAGES`` with the least squared error on the latest tenth of ``train``.
    The fit is by alternating sweeps, which descend to the one minimum.

    A user's bias is the same for all of the user's videos, so within a user the baseline ranks by
    the video's bias: popularity by reward, with the luck of who was asked taken out.

    Args:
        dataset: its part ``train`` is fitted on. Users and videos that it lacks have a bias of 0.
        reward: what is predicted.
    """

    name = "user + video"

    def __init__(self, dataset: OfflineDataset, reward: RewardWeights) -> None:
        signals = [name for name in SIGNALS if getattr(reward, name)]
        rows = dataset.load("train", ("user_id", "actions", "time_ms", *signals))
        self._users = dataset.users.user_id
        target = np.zeros(len(rows["actions"]))
        for name in signals:
            target += getattr(reward, name) * rows[name].astype(np.float64)
        user = np.searchsorted(self._users, rows["user_id"])
        video = rows["actions"].astype(np.int64)
        sizes = len(self._users), dataset.manifest.num_videos
        latest = np.argsort(rows["time_ms"], kind="stable")
        latest = latest[round((1 - VALIDATION_SHARE) * len(latest)) :]
        late = np.zeros(len(target), dtype=bool)
        late[latest] = True
        early = ~late

        def error(shrinkage: tuple[float, float]) -> float:
            mean, of_user, of_video = _fit(
                user[early], video[early], target[early], sizes, shrinkage
            )
            predicted = mean + of_user[user[late]] + of_video[video[late]]
            return float(((target[late] - predicted) ** 2).sum())

        pairs = [(u, v) for u in SHRINKAGES for v in SHRINKAGES]
        #: Of users and of videos.
        self.shrinkage = min(pairs, key=error)
        self.mean, self.user_bias, self.video_bias = _fit(
            user, video, target, sizes, self.shrinkage
        )

    def score(self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """Expected reward (B,) of one video per state; see ``Policy.score``."""
        user = np.searchsorted(self._users, user_id)
        return (self.mean + self.user_bias[user] + self.video_bias[videos]).astype(np.float32)


def _fit(
    user: np.ndarray,
    video: np.ndarray,
    target: np.ndarray,
    sizes: tuple[int, int],
    shrinkage: tuple[float, float],
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the mean and the biases of users and videos; ``user``, ``video``, ``target`` (R,)."""
    mean = float(target.mean())
    rows_of_user = np.bincount(user, minlength=sizes[0])
    rows_of_video = np.bincount(video, minlength=sizes[1])
    of_user, of_video = np.zeros(sizes[0]), np.zeros(sizes[1])
    for _ in range(_SWEEPS):
        left = target - mean - of_user[user]
        of_video = np.bincount(video, weights=left, minlength=sizes[1]) / (
            rows_of_video + shrinkage[1]
        )
        left = target - mean - of_video[video]
        of_user = np.bincount(user, weights=left, minlength=sizes[0]) / (
            rows_of_user + shrinkage[0]
        )
    return mean, of_user, of_video

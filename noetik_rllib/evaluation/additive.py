"""The additive baseline: how far a reward is foretold by who is asked and which video it is."""

from __future__ import annotations

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.offline.dataset import OfflineDataset

#: Rows of the overall mean that are mixed into a user's and a video's; the best pair is taken.
SHRINKAGES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
#: Share of the rows, the latest, that decide between them.
VALIDATION_SHARE = 0.1
#: Relative size of the residual at which the normal equations count as solved.
_TOLERANCE = 1e-8


class AdditiveBaseline:
    """Expected reward of a pair: overall mean + user bias + video bias, by ridge regression.

    The biases minimise the squared error plus ``shrinkage`` times their squares, so that one of n
    rows is drawn towards 0 by the factor n / (n + shrinkage): the posterior mean where biases are
    normal, with shrinkage the ratio of the rows' variance to the biases' (Koren 2010, "Factor in
    the Neighbors", section 2.1, has the same predictor). Users and videos have a shrinkage each:
    that pair of ``SHRINKAGES`` with the least squared error on the latest tenth of ``train``.
    The mean is free. The normal equations are solved by conjugate gradients, a pass over the rows
    each, since a matrix of users and videos would not fit.

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
    users, videos = sizes
    penalty = np.concatenate(
        [np.full(users, shrinkage[0]), np.full(videos, shrinkage[1]), np.zeros(1)]
    )

    def transposed(values: np.ndarray) -> np.ndarray:
        of_user = np.bincount(user, weights=values, minlength=users)
        of_video = np.bincount(video, weights=values, minlength=videos)
        return np.concatenate([of_user, of_video, values.sum(keepdims=True)])

    def product(biases: np.ndarray) -> np.ndarray:
        biases = biases.ravel()
        rows = biases[user] + biases[users + video] + biases[-1]
        return transposed(rows) + penalty * biases

    diagonal = transposed(np.ones(len(target))) + penalty
    size = len(penalty)
    biases, failed = cg(
        LinearOperator((size, size), matvec=product, dtype=np.float64),
        transposed(target),
        rtol=_TOLERANCE,
        M=LinearOperator((size, size), matvec=lambda x: x.ravel() / diagonal, dtype=np.float64),
    )
    assert not failed  # the matrix is positive definite
    return float(biases[-1]), biases[:users], biases[users:-1]

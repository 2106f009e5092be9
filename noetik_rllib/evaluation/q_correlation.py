"""Does a run's Q foretell what users did? Its correlation with their answers, on real states.

The seed of this project judged its policy by it, on made-up states that held the judged video. Here
Q is that of the logged video in the logged state of the part ``test``, and in units of the reward.
It says whether the critic understands the log's users and videos; whether the policy made of it is
any good is what the other sections say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from scipy.stats import rankdata

from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.envs.rows import load_rows
from noetik_rllib.errors import NoEvidenceError
from noetik_rllib.evaluation.figures import named, sums_by_user
from noetik_rllib.evaluation.intervals import (
    Intervals,
    bootstrap_ratio,
    percentile,
    resampled_means,
)
from noetik_rllib.evaluation.result import METRICS, Interval
from noetik_rllib.iql.losses import smaller_q
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.dataset import OfflineDataset

#: States that pass through the transformers at a time.
CHUNK = 2_048
#: What Q is held against: the reward and the frequent signals.
ANSWERS = ("reward", "click", "watch_ratio", "long_view")


class ScoreFigures(BaseModel):
    """How well one number per row, such as Q, foretells the answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Answer -> correlation with it; an answer that does not vary is left out. The intervals of
    #: Spearman's keep the ranks among all rows.
    pearson: dict[str, Interval]
    spearman: dict[str, Interval]
    #: Mean reward of the fifth of the rows with the highest values, of that with the lowest, and
    #: the difference.
    top_fifth: Interval
    bottom_fifth: Interval
    difference: Interval


class QCorrelationResult(BaseModel):
    """Q, and the advantage Q - V, of the logged videos of the part ``test``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    users: int
    #: Mean of Q in units of the reward: a discounted sum, so larger than a mean reward.
    mean_q: float
    q: ScoreFigures
    #: Q less V: what is left of Q once the state's part is taken away.
    advantage: ScoreFigures


@dataclass(frozen=True)
class Values:
    """Q and V (R,) of R pairs, in units of the reward."""

    q: np.ndarray
    v: np.ndarray


class Critic:
    """Q and V of a run in units of the reward; Q also ranks pairs (``ranking``).

    The critics learn components in units of their own (``RewardDecomposition``). Q is the signed
    sum of the twin with the smaller one, times the reward's standard deviation. Where training
    subtracted the mean reward it stays subtracted.

    Args:
        networks: of the run.
        name: what tables call it.
    """

    def __init__(self, networks: IQLNetworks, name: str = "Q") -> None:
        self.name = name
        self._networks = networks.eval()
        self._device = networks.features.numeric.device
        reward = networks.reward
        self._signs = torch.tensor(reward.signs, device=self._device)
        scales = [
            abs(reward.weights[place]) * reward.units[place] for place in reward.weighted
        ]  # all the same: the standard deviation of the reward
        self._scale = float(np.mean(scales))

    def values(
        self,
        states: np.ndarray,
        videos: np.ndarray,
        progress: Callable[[float], None] | None = None,
    ) -> Values:
        """Q and V of one video (R,) per state (R, state size)."""
        q = np.empty(len(states), dtype=np.float32)
        v = np.empty(len(states), dtype=np.float32)
        networks = self._networks
        with torch.inference_mode():
            for rows in _chunks(len(states)):
                chunk = torch.from_numpy(np.require(states[rows], np.float32, "W"))
                index = torch.from_numpy(np.require(videos[rows], np.int64, "W"))
                chunk, index = chunk.to(self._device), index.to(self._device)
                twins = networks.q(networks.features, chunk, index)  # (2, B, S)
                q[rows] = (smaller_q(twins, self._signs) @ self._signs).cpu().numpy()
                v[rows] = (networks.v(networks.features, chunk) @ self._signs).cpu().numpy()
                if progress is not None:
                    progress(min(1.0, rows.stop / len(states)))
        return Values(q * self._scale, v * self._scale)

    def score(self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """Q (B,) of one video per state; see ``Policy.score``."""
        return self.values(states, videos).q


def q_correlation(
    networks: IQLNetworks,
    dataset: OfflineDataset,
    reward: RewardWeights,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> QCorrelationResult:
    """Correlate Q with the answers in ``test``: rows of all users from their split on.

    Args:
        networks: of the run.
        dataset: that it was trained on.
        reward: what the answers are summed up to; the product's, as everywhere in an evaluation.
        seed: of the intervals.
        progress: called with the share that is done, 0 to 1.

    Raises:
        UserError: a row cannot be meant (``load_rows``).
        NoEvidenceError: Q is the same everywhere, so nothing correlates with it.
    """
    rows = load_rows(dataset, "test", ("user_id", "obs", "actions", *SIGNALS))
    values = Critic(networks).values(rows["obs"], rows["actions"], progress)
    if not np.ptp(values.q):
        raise NoEvidenceError("Q is the same on every row: train the run longer")
    signals = np.stack([rows[name] for name in SIGNALS], axis=1).astype(np.float64)
    answers = np.column_stack([signals @ reward.as_array(), signals])  # as METRICS
    answers = answers[:, [METRICS.index(name) for name in ANSWERS]]
    users, user = np.unique(rows["user_id"], return_inverse=True)
    return QCorrelationResult(
        rows=len(user),
        users=len(users),
        mean_q=float(values.q.mean(dtype=np.float64)),
        q=score_figures(values.q, answers, user, seed),
        advantage=score_figures(values.q - values.v, answers, user, seed),
    )


def score_figures(
    score: np.ndarray, answers: np.ndarray, user: np.ndarray, seed: int
) -> ScoreFigures:
    """Correlate scores (R,) with answers (R, 4) as ``ANSWERS``, whose users (R,) are in 0..U-1."""
    varies = np.ptp(answers, axis=0) > 0
    names = [name for name, some in zip(ANSWERS, varies, strict=True) if some]
    ranks = np.column_stack([rankdata(column) for column in answers.T])
    order = rankdata(score)
    fifth = np.ceil(5 * order / len(order))
    num_users = int(user.max()) + 1
    top, bottom = fifth == 5, fifth == 1
    reward = answers[:, ANSWERS.index("reward")]
    sums = sums_by_user(np.column_stack([reward * top, reward * bottom]), user, num_users)
    counts = sums_by_user(np.column_stack([top, bottom]), user, num_users)
    ends = bootstrap_ratio(sums, counts, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = resampled_means(sums, seed) / resampled_means(counts, seed)
        gaps = resampled[:, :1] - resampled[:, 1:]
    difference = percentile(ends.mean[:1] - ends.mean[1:], gaps)
    fifths = named(("top", "bottom"), ends) | named(("difference",), difference)
    return ScoreFigures(
        pearson=named(names, _correlation(score, answers[:, varies], user, seed)),
        spearman=named(names, _correlation(order, ranks[:, varies], user, seed)),
        top_fifth=fifths["top"],
        bottom_fifth=fifths["bottom"],
        difference=fifths["difference"],
    )


def _correlation(x: np.ndarray, y: np.ndarray, user: np.ndarray, seed: int) -> Intervals:
    """Pearson's correlation of x (R,) with each column of y (R, M), bootstrapped by user, (M,).

    It is a function of sums over rows, so that a resample needs no pass over them.
    """
    # Centred and scaled first: sums of squares would cancel badly otherwise.
    x = _standardised(x[:, None])
    y = _standardised(y)
    ones = np.ones((len(x), 1))
    sums = sums_by_user(
        np.concatenate([ones, x, x * x, y, y * y, x * y], axis=1), user, int(user.max()) + 1
    )
    return percentile(_pearson(sums.mean(axis=0)), _pearson(resampled_means(sums, seed)))


def _standardised(values: np.ndarray) -> np.ndarray:
    """Columns of values (R, M) with mean 0 and standard deviation 1; constant ones are 0."""
    values = values.astype(np.float64)
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    return np.asarray(centred / np.where(spread > 0, spread, 1.0))


def _pearson(sums: np.ndarray) -> np.ndarray:
    """Correlations (..., M) from sums (..., 3 + 3 M) of 1, x, x^2, y, y^2 and x y."""
    means = sums[..., 1:] / sums[..., :1]
    x, xx = means[..., :1], means[..., 1:2]
    y, yy, xy = np.split(means[..., 2:], 3, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((xy - x * y) / np.sqrt((xx - x**2) * (yy - y**2)))


def _chunks(count: int) -> Iterator[slice]:
    for first in range(0, count, CHUNK):
        yield slice(first, min(first + CHUNK, count))

"""Confidence intervals by bootstrap over users: rows of one user are no independent evidence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
#: 2,000 repetitions put the ends of a 95 % interval within some 3 % of its width.
REPETITIONS = 2_000
#: Numbers of an array of resampled weights: 32 MB.
_CHUNK_NUMBERS = 4_000_000


@dataclass(frozen=True)
class Intervals:
    """Mean, lower and upper end of a 95 % interval; each has the shape of one user's values."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bootstrap_by_user(values: np.ndarray, seed: int, repetitions: int = REPETITIONS) -> Intervals:
    """Percentile bootstrap of the mean over users.

    The same seed and number of users draw the same users: an interval of a difference is paired
    if the difference is taken per user first.

    Args:
        values: one row per user, (U, ...).
        seed: of the resampling.
        repetitions: number of resamples.

    Raises:
        ValueError: there is no user.
    """
    means = resampled_means(values, seed, repetitions)
    return percentile(values.mean(axis=0, dtype=np.float64), means)


def bootstrap_ratio(
    sums: np.ndarray, counts: np.ndarray, seed: int, repetitions: int = REPETITIONS
) -> Intervals:
    """Percentile bootstrap by user of a mean over rows, of which users have different numbers.

    Args:
        sums: sum over each user's rows, (U, ...).
        counts: number of rows of each user, or the sum of their weights; of ``sums``' shape, or
            with 1 where the same count holds along an axis. Users without rows change nothing.
        seed: of the resampling.
        repetitions: number of resamples. Those without any row, possible where few users have one,
            are left out.

    Raises:
        ValueError: there is no user, or no row.
    """
    if not counts.any():
        raise ValueError("an interval needs at least one row")
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = resampled_means(sums, seed, repetitions) / resampled_means(
            counts, seed, repetitions
        )
        return percentile(sums.sum(axis=0) / counts.sum(axis=0), resampled)


def resampled_means(values: np.ndarray, seed: int, repetitions: int = REPETITIONS) -> np.ndarray:
    """Means over users in resamples of the users, (repetitions, ...).

    The same seed and number of users draw the same users, so anything computed from the means of
    several arrays, resample by resample, is a bootstrap of it.

    Args:
        values: one row per user, (U, ...).
        seed: of the resampling.
        repetitions: number of resamples.

    Raises:
        ValueError: there is no user.
    """
    users = len(values)
    if not users:
        raise ValueError("an interval needs at least one user")
    flat = values.reshape(users, -1).astype(np.float64)  # (U, M)
    means = np.concatenate([w @ flat for w in _weights(users, seed, repetitions)])  # (R, M)
    return means.reshape(repetitions, *values.shape[1:])


def percentile(mean: np.ndarray, resampled: np.ndarray) -> Intervals:
    """Intervals around ``mean`` (...) from resamples (repetitions, ...); NaN are left out."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail], axis=0)
    return Intervals(mean, low, high)


def _weights(users: int, seed: int, repetitions: int) -> Iterator[np.ndarray]:
    """Yield the users' weights in resamples, (some resamples, U); each row sums to 1."""
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK_NUMBERS // users)
    for first in range(0, repetitions, step):
        count = min(step, repetitions - first)
        drawn = rng.integers(users, size=(count, users)) + users * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * users).reshape(count, users) / users

"""From arrays of intervals to the named figures that results hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from noetik_rllib.evaluation.intervals import Intervals, bootstrap_by_user
from noetik_rllib.evaluation.result import Interval


def named(names: Sequence[str], intervals: Intervals) -> dict[str, Interval]:
    """Name M intervals (M,); those whose mean is not a number, for want of data, are left out."""
    return {
        name: Interval(mean=float(mean), low=float(low), high=float(high))
        for name, mean, low, high in zip(
            names, intervals.mean, intervals.low, intervals.high, strict=True
        )
        if np.isfinite(mean)
    }


def mean_intervals(values: np.ndarray, seed: int) -> list[Interval]:
    """Mean over users of each column of (U, M), with its 95 % interval by bootstrap."""
    found = bootstrap_by_user(values, seed)
    return [
        Interval(mean=float(mean), low=float(low), high=float(high))
        for mean, low, high in zip(found.mean, found.low, found.high, strict=True)
    ]


def sums_by_user(values: np.ndarray, user: np.ndarray, num_users: int) -> np.ndarray:
    """Sum the rows (R, M) of each user, (U, M) float64; ``user`` (R,) is in 0..U-1."""
    columns = [np.bincount(user, weights=column, minlength=num_users) for column in values.T]
    # Without a row, bincount forgets its weights' type.
    return np.stack(columns, axis=1).astype(np.float64) if columns else np.zeros((num_users, 0))

"""Whether two measures of the same past events put them in the same order."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

#: Of two events, any two measures agree fully or not at all.
MIN_EVENTS = 3


def spearman_of_rows(first: np.ndarray, second: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of two measures over the events of each state.

    Args:
        first: (B, H).
        second: (B, H).
        present: which slots are taken, (B, H) bool; the others do not count.

    Returns:
        (B,); NaN where there are fewer than ``MIN_EVENTS`` events, or a measure is the same for
        all.

    >>> slots = np.array([[True, True, True, False]])
    >>> one, other = np.array([[1.0, 5.0, 2.0, 9.0]]), np.array([[0.1, 0.2, 0.3, 0.0]])
    >>> spearman_of_rows(one, other, slots).round(3).tolist()
    [0.5]
    """
    number = present.sum(axis=1, keepdims=True)
    # Ranks 1 to n have the mean (n + 1) / 2, ties or not.
    x, y = (
        np.where(present, _ranks(values, present) - (number + 1) / 2, 0.0)
        for values in (first, second)
    )
    spread = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    counts = (number[:, 0] >= MIN_EVENTS) & (spread > 0)
    return np.where(counts, (x * y).sum(axis=1) / np.where(counts, spread, 1.0), np.nan)


def _ranks(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Ranks among the events of each row, (B, H); those of empty slots mean nothing."""
    return rankdata(np.where(present, values, np.inf), axis=1)

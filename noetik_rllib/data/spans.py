"""Spans of equal values in a sorted column: where they begin and how long they are."""

from __future__ import annotations

import numpy as np


def beginnings(*columns: np.ndarray) -> np.ndarray:
    """Mark the rows at which any of the columns differs from the row before, (N,) bool.

    The first row begins a span.
    """
    first = np.ones(len(columns[0]), dtype=bool)
    first[1:] = columns[0][1:] != columns[0][:-1]
    for column in columns[1:]:
        first[1:] |= column[1:] != column[:-1]
    return first


def spans(first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the spans begin, (S,) int64, and their lengths, (S,) int64.

    Args:
        first: where a span begins, (N,) bool; row 0 does.
    """
    starts = np.flatnonzero(first)
    return starts, np.diff(np.append(starts, len(first)))

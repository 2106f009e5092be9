"""Which trials of a sweep are not beaten in every objective at once, and how much they reach."""

from __future__ import annotations

import numpy as np


def pareto_front(values: np.ndarray) -> np.ndarray:
    """Mark the rows of ``values`` (n trials, k objectives, higher is better) on the Pareto front.

    A row is on the front where no other row is at least as good in every objective and better in
    one. Equal rows stand or fall together.

    Returns:
        bool of shape (n,).
    """
    at_least = (values[:, None, :] >= values[None, :, :]).all(axis=2)  # (n, n): i against j
    better = (values[:, None, :] > values[None, :, :]).any(axis=2)
    return np.asarray(~(at_least & better).any(axis=0))


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    """Volume of what ``values`` (n, k) beat, above ``reference`` (k,); higher is better in each.

    Exact, by the WFG algorithm (While, Bradstreet and Barone 2012): a point adds the volume of its
    box less what those after it cover of that box. Rows that do not exceed the reference in every
    objective add nothing. Hundreds of rows of up to some five objectives take a second.

    >>> hypervolume(np.array([[2.0, 1.0], [1.0, 3.0]]), np.zeros(2))
    4.0
    """
    above = np.asarray(values, dtype=np.float64) - reference
    return _volume(above[(above > 0).all(axis=1)])


def _volume(points: np.ndarray) -> float:
    """Volume between 0 and the points (n, k), all positive."""
    points = np.unique(points[pareto_front(points)], axis=0)
    if points.shape[1] == 1:
        return float(points.max(initial=0.0))
    volume = 0.0
    for place, point in enumerate(points):
        covered = np.minimum(points[place + 1 :], point)
        volume += float(point.prod()) - (_volume(covered) if len(covered) else 0.0)
    return volume

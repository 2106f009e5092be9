"""Which trials of a sweep are not beaten in every objective at once."""

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

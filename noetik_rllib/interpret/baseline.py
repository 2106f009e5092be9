"""The average user in the average situation: what attributions start from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from noetik_rllib.offline.columns import column_to_numpy
from noetik_rllib.offline.dataset import OfflineDataset

#: Training rows that the baseline is averaged over.
BASELINE_ROWS = 20_000


@dataclass(frozen=True)
class Baseline:
    """The average user (32,) and situation (32,) of the training part."""

    user: np.ndarray
    context: np.ndarray

    @classmethod
    def from_dataset(cls, dataset: OfflineDataset) -> Baseline:
        """Average about 20,000 rows of ``train/``, taken evenly over its row groups."""
        files = [pq.ParquetFile(path) for path in dataset.files("train")]
        groups = [(file, group) for file in files for group in range(file.num_row_groups)]
        # At most 10 row groups are decoded: a big dataset has thousands, all alike enough.
        chosen = np.unique(np.linspace(0, len(groups) - 1, num=10).round().astype(int))
        share = -(-BASELINE_ROWS // len(chosen))
        states = []
        for place in chosen:
            file, group = groups[place]
            rows = column_to_numpy(file.read_row_group(group, columns=["obs"])["obs"])
            states.append(rows[:: max(1, len(rows) // share)])
        parts = dataset.layout.unpack(np.concatenate(states).astype(np.float64))
        return cls(
            user=parts.user.mean(axis=0).astype(np.float32),
            context=parts.context.mean(axis=0).astype(np.float32),
        )

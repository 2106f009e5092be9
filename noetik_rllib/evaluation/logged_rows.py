"""Logged rows a few at a time: a part of KuaiRand-27K has more states than memory holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noetik_rllib.envs.rows import check_column
from noetik_rllib.errors import UserError
from noetik_rllib.offline.columns import column_to_numpy
from noetik_rllib.offline.dataset import OfflineDataset

#: Rows at a time: 34 MB of states of 128.
BATCH = 65_536


def logged_rows(
    dataset: OfflineDataset,
    part: str,
    columns: Sequence[str],
    *,
    from_split: bool = False,
    users: np.ndarray | None = None,
    progress: Callable[[float], None] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yield columns of a part's rows in their order, up to ``BATCH`` rows at a time.

    Args:
        dataset: that is read.
        part: part of it.
        columns: names out of ``COLUMNS``.
        from_split: only rows from their user's split time on.
        users: only rows of these users.
        progress: called with the share of the part that has been yielded, 0 to 1.

    Raises:
        UserError: the part is unknown or damaged, or a row cannot be meant (``load_rows``).
    """
    wanted = list(dict.fromkeys([*columns, "user_id", "time_ms"]))
    total, done = max(1, dataset.manifest.parts[part].rows), 0
    for file in dataset.files(part):
        try:
            for batch in pq.ParquetFile(file).iter_batches(BATCH, columns=wanted):
                table = pa.Table.from_batches([batch])
                rows = {name: column_to_numpy(table[name]) for name in wanted}
                done += len(batch)
                kept = np.ones(len(batch), dtype=bool)
                if from_split:
                    kept &= ~dataset.before_split(rows["user_id"], rows["time_ms"])
                if users is not None:
                    kept &= np.isin(rows["user_id"], users)
                if kept.any():
                    rows = {name: rows[name][kept] for name in columns}
                    for name, values in rows.items():
                        check_column(dataset, part, name, values)
                    yield rows
                if progress is not None:
                    progress(min(1.0, done / total))
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{file} is damaged: {reason}; prepare the dataset again") from None

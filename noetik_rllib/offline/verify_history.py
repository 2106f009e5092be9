"""What users saw and answered, in the order of the log, put together from all parts again.

The parts hold a user's rows apart, and a state goes back over all of them. Only narrow columns are
read for it, and only some users' at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noetik_rllib.data.interactions import InteractionLog, log_order
from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.offline.columns import column_to_numpy

#: Rows of a part that are read at a time: some 4 MB of these columns.
_ROWS = 65_536
_COLUMNS = ("user_id", "video_id", "actions", "time_ms", "propensity", *SIGNALS)
_ANY_USER = np.iinfo(np.int64).max


class NoHistoryError(Exception):
    """The parts cannot be put together: rows are out of order, or cannot be read."""


@dataclass(frozen=True)
class History:
    """All rows of some users, over all parts.

    Attributes:
        log: the rows, sorted by user and time, standard ones of a moment first, as in the source.
            What the dataset does not hold, tabs, play times and durations, is 0.
        actions: dense video index of each row, (N,) int64.
        place: of each part, where its rows stand in the log, in the part's own order.
    """

    log: InteractionLog
    actions: np.ndarray
    place: list[np.ndarray]


def histories(directory: Path, parts: list[list[str]]) -> Iterator[History]:
    """Yield the rows of users after users, ascending.

    Args:
        directory: of the dataset.
        parts: of each part, its Parquet files in order.

    Raises:
        NoHistoryError: on the way.
    """
    readers = [_Reader(directory, files) for files in parts]
    while True:
        for reader in readers:
            reader.fill()
        # The last user that was read may go on.
        limits = [reader.last_user - 1 if reader.open else _ANY_USER for reader in readers]
        taken = [reader.take(min(limits)) for reader in readers]
        if any(len(rows["user_id"]) for rows in taken):
            yield _join(taken)
        elif min(limits) < _ANY_USER:
            readers[limits.index(min(limits))].more()
        else:
            return


class _Reader:
    """Reads the narrow columns of one part from the front."""

    def __init__(self, directory: Path, files: list[str]) -> None:
        self.open = True
        self._batches = self._read(directory, files)
        self._rows = {name: np.zeros(0, dtype=np.int64) for name in _COLUMNS}
        self._last = (-1, 0)  # user and time of the last row read

    @staticmethod
    def _read(directory: Path, files: list[str]) -> Iterator[dict[str, np.ndarray]]:
        for name in files:
            with pq.ParquetFile(directory / name) as file:
                for record in file.iter_batches(_ROWS, columns=list(_COLUMNS)):
                    table = pa.Table.from_batches([record])
                    if any(table[column].null_count for column in _COLUMNS):
                        raise NoHistoryError
                    yield {column: column_to_numpy(table[column]) for column in _COLUMNS}

    @property
    def last_user(self) -> int:
        return self._last[0]

    def fill(self) -> None:
        """Have at least one row, unless the part has ended."""
        while self.open and not len(self._rows["user_id"]):
            self.more()

    def more(self) -> None:
        """Read some more rows."""
        try:
            batch = next(self._batches, None)
        except (pa.ArrowException, OSError) as error:
            raise NoHistoryError from error
        if batch is None:
            self.open = False
        elif len(batch["user_id"]):
            user = np.append(self._last[0], batch["user_id"])
            time = np.append(self._last[1], batch["time_ms"])
            step = np.diff(user)
            if ((step < 0) | ((step == 0) & (np.diff(time) < 0))).any():
                raise NoHistoryError
            self._last = (int(user[-1]), int(time[-1]))
            old = self._rows
            self._rows = (
                {name: np.concatenate([old[name], batch[name]]) for name in _COLUMNS}
                if len(old["user_id"])
                else batch
            )

    def take(self, last_user: int) -> dict[str, np.ndarray]:
        """Hand out the rows of users up to and with this one."""
        end = int(np.searchsorted(self._rows["user_id"], last_user, side="right"))
        taken = {name: values[:end] for name, values in self._rows.items()}
        self._rows = {name: values[end:] for name, values in self._rows.items()}
        return taken


def _join(parts: list[dict[str, np.ndarray]]) -> History:
    rows = {name: np.concatenate([part[name] for part in parts]) for name in _COLUMNS}
    part = np.repeat(np.arange(len(parts)), [len(rows["user_id"]) for rows in parts])
    # Of rows of one moment, those of the last part, random, come last, as they did in the source.
    order = log_order(rows["user_id"], rows["time_ms"])
    n = len(order)
    signals = np.zeros((len(SIGNALS), n), dtype=np.float32).T
    for number, name in enumerate(SIGNALS):
        signals[:, number] = rows[name][order]
    log = InteractionLog(
        user_id=rows["user_id"][order],
        video_id=rows["video_id"][order],
        time_ms=rows["time_ms"][order],
        play_time_ms=np.zeros(n, dtype=np.int64),
        duration_ms=np.zeros(n, dtype=np.int64),
        tab=np.zeros(n, dtype=np.int64),
        is_random=~np.isnan(rows["propensity"][order]),
        signals=signals,
    )
    part = part[order]
    place = [np.flatnonzero(part == number) for number in range(len(parts))]
    return History(log, rows["actions"][order], place)

"""The interaction log: raw rows of any order, made into one clean log sorted by user and time."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from noetik_rllib.data.forms import AtLeast, Flag, Scale, Signal
from noetik_rllib.data.mapping import LogFiles
from noetik_rllib.data.signals import SIGNALS, capped_ratio

#: KuaiRand's clock is UTC+8; its ``date`` is that of the log partition, at times the next day.
LOCAL_OFFSET_MS = 8 * 3_600_000
_DAY_MS = 24 * 3_600_000
#: Rows of one request are compared with each other one distance at a time up to this many.
_MAX_DISTANCE = 64


@dataclass(frozen=True)
class InteractionLog:
    """Every exposure of an item to a user, sorted by (user, time); N rows.

    Attributes:
        user_id, video_id, time_ms: (N,) int64; milliseconds since the Unix epoch, UTC.
        play_time_ms, duration_ms: (N,) integers, 0 or more; a duration of 0 is unknown.
        tab: (N,) integers, page of the app.
        is_random: (N,) bool, True where the video was drawn uniformly.
        signals: (N, 9) float32 in ``SIGNALS`` order.
    """

    user_id: np.ndarray
    video_id: np.ndarray
    time_ms: np.ndarray
    play_time_ms: np.ndarray
    duration_ms: np.ndarray
    tab: np.ndarray
    is_random: np.ndarray
    signals: np.ndarray

    def __len__(self) -> int:
        return len(self.user_id)

    def rows(self, start: int, stop: int) -> InteractionLog:
        """Return the rows from ``start`` to ``stop``, as views."""
        return InteractionLog(**{name: values[start:stop] for name, values in vars(self).items()})


def run_breaks(user: np.ndarray, time: np.ndarray) -> tuple[int, int | None]:
    """Count where a file's rows begin a new sorted run; find where time goes backwards.

    A published file is a few runs, each sorted by (user, time); a new one begins where the user
    falls. Time that falls from one row of a user to the next is no such beginning, unless the
    file has no other user.

    Args:
        user, time: (N,), in the order of the file.

    Returns:
        The number of beginnings after the first, and the first row at which a user's time falls.
    """
    new_run = int(np.count_nonzero(user[1:] < user[:-1]))
    back = (user[1:] == user[:-1]) & (time[1:] < time[:-1])
    if not back.any() or (user[0] == user[-1] and np.all(user == user[0])):
        return new_run + int(np.count_nonzero(back)), None
    return new_run, int(back.argmax()) + 1


def clean(tables: Iterable[pa.Table], mapping: LogFiles) -> tuple[InteractionLog, dict[str, int]]:
    """Sort rows, drop exact duplicates, repair values; return the log and counts of repairs.

    Rows of one request (same user and time) stay in the order of the files.

    Args:
        tables: raw rows, each table with ``mapping.columns()`` and, beside them, the bool column
            ``_random``.
    """
    with ThreadPoolExecutor() as threads:
        columns = _concatenate(threads, list(tables))
        order = _order(columns[mapping.user], columns[mapping.time.column])
        columns = _gather(threads, columns, order)
        user, item = columns[mapping.user], columns[mapping.item]
        time = columns[mapping.time.column]
        repeats = _duplicates(threads, user, time, item, columns)
        if len(repeats):
            keep = np.ones(len(user), dtype=bool)
            keep[repeats] = False
            columns = _gather(threads, columns, np.flatnonzero(keep))
        repairs = {"duplicate_rows_dropped": len(repeats)}
        log = _log(threads, columns, mapping, repairs)
    return log, repairs


def _concatenate(threads: ThreadPoolExecutor, tables: list[pa.Table]) -> dict[str, np.ndarray]:
    """Join tables, column by column, letting go of each Arrow column once it is copied."""
    chunks = {name: [c for t in tables for c in t[name].chunks] for name in tables[0].column_names}
    tables.clear()

    def join(name: str) -> np.ndarray:
        parts = [chunk.to_numpy(zero_copy_only=False) for chunk in chunks.pop(name)]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    names = list(chunks)
    return dict(zip(names, threads.map(join, names), strict=True))


def _order(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Return the stable order by (user, time): quick where the rows are a few sorted runs."""
    if not len(user):
        return np.zeros(0, dtype=np.int64)
    if np.issubdtype(time.dtype, np.integer):
        low = time.min()
        bits = int(time.max() - low).bit_length()
        if int(user.max()).bit_length() + bits < 63:
            key = (user.astype(np.int64) << bits) | (time - low)
            # NumPy's stable sort of 64-bit integers finds the runs and merges them.
            return np.argsort(key, kind="stable")
    return np.lexsort((time, user))


def _gather(
    threads: ThreadPoolExecutor, columns: dict[str, np.ndarray], rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Take ``rows`` of every column, on all cores; each old column is let go as it is done."""

    def take(name: str) -> np.ndarray:
        return np.take(columns.pop(name), rows, mode="clip")

    names = list(columns)
    return dict(zip(names, threads.map(take, names), strict=True))


def _duplicates(
    threads: ThreadPoolExecutor,
    user: np.ndarray,
    time: np.ndarray,
    item: np.ndarray,
    columns: dict[str, np.ndarray],
) -> np.ndarray:
    """Return the rows that repeat, in every column, an earlier row of their request."""
    n = len(user)
    if not n:
        return np.zeros(0, dtype=np.int64)
    first = np.flatnonzero(
        np.append(True, (user[1:] != user[:-1]) | (time[1:] != time[:-1]))
    )
    size = np.diff(np.append(first, n))

    def repeats_at(distance: int) -> np.ndarray:
        # Few rows have the same video so shortly before: compare that alone over all rows.
        rows = np.flatnonzero(item[distance:] == item[:-distance]) + distance
        for values in (user, time, *columns.values()):
            rows = rows[values[rows] == values[rows - distance]]
        return rows

    widest = min(int(size.max()) - 1, _MAX_DISTANCE)
    repeats = list(threads.map(repeats_at, range(1, widest + 1)))
    # A request of more rows than any feed shows: compare by sorting instead.
    for start, count in zip(first, size, strict=True) if size.max() > _MAX_DISTANCE + 1 else ():
        if count > _MAX_DISTANCE + 1:
            rows = np.arange(start, start + count)
            rows = rows[np.lexsort([rows, *(values[rows] for values in columns.values())])]
            same = np.ones(count - 1, dtype=bool)
            for values in columns.values():
                same &= values[rows[1:]] == values[rows[:-1]]
            repeats.append(rows[1:][same])
    return np.unique(np.concatenate(repeats)) if repeats else np.zeros(0, dtype=np.int64)


def _log(
    threads: ThreadPoolExecutor,
    columns: dict[str, np.ndarray],
    mapping: LogFiles,
    repairs: dict[str, int],
) -> InteractionLog:
    """Repair values, compute the signals, count what was repaired."""
    user = columns[mapping.user]
    n = len(user)
    time_ms = columns[mapping.time.column]
    play_name, duration_name = mapping.play_time_ms or "", mapping.duration_ms or ""
    ahead = None
    if mapping.local_date is not None:
        ahead = threads.submit(_dated_ahead, columns[mapping.local_date], time_ms)
    play = columns.get(play_name, np.zeros(n, dtype=np.int32))
    negative = int(np.count_nonzero(play < 0))
    if negative:
        play = columns[play_name] = np.maximum(play, 0)
    if mapping.play_time_ms is not None:
        repairs["negative_play_time_set_to_0"] = negative
    duration = columns.get(duration_name, np.zeros(n, dtype=np.int32))
    if mapping.duration_ms is not None:
        repairs["unknown_duration_rows"] = n - int(np.count_nonzero(duration))
    # A column each in one piece: they are computed, summed and stored column by column.
    signals = np.zeros((len(SIGNALS), n), dtype=np.float32).T

    def fill(name: str) -> None:
        signals[:, SIGNALS.index(name)] = signal_values(mapping.signals[name], columns)

    list(threads.map(fill, mapping.signals))
    if ahead is not None:
        repairs["rows_dated_a_day_ahead"] = ahead.result()
    return InteractionLog(
        user_id=user,
        video_id=columns[mapping.item],
        time_ms=time_ms,
        play_time_ms=play,
        duration_ms=duration,
        tab=columns.get(mapping.tab or "", np.zeros(n, dtype=np.int8)),
        is_random=columns["_random"],
        signals=signals,
    )


def _dated_ahead(date: np.ndarray, time_ms: np.ndarray) -> int:
    """Count rows whose YYYYMMDD is later than the UTC+8 day of their time."""
    if not len(date):
        return 0
    local_day = (time_ms + LOCAL_OFFSET_MS) // _DAY_MS
    first, last = int(local_day.min()), int(local_day.max())
    days = np.arange(first, last + 1).astype("datetime64[D]").astype(str)
    number = np.array([int(day.replace("-", "")) for day in days])
    return int(np.count_nonzero(date > number[local_day - first]))


def signal_values(signal: Signal, columns: dict[str, np.ndarray]) -> np.ndarray:
    """Compute one signal of N rows, (N,) float32 in [0, 1]."""
    value = columns[signal.column]
    if isinstance(signal, Flag):
        return value.astype(np.float32)
    if isinstance(signal, AtLeast):
        return (value >= signal.at_least).astype(np.float32)
    if isinstance(signal, Scale):
        scaled = (value.astype(np.float64) - signal.low) / (signal.high - signal.low)
        return np.clip(scaled, 0.0, 1.0).astype(np.float32)
    return capped_ratio(value, columns[signal.whole], signal.unknown)

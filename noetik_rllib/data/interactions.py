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
from noetik_rllib.data.spans import beginnings, spans

#: KuaiRand's clock is UTC+8; its ``date`` is that of the log partition, at times the next day.
LOCAL_OFFSET_MS = 8 * 3_600_000
_DAY_MS = 24 * 3_600_000
#: Rows of one request are compared with each other one distance at a time up to this many.
_MAX_DISTANCE = 64
#: Rows whose dates are compared at a time: what is made on the way stays in the cache.
_ROWS_AT_A_TIME = 1 << 16


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
        user: (N,), in the order of the file.
        time: (N,), likewise.

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
        mapping: of the log.
    """
    with ThreadPoolExecutor() as threads:
        raw = _Raw(tables)
        columns = _Sorted(raw, log_order(raw[mapping.user], raw[mapping.time.column]))
        keys = (mapping.user, mapping.time.column, mapping.item)
        columns.keep(dict(zip(keys, threads.map(columns.take, keys), strict=True)))
        repeats = _duplicates(threads, columns, keys)
        columns.drop(repeats)
        repairs = {"duplicate_rows_dropped": len(repeats)}
        log = _log(threads, columns, mapping, repairs)
    return log, repairs


class _Raw:
    """The columns of some tables, one below the other; each is joined only when it is asked for.

    Joining all of them first would touch as much memory again, which takes longer than to sort.
    """

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        table = pa.concat_tables(tables)
        self._chunks = {
            name: [chunk.to_numpy(zero_copy_only=False) for chunk in table[name].chunks]
            for name in table.column_names
        }
        self.names = list(self._chunks)

    def __getitem__(self, name: str) -> np.ndarray:
        chunks = self._chunks[name]
        return np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.int64)

    def at(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return a few rows of a column."""
        chunks = self._chunks[name]
        values = np.empty(len(rows), dtype=chunks[0].dtype)
        ends = np.cumsum([len(chunk) for chunk in chunks])
        place = np.searchsorted(ends, rows, side="right")
        for number in np.unique(place):
            mine = np.flatnonzero(place == number)
            chunk = chunks[number]
            values[mine] = chunk[rows[mine] - (ends[number] - len(chunk))]
        return values


class _Sorted:
    """Columns in the order of the log, each brought into it when it is asked for."""

    def __init__(self, raw: _Raw, order: np.ndarray) -> None:
        self._raw = raw
        self._order = order
        self._kept: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._order)

    @property
    def names(self) -> list[str]:
        """Names of all columns."""
        return self._raw.names

    def take(self, name: str) -> np.ndarray:
        """Bring a column into order."""
        return np.take(self._raw[name], self._order, mode="clip")

    def keep(self, columns: dict[str, np.ndarray]) -> None:
        """Remember columns that were brought into order."""
        self._kept.update(columns)

    def drop(self, places: np.ndarray) -> None:
        """Leave out the rows at some places."""
        if len(places):
            self._order = np.delete(self._order, places)
            self._kept = {name: np.delete(values, places) for name, values in self._kept.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        kept = self._kept.get(name)
        return self.take(name) if kept is None else kept

    def at(self, name: str, places: np.ndarray) -> np.ndarray:
        """Return a few rows of a column."""
        return self._raw.at(name, self._order[places])


def log_order(user: np.ndarray, time: np.ndarray) -> np.ndarray:
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


def _duplicates(
    threads: ThreadPoolExecutor, columns: _Sorted, keys: tuple[str, str, str]
) -> np.ndarray:
    """Return the places of rows that repeat, in every column, one of their request.

    Args:
        threads: to work on.
        columns: all of them.
        keys: those of the user, the time and the item.
    """
    if not len(columns):
        return np.zeros(0, dtype=np.int64)
    user, time, item = (columns[name] for name in keys)
    first, size = spans(beginnings(user, time))
    others = [name for name in columns.names if name not in keys]

    def repeats_at(distance: int) -> np.ndarray:
        # Few rows have the same video so shortly before: compare that alone over all rows.
        rows = np.flatnonzero(item[distance:] == item[:-distance]) + distance
        for values in (user, time):
            rows = rows[values[rows] == values[rows - distance]]
        for name in others:
            rows = rows[columns.at(name, rows) == columns.at(name, rows - distance)]
        return rows

    widest = min(int(size.max()) - 1, _MAX_DISTANCE)
    repeats = list(threads.map(repeats_at, range(1, widest + 1)))
    # A request of more rows than any feed shows: compare by sorting instead.
    for number in np.flatnonzero(size > _MAX_DISTANCE + 1):
        rows = first[number] + np.arange(size[number])
        rows = rows[np.lexsort([rows, item[rows], *(columns.at(name, rows) for name in others)])]
        same = item[rows[1:]] == item[rows[:-1]]
        for name in others:
            same &= columns.at(name, rows[1:]) == columns.at(name, rows[:-1])
        repeats.append(rows[1:][same])
    return np.unique(np.concatenate(repeats)) if repeats else np.zeros(0, dtype=np.int64)


def _log(
    threads: ThreadPoolExecutor, columns: _Sorted, mapping: LogFiles, repairs: dict[str, int]
) -> InteractionLog:
    """Repair values, compute the signals, count what was repaired."""
    n = len(columns)
    names = {
        "user_id": mapping.user,
        "video_id": mapping.item,
        "time_ms": mapping.time.column,
        "tab": mapping.tab,
        "is_random": "_random",
        "play_time_ms": mapping.play_time_ms,
        "duration_ms": mapping.duration_ms,
    }

    def sort(name: str) -> np.ndarray:
        column = names[name]
        return np.zeros(n, dtype=np.int32) if column is None else columns[column]

    fields = dict(zip(names, threads.map(sort, names), strict=True))
    ahead = None
    if mapping.local_date is not None:
        ahead = threads.submit(_dated_ahead, columns[mapping.local_date], fields["time_ms"])
    if mapping.play_time_ms is not None:
        play = fields["play_time_ms"]
        repairs["negative_play_time_set_to_0"] = int(np.count_nonzero(play < 0))
        np.maximum(play, 0, out=play)
    if mapping.duration_ms is not None:
        known = int(np.count_nonzero(fields["duration_ms"]))
        repairs["unknown_duration_rows"] = n - known
    repaired = {names[name] or "": fields[name] for name in ("play_time_ms", "duration_ms")}
    # A column each in one piece: they are computed, summed and stored column by column.
    signals = np.zeros((len(SIGNALS), n), dtype=np.float32).T

    def fill(name: str) -> None:
        signal = mapping.signals[name]
        read = {c: repaired[c] if c in repaired else columns[c] for c in signal.columns}
        signals[:, SIGNALS.index(name)] = signal_values(signal, read)

    list(threads.map(fill, mapping.signals))
    if ahead is not None:
        repairs["rows_dated_a_day_ahead"] = ahead.result()
    return InteractionLog(**fields, signals=signals)


def _dated_ahead(date: np.ndarray, time_ms: np.ndarray) -> int:
    """Count rows whose YYYYMMDD is later than the UTC+8 day of their time."""
    if not len(date):
        return 0
    first, last = ((int(t) + LOCAL_OFFSET_MS) // _DAY_MS for t in (time_ms.min(), time_ms.max()))
    days = np.arange(first, last + 1).astype("datetime64[D]").astype(str)
    number = np.array([int(day.replace("-", "")) for day in days])
    count = 0
    for start in range(0, len(date), _ROWS_AT_A_TIME):
        rows = slice(start, start + _ROWS_AT_A_TIME)
        local_day = (time_ms[rows] + LOCAL_OFFSET_MS) // _DAY_MS
        count += int(np.count_nonzero(date[rows] > number[local_day - first]))
    return count


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

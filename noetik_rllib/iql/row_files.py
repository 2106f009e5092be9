"""Rows of a log from Parquet files: which columns there must be, what each may hold, and reading.

The columns are RLlib's (``ray/rllib/core/columns.py``). Every writer has its own way to store an
array per row: fixed-size lists (this package), lists or nested lists (pandas, Arrow), tensors of an
extension type (``ray.data``). All of them are one flat buffer with a number of values per row, and
are read as that, without a Python object per row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from pathlib import Path

import gymnasium as gym
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ray.rllib.core.columns import Columns

from noetik_rllib.errors import UserError

#: Rows decoded at a time: 4 MB of states of 128 stay in a core's cache until they are copied, which
#: is up to three times as fast as a whole row group, and bounds what is held beside the result.
_DECODED_ROWS = 8192

_OBSERVATIONS = (Columns.OBS, Columns.NEXT_OBS)
#: Column of a dataset: probability of the logged video where it was drawn uniformly, else NaN.
PROPENSITY = "propensity"


@dataclass(frozen=True)
class RowFile:
    """A Parquet file and the number of rows of each of its row groups."""

    path: str
    groups: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return sum(self.groups)


@dataclass(frozen=True)
class Span:
    """The rows ``begin`` to ``end`` of one row group of a file."""

    file: RowFile
    group: int
    begin: int
    end: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.end - self.begin


def spans(files: Sequence[RowFile], start: int, stop: int) -> list[Span]:
    """Return the parts of row groups that the rows ``start`` to ``stop`` of all files lie in."""
    found, first = [], 0
    for file in files:
        for group, size in enumerate(file.groups):
            begin, end = max(start - first, 0), min(stop - first, size)
            first += size
            if begin < end:
                found.append(Span(file, group, begin, end))
    return found


@dataclass(frozen=True)
class RowFormat:
    """What the columns of a log must hold, and what they are read as.

    Attributes:
        observation: shape of an observation; () for the number of a state.
        states: number of states, for a Discrete observation space.
        pixels: whether observations stay bytes, a quarter of the memory.
        actions: number of actions.
        signals: columns that the reward is made of.
        propensity: whether the rows' kind of exposure is read as well.
    """

    observation: tuple[int, ...]
    states: int | None
    pixels: bool
    actions: int
    signals: tuple[str, ...]
    propensity: bool = False

    @classmethod
    def of_spaces(
        cls,
        observation_space: gym.Space,
        action_space: gym.Space,
        signals: tuple[str, ...],
        propensity: bool = False,
    ) -> RowFormat:
        """Take it from the spaces.

        Raises:
            ValueError: spaces whose rows cannot be read.
        """
        for space in (observation_space, action_space):
            if isinstance(space, gym.spaces.Discrete) and space.start != 0:
                raise ValueError(f"expected numbers from 0 on, got {space}")
        if not isinstance(action_space, gym.spaces.Discrete):
            raise ValueError(f"expected a Discrete action space, got {action_space}")
        discrete = isinstance(observation_space, gym.spaces.Discrete)
        if not (discrete or isinstance(observation_space, gym.spaces.Box)):
            raise ValueError(f"expected a Box or Discrete observation space: {observation_space}")
        return cls(
            observation=() if discrete else tuple(observation_space.shape or ()),
            states=int(observation_space.n) if discrete else None,
            pixels=observation_space.dtype == np.uint8,
            actions=int(action_space.n),
            signals=signals,
            propensity=propensity,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Columns that are read."""
        kind = (PROPENSITY,) if self.propensity else ()
        return (*_OBSERVATIONS, Columns.ACTIONS, Columns.TERMINATEDS, *kind, *self.signals)

    @property
    def row_bytes(self) -> int:
        """Memory that a decoded row takes."""
        value = 8 if self.states is not None else 1 if self.pixels else 4
        numbers = 1 + self.propensity + len(self.signals)
        return 2 * prod(self.observation) * value + 8 + 4 * numbers

    def decode(self, path: str, rows: pa.RecordBatch) -> dict[str, np.ndarray]:
        """Convert rows to arrays, one per column.

        Returns:
            ``obs`` and ``new_obs`` (N, *observation) float32, uint8 or int64, ``actions`` (N,)
            int64, ``terminateds`` and each signal (N,) float32, and ``propensity`` likewise, NaN
            where it is not known.

        Raises:
            UserError: a value that training could only misunderstand; names file and column.
        """
        return {name: _checked(path, name, rows, self._read) for name in self.names}

    def _read(self, name: str, column: pa.Array) -> np.ndarray:
        if name in _OBSERVATIONS:
            values = _numbers(column, self.observation)
            if self.states is not None:
                return _whole(values, self.states).astype(np.int64, copy=False)
            return _whole(values, 256).astype(np.uint8) if self.pixels else _finite(values)
        values = _numbers(column, ())
        if name == Columns.ACTIONS:
            return _whole(values, self.actions).astype(np.int64, copy=False)
        if name == Columns.TERMINATEDS:
            if values.dtype != bool:
                raise ValueError(f"holds {values.dtype}: expected true or false")
            return values.astype(np.float32)
        if name == PROPENSITY:
            return values.astype(np.float32, copy=False)
        return _finite(values)


def _checked(
    path: str,
    name: str,
    rows: pa.RecordBatch,
    read: Callable[[str, pa.Array], np.ndarray],
) -> np.ndarray:
    try:
        return read(name, rows.column(name))
    except ValueError as error:
        raise UserError(f"{path}: column '{name}' {error}") from None


def _numbers(column: pa.Array, shape: tuple[int, ...]) -> np.ndarray:
    """Return a column's values (N, *shape), of the type that they are stored in."""
    rows, width = len(column), 1
    while True:
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        if column.null_count:
            raise ValueError("has empty values")
        if pa.types.is_fixed_size_list(column.type):
            width *= column.type.list_size
        elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            lengths = np.diff(column.offsets.to_numpy())
            if len(lengths) and lengths.min() != lengths.max():
                raise ValueError(
                    f"has lists of {lengths.min()} to {lengths.max()} values: expected equally many"
                )
            width *= int(lengths[0]) if len(lengths) else 1
        else:
            break
        column = column.flatten()
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ValueError(f"holds {kind}: expected numbers, as many in every row")
    if rows and width != prod(shape):
        raise ValueError(f"has {width} values per row: the space expects {prod(shape)}")
    return column.to_numpy(zero_copy_only=False).reshape(rows, *shape)


def _finite(values: np.ndarray) -> np.ndarray:
    """Return values as float32, if all are finite."""
    if values.dtype == bool:
        raise ValueError("holds true or false: expected numbers")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False)
    # The extremes tell, and need no array of their own.
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise ValueError("holds NaN or an infinite number")
    return values


def _whole(values: np.ndarray, limit: int) -> np.ndarray:
    """Return values as they are, if all are whole numbers from 0 to ``limit`` - 1."""
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"holds {values.dtype}: expected whole numbers")
    if values.size and not (values.min() >= 0 and values.max() < limit):
        wrong = values.min() if values.min() < 0 else values.max()
        raise ValueError(f"holds {wrong}: the space has 0 to {limit - 1}")
    return values


def open_files(paths: Sequence[Path], names: Sequence[str]) -> tuple[RowFile, ...]:
    """Read the footers of Parquet files.

    Raises:
        UserError: a file that cannot be read, or lacks one of the columns ``names``.
    """
    files = []
    for path in paths:
        try:
            with pq.ParquetFile(path) as parquet:
                present, footer = parquet.schema_arrow.names, parquet.metadata
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from None
        for name in names:
            if name not in present:
                raise UserError(f"{path} has no column '{name}', only {', '.join(present)}")
        groups = range(footer.num_row_groups)
        sizes = tuple(footer.row_group(group).num_rows for group in groups)
        files.append(RowFile(str(path.resolve()), sizes))
    return tuple(files)


def read_spans(parts: Sequence[Span], form: RowFormat) -> Iterator[dict[str, np.ndarray]]:
    """Yield the rows of spans in order, decoded, some thousand at a time.

    Raises:
        UserError: a file that cannot be read, or holds what ``form`` does not allow.
    """
    for file, of_file in groupby(parts, key=lambda span: span.file):
        try:
            with pq.ParquetFile(file.path) as parquet:
                for span in of_file:
                    for rows in _rows(parquet, span, form.names):
                        yield form.decode(file.path, rows)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(file.path, error) from None


def _rows(parquet: pq.ParquetFile, span: Span, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    first = 0
    for rows in parquet.iter_batches(
        _DECODED_ROWS, row_groups=[span.group], columns=list(names), use_threads=True
    ):
        begin, end = max(span.begin - first, 0), min(span.end - first, len(rows))
        first += len(rows)
        if begin < end:
            yield rows.slice(begin, end - begin)


def read_rewards(paths: Sequence[Path]) -> np.ndarray:
    """Read the column ``rewards`` (N,) float32 of all files.

    Raises:
        UserError: a file that cannot be read, has no rewards, or one that is not finite.
    """
    name = Columns.REWARDS
    rewards = []
    for file in open_files(paths, [name]):
        try:
            with pq.ParquetFile(file.path) as parquet:
                rewards += [
                    _checked(file.path, name, rows, lambda _, array: _finite(_numbers(array, ())))
                    for rows in parquet.iter_batches(columns=[name])
                ]
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(file.path, error) from None
    return np.concatenate([np.zeros(0, np.float32), *rewards])


def _unreadable(path: Path | str, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read: {str(error).splitlines()[0]}")

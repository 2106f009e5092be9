"""Training rows that were decoded once and are shared: by the trials of a sweep, on each machine.

Ray's object store keeps arrays once per machine, and every process of it maps the same pages. A
process that was handed such rows draws its batches from them instead of reading the Parquet files
again: the same batches, without a copy of the log of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from noetik_rllib.iql.row_files import RowFile, RowFormat, read_spans, spans


@dataclass(frozen=True)
class DecodedRows:
    """Every row of a log.

    Attributes:
        files: where they were read from.
        columns: name -> array, as ``RowFormat.decode`` gives them.
    """

    files: tuple[RowFile, ...]
    columns: dict[str, np.ndarray]

    @classmethod
    def read(cls, files: tuple[RowFile, ...], form: RowFormat) -> DecodedRows:
        """Read and decode them.

        Args:
            files: the log's files, in order.
            form: what the columns hold.

        Raises:
            UserError: a file that cannot be read, or holds what training could only misunderstand.
        """
        rows = sum(file.rows for file in files)
        columns: dict[str, np.ndarray] = {}
        done = 0
        for part in read_spans(spans(files, 0, rows), form):
            for name, values in part.items():
                if name not in columns:
                    columns[name] = np.empty((rows, *values.shape[1:]), dtype=values.dtype)
                columns[name][done : done + len(values)] = values
            done += len(next(iter(part.values())))
        return cls(files, columns)

    def tensors(self, names: tuple[str, ...], start: int, stop: int) -> dict[str, Tensor]:
        """The rows ``start`` to ``stop`` of some columns, as they lie in memory: not to be written.

        torch knows no tensors that are read-only, and warns of it.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return {name: torch.from_numpy(self.columns[name][start:stop]) for name in names}


#: What this process was handed.
_held: list[DecodedRows] = []


@contextmanager
def holding(rows: DecodedRows) -> Iterator[None]:
    """Let iterators that are made in this process, within this block, draw from ``rows``."""
    _held.append(rows)
    try:
        yield
    finally:
        _held.remove(rows)


def held(files: tuple[RowFile, ...]) -> DecodedRows | None:
    """Return the decoded rows of a log, if this process was handed them."""
    return next((rows for rows in _held if rows.files == files), None)

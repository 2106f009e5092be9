"""The dataset's rows as RLlib's SampleBatch JSON: one line per episode, nothing compressed.

RLlib's own ``JsonWriter`` packs ``obs`` with LZ4 by default, which the reader of its new API stack
cannot open (ray 2.60, ``rllib/offline/offline_prelearner.py:484``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TextIO

import numpy as np

from noetik_rllib.offline.parquet_pages import Column, Lists

#: Columns that stock RLlib expects in a SampleBatch line, and the type of their numbers.
COLUMNS = {
    "eps_id": np.int64,
    "t": np.int32,
    "obs": np.float32,
    "actions": np.int64,
    "rewards": np.float32,
    "new_obs": np.float32,
    "terminateds": np.bool_,
    "truncateds": np.bool_,
}


class JsonPartWriter:
    """Writes one part as ``part-00000.json``, ..., an episode never split between two lines."""

    def __init__(self, folder: Path, rows_per_file: int) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.rows_per_file = rows_per_file
        self.file_number = 0
        self.rows_in_file = 0
        self.stream = self._open()

    def write(self, columns: Mapping[str, Column]) -> None:
        """Append rows, whole episodes only."""
        rows = {name: _values(columns[name]) for name in COLUMNS}
        starts = np.flatnonzero(np.diff(rows["eps_id"], prepend=-1))
        for start, stop in pairwise([*starts, len(rows["eps_id"])]):
            self._line({name: rows[name][start:stop] for name in COLUMNS})

    def close(self) -> None:
        """Finish the last file."""
        self.stream.close()

    def _open(self) -> TextIO:
        path = self.folder / f"part-{self.file_number:05d}.json"
        return path.open("w", encoding="utf-8")

    def _line(self, rows: dict[str, np.ndarray]) -> None:
        if self.rows_in_file >= self.rows_per_file:
            self.stream.close()
            self.file_number += 1
            self.rows_in_file = 0
            self.stream = self._open()
        content = {name: values.tolist() for name, values in rows.items()}
        # "dones" is what RLlib's reader of SampleBatch lines asks for beside the two flags.
        content["dones"] = (rows["terminateds"] | rows["truncateds"]).tolist()
        self.stream.write(json.dumps({"type": "SampleBatch", **content}) + "\n")
        self.rows_in_file += len(rows["t"])


def _values(column: Column) -> np.ndarray:
    if isinstance(column, Lists):
        return column.distinct[column.index]
    assert isinstance(column, np.ndarray)  # COLUMNS has no other kinds
    return column

"""The rows of a log, parted by users into shards: in memory where there is one, else on disk."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from noetik_rllib.data.interactions import InteractionLog, clean
from noetik_rllib.data.mapping import LogFiles
from noetik_rllib.io import make_directory


class Spill:
    """Collects raw rows, then hands out the clean log shard by shard.

    Args:
        mapping: of the log.
        folder: where raw and clean shards are kept; of no use for a single shard.
        shards: number of shards.
        known_ids: ascending user ids, from which equal shares are cut; where there are none, the
            first rows' ids are.
    """

    def __init__(
        self, mapping: LogFiles, folder: Path | None, shards: int, known_ids: np.ndarray | None
    ) -> None:
        self.mapping = mapping
        self.folder = folder
        self.shards = shards
        self._known_ids = known_ids
        self._bounds: np.ndarray | None = None
        self._tables: list[pa.Table] = []
        self._writers: dict[int, pa.RecordBatchStreamWriter] = {}
        self._log: InteractionLog | None = None

    def add(self, table: pa.Table) -> None:
        """Take in raw rows."""
        if self.shards == 1:
            self._tables.append(table)
            return
        user = table[self.mapping.user].to_numpy()
        if self._bounds is None:
            ids = np.unique(user) if self._known_ids is None else self._known_ids
            places = np.arange(1, self.shards) * len(ids) // self.shards
            self._bounds = ids[places]
        shard = np.searchsorted(self._bounds, user, side="right")
        for number in np.unique(shard):
            self._writer(int(number), table.schema).write_table(table.filter(shard == number))

    def _path(self, number: int) -> Path:
        assert self.folder is not None  # more than one shard has a folder
        return self.folder / f"shard-{number:04d}"

    def _writer(self, number: int, schema: pa.Schema) -> pa.RecordBatchStreamWriter:
        if number not in self._writers:
            make_directory(self._path(number))
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            path = self._path(number) / "raw.arrow"
            self._writers[number] = pa.ipc.new_stream(str(path), schema, options=options)
        return self._writers[number]

    def clean(self) -> dict[str, int]:
        """Clean every shard; to be called once, after the last ``add``. Return the repairs."""
        if self.shards == 1:
            self._log, repairs = clean(self._tables, self.mapping)
            self._tables = []
            return repairs
        total: Counter[str] = Counter()
        for writer in self._writers.values():
            writer.close()
        for number in sorted(self._writers):
            raw = self._path(number) / "raw.arrow"
            with pa.ipc.open_stream(str(raw)) as reader:
                tables = [reader.read_all()]
            log, repairs = clean(tables, self.mapping)
            total.update(repairs)
            for name, values in vars(log).items():
                np.save(self._path(number) / f"{name}.npy", values)
            raw.unlink()
        return dict(total)

    def __iter__(self) -> Iterator[InteractionLog]:
        """Yield the clean shards; users ascend over all of them."""
        if self._log is not None:
            yield self._log
            return
        for number in sorted(self._writers):
            names = InteractionLog.__dataclass_fields__
            yield InteractionLog(
                **{name: np.load(self._path(number) / f"{name}.npy") for name in names}
            )

    def remove(self) -> None:
        """Remove what lies on disk."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def only(self) -> InteractionLog:
        """Return the one shard.

        Raises:
            ValueError: there are several.
        """
        if self._log is None:
            raise ValueError(f"the log is in {self.shards} shards: iterate over them")
        return self._log

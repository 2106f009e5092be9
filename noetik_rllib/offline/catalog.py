"""The video catalogue: dense index -> video and its features, as read by networks and by people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from noetik_rllib.offline.columns import column_to_numpy
from noetik_rllib.offline.parquet import ParquetFile
from noetik_rllib.offline.parquet_pages import Column, Lists, pack

#: Numeric features of a video, in order: standardised log duration (0 where unknown), and flags.
NUMERIC_NAMES = ("log_duration", "duration_unknown", "portrait", "features_unknown")

CATALOG_NAME = "catalog.parquet"
#: Tags and codes are below 2^31 (the reader allows nine digits): half the bytes on disk.
_STORED_NARROW = ("tags", "tag_codes", "video_type_code", "upload_type_code")
#: Ids up to so many times their number are looked up in a table, 4 bytes an id.
_TABLE_SPREAD = 16


class IdIndex:
    """Finds the position of ids: by a table where they are dense, as KuaiRand's, else by search.

    Args:
        ids: distinct ids of 0 or more, (n,) int64.
    """

    def __init__(self, ids: np.ndarray) -> None:
        self._ids = ids
        self._table: np.ndarray | None = None
        self._order = np.zeros(0, dtype=np.int64)
        if len(ids) and int(ids.max()) < _TABLE_SPREAD * len(ids) + 1_000_000:
            self._table = np.full(int(ids.max()) + 1, -1, dtype=np.int32)
            self._table[ids] = np.arange(len(ids), dtype=np.int32)
        else:
            self._order = np.argsort(ids, kind="stable")

    def of(self, ids: np.ndarray) -> np.ndarray:
        """Return the position of each id, int64 of the input's shape; -1 where it is unknown."""
        if not len(self._ids):
            return np.full(ids.shape, -1, dtype=np.int64)
        if self._table is not None:
            known = (ids >= 0) & (ids < len(self._table))
            return np.where(known, self._table[np.where(known, ids, 0)], -1).astype(np.int64)
        place = np.searchsorted(self._ids, ids, sorter=self._order)
        index = self._order[np.minimum(place, len(self._ids) - 1)]
        return np.where(self._ids[index] == ids, index, -1)


@dataclass(frozen=True)
class Catalog:
    """Videos by dense index; every array has one row per video (n).

    Attributes:
        video_id: KuaiRand's id, (n,) int64.
        author_id: (n,) int64, -1 where unknown.
        duration_ms: (n,) int64, 0 where unknown.
        tags: KuaiRand's tag numbers, (n, 5) int64, -1 padded.
        tag_codes: position in the vocabulary + 1, (n, 5) int64; 0 is padding or not in it.
        video_type_code: (n,) int64, position in the vocabulary + 1; 0 is other.
        upload_type_code: (n,) int64, likewise.
        numeric: (n, 4) float32, see ``NUMERIC_NAMES``.
    """

    video_id: np.ndarray
    author_id: np.ndarray
    duration_ms: np.ndarray
    tags: np.ndarray
    tag_codes: np.ndarray
    video_type_code: np.ndarray
    upload_type_code: np.ndarray
    numeric: np.ndarray

    def __len__(self) -> int:
        return len(self.video_id)

    def index_of(self, video_id: np.ndarray) -> np.ndarray:
        """Dense index of each video id, int64 of the input's shape; -1 where it is unknown."""
        return IdIndex(self.video_id).of(video_id)

    def tags_of(self, index: int) -> list[int]:
        """KuaiRand's tag numbers of one video."""
        return [int(tag) for tag in self.tags[index] if tag >= 0]

    def save(self, directory: Path) -> None:
        """Write ``directory/catalog.parquet``, one column per attribute."""
        columns: dict[str, Column] = {}
        for name in self.__dataclass_fields__:
            array = getattr(self, name)
            if name in _STORED_NARROW:
                array = array.astype(np.int32)
            columns[name] = Lists(array, np.arange(len(array))) if array.ndim == 2 else array
        group = pack(columns)
        file = ParquetFile(directory / CATALOG_NAME, group.fields)
        file.write(group)
        file.close()

    @classmethod
    def load(cls, directory: Path) -> Catalog:
        """Read ``directory/catalog.parquet``."""
        table = pq.read_table(directory / CATALOG_NAME)
        arrays = {name: column_to_numpy(table[name]) for name in cls.__dataclass_fields__}
        arrays |= {name: arrays[name].astype(np.int64) for name in _STORED_NARROW}
        return cls(**arrays)

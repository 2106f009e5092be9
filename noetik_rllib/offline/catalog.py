"""The video catalogue: dense index -> video and its features, as read by networks and by people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noetik_rllib.offline.columns import column_to_numpy, fixed_lists

#: Numeric features of a video, in order: standardised log duration (0 where unknown), and flags.
NUMERIC_NAMES = ("log_duration", "duration_unknown", "portrait", "features_unknown")

CATALOG_NAME = "catalog.parquet"


@dataclass(frozen=True)
class Catalog:
    """Videos by dense index; every array has one row per video (n).

    Attributes:
        video_id: KuaiRand's id, (n,) int64.
        author_id: (n,) int64, -1 where unknown.
        duration_ms: (n,) int64, 0 where unknown.
        upload_type: (n,) str as in the source, "UNKNOWN" where missing.
        tags: KuaiRand's tag numbers, (n, 5) int64, -1 padded.
        tag_codes: position in the vocabulary + 1, (n, 5) int64; 0 is padding or not in it.
        video_type_code: (n,) int64, position in the vocabulary + 1; 0 is other.
        upload_type_code: (n,) int64, likewise.
        numeric: (n, 4) float32, see ``NUMERIC_NAMES``.
    """

    video_id: np.ndarray
    author_id: np.ndarray
    duration_ms: np.ndarray
    upload_type: np.ndarray
    tags: np.ndarray
    tag_codes: np.ndarray
    video_type_code: np.ndarray
    upload_type_code: np.ndarray
    numeric: np.ndarray

    def __len__(self) -> int:
        return len(self.video_id)

    def index_of(self, video_id: np.ndarray) -> np.ndarray:
        """Dense index of each video id, int64 of the input's shape; -1 where it is unknown."""
        order = np.argsort(self.video_id, kind="stable")
        place = np.searchsorted(self.video_id, video_id, sorter=order)
        index = order[np.minimum(place, len(order) - 1)]
        return np.where(self.video_id[index] == video_id, index, -1)

    def tags_of(self, index: int) -> list[int]:
        """KuaiRand's tag numbers of one video."""
        return [int(tag) for tag in self.tags[index] if tag >= 0]

    def save(self, directory: Path) -> None:
        """Write ``directory/catalog.parquet``, one column per attribute."""
        arrays = {name: getattr(self, name) for name in self.__dataclass_fields__}
        columns = {
            name: fixed_lists(array) if array.ndim == 2 else pa.array(array)
            for name, array in arrays.items()
        }
        pq.write_table(pa.table(columns), directory / CATALOG_NAME, compression="zstd")

    @classmethod
    def load(cls, directory: Path) -> Catalog:
        """Read ``directory/catalog.parquet``."""
        table = pq.read_table(directory / CATALOG_NAME)
        return cls(**{name: column_to_numpy(table[name]) for name in cls.__dataclass_fields__})

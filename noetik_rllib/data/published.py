"""KuaiRand's logs as published: every row, in file order, nothing repaired, in narrow columns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pyarrow as pa

from noetik_rllib.data.csv_table import CsvFile
from noetik_rllib.data.figures import Variant
from noetik_rllib.data.layout import feature_columns, find_folder, log_columns, matching
from noetik_rllib.data.mapping import ItemFiles, Mapping, UserFiles
from noetik_rllib.data.reader import Progress
from noetik_rllib.data.schema import LOG_COLUMNS
from noetik_rllib.errors import UserError

_MAPPING = Mapping.find("kuairand")
_VARIANT = re.compile(r"_(pure|1k|27k)(_part\d+)?\.csv$")


@dataclass(frozen=True)
class Rows:
    """Rows of a log: ``rows["is_click"]`` is the (N,) column of that name in ``LOG_COLUMNS``."""

    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.columns["user_id"])

    def __getitem__(self, column: str) -> np.ndarray:
        return self.columns[column]

    def where(self, chosen: np.ndarray) -> Rows:
        """Return the rows that ``chosen``, (N,) bool or positions, selects."""
        return Rows({name: values[chosen] for name, values in self.columns.items()})


@dataclass(frozen=True)
class PublishedLogs:
    """Both logs of one folder, as published.

    Attributes:
        folder: where the CSV files lie.
        variant: which KuaiRand it is to be compared with.
        standard: rows that the app chose.
        random: rows drawn uniformly; none where the folder has no such file.
    """

    folder: Path
    variant: Variant
    standard: Rows
    random: Rows


def read_published(
    source: Path, variant: Variant | None = None, progress: Progress | None = None
) -> PublishedLogs:
    """Read every log of a KuaiRand folder.

    Args:
        source: the folder, with or without ``data/`` below it.
        variant: taken from the file names if None.
        progress: called with what is being done and the share done, 0 to 1.

    Raises:
        UserError: no log there, a file that does not fit the layout, or no telling the variant.
    """
    folder = find_folder(source, _MAPPING)
    standard = matching(folder, _MAPPING.log.standard, required=True)
    random = matching(folder, _MAPPING.log.random, required=False)
    variant = variant or _variant_of(folder, standard + random)
    tables: dict[Path, pa.Table] = {}
    for number, path in enumerate(standard + random):
        if progress:
            progress(f"reading {path.name}", number / len(standard + random))
        tables[path] = CsvFile(path, log_columns(_MAPPING.log), exact=True).read()
    return PublishedLogs(
        folder=folder,
        variant=variant,
        standard=_rows([tables.pop(path) for path in standard]),
        random=_rows([tables.pop(path) for path in random]),
    )


def _variant_of(folder: Path, files: list[Path]) -> Variant:
    found = {match[1] if (match := _VARIANT.search(path.name)) else "" for path in files}
    if len(found) != 1 or "" in found:
        raise UserError(
            f"{folder}: the log names end in more than one or none of _pure.csv, _1k.csv, "
            "_27k.csv; say which to compare with by --variant"
        )
    return cast(Variant, found.pop())


def _rows(tables: list[pa.Table]) -> Rows:
    if not tables:
        columns = log_columns(_MAPPING.log)
        return _rows([pa.schema([(c.name, c.arrow_type) for c in columns]).empty_table()])
    table = pa.concat_tables(tables)
    return Rows({name: table[name].to_numpy() for name in LOG_COLUMNS})


def first_of_duplicates(rows: Rows) -> np.ndarray:
    """Return the positions, ascending, of the rows that are left when exact duplicates are dropped.

    Rows are told apart by a 64-bit hash of all columns: among 12 million rows, two different ones
    share a hash with a probability of 4e-6.
    """
    key = np.zeros(len(rows), dtype=np.uint64)
    for name in LOG_COLUMNS:
        # The finaliser of SplitMix64 (Steele, Lea and Flood 2014), chained over the columns.
        key += rows[name].astype(np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        key ^= key >> np.uint64(31)
    return np.sort(np.unique(key, return_index=True)[1])


def read_features(folder: Path, of: Literal["users", "items"]) -> pa.Table:
    """Return the rows of the features files that a state or the catalogue uses.

    Raises:
        UserError: there is no such file, or it does not fit the layout.
    """
    part: UserFiles | ItemFiles | None = getattr(_MAPPING, of)
    assert part is not None  # KuaiRand has both
    columns = feature_columns(part, text_key=False)
    files = matching(folder, part.files, required=True)
    tables = pa.concat_tables([CsvFile(path, columns).read() for path in files])
    return tables.unify_dictionaries()


def video_durations(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return id and duration in ms of every video of the features file: (M,) each.

    A duration is not a number where it is blank.

    Raises:
        UserError: there is no such file, or it does not fit the layout.
    """
    table = read_features(folder, "items")
    return table["video_id"].to_numpy(), table["video_duration"].to_numpy()

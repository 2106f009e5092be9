"""Reading a folder of CSV files, by a mapping, into a clean log and two feature tables.

A log that is larger than memory is parted by users into shards on disk first, so that no more than
one shard is ever held; a log that fits is one shard in memory.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noetik_rllib.data.csv_table import CsvFile, distinct
from noetik_rllib.data.interactions import InteractionLog, run_breaks
from noetik_rllib.data.layout import (
    MAX_ID,
    feature_columns,
    find_folder,
    log_columns,
    matching,
    to_ms,
)
from noetik_rllib.data.mapping import ItemFiles, Mapping, kuairand
from noetik_rllib.data.schema import MAX_TAGS, SourceFile
from noetik_rllib.data.shards import Spill
from noetik_rllib.errors import UserError

Progress = Callable[[str, float], None]

#: CSV bytes of a shard: the whole 1K variant (0.85 GB) is one. Working on a shard takes some three
#: times as much memory.
SHARD_BYTES = 1 << 30
_TAGS = re.compile(rf"\d{{1,9}}(,\d{{1,9}}){{0,{MAX_TAGS - 1}}}")


@dataclass
class Source:
    """What was read from one folder.

    Attributes:
        mapping: how it was read.
        logs: the shards; each holds all rows of its users, and the users ascend over all shards.
        users, items: the features, as read; None where the mapping names no file.
        sources: the files, with their rows and checksums.
        repairs: how often what was repaired or noticed.
        keys: what ids stand for where the files hold texts, of "users" and "items": id -> text.
    """

    mapping: Mapping
    logs: Spill
    users: pa.Table | None
    items: pa.Table | None
    sources: list[SourceFile]
    repairs: dict[str, int]
    keys: dict[str, dict[int, str]] = field(default_factory=dict)

    @property
    def log(self) -> InteractionLog:
        """The whole log in memory, for logs that fit."""
        return self.logs.only()


def read_source(
    source: str | Path,
    mapping: Mapping | None = None,
    *,
    spill_folder: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
    check_items: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> Source:
    """Read every log and the features of a folder.

    Exact duplicates are dropped, negative play times become 0, rows are sorted by user and time
    (published files are two interleaved runs), rows of one request stay in file order.

    Args:
        source: the folder, with or without ``data/`` below it.
        mapping: how; KuaiRand's layout where not given.
        spill_folder: where shards of a log larger than ``shard_bytes`` are kept; needed for such.
        shard_bytes: CSV bytes that are worked on at a time.
        check_items: called with the number of items that have features, before the log, which
            takes longer, is read; it may raise.
        progress: called with what is being done and the share done, 0 to 1.

    Raises:
        UserError: anything in the files that does not fit the mapping.
    """
    mapping = mapping or kuairand()
    folder = find_folder(source, mapping)
    reading = _Reading(mapping, folder, progress or (lambda doing, share: None))
    reading.open()
    with ThreadPoolExecutor(max_workers=1) as hasher:
        sums = {path: hasher.submit(sha256_of, path) for path in reading.paths}
        users = reading.features("users")
        items = reading.features("items")
        if check_items is not None and items is not None:
            check_items(len(items))
        total = sum(file.size for file in reading.logs)
        shards = max(1, -(-total // shard_bytes))
        if shards > 1 and spill_folder is None:
            raise UserError(f"{folder}: {total:,} bytes of logs do not fit: give a spill folder")
        spill = Spill(mapping.log, spill_folder, shards, _known_ids(users, mapping))
        for table in reading.log_tables(whole=shards == 1):
            spill.add(table)
        reading.progress("sorting", 1.0)
        repairs = spill.clean()
        sources = reading.sources(sums)
    return Source(
        mapping=mapping,
        logs=spill,
        users=users,
        items=items,
        sources=sources,
        repairs={**repairs, **reading.counts},
        keys={name: encoder.keys for name, encoder in reading.encoders.items()},
    )


@dataclass
class _Reading:
    """The files of one folder while they are read."""

    mapping: Mapping
    folder: Path
    progress: Progress
    logs: list[CsvFile] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    encoders: dict[str, _TextIds] = field(default_factory=dict)
    _rows: dict[Path, int] = field(default_factory=dict)
    _files: dict[str, list[CsvFile]] = field(default_factory=dict)
    _random: set[Path] = field(default_factory=set)

    def open(self) -> None:
        """Find the files and check their first lines, before any is read for long."""
        log = self.mapping.log
        self.encoders = {name: _TextIds() for name in log.text_ids}
        columns = log_columns(log)
        exact = log.schema_columns is not None
        standard = matching(self.folder, log.standard, required=True)
        random = matching(self.folder, log.random, required=False)
        self._random = set(random)
        self.logs = [CsvFile(path, columns, exact=exact) for path in standard + random]
        for name, part in (("users", self.mapping.users), ("items", self.mapping.items)):
            if part is not None:
                paths = matching(self.folder, part.files, required=True)
                wanted = feature_columns(part, text_key=name in log.text_ids)
                self._files[name] = [CsvFile(path, wanted) for path in paths]

    @property
    def paths(self) -> list[Path]:
        """Every file, the largest first: their checksums are computed in the background."""
        files = [*self.logs, *(file for files in self._files.values() for file in files)]
        return [file.path for file in sorted(files, key=lambda file: -file.size)]

    def features(self, name: str) -> pa.Table | None:
        """Read the features of "users" or "items"."""
        if name not in self._files:
            return None
        part = self.mapping.users if name == "users" else self.mapping.items
        assert part is not None  # it has files
        tables: list[pa.Table] = []
        for file in self._files[name]:
            self.progress(f"reading {file.path.name}", 0.0)
            table = file.read()
            if name in self.encoders:
                table = self.encoders[name].encode(table, part.key)
            _check_unique(file, table[part.key], part.key, [t[part.key] for t in tables])
            if isinstance(part, ItemFiles) and part.tags is not None:
                _check_tags(file, table[part.tags], part.tags)
            tables.append(table)
            self._rows[file.path] = len(table)
        return pa.concat_tables(tables).unify_dictionaries()

    def log_tables(self, *, whole: bool) -> Iterator[pa.Table]:
        """Yield the rows of every log file: a file at a time, or some megabytes at a time."""
        log = self.mapping.log
        total = sum(file.size for file in self.logs)
        done = 0
        for file in self.logs:
            self.progress(f"reading {file.path.name}", done / total)
            last: tuple[int, int] | None = None
            rows = 0
            for raw, share in [(file.read(), 1.0)] if whole else file.batches():
                table = raw
                for name, encoder in self.encoders.items():
                    table = encoder.encode(table, log.user if name == "users" else log.item)
                table = to_ms(table, log)
                if log.time.sorted_runs and len(table):
                    last = self._check_order(file, table, rows, last)
                self._check_is_random(file, table, rows)
                flag = pa.repeat(file.path in self._random, len(table))
                yield table.append_column("_random", flag)
                rows += len(table)
                self.progress(f"reading {file.path.name}", (done + share * file.size) / total)
            self._rows[file.path] = rows
            done += file.size
        standard = [file for file in self.logs if file.path not in self._random]
        if not any(self._rows[file.path] for file in standard):
            others = " nor does any other standard log" if len(standard) > 1 else ""
            raise UserError(
                f"{standard[0].path}:2: column '{log.user}' has no value: the file holds no row"
                f"{others}; expected one row per exposure below the first line"
            )

    def _check_order(
        self, file: CsvFile, table: pa.Table, first_row: int, last: tuple[int, int] | None
    ) -> tuple[int, int]:
        log = self.mapping.log
        user = table[log.user].to_numpy()
        time = table[log.time.column].to_numpy()
        runs, back = run_breaks(user, time)
        if last is not None:
            runs += int(user[0] < last[0])
            if user[0] == last[0] and time[0] < last[1]:
                back = 0
        if back is not None:
            raise UserError(
                f"{file.path}:{first_row + back + 2}: column '{log.time.column}' goes backwards: "
                f"{time[back]} for user {user[back]}, whose row before is later; expected rows "
                "sorted by user and time"
            )
        self.counts["sorted_runs_merged"] += runs
        return int(user[-1]), int(time[-1])

    def _check_is_random(self, file: CsvFile, table: pa.Table, first_row: int) -> None:
        name = self.mapping.log.is_random
        if name is None or not len(table):
            return
        expected = int(file.path in self._random)
        wrong = table[name].to_numpy() != expected
        if wrong.any():
            line = first_row + int(wrong.argmax()) + 2
            raise UserError(
                f"{file.path}:{line}: column '{name}' is {1 - expected}; expected {expected} in "
                f"every row of a {'uniformly exposed' if expected else 'standard'} log"
            )

    def sources(self, sums: dict[Path, Future[str]]) -> list[SourceFile]:
        """Name every file with its rows and checksum."""
        files = [*self.logs, *(file for files in self._files.values() for file in files)]
        return [
            SourceFile(
                name=file.path.name, rows=self._rows[file.path], sha256=sums[file.path].result()
            )
            for file in files
        ]


class _TextIds:
    """Numbers for texts: 39 bits of their BLAKE2b hash.

    A hash, not the order of appearance: no text that later rows bring moves another's number. Of
    two texts with the same hash (a million texts have a chance of one half) the second gets the
    next free number.
    """

    def __init__(self) -> None:
        self.keys: dict[int, str] = {}
        self._numbers: dict[str, int] = {}

    def _number(self, text: str) -> int:
        if text not in self._numbers:
            digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
            number = int.from_bytes(digest, "little") & MAX_ID
            while number in self.keys:
                number = (number + 1) & MAX_ID
            self._numbers[text] = number
            self.keys[number] = text
        return self._numbers[text]

    def encode(self, table: pa.Table, name: str) -> pa.Table:
        """Put numbers in the place of a column's texts."""
        texts = table[name].combine_chunks().dictionary_encode()
        numbers = [self._number(text) for text in texts.dictionary.to_pylist()]
        codes = np.array(numbers, dtype=np.int64)[texts.indices.to_numpy()]
        return table.set_column(table.column_names.index(name), name, pa.array(codes))


def _check_unique(
    file: CsvFile, column: pa.ChunkedArray, name: str, before: list[pa.ChunkedArray]
) -> None:
    """Refuse an id that has a row already, in this file or one before."""
    if not before:
        ids = column.to_numpy()
        if (ids[1:] > ids[:-1]).all():
            return  # published files ascend: no need to sort millions of ids
    ids = pa.chunked_array([c for part in [*before, column] for c in part.chunks]).to_pandas()
    repeated = ids.duplicated().to_numpy()[len(ids) - len(column) :]
    if repeated.any():
        row = int(repeated.argmax())
        complaint = f"is {column[row].as_py()}, which stands there twice; expected one row"
        file.refuse(name, row, complaint)


def _check_tags(file: CsvFile, column: pa.ChunkedArray, name: str) -> None:
    """Refuse a tag field that is not up to 5 whole numbers, such as 39 or "20,43"."""
    for text in distinct(column):
        if not _TAGS.fullmatch(text):
            row = pc.index(column.cast(pa.string()), text).as_py()
            file.refuse(
                name,
                row,
                f"is '{text[:40]}'; expected up to {MAX_TAGS} whole numbers, such as 39 or "
                '"20,43"',
            )


def _known_ids(users: pa.Table | None, mapping: Mapping) -> np.ndarray | None:
    texts = "users" in mapping.log.text_ids
    if users is None or not len(users) or mapping.users is None or texts:
        return None
    return np.sort(users[mapping.users.key].to_numpy())


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

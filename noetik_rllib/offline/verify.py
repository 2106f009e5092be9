"""``noetik data verify``: whether a dataset on disk is what its manifest says, to the last row.

It streams over the files, so its memory does not grow with the dataset.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.errors import UserError
from noetik_rllib.offline.catalog import CATALOG_NAME
from noetik_rllib.offline.columns import column_to_numpy
from noetik_rllib.offline.dataset import (
    COLUMNS,
    DATASET_FILES,
    KEYS_NAME,
    USERS_NAME,
    OfflineDataset,
)
from noetik_rllib.offline.findings import EnoughError, Findings
from noetik_rllib.offline.manifest import MANIFEST_NAME, StoredFile
from noetik_rllib.offline.split import PARTS
from noetik_rllib.offline.verify_json import JsonLines
from noetik_rllib.offline.verify_rows import Batch, Expected, PartCheck
from noetik_rllib.offline.verify_states import Fault, RebuiltStates
from noetik_rllib.offline.verify_tables import TableCheck, check_manifest

#: Rows held at a time: 16 MB of states of 128, twice.
_ROWS = 16_384
#: Share of the time that checksums take, for the progress bar.
_CHECKSUM_SHARE = 0.1

_CONSTANTS = {"agent_id": "default_agent", "module_id": "default_policy"}
_TYPES = {
    **dict.fromkeys(COLUMNS, pa.float32()),
    **dict.fromkeys(("eps_id", "actions", "user_id", "video_id", "time_ms"), pa.int64()),
    **dict.fromkeys(("terminateds", "truncateds"), pa.bool_()),
    **dict.fromkeys(_CONSTANTS, pa.string()),
    "t": pa.int32(),
}


def verify(directory: str | Path, progress: Callable[[str, float], None] | None = None) -> Findings:
    """Check every file and every row of a dataset against its manifest.

    Args:
        directory: of the dataset.
        progress: called with what is being done and the share done, 0 to 1.

    Returns:
        What was checked, and a line for each of up to ``MAX_FINDINGS`` faults.

    Raises:
        UserError: it is no dataset, or its manifest cannot be read.
    """
    findings = Findings()
    verification = _Verification(OfflineDataset(directory), findings, progress or (lambda *_: None))
    with contextlib.suppress(EnoughError):
        verification.run()
    return findings


class _Verification:
    """One pass over a dataset."""

    def __init__(
        self, dataset: OfflineDataset, findings: Findings, progress: Callable[[str, float], None]
    ) -> None:
        self.dataset = dataset
        self.manifest = dataset.manifest
        self.findings = findings
        self.progress = progress
        self.total = max(1, sum(part.rows for part in self.manifest.parts.values()))
        self.done = 0
        self.damaged: set[str] = set()

    def run(self) -> None:
        """Check the files, then what they hold; a damaged file is not looked into."""
        self._files()
        if self.damaged & {CATALOG_NAME, USERS_NAME}:
            return
        try:
            expected = Expected(self.dataset)
        except UserError as error:
            self._add("tables", str(error))
            return
        if not check_manifest(self.manifest, expected.num_videos, self.findings):
            return  # its figures cannot be compared with any
        tables = TableCheck(self.dataset, expected, self.findings)
        keys = KEYS_NAME in self.manifest.files and KEYS_NAME not in self.damaged
        tables.run(keys=keys)
        files = {part: self._of_part(part) for part in PARTS}
        fit = {part: self._fit(part, names) for part, names in files.items()}
        at_random = np.zeros(expected.num_videos, dtype=bool)
        for part in PARTS:
            if not fit[part]:
                continue
            # Users' rows lie in several parts: with one of them damaged, no history is whole.
            states = (
                RebuiltStates(part, expected, self.dataset.directory, files)
                if all(fit.values())
                else None
            )
            check = self._part(part, files[part], expected, states)
            if check is None:
                continue
            if part == "train":
                tables.learnt(check.shown)
            at_random |= check.shown_at_random
        if all(fit.values()) and not self.damaged:
            self._random_pool(int(np.count_nonzero(at_random)))

    def _random_pool(self, shown: int) -> None:
        """Check the pool of the uniform policy against the number of videos that it showed."""
        pool = self.manifest.random_pool
        self.findings.count("figures of the manifest")
        if (pool is None) != (shown == 0) or (pool or 0) < shown:
            wanted = f"{shown} or more, the videos that it shows" if shown else "None"
            self._add("random_pool", f"{MANIFEST_NAME}: random_pool is {pool}; expected {wanted}")

    def _of_part(self, part: str) -> list[str]:
        """Return the Parquet files of a part, in the order in which a dataset is read."""
        return sorted(name for name in self.manifest.files if name.startswith(f"{part}/"))

    def _fit(self, part: str, names: list[str]) -> bool:
        """Say whether the files of a part can be looked into."""
        if not names:
            self._add("files", f"{MANIFEST_NAME}: files lacks {part}/; expected its files", part)
        return bool(names) and not self.damaged & set(names) and all(map(self._schema, names))

    def _add(self, check: str, message: str, where: str = "") -> None:
        self.findings.add(check, where, message)

    def _files(self) -> None:
        stored, directory = self.manifest.files, self.dataset.directory
        for name in sorted(name for name in stored if not DATASET_FILES.fullmatch(name)):
            self._add("files", f"{MANIFEST_NAME}: files names {name}; expected no such file", name)
        there = {
            path.relative_to(directory).as_posix()
            for path in directory.rglob("*")
            if not path.is_dir() or path.is_symlink()
        }
        for name in sorted(there - stored.keys() - {MANIFEST_NAME}):
            self._add("files", f"{name}: is there; expected no file that the manifest lacks", name)
        for name in (CATALOG_NAME, USERS_NAME):
            if name not in stored:
                self.damaged.add(name)
                self._add("files", f"{MANIFEST_NAME}: files lacks {name}; expected its checksum")
        total = max(1, sum(file.bytes for file in stored.values()))
        done = 0
        for name, file in stored.items():
            self.progress("checksums", _CHECKSUM_SHARE * done / total)
            self.findings.count("files")
            done += file.bytes
            fault = self._file_fault(directory / name, file)
            if fault:
                self.damaged.add(name)
                self._add("files", f"{name}: {fault}", name)

    @staticmethod
    def _file_fault(path: Path, expected: StoredFile) -> str | None:
        if not path.is_file():
            return f"is missing; expected {expected.bytes} bytes"
        try:
            found = StoredFile.of(path)
        except OSError as error:
            return f"cannot be read ({error.strerror}); expected {expected.bytes} bytes"
        if found.bytes != expected.bytes:
            return f"has {found.bytes} bytes; expected {expected.bytes}"
        if found.crc32 != expected.crc32:
            return f"has the CRC-32 {found.crc32}; expected {expected.crc32}"
        return None

    def _part(
        self, part: str, names: list[str], expected: Expected, states: RebuiltStates | None
    ) -> PartCheck | None:
        """Check the rows of a part; None where they cannot all be read."""
        lines = sorted(name for name in self.manifest.files if name.startswith(f"json/{part}/"))
        if self.damaged & set(lines):
            return None
        check = PartCheck(part, expected, self.findings)
        size = self.dataset.layout.size
        json_lines = (
            JsonLines(self.dataset.directory, lines, size, self.findings) if lines else None
        )
        # Rebuilding the states takes as long as all else, and needs none of it.
        with ThreadPoolExecutor(max_workers=1) as beside:
            for name in names:
                for batch in self._batches(name):
                    rebuilt = beside.submit(states.compare, batch) if states else None
                    check.add(batch)
                    if json_lines is not None:
                        json_lines.compare(batch)
                    if rebuilt is not None:
                        self._states(batch, rebuilt.result())
                    self._advance(part, len(batch))
                if name in self.damaged:
                    return None
        check.close()
        if json_lines is not None:
            json_lines.close()
        self._sizes(part, check)
        return check

    def _states(self, batch: Batch, faults: list[Fault] | None) -> None:
        """Report states that the rows of all parts do not make."""
        if faults is None:
            return  # rows in disorder, or unreadable, which is reported as that
        self.findings.count("states rebuilt", len(batch))
        for fault in faults:
            self._add(
                f"states rebuilt {fault.column}",
                f"{batch.file}: row {batch.first_row + fault.row}: column '{fault.column}' is "
                f"{fault.found}; expected {fault.expected}",
                batch.file,
            )

    def _advance(self, part: str, rows: int) -> None:
        self.done += rows
        share = min(1.0, self.done / self.total)
        self.progress(f"rows of {part}", _CHECKSUM_SHARE + (1 - _CHECKSUM_SHARE) * share)

    def _schema(self, name: str) -> bool:
        """Check names, order and types of a file's columns."""
        self.findings.count("columns", len(COLUMNS))
        try:
            schema = pq.read_schema(self.dataset.directory / name)
        except (pa.ArrowException, OSError) as error:
            self._unreadable(name, error)
            return False
        if schema.names != list(COLUMNS):
            places = zip([*schema.names, None], [*COLUMNS, None], strict=False)
            found, expected = next(pair for pair in places if pair[0] != pair[1])
            self._add(
                "columns",
                f"{name}: column '{found}' stands where '{expected}' is expected: the columns are "
                f"{', '.join(COLUMNS)}",
                name,
            )
            return False
        for field in schema:
            kind, width = field.type, None
            if pa.types.is_fixed_size_list(kind):
                kind, width = kind.value_type, kind.list_size
            size = self.dataset.layout.size if field.name in ("obs", "new_obs") else None
            if kind != _TYPES[field.name] or width != size:
                lists = f" in lists of {size}" if size else ""
                self._add(
                    "columns",
                    f"{name}: column '{field.name}' is of type {field.type}; expected "
                    f"{_TYPES[field.name]}{lists}",
                    name,
                )
                return False
        return True

    def _unreadable(self, name: str, error: Exception) -> None:
        self.damaged.add(name)
        reason = str(error).splitlines()[0]
        self._add("reading", f"{name}: cannot be read ({reason}); expected a Parquet file", name)

    def _batches(self, name: str) -> Iterator[Batch]:
        """Yield a file's rows; constant columns are checked here, as texts cost much memory."""
        first = 0
        try:
            with pq.ParquetFile(
                self.dataset.directory / name, page_checksum_verification=True
            ) as file:
                for record in file.iter_batches(_ROWS):
                    table = pa.Table.from_batches([record])
                    yield self._batch(name, first, table)
                    first += len(table)
        except (pa.ArrowException, OSError) as error:
            self._unreadable(name, error)

    def _batch(self, name: str, first: int, table: pa.Table) -> Batch:
        for column in COLUMNS:
            if table[column].null_count:
                row = first + pc.index(table[column].is_null(), True).as_py()
                message = f"{name}: row {row}: column '{column}' is null; expected a value"
                self._add("nulls", message, name)
                raise EnoughError  # what else is wrong cannot be told from it
        for column, value in _CONSTANTS.items():
            wrong = pc.not_equal(table[column], value)
            self.findings.count("constants", len(table))
            if pc.any(wrong).as_py():
                row = pc.index(wrong, True).as_py()
                self._add(
                    column,
                    f"{name}: row {first + row}: column '{column}' is "
                    f"{table[column][row].as_py()}; expected {value}",
                    name,
                )
        columns = [column for column in COLUMNS if column not in _CONSTANTS]
        return Batch(name, first, {name: column_to_numpy(table[name]) for name in columns})

    def _sizes(self, part: str, check: PartCheck) -> None:
        """Compare the manifest's figures with those of the rows."""
        size = self.manifest.parts.get(part)
        for name in ("rows", "users", "episodes"):
            found = None if size is None else getattr(size, name)
            self.findings.equal(f"parts.{part}.{name}", found, getattr(check, name))
        if check.rows:
            mean = check.reward_sum / check.rows
            self.findings.equal(
                f"logged_reward.{part}", self.manifest.logged_reward.get(part), mean
            )
        if part == "train" and check.rows:
            self._moments(check)

    def _moments(self, check: PartCheck) -> None:
        mean = check.signal_sum / check.rows
        covariance = check.signal_products / check.rows - np.outer(mean, mean)
        stored = self.manifest.signals
        for place, name in enumerate(SIGNALS):
            self.findings.equal(f"signals.mean of {name}", stored.mean[place], float(mean[place]))
            for other, second in enumerate(SIGNALS):
                self.findings.equal(
                    f"signals.covariance of {name} and {second}",
                    stored.covariance[place][other],
                    float(covariance[place, other]),
                )

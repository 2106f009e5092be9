"""Whether a part's JSON lines hold the same rows as its Parquet files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from noetik_rllib.offline.findings import Findings
from noetik_rllib.offline.json_writer import COLUMNS
from noetik_rllib.offline.verify_rows import Batch


class JsonLines:
    """Reads a part's lines in step with its Parquet rows.

    Args:
        directory: of the dataset.
        names: its files of lines, in order.
        state_size: numbers of a state.
        findings: where faults go.
    """

    def __init__(
        self, directory: Path, names: list[str], state_size: int, findings: Findings
    ) -> None:
        self._directory = directory
        self._state_size = state_size
        self._findings = findings
        self._part = names[0].rsplit("/", 1)[0]
        self._lines = self._read(names)
        self._rows: dict[str, np.ndarray] = {}
        self._where: list[str] = []
        self._failed = False

    def compare(self, batch: Batch) -> None:
        """Take as many rows from the lines as the batch has, and compare them, bit by bit."""
        if self._failed:
            return
        self._findings.count("rows of the JSON lines", len(batch))
        where, rows = self._take(len(batch))
        expected = {name: batch.columns[name] for name in COLUMNS}
        expected["dones"] = expected["terminateds"] | expected["truncateds"]
        for name, values in expected.items():
            found = rows.get(name, values[:0])
            same = found == values[: len(found)]
            if same.ndim == 2:
                same = same.all(axis=1)
            if not same.all():
                row = int((~same).argmax())
                got = ("another state", "that") if values.ndim == 2 else (found[row], values[row])
                self._fail(
                    f"{where[row]}: column '{name}' is {got[0]}; expected {got[1]} "
                    f"of {batch.file}, row {batch.first_row + row}"
                )
        if len(where) < len(batch):
            row = batch.first_row + len(where)
            self._fail(f"{self._part}: ends early; expected row {row} of {batch.file}")

    def close(self) -> None:
        """Check that no line is left over."""
        left = self._where or [where for where, _ in islice(self._lines, 1)]
        if left:
            self._fail(f"{left[0]}: is there; expected no rows that the Parquet files lack")

    def _fail(self, message: str) -> None:
        # One line that is lost or changed puts all after it out of step: only the first is said.
        if not self._failed:
            self._findings.add("json", self._part, message)
        self._failed = True

    def _take(self, count: int) -> tuple[list[str], dict[str, np.ndarray]]:
        """Return the next rows, fewer where the lines end, and the line that each stands on."""
        wheres, parts, have = [self._where], [self._rows], len(self._where)
        while have < count:
            line = next(self._lines, None)
            if line is None:
                break
            where, rows = line
            have += len(rows["t"])
            wheres.append([where] * len(rows["t"]))
            parts.append(rows)
        place = [where for part in wheres for where in part]
        joined = {
            name: np.concatenate([part[name] for part in parts if part])
            for name in (*COLUMNS, "dones")
            if any(parts)
        }
        self._where = place[count:]
        self._rows = {name: values[count:] for name, values in joined.items()}
        return place[:count], {name: values[:count] for name, values in joined.items()}

    def _read(self, names: list[str]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for name in names:
            with (self._directory / name).open(encoding="utf-8") as stream:
                for number, line in enumerate(stream, start=1):
                    where = f"{name}:{number}"
                    rows = self._parse(where, line)
                    if rows is None:
                        return
                    yield where, rows

    def _parse(self, where: str, line: str) -> dict[str, np.ndarray] | None:
        """Read a line; None where it is not one whole episode."""
        try:
            content = json.loads(line)
            rows: dict[str, np.ndarray] = {
                name: np.array(content[name], dtype=kind)
                for name, kind in (*COLUMNS.items(), ("dones", bool))
            }
            lengths = {len(values) for values in rows.values()}
            for name, values in rows.items():
                width = (self._state_size,) if name in ("obs", "new_obs") else ()
                if values.shape[1:] != width:
                    raise ValueError(f"'{name}' is of shape {values.shape}")
        except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            self._fail(f"{where}: cannot be read ({reason}); expected a SampleBatch of an episode")
            return None
        if len(lengths) != 1 or len(set(rows["eps_id"].tolist())) != 1 or rows["t"][0] != 0:
            self._fail(f"{where}: holds parts of episodes; expected one whole episode a line")
            return None
        return rows

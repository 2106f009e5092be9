"""What a run tells while it trains: tables that anyone may read, and that a kill leaves readable.

``progress.csv`` has a line per iteration. ``validation.csv`` has one per policy that was validated:
what it is worth in sessions with training users, see ``evaluation.validation``. A checkpoint holds
both as they were, so that a resumed run goes on with them.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

from noetik_rllib.errors import UserError
from noetik_rllib.io import atomic_path

PROGRESS_NAME = "progress.csv"
VALIDATION_NAME = "validation.csv"
#: Columns of ``progress.csv`` that tell the time; the others are equal where seed and data are.
CLOCKS = ("seconds", "rows_per_second", "data_wait_share")
#: What the names of a policy's figures in validation begin with, wherever they stand beside others.
VALIDATION_PREFIX = "validation/"

Row = dict[str, float]


def read_rows(path: Path) -> list[Row]:
    """Read a table; numbers without a point are whole, so that it is written again as it was.

    Raises:
        UserError: missing or damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if not text.endswith("\n"):
            raise ValueError("its last line is cut off")
        rows = csv.DictReader(text.splitlines())
        return [{k: int(v) if v.isdecimal() else float(v) for k, v in row.items()} for row in rows]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())}") from None


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write a table, whole or not at all; no file where there are no rows yet."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    with atomic_path(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def append_row(path: Path, row: Row) -> None:
    """Add a line to a table, so that a running training can be watched."""
    if not path.exists():
        write_rows(path, [row])
        return
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, fieldnames=list(row)).writerow(row)


@dataclass
class Progress:
    """Both tables.

    Attributes:
        iterations: a row per iteration; docs/iql.md explains the names.
        validations: a row per validated policy: ``iteration``, and a mean per recommended video of
            each of ``evaluation.result.METRICS``.
    """

    iterations: list[Row] = field(default_factory=list)
    validations: list[Row] = field(default_factory=list)

    @classmethod
    def read(cls, directory: Path) -> Progress:
        """Read what a checkpoint holds.

        Raises:
            UserError: a table is damaged, or that of the iterations is missing.
        """
        return cls(read_rows(directory / PROGRESS_NAME), read_validations(directory))

    def write(self, directory: Path) -> None:
        """Write both tables, each whole or not at all, in place of what was there."""
        write_rows(directory / PROGRESS_NAME, self.iterations)
        write_rows(directory / VALIDATION_NAME, self.validations)


def read_validations(directory: Path) -> list[Row]:
    """Read ``directory/validation.csv``; a run that does not validate has none.

    Raises:
        UserError: it is damaged.
    """
    path = directory / VALIDATION_NAME
    return read_rows(path) if path.exists() else []

"""One CSV file into one Arrow table, strictly: a value that does not fit is named by its line."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from noetik_rllib.errors import UserError, did_you_mean

#: Bytes parsed at a time: fewer, larger blocks keep both cores busy with parsing.
_BLOCK_BYTES = 8 << 20
_LONE_RETURN = "a carriage return without a line feed: save the file with Unix line ends"
_WHOLE = re.compile(r"-?\d{1,19}")
_DECIMAL = re.compile(r"-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Column:
    """What a column must hold.

    Attributes:
        name: as in the file's first line.
        kind: whole numbers, decimal numbers or text.
        low, high: lowest and highest value of a number; None where any is fine.
        blank: whether a field may be empty.
    """

    name: str
    kind: Literal["whole", "decimal", "text"]
    low: float | None = None
    high: float | None = None
    blank: bool = False

    @property
    def arrow_type(self) -> pa.DataType:
        """The narrowest type that holds the range."""
        if self.kind == "text":
            return pa.dictionary(pa.int32(), pa.string())  # few distinct texts over many rows
        if self.kind == "decimal":
            return pa.float64()
        if self.low is not None and self.high is not None:
            for kind, top in ((pa.int8(), 2**7), (pa.int32(), 2**31)):
                if -top <= self.low and self.high < top:
                    return kind
        return pa.int64()

    def complaint(self, text: str) -> str | None:
        """Say what is wrong with a field, or None."""
        if text == "":
            return None if self.blank else f"is blank; expected {self._expected()}"
        if self.kind == "text":
            return None
        if not (_WHOLE if self.kind == "whole" else _DECIMAL).fullmatch(text):
            return f"is '{text[:40]}'; expected {self._expected()}"
        value = int(text) if self.kind == "whole" else float(text)
        if self.is_beyond(value) or not -(2**63) <= value < 2**63:
            return f"is {text}; expected {self._expected()}"
        return None

    def is_beyond(self, value: float | None) -> bool:
        """Whether a number is out of range; a blank (None) is not."""
        if value is None:
            return False
        too_low = self.low is not None and value < self.low
        return too_low or (self.high is not None and value > self.high)

    def _expected(self) -> str:
        noun = {"whole": "a whole number", "decimal": "a number", "text": "a text"}[self.kind]
        low, high = self.low, self.high
        if low is None and high is None:
            return noun
        if high is None:
            return f"{noun} of at least {low:g}"
        if low is None:
            return f"{noun} of at most {high:g}"
        return f"{noun} from {low:.0f} to {high:.0f}"


def distinct(column: pa.ChunkedArray) -> list[str]:
    """Return the distinct texts of a text column whose chunks share one dictionary."""
    return column.chunk(0).dictionary.to_pylist() if column.num_chunks else []


class CsvFile:
    """A CSV file with a header line.

    Args:
        path: the file.
        columns: what is read of it.
        exact: whether the file must have these columns only, and end with a line's end; a
            published layout is held to that.

    Raises:
        UserError: unreadable, empty, not text, or a column is missing, repeated or not known.
    """

    def __init__(self, path: Path, columns: Sequence[Column], *, exact: bool = False) -> None:
        self.path = path
        self.columns = {column.name: column for column in columns}
        self.exact = exact
        try:
            with path.open("rb") as stream:
                first = stream.readline(1 << 20)
                size = stream.seek(0, io.SEEK_END)
                stream.seek(max(0, size - 1))
                last = stream.read(1)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        if not size:
            raise UserError(f"{path} is empty: expected a line of column names, then rows")
        self.size = size
        self.header = self._header(first)
        for name in self.columns:
            if self.header.count(name) != 1:
                found = "is missing" if name not in self.header else "stands there twice"
                guess = did_you_mean(name, self.header) if name not in self.header else ""
                raise UserError(f"{path}:1: column '{name}' {found} in the first line.{guess}")
        if exact:
            for name in self.header:
                if name not in self.columns:
                    guess = did_you_mean(name, self.columns)
                    raise UserError(f"{path}:1: column '{name}' is not of this layout.{guess}")
            if last != b"\n":
                self._explain_cut()

    def _header(self, first: bytes) -> list[str]:
        if b"\0" in first:
            raise UserError(f"{self.path}:1: NUL bytes in the first line: not a text file")
        try:
            text = first.decode("utf-8-sig")  # some tools put a byte order mark first
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.path}:1: not UTF-8 at byte {error.start + 1}: save the file as UTF-8"
            ) from None
        text = text.rstrip("\r\n")
        if "\r" in text:
            raise UserError(f"{self.path}:1: {_LONE_RETURN}")
        return next(csv.reader([text]), [])

    def _explain_cut(self) -> NoReturn:
        number, line = 0, b""
        for number, line in enumerate(self._lines(), start=1):  # noqa: B007
            pass
        if b"\0" in line:
            self._explain_line(number, line)
        raise UserError(
            f"{self.path}:{number}: column '{self.header[-1]}': the file ends in the middle of a "
            "line; was it cut? Fetch it again"
        )

    def _options(self) -> dict[str, object]:
        return {
            "read_options": pacsv.ReadOptions(block_size=_BLOCK_BYTES),
            # A blank line counts as a broken one, so that row i stands on line i + 2.
            "parse_options": pacsv.ParseOptions(ignore_empty_lines=False),
            "convert_options": pacsv.ConvertOptions(
                include_columns=list(self.columns),
                column_types={name: c.arrow_type for name, c in self.columns.items()},
                strings_can_be_null=True,
                null_values=[""],
            ),
        }

    def read(self) -> pa.Table:
        """Read all rows.

        Raises:
            UserError: a line or a value does not fit; the message names file, line and column.
        """
        try:
            table = pacsv.read_csv(self.path, **self._options()).unify_dictionaries()
        except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
            self._explain(error)
        self._check(table, 0)
        return table

    def batches(self) -> Iterator[tuple[pa.Table, float]]:
        """Yield the rows some megabytes at a time, for files that are larger than memory.

        Beside each table stands the share of the file that has been read.

        Raises:
            UserError: as ``read``, once the rows before have been yielded.
        """
        done = 0
        try:
            with (
                pa.OSFile(str(self.path)) as stream,
                pacsv.open_csv(stream, **self._options()) as reader,
            ):
                for batch in reader:
                    table = pa.Table.from_batches([batch])
                    self._check(table, done)
                    done += len(table)
                    yield table, stream.tell() / self.size
        except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
            self._explain(error)

    def _check(self, table: pa.Table, first_row: int) -> None:
        """Refuse blanks, values out of range and NUL bytes."""
        for name, column in self.columns.items():
            values = table[name]
            if not column.blank and values.null_count:
                row = pc.index(pc.is_null(values), True).as_py()
                self._refuse(name, first_row + row + 2, column.complaint("") or "")
            if column.kind == "text":
                for text in distinct(values):
                    if "\0" in text:
                        row = pc.index(values.cast(pa.string()), text).as_py()
                        self._refuse(name, first_row + row + 2, "holds a NUL byte")
                continue
            if column.kind == "decimal":
                infinite = pc.invert(pc.is_finite(values))
                if pc.any(infinite).as_py():
                    row = pc.index(infinite, True).as_py()
                    complaint = column.complaint(str(values[row].as_py())) or ""
                    self._refuse(name, first_row + row + 2, complaint)
            if column.low is None and column.high is None:
                continue
            bounds = pc.min_max(values)
            if any(column.is_beyond(bounds[end].as_py()) for end in ("min", "max")):
                # Slow, and only after an error: the first line out of range need hold neither.
                pieces = chain.from_iterable(chunk.to_pylist() for chunk in values.chunks)
                row, value = next(
                    (row, value) for row, value in enumerate(pieces) if column.is_beyond(value)
                )
                self._refuse(name, first_row + row + 2, column.complaint(f"{value}") or "")

    def refuse(self, name: str, row: int, complaint: str) -> NoReturn:
        """Raise the UserError that says what is wrong with a value; rows are counted from 0."""
        self._refuse(name, row + 2, complaint)

    def _refuse(self, name: str, line: int, complaint: str) -> NoReturn:
        raise UserError(f"{self.path}:{line}: column '{name}' {complaint}")

    def _lines(self) -> Iterator[bytes]:
        with self.path.open("rb") as stream:
            yield from stream

    def _explain(self, error: Exception) -> NoReturn:
        """Find the first line that does not fit, and say what is wrong with it.

        Arrow reads in parallel and knows no lines; this second pass is slow, and only after an
        error.
        """
        if isinstance(error, OSError) and not isinstance(error, pa.ArrowException):
            raise UserError(f"{self.path} cannot be read: {error.strerror or error}") from None
        fields = [self._pattern(name) for name in self.header]
        plain = re.compile((",".join(fields) + r"\r?\n?").encode("latin-1"))
        for number, line in enumerate(self._lines(), start=1):
            if number > 1 and not plain.fullmatch(line):
                self._explain_line(number, line)
        reason = str(error).splitlines()[0]
        raise UserError(f"{self.path}: {reason}") from None

    def _pattern(self, name: str) -> str:
        """Return a pattern of fields that are surely fine; other fields are looked at closely."""
        column = self.columns.get(name)
        if column is None or column.kind == "text":
            return r'[^",\r\n\0\x80-\xff]' + ("*" if column is None or column.blank else "+")
        if column.kind == "decimal":
            return r"(-?\d+(\.\d+)?)" + ("?" if column.blank else "")
        digits = {pa.int8(): 2, pa.int32(): 9, pa.int64(): 18}[column.arrow_type]
        return rf"(-?\d{{1,{digits}}})" + ("?" if column.blank else "")

    def _column_at(self, place: int) -> str:
        return self.header[min(place, len(self.header) - 1)]

    def _explain_line(self, number: int, line: bytes) -> None:
        """Raise if this line is what is wrong."""
        if b"\0" in line:
            name = self._column_at(line[: line.index(b"\0")].count(b","))
            self._refuse(name, number, "holds a NUL byte: the file is damaged")
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            name = self._column_at(line[: error.start].count(b","))
            self._refuse(name, number, "is not UTF-8: save the file as UTF-8")
        if not text:
            self._refuse(self.header[0], number, "is missing: the line is blank")
        if "\r" in text:
            name = self._column_at(text[: text.index("\r")].count(","))
            self._refuse(name, number, f"holds {_LONE_RETURN}")
        values = next(csv.reader([text]), [])
        if text.count('"') % 2:
            name = self._column_at(len(values) - 1)
            self._refuse(name, number, "has a quotation mark that is not closed on its line")
        if values == self.header:
            self._refuse(self.header[0], number, "is a second line of column names; remove it")
        if len(values) != len(self.header):
            self._refuse(
                self._column_at(len(values) - 1),
                number,
                f"is the last of {len(values)} on this line; expected {len(self.header)} columns",
            )
        for name, value in zip(self.header, values, strict=True):
            column = self.columns.get(name)
            complaint = column.complaint(value) if column else None
            if complaint:
                self._refuse(name, number, complaint)

"""Every kind of broken content is one line that names file, line and column."""

from __future__ import annotations

import codecs
import csv
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from noetik_rllib.data import csv_table
from noetik_rllib.data.reader import read_source
from noetik_rllib.data.schema import LOG_COLUMNS
from noetik_rllib.errors import UserError
from tests.data.broken import (
    LOG,
    RANDOM,
    USERS,
    VIDEOS,
    Change,
    complaint,
)


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Change:
    return lambda data: b"".join(change(data.splitlines(keepends=True)))


def put(line: int, column: int, value: bytes) -> Change:
    """Put a value into a field; lines are counted from 1, columns from 0."""

    def change(old: list[bytes]) -> list[bytes]:
        texts = next(csv.reader([old[line - 1].decode().rstrip("\n")]))
        fields = [(f'"{text}"' if "," in text else text).encode() for text in texts]
        fields[column] = value
        return [*old[: line - 1], b",".join(fields) + b"\n", *old[line:]]

    return lines(change)


def field(name: str, value: bytes, line: int = 4) -> tuple[str, Change, str]:
    """A broken field of the log, and the place that must be named."""
    place = f"{LOG}:{line}: column '{name}'"
    return LOG, put(line, LOG_COLUMNS.index(name), value), place


def several(name: str, values: dict[int, bytes]) -> tuple[str, Change, str]:
    """Broken fields of one column by line, of which the first must be named with its value."""

    def change(data: bytes) -> bytes:
        for line, value in values.items():
            data = put(line, LOG_COLUMNS.index(name), value)(data)
        return data

    first = min(values)
    return LOG, change, f"{LOG}:{first}: column '{name}' is {values[first].decode()}; expected"


def header(old: bytes, new: bytes) -> Change:
    return lines(lambda rows: [rows[0].replace(old, new), *rows[1:]])


def cut_number(data: bytes) -> bytes:
    """Cut the file within the last line's play time."""
    last = data.rstrip(b"\n").rfind(b"\n") + 1
    fields = data[last:].split(b",")
    return data[:last] + b",".join(fields[:12]) + b"," + fields[12][:1]


def backwards(data: bytes) -> bytes:
    """Exchange the times of two neighbouring rows of the user with most rows."""
    rows = [line.split(b",") for line in data.splitlines()]
    pair = next(
        place
        for place in range(1, len(rows) - 1)
        if rows[place][0] == rows[place + 1][0] and rows[place][4] < rows[place + 1][4]
    )
    rows[pair][4], rows[pair + 1][4] = rows[pair + 1][4], rows[pair][4]
    return b"".join(b",".join(row) + b"\n" for row in rows)


#: Case -> (file, what happens to its bytes, what the line must say).
CONTENT: dict[str, tuple[str, Change, str]] = {
    "missing column": (
        LOG,
        lines(lambda rows: [row.rsplit(b",", 1)[0] + b"\n" for row in rows]),
        f"{LOG}:1: column 'tab' is missing",
    ),
    "renamed column": (
        LOG,
        header(b"is_click", b"is_clck"),
        f"{LOG}:1: column 'is_click' is missing in the first line. Did you mean 'is_clck'?",
    ),
    "extra column": (
        LOG,
        lines(lambda rows: [row.rstrip(b"\n") + b",mood\n" for row in rows]),
        f"{LOG}:1: column 'mood' is not of this layout",
    ),
    "column twice": (
        LOG,
        header(b"is_like", b"is_click"),
        f"{LOG}:1: column 'is_click' stands there twice",
    ),
    "columns of the features renamed": (
        USERS,
        header(b"register_days,", b"days,"),
        f"{USERS}:1: column 'register_days' is missing",
    ),
    "text in a number": field("time_ms", b"yesterday"),
    "decimals in whole numbers": field("play_time_ms", b"12.5"),
    "an exponent": field("play_time_ms", b"1e3"),
    "spaces": field("duration_ms", b" "),
    "truncated line": (
        LOG,
        lines(lambda rows: [*rows[:7], b"1,2,3\n", *rows[8:]]),
        f"{LOG}:8: column 'date' is the last of 3 on this line; expected 19 columns",
    ),
    "cut in mid-number": (LOG, cut_number, "column 'tab': the file ends in the middle of a line"),
    "cut after the last number": (
        LOG,
        lambda data: data.rstrip(b"\n"),
        "column 'tab': the file ends in the middle of a line",
    ),
    "too many fields": (
        LOG,
        lines(lambda rows: [*rows[:7], rows[7].rstrip(b"\n") + b",1\n", *rows[8:]]),
        f"{LOG}:8: column 'tab' is the last of 20 on this line",
    ),
    "empty file": (LOG, lambda data: b"", f"{LOG} is empty"),
    "empty features": (VIDEOS, lambda data: b"", f"{VIDEOS} is empty"),
    "one line's end": (LOG, lambda data: b"\n", f"{LOG}:1: column 'user_id' is missing"),
    "no header": (LOG, lines(lambda rows: rows[1:]), f"{LOG}:1: column 'user_id' is missing"),
    "header in mid-file": (
        LOG,
        lines(lambda rows: [*rows[:9], rows[0], *rows[9:]]),
        f"{LOG}:10: column 'user_id' is a second line of column names",
    ),
    "NUL bytes in the header": (LOG, header(b"tab", b"t\0b"), f"{LOG}:1: NUL bytes"),
    "NUL bytes in the log": field("duration_ms", b"\0\0"),
    "NUL bytes at the end": (LOG, lambda data: data + b"\0" * 512, "holds a NUL byte"),
    "NUL bytes in features": (
        USERS,
        put(3, 1, b"full\0active"),
        f"{USERS}:3: column 'user_active_degree' holds a NUL byte",
    ),
    "Latin-1": (
        USERS,
        put(3, 1, b"\xe9t\xe9"),
        f"{USERS}:3: column 'user_active_degree' is not UTF",
    ),
    "Latin-1 in the header": (LOG, header(b"tab", b"\xe9t"), f"{LOG}:1: not UTF-8"),
    "UTF-16": (LOG, lambda data: data.decode().encode("utf-16"), f"{LOG}:1: "),
    "unclosed quote": field("is_like", b'"0'),
    "quote in a tag": (VIDEOS, put(5, 11, b'"39'), f"{VIDEOS}:5: column 'tag'"),
    "blank line": (
        LOG,
        lines(lambda rows: [*rows[:5], b"\n", *rows[5:]]),
        f"{LOG}:6: column 'user_id' is blank",
    ),
    "blank value": field("play_time_ms", b""),
    "blank last value": field("tab", b""),
    "negative id": field("user_id", b"-1"),
    "id out of range": field("video_id", b"549755813889"),
    "id beyond int64": field("user_id", b"9" * 25),
    "flag of 2": field("is_click", b"2"),
    "tab of 15": field("tab", b"15"),
    "time in seconds": field("time_ms", b"1650882384"),
    "time in microseconds": field("time_ms", b"1650882384000000"),
    "time going backwards": (LOG, backwards, "column 'time_ms' goes backwards"),
    "negative duration": field("duration_ms", b"-1"),
    "play time of two days": field("play_time_ms", b"172800000"),
    "play time beyond int32": field("play_time_ms", b"99999999999"),
    "no date": field("date", b"2022-04-10"),
    "date of another order": field("date", b"10042022"),
    "an hour of 25": field("hourmin", b"2500"),
    "the first of several out of range": several("hourmin", {9: b"-2", 5: b"2400", 7: b"9999"}),
    "the first of several above": several("hourmin", {6: b"2400", 8: b"9999"}),
    "the first of several below": several("hourmin", {6: b"-1", 8: b"-2"}),
    "random row in a standard log": field("is_rand", b"1"),
    "standard row in a random log": (
        RANDOM,
        put(6, 17, b"0"),
        f"{RANDOM}:6: column 'is_rand' is 0; expected 1",
    ),
    "user twice": (
        USERS,
        lines(lambda rows: [*rows, rows[1]]),
        "column 'user_id' is 0, which stands there twice",
    ),
    "video twice": (
        VIDEOS,
        lines(lambda rows: [*rows, rows[5]]),
        "column 'video_id' is 4, which stands there twice",
    ),
    "blank id": (USERS, put(2, 0, b""), f"{USERS}:2: column 'user_id' is blank"),
    "fractional id": (
        VIDEOS,
        put(4, 0, b"2.5"),
        f"{VIDEOS}:4: column 'video_id' is '2.5'; expected a whole number",
    ),
    "id that is not a number": (VIDEOS, put(4, 0, b"nan"), f"{VIDEOS}:4: column 'video_id' is "),
    "infinite feature": (USERS, put(4, 5, b"inf"), f"{USERS}:4: column 'follow_user_num' is "),
    "tag of letters": (VIDEOS, put(2, 11, b"cats"), f"{VIDEOS}:2: column 'tag' is 'cats'"),
    "six tags": (VIDEOS, put(2, 11, b'"1,2,3,4,5,6"'), f"{VIDEOS}:2: column 'tag' is '1,2,3,4,"),
    "a gz file": (LOG, gzip.compress, f"{LOG}:1: "),
    "semicolons": (LOG, lambda data: data.replace(b",", b";"), f"{LOG}:1: column 'user_id' is"),
    "tabs": (USERS, lambda data: data.replace(b",", b"\t"), f"{USERS}:1: column 'user_id' is"),
    "a Parquet file": (LOG, lambda data: b"PAR1\x15\x04" + bytes(90) + b"PAR1", f"{LOG}:1: NUL"),
    "old Macintosh line ends": (
        LOG,
        lambda data: data.replace(b"\n", b"\r"),
        f"{LOG}:1: a carriage",
    ),
}


@pytest.mark.parametrize("case", CONTENT)
def test_broken_content_is_named(
    case: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if a broken file is read as if whole, ends in a traceback or leaves something."""
    name, change, message = CONTENT[case]
    path = world / "data" / name
    data = path.read_bytes()
    path.write_bytes(change(data))
    assert path.read_bytes() != data
    said = complaint(["data", "prepare", "--source", world, "--out", world / "set"], capsys)
    assert message in said
    assert name in said
    assert sorted(entry.name for entry in world.iterdir()) == ["data", "world.json"]


@pytest.mark.parametrize("case", CONTENT)
def test_a_large_file_is_refused_in_the_same_words(
    case: str, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a log that is read piece by piece is held to less, or its lines are miscounted."""
    name, change, _ = CONTENT[case]
    path = world / "data" / name
    path.write_bytes(change(path.read_bytes()))
    said = []
    for shard_bytes, block in ((1 << 30, 8 << 20), (100_000, 8_192)):
        monkeypatch.setattr(csv_table, "_BLOCK_BYTES", block)
        with pytest.raises(UserError) as caught:
            read_source(world, spill_folder=world / "spill", shard_bytes=shard_bytes)
        said.append(str(caught.value))
    assert said[0] == said[1]


#: Other ways to write the same rows.
HARMLESS: dict[str, Change] = {
    "Windows line ends": lambda data: data.replace(b"\n", b"\r\n"),
    "a byte order mark": lambda data: codecs.BOM_UTF8 + data,
    "both": lambda data: codecs.BOM_UTF8 + data.replace(b"\n", b"\r\n"),
    "quotes around the names": lines(
        lambda rows: [b'"' + rows[0].strip().replace(b",", b'","') + b'"\n', *rows[1:]]
    ),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_other_ways_to_write_the_same_rows_are_read(
    case: str, world: Path, tiny_world: Path
) -> None:
    """Fails if a file that an office program has saved is refused, or read as something else."""
    for path in (world / "data").glob("*.csv"):
        path.write_bytes(HARMLESS[case](path.read_bytes()))
    read, expected = read_source(world), read_source(tiny_world)
    for name, values in vars(expected.log).items():
        np.testing.assert_array_equal(getattr(read.log, name), values, err_msg=name)
    assert read.users == expected.users
    assert read.items == expected.items
    assert read.repairs == expected.repairs

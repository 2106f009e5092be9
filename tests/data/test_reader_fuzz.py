"""Reading logs that nobody thought of: mutated ones, and random ones against a plain reference."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noetik_rllib.data import csv_table
from noetik_rllib.data.interactions import InteractionLog
from noetik_rllib.data.reader import Source, read_source
from noetik_rllib.data.schema import LOG_COLUMNS
from noetik_rllib.data.signals import BINARY_COLUMNS, SIGNALS
from noetik_rllib.errors import UserError
from noetik_rllib.offline.dataset import COLUMNS, OfflineDataset
from noetik_rllib.offline.prepare_config import PrepareConfig
from noetik_rllib.offline.split import PARTS
from noetik_rllib.offline.verify import verify
from noetik_rllib.offline.writer import prepare
from tests.data.broken import LOG, RANDOM, USERS, VIDEOS

#: Bytes that mean something in a CSV file, and some that should not be there.
BYTES = st.sampled_from([bytes([byte]) for byte in b'\0\n\r",.-019eN\x80\xff '])


@pytest.fixture(scope="module")
def small(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the first lines of the tiny world's files."""
    folder = tmp_path_factory.mktemp("small")
    for name in (LOG, RANDOM, VIDEOS, USERS):
        rows = (tiny_world / "data" / name).read_bytes().splitlines(keepends=True)
        (folder / name).write_bytes(b"".join(rows[:20]))
    return folder


@st.composite
def mutations(draw: st.DrawFn, data: bytes) -> bytes:
    """Mutate bytes and lines of a file, up to four times."""
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["change", "insert", "delete", "cut", "shuffle", "repeat"]))
        if kind == "change":
            data = data[:place] + draw(BYTES) + data[place + 1 :]
        elif kind == "insert":
            data = data[:place] + draw(BYTES) * draw(st.integers(1, 30)) + data[place:]
        elif kind == "delete":
            data = data[:place] + data[place + draw(st.integers(1, 30)) :]
        elif kind == "cut":
            data = data[:place]
        else:
            lines = data.splitlines(keepends=True)
            if kind == "shuffle":
                lines = draw(st.permutations(lines))
            elif lines:
                lines = [*lines, draw(st.sampled_from(lines))]
            data = b"".join(lines)
    return data


def assert_clean(log: InteractionLog) -> None:
    """Assert what every other module takes for granted of a log."""
    order = np.lexsort((log.time_ms, log.user_id))
    np.testing.assert_array_equal(order, np.arange(len(log)))
    assert np.isfinite(log.signals).all()
    assert ((log.signals >= 0) & (log.signals <= 1)).all()
    assert np.isin(log.signals[:, BINARY_COLUMNS], (0, 1)).all()
    assert ((log.tab >= 0) & (log.tab < 15)).all()
    for values in (log.user_id, log.video_id, log.play_time_ms, log.duration_ms):
        assert (values >= 0).all()


@settings(max_examples=300)
@given(st.data())
def test_a_mutated_file_is_refused_in_one_line_or_read_cleanly(
    small: Path, data: st.DataObject
) -> None:
    """Fails if some damage crashes the reader or reaches the log."""
    path = small / data.draw(st.sampled_from([LOG, LOG, RANDOM, VIDEOS, USERS]))
    original = path.read_bytes()
    path.write_bytes(data.draw(mutations(original)))
    refusal = ""
    try:
        assert_clean(read_source(small).log)
    except UserError as error:
        refusal = str(error)
    finally:
        path.write_bytes(original)
    assert "\n" not in refusal
    assert path.name in refusal or not refusal


Row = tuple[int, ...]


@dataclass
class Files:
    """Rows in the order of each file."""

    standard: list[Row]
    random: list[Row]

    def write(self, folder: Path) -> None:
        for name, rows in ((LOG, self.standard), (RANDOM, self.random)):
            lines = [",".join(map(str, row)) for row in rows]
            (folder / name).write_text("\n".join([",".join(LOG_COLUMNS), *lines]) + "\n")


@st.composite
def files(draw: st.DrawFn) -> Files:
    """A standard file of two sorted runs and a random file, with duplicates and shared requests."""

    def row(user: int, is_random: int) -> Row:
        time_ms = 1_650_000_000_000 + draw(
            st.sampled_from([0, 0, 1, 60_000, 9_000_000, 80_000_000])
        )
        day = 20220415 + draw(st.integers(0, 1))  # 05:20 on 2022-04-15 in UTC; UTC+8 is ahead
        flags = draw(st.lists(st.integers(0, 1), min_size=6, max_size=6))
        play, duration = draw(st.sampled_from([(-8, 0), (0, 0), (5, 0), (500, 1000), (9000, 1000)]))
        video = draw(st.integers(0, 2))
        tail = (draw(st.integers(0, 1)), play, duration, 0, 0, draw(st.integers(0, 1)))
        return (user, video, day, 500, time_ms, *flags, *tail, is_random, draw(st.integers(0, 1)))

    def run(is_random: int) -> list[Row]:
        # The lowest and the highest user are in every run, so that a run's end can be seen.
        users = [0, *draw(st.lists(st.integers(0, 4), max_size=12)), 4]
        rows = [row(user, is_random) for user in users]
        for repeated in draw(st.lists(st.sampled_from(rows), max_size=4)):
            rows.insert(draw(st.integers(0, len(rows))), repeated)
        return sorted(rows, key=lambda r: (r[0], r[4]))

    return Files(standard=run(0) + run(0), random=run(1))


def reference(written: Files) -> tuple[list[Row], Counter[str]]:
    """Read the files the plain way: sort, drop repeated rows, mend, count."""
    repairs = Counter(sorted_runs_merged=1)
    ordered = sorted(written.standard + written.random, key=lambda r: (r[0], r[4]))
    rows: list[Row] = []
    for row in ordered:
        if row in rows:
            repairs["duplicate_rows_dropped"] += 1
            continue
        rows.append(row)
        local = datetime.fromtimestamp(row[4] / 1000 + 8 * 3600, tz=timezone.utc)
        repairs["rows_dated_a_day_ahead"] += row[2] > int(f"{local:%Y%m%d}")
        repairs["negative_play_time_set_to_0"] += row[12] < 0
        repairs["unknown_duration_rows"] += row[13] == 0
    return rows, repairs


def expected_signals(row: Row) -> list[float]:
    place = {
        name: LOG_COLUMNS.index(f"is_{name}") for name in SIGNALS if f"is_{name}" in LOG_COLUMNS
    }
    place |= {"long_view": LOG_COLUMNS.index("long_view")}
    watched = min(1.0, max(row[12], 0) / (row[13] or 18_000))
    return [watched if name == "watch_ratio" else row[place[name]] for name in SIGNALS]


@settings(max_examples=100)
@given(files())
def test_reading_is_what_a_plain_reference_does(small: Path, written: Files) -> None:
    """Fails if rows are lost, kept twice, put in another order within a request, or misread."""
    folder = small / "reference"
    shutil.copytree(small, folder, dirs_exist_ok=True)
    try:
        written.write(folder)
        read = read_source(folder)
    finally:
        shutil.rmtree(folder)
    rows, repairs = reference(written)
    log = read.log
    names = ("user_id", "video_id", "time_ms", "duration_ms", "tab")
    for name in names:
        column = LOG_COLUMNS.index(name)
        assert getattr(log, name).tolist() == [row[column] for row in rows], name
    assert log.play_time_ms.tolist() == [max(row[12], 0) for row in rows]
    assert log.is_random.tolist() == [bool(row[17]) for row in rows]
    np.testing.assert_allclose(log.signals, [expected_signals(row) for row in rows], rtol=1e-6)
    assert {name: repairs[name] for name in read.repairs} == read.repairs


def joined(read: Source) -> dict[str, np.ndarray]:
    shards = list(read.logs)
    return {
        name: np.concatenate([getattr(log, name) for log in shards]) for name in vars(shards[0])
    }


@settings(max_examples=40)
@given(written=files(), shards=st.integers(2, 7), with_users=st.booleans())
def test_reading_in_shards_gives_the_same_log(
    small: Path, written: Files, shards: int, with_users: bool
) -> None:
    """Fails if a log that is larger than memory is read as another one."""
    folder = small / "shards"
    shutil.copytree(small, folder, dirs_exist_ok=True)
    try:
        written.write(folder)
        if not with_users:  # the borders of the shards then come from the log itself
            (folder / USERS).write_text((folder / USERS).read_text().splitlines()[0] + "\n")
        whole = read_source(folder)
        size = sum(path.stat().st_size for path in folder.glob("log_*.csv"))
        parted = read_source(folder, spill_folder=folder / "spill", shard_bytes=size // shards)
        users = [set(log.user_id.tolist()) for log in parted.logs]
        rows = joined(parted)
        parted.logs.remove()
        assert not (folder / "spill").exists()
    finally:
        shutil.rmtree(folder)
    assert sum(map(len, users)) == len(set.union(*users)), "a user's rows are in two shards"
    for name, values in vars(whole.log).items():
        np.testing.assert_array_equal(rows[name], values, err_msg=name)
    assert {**whole.repairs, "sorted_runs_merged": 0} == {**parted.repairs, "sorted_runs_merged": 0}
    assert whole.sources == parted.sources


@pytest.mark.parametrize("block", [4_096, 100_000])
def test_preparing_in_shards_gives_the_same_dataset(
    block: int, tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the rows, users or videos of a dataset depend on how much memory there was."""
    monkeypatch.setattr(csv_table, "_BLOCK_BYTES", block)
    whole = prepare(tiny_world, tmp_path / "whole")
    parted = prepare(tiny_world, tmp_path / "parted", PrepareConfig(shard_bytes=50_000))
    assert verify(tmp_path / "parted").lines == []
    first, second = OfflineDataset(tmp_path / "whole"), OfflineDataset(tmp_path / "parted")
    for part in PARTS:
        rows, others = first.load(part, COLUMNS), second.load(part, COLUMNS)
        for name in COLUMNS:
            np.testing.assert_array_equal(rows[name], others[name], err_msg=f"{part} {name}")
    # Only where row groups end, and the last bits of sums in another order, may differ.
    moments = [
        np.array([*m.signals.mean, *np.ravel(m.signals.covariance)]) for m in (whole, parted)
    ]
    np.testing.assert_allclose(*moments, rtol=1e-9, atol=1e-15)
    tables = ("catalog.parquet", "users.parquet")
    assert [whole.files[name] for name in tables] == [parted.files[name] for name in tables]
    assert whole == parted.model_copy(update={"signals": whole.signals, "files": whole.files})

"""A state must not know anything that happened at or after its request."""

from __future__ import annotations

import csv
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetik_rllib.data.interactions import InteractionLog
from noetik_rllib.data.mapping import Mapping
from noetik_rllib.data.reader import read_source
from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.offline.dataset import COLUMNS, OfflineDataset
from noetik_rllib.offline.history import HistoryIndex
from noetik_rllib.offline.prepare_config import PrepareConfig
from noetik_rllib.offline.split import PARTS, TRAIN, Split, part_of, user_split_times
from noetik_rllib.offline.writer import prepare
from noetik_rllib.state import AGE, StateLayout

LAYOUT = StateLayout(history_length=5)


@st.composite
def logs(draw: st.DrawFn) -> InteractionLog:
    """Small logs of up to 3 users in which several rows often share a request."""
    n = draw(st.integers(1, 30))
    user = np.sort(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    # Steps of 0 make requests of several rows; 40 minutes make sessions.
    steps = draw(st.lists(st.sampled_from([0, 0, 1, 60, 2400]), min_size=n, max_size=n))
    time_ms = 1_650_000_000_000 + 1000 * np.cumsum(steps)
    seed = draw(st.integers(0, 2**32 - 1))
    signals = np.random.default_rng(seed).integers(0, 2, (n, len(SIGNALS))).astype(np.float32)
    zeros = np.zeros(n, dtype=np.int64)
    return InteractionLog(
        user_id=user.astype(np.int64),
        video_id=np.arange(n),
        time_ms=time_ms,
        play_time_ms=zeros,
        duration_ms=zeros + 1000,
        tab=zeros,
        is_random=zeros.astype(bool),
        signals=signals,
    )


def index_of(log: InteractionLog) -> HistoryIndex:
    return HistoryIndex(
        layout=LAYOUT,
        log=log,
        user_row=log.user_id,
        user_features=np.zeros((3, 32), dtype=np.float32),
        video_index=log.video_id,
        signal_means=np.full(len(SIGNALS), 0.5),
    )


@given(logs())
def test_history_is_exactly_the_users_strictly_earlier_events(log: InteractionLog) -> None:
    """Fails if an event of the same request, a later one or another user's enters a state."""
    index = index_of(log)
    rows = np.arange(len(log))
    parts = LAYOUT.unpack(index.states(index.before(rows)))
    for row in rows:
        earlier = (log.user_id == log.user_id[row]) & (log.time_ms < log.time_ms[row])
        expected = np.flatnonzero(earlier)[::-1][: LAYOUT.history_length]
        found = parts.video_index[row][parts.present[row]]
        assert found.tolist() == log.video_id[expected].tolist()
        ages = np.expm1(parts.events[row, : len(expected), AGE])
        np.testing.assert_allclose(
            ages, (log.time_ms[row] - log.time_ms[expected]) / 1000, rtol=1e-5
        )
        count = np.expm1(parts.context[row, 28])
        np.testing.assert_allclose(count, earlier.sum(), atol=1e-3)


@given(logs(), st.data())
def test_changing_an_event_changes_no_state_up_to_it(
    log: InteractionLog, data: st.DataObject
) -> None:
    """Fails if any feature of a state depends on the answers of its own or of later requests."""
    changed = data.draw(st.integers(0, len(log) - 1))
    signals = log.signals.copy()
    same_or_later = (log.user_id == log.user_id[changed]) & (log.time_ms >= log.time_ms[changed])
    signals[same_or_later] = 1 - signals[same_or_later]
    poisoned = InteractionLog(**{**vars(log), "signals": signals})
    safe = np.flatnonzero(log.time_ms <= log.time_ms[changed])
    safe = safe[log.user_id[safe] == log.user_id[changed]]
    before, after = index_of(log), index_of(poisoned)
    np.testing.assert_array_equal(
        before.states(before.before(safe)), after.states(after.before(safe))
    )


@given(logs())
def test_the_split_cuts_each_users_last_fifth_between_requests(log: InteractionLog) -> None:
    """Fails if a request is cut, a test row precedes a training row, or the share is another."""
    split = user_split_times(log.user_id, log.time_ms, log.is_random, 3)
    part = part_of(log.user_id, log.time_ms, log.is_random, split, np.zeros(3, dtype=bool))
    for user in np.unique(log.user_id):
        mine = log.user_id == user
        train = mine & (part == TRAIN)
        test = mine & (part != TRAIN)
        if train.any() and test.any():
            assert log.time_ms[train].max() < log.time_ms[test].min()
        # To the nearest row, and the whole of the request in which the cut falls.
        cut = np.floor(0.8 * mine.sum() + 0.5)
        assert train.sum() >= cut
        last = log.time_ms[train].max()
        assert train.sum() - (log.time_ms[mine] == last).sum() < cut


@given(logs(), st.data())
def test_test_rows_at_another_time_move_no_row_to_another_part(
    log: InteractionLog, data: st.DataObject
) -> None:
    """Fails if when users did something after the split decides which rows are trained on."""
    nobody = np.zeros(3, dtype=bool)
    split = user_split_times(log.user_id, log.time_ms, log.is_random, 3)
    part = part_of(log.user_id, log.time_ms, log.is_random, split, nobody)
    late = part == PARTS.index("test")
    # Each by an amount of its own, in the same order: what was one request may be several.
    steps = data.draw(st.lists(st.integers(0, 10**6), min_size=len(log), max_size=len(log)))
    time_ms = log.time_ms + late * np.cumsum(steps)
    again = user_split_times(log.user_id, time_ms, log.is_random, 3)
    moved = part_of(log.user_id, time_ms, log.is_random, again, nobody)
    np.testing.assert_array_equal(part == TRAIN, moved == TRAIN)


def _digests(folder: Path, names: list[str]) -> dict[str, str]:
    files = [path for name in names for path in sorted((folder / name).rglob("*.parquet"))]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def poison(world: Path, split_ms: dict[int, int], *, origin: bool = False) -> None:
    """Overwrite every outcome at or after its user's split time in all logs of a world.

    ``origin``: what was shown, and when, too.
    """
    moved: dict[tuple[str, ...], int] = {}  # a row and its duplicate come together
    for path in (world / "data").glob("log_*.csv"):
        with path.open(newline="") as stream:
            header, *rows = list(csv.reader(stream))
        time_column = header.index("time_ms")
        for row in rows:
            original = list(row)
            if int(row[time_column]) >= split_ms[int(row[0])]:
                for place, name in enumerate(header):
                    if name == "long_view" or (name.startswith("is_") and name != "is_rand"):
                        row[place] = "1"
                row[header.index("play_time_ms")] = "999999"
                row[header.index("tab")] = "7"
                if origin:
                    # Other videos: unknown ones, but of the pool where that was drawn from.
                    drawn = row[header.index("is_rand")] == "1"
                    row[1] = str((int(row[1]) + 1) % 80 if drawn else 50_000_000 + int(row[1]))
                    later = 6 * 3_600_000 + moved.setdefault(tuple(original), 7 * len(moved))
                    row[time_column] = str(int(row[time_column]) + later)
        with path.open("w", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([header, *rows])


@pytest.mark.parametrize("origin", [False, True])
@pytest.mark.parametrize("split", ["user", "time"])
def test_poisoning_the_test_rows_changes_nothing_that_was_trained_on(
    split: Split, origin: bool, tiny_world: Path, tmp_path: Path
) -> None:
    """Fails if a training row, statistic, vocabulary or feature looks past the split."""
    poisoned = tmp_path / "world"
    shutil.copytree(tiny_world, poisoned)
    config = PrepareConfig(split=split, random_in_train=True)
    clean = prepare(tiny_world, tmp_path / "clean", config)
    users = OfflineDataset(tmp_path / "clean").users
    split_ms = dict(zip(users.user_id.tolist(), users.split_ms.tolist(), strict=True))
    poison(poisoned, split_ms, origin=origin)
    manifest = prepare(poisoned, tmp_path / "dataset", config)

    names = ["train", "judge"]
    assert _digests(tmp_path / "dataset", names) == _digests(tmp_path / "clean", names)
    written, expected = (OfflineDataset(tmp_path / name) for name in ("dataset", "clean"))
    for name, values in vars(expected.users).items():
        np.testing.assert_array_equal(getattr(written.users, name), values, err_msg=name)
    for name, values in vars(expected.catalog).items():
        # Videos that test rows alone know stand behind the others.
        known = getattr(written.catalog, name)[: len(expected.catalog)]
        np.testing.assert_array_equal(known, values, err_msg=name)
    assert (len(written.catalog) > len(expected.catalog)) == origin
    fitted = (
        *("signals", "vocabulary", "user_numeric", "video_duration"),
        *("split_time_ms", "random_pool"),
    )
    for name in fitted:
        assert getattr(manifest, name) == getattr(clean, name), name
    # The poison did arrive: otherwise the equalities above would prove nothing.
    test = OfflineDataset(tmp_path / "dataset").load("test", ["click"])
    assert test["click"].all()


@pytest.mark.parametrize("latest_first", [False, True])
def test_new_names_in_test_rows_change_nothing_that_was_trained_on(
    latest_first: bool, tmp_path: Path
) -> None:
    """Fails if texts are numbered by who came first, later rows among them."""
    mapping = Mapping.model_validate(
        {
            "name": "names",
            "log": {
                "standard": ["log.csv"],
                "user": "person",
                "item": "thing",
                "text_ids": ["users", "items"],
                "time": {"column": "step", "unit": "step"},
                "signals": {"click": "took"},
            },
        }
    )
    digests = []
    for late in ("thing", "novelty"):
        rows = [
            f"person {p},{late if t >= 16 else 'thing'} {(p + t) % 5},{t},{(p * t) % 2}"
            for t in range(20)
            for p in range(30)
        ]
        source = tmp_path / late
        source.mkdir()
        ordered = rows[::-1] if latest_first else rows
        (source / "log.csv").write_text("\n".join(["person,thing,step,took", *ordered]) + "\n")
        prepare(source, tmp_path / f"{late}-set", mapping=mapping)
        digests.append(_digests(tmp_path / f"{late}-set", ["train", "judge"]))
    assert digests[0] == digests[1]


def test_parts_keep_users_and_time_apart(tiny_dataset: Path) -> None:
    """Fails if a held-out user is trained on, or a training row lies after the split time."""
    dataset = OfflineDataset(tiny_dataset)
    held_out = dataset.users.user_id[dataset.users.held_out]
    rows = {part: dataset.load(part, ["user_id", "time_ms"]) for part in ("train", "judge", "test")}
    assert not np.isin(rows["train"]["user_id"], held_out).any()
    assert np.isin(rows["judge"]["user_id"], held_out).all()
    for part, columns in rows.items():
        early = dataset.before_split(columns["user_id"], columns["time_ms"])
        assert (early == (part != "test")).all()
    total = sum(len(part["time_ms"]) for part in rows.values())
    assert 0.78 < (total - len(rows["test"]["time_ms"])) / total <= 0.81


def test_new_obs_is_the_next_obs_of_the_episode(tiny_dataset: Path) -> None:
    """Fails if a transition leads to another state than the one the log continued from."""
    dataset = OfflineDataset(tiny_dataset)
    for part in ("train", "judge", "test"):
        rows = dataset.load(part, COLUMNS)
        inside = np.flatnonzero(rows["eps_id"][1:] == rows["eps_id"][:-1])
        assert len(inside)
        np.testing.assert_array_equal(rows["new_obs"][inside], rows["obs"][inside + 1])
        assert (rows["t"][inside + 1] == rows["t"][inside] + 1).all()
        ended = rows["terminateds"] | rows["truncateds"]
        last = np.append(rows["eps_id"][1:] != rows["eps_id"][:-1], True)
        np.testing.assert_array_equal(ended, last)
        assert not (rows["terminateds"] & rows["truncateds"]).any()
        assert rows["t"].max() < 10


def test_state_after_an_event_has_it_as_the_newest(tiny_dataset: Path) -> None:
    """Fails if the state at a session's end does not hold the video that was just watched."""
    dataset = OfflineDataset(tiny_dataset)
    rows = dataset.load("train", ["actions", "new_obs", "terminateds"])
    ended = rows["terminateds"]
    assert ended.sum() > 100
    newest = dataset.layout.unpack(rows["new_obs"][ended]).video_index[:, 0]
    np.testing.assert_array_equal(newest, rows["actions"][ended])


def test_history_of_a_random_row_draws_on_both_logs(tiny_world: Path, tiny_dataset: Path) -> None:
    """Fails if a uniformly exposed row forgets what its user saw in the standard log."""
    dataset = OfflineDataset(tiny_dataset)
    rows = dataset.load("random", ["obs", "user_id", "time_ms", "propensity"])
    log = read_source(tiny_world).log
    index = dataset.catalog.index_of(log.video_id)
    parts = dataset.layout.unpack(rows["obs"])
    for row in range(0, len(rows["user_id"]), 37):
        earlier = (log.user_id == rows["user_id"][row]) & (log.time_ms < rows["time_ms"][row])
        expected = index[earlier][::-1][: dataset.layout.history_length]
        assert parts.video_index[row][parts.present[row]].tolist() == expected.tolist()
    np.testing.assert_allclose(rows["propensity"], 1 / dataset.manifest.num_videos, rtol=1e-6)

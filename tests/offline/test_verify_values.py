"""``noetik data verify`` finds values that fit their column, and not the rest of the dataset."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from noetik_rllib.offline.prepare_config import PrepareConfig
from noetik_rllib.offline.verify import verify
from noetik_rllib.offline.writer import prepare
from tests.offline.corruptions import (
    JUDGE,
    RANDOM,
    TEST,
    TRAIN,
    Rows,
    a_file_of_no_part,
    a_millisecond_later,
    catalog_number,
    context,
    edit_rows,
    in_manifest,
    in_rows,
    inside,
    leave_at_a_cut,
    left,
    put,
    put_state,
    with_duration,
)

CATALOG = "catalog.parquet"


def halved(rows: Rows) -> None:
    rows["propensity"] /= 2


#: Name -> (the corruption, what the finding must say, the file that it must name).
ROWS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "all propensities halved": (in_rows(RANDOM, halved), "expected 0.0125000002, 1 / the", RANDOM),
    "a propensity halved": (
        in_rows(RANDOM, put("propensity", 7, lambda v: v / 2)),
        "row 7: column 'propensity' is 0.00625",
        RANDOM,
    ),
    "pool of the propensities": (
        in_manifest(lambda m: m.update(random_pool=70)),
        "column 'propensity' is 0.0125",
        RANDOM,
    ),
    "no pool": (
        in_manifest(lambda m: m.update(random_pool=None)),
        "random_pool is None; expected 80 or more",
        "manifest.json",
    ),
    "a test row's time": (
        in_rows(TEST, put("time_ms", inside, lambda v: v + 1)),
        "by the user's rows in all parts",
        TEST,
    ),
    "a row's time, and its hour": (in_rows(TEST, a_millisecond_later), "(age of event 0)", TEST),
    "a last row's time": (
        in_rows(TEST, put("time_ms", -1, lambda v: v + 1)),
        "column 'obs'",
        TEST,
    ),
    "an older event": (
        in_rows(TRAIN, put_state(32 + 4, lambda v: v % 80 + 1)),
        "(video of event 1)",
        TRAIN,
    ),
    "hour": (
        in_rows(TRAIN, put_state(context("hour_sin"), lambda v: v * 0.999)),
        f"at position {context('hour_sin')}; expected",
        TRAIN,
    ),
    "day of the week": (
        in_rows(JUDGE, put_state(context("week_cos"), lambda v: v * 0.999)),
        "(week_cos)",
        JUDGE,
    ),
    "two tabs": (
        in_rows(TEST, put_state(context("tab_14"), lambda v: np.float32(0.5))),
        "0.5 at position 114; expected 0 (tab_14)",
        TEST,
    ),
    "rate of clicks": (
        in_rows(TRAIN, put_state(context("click_rate"), lambda v: v * 0.999)),
        "(click_rate)",
        TRAIN,
    ),
    "rate of watching": (
        in_rows(TEST, put_state(context("watch_ratio_rate"), lambda v: v * 0.999)),
        "(watch_ratio_rate)",
        TEST,
    ),
    "number of events": (
        in_rows(TEST, put_state(context("log_events"), lambda v: np.log1p(np.expm1(v) + 1))),
        "(log_events)",
        TEST,
    ),
    "gap": (
        in_rows(TRAIN, put_state(context("log_gap_seconds"), lambda v: v + 1e-3)),
        "(log_gap_seconds)",
        TRAIN,
    ),
    "events of the session": (
        in_rows(TRAIN, put_state(context("log_session_events"), lambda v: v + 0.1)),
        "(log_session_events)",
        TRAIN,
    ),
    "length of the session": (
        in_rows(TRAIN, put_state(context("log_session_seconds"), lambda v: v + 1e-3)),
        "(log_session_seconds)",
        TRAIN,
    ),
    "hour after watching": (
        in_rows(
            TEST,
            put("new_obs", lambda rows: (left(rows), context("hour_cos")), lambda v: v * 0.999),
        ),
        "column 'new_obs'",
        TEST,
    ),
    "rate after watching": (
        in_rows(RANDOM, put("new_obs", (3, context("like_rate")), lambda v: v * 0.9)),
        "(like_rate)",
        RANDOM,
    ),
    "a cut told as leaving": (
        in_rows(TRAIN, leave_at_a_cut),
        "'terminateds' is True; expected False: by their rows, the user was not away",
        TRAIN,
    ),
}

TABLES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "log duration": (catalog_number(0, lambda v: v + 0.01), "'numeric, log_duration'", CATALOG),
    "duration": (
        in_rows(CATALOG, put("duration_ms", with_duration, lambda v: v * 2)),
        "column 'numeric, log_duration'",
        CATALOG,
    ),
    "duration unknown": (catalog_number(1, lambda v: 1), "'numeric, duration_unknown'", CATALOG),
    "portrait of 2": (catalog_number(2, lambda v: 2), "'numeric, portrait' is 2.0", CATALOG),
    "features unknown": (catalog_number(3, lambda v: 1), "where features_unknown is 1", CATALOG),
    "code of a tag": (
        in_rows(CATALOG, put("tag_codes", (4, 0), lambda v: v + 1)),
        "row 4: column 'tag_codes'",
        CATALOG,
    ),
    "tag": (
        in_rows(CATALOG, put("tags", (4, 0), lambda v: v + 1)),
        "row 4: column 'tag_codes'",
        CATALOG,
    ),
    "code of a type": (
        in_rows(CATALOG, put("video_type_code", 4, 9)),
        "row 4: column 'video_type_code' is 9; expected ",
        CATALOG,
    ),
    "code of an upload": (
        in_rows(CATALOG, put("upload_type_code", 4, -1)),
        "row 4: column 'upload_type_code' is -1; expected 0",
        CATALOG,
    ),
}

MANIFEST: dict[str, tuple[Callable[[Path], object], str]] = {
    "split": (in_manifest(lambda m: m.update(split="time")), "split is time; expected user"),
    "user names": (in_manifest(lambda m: m["user_names"].reverse()), "user_names is"),
    "a fifth part": (
        in_manifest(lambda m: m["parts"].update(extra=m["parts"]["test"])),
        "parts is ['extra', ",
    ),
    "reward of another part": (
        in_manifest(lambda m: m["logged_reward"].update(extra=0.5)),
        "logged_reward's parts is ['extra', ",
    ),
    "file of no part": (a_file_of_no_part, "files names notes.txt"),
    "too few means": (in_manifest(lambda m: m["signals"]["mean"].pop()), "signals.mean is 8"),
    "too few covariances": (
        in_manifest(lambda m: m["signals"]["covariance"][2].pop()),
        "signals.covariance is",
    ),
    "normaliser of users": (
        in_manifest(lambda m: m["user_numeric"]["mean"].pop()),
        "user_numeric.mean is",
    ),
    "spread of 0": (
        in_manifest(lambda m: m["video_duration"].update(std=[0.0])),
        "video_duration.std above 0",
    ),
    "share of users": (
        in_manifest(lambda m: m.update(held_out_users=1.5)),
        "held_out_users is 1.5; expected 0 to 1",
    ),
    "mean of durations": (
        in_manifest(lambda m: m["video_duration"]["mean"].__setitem__(0, 9.0)),
        "video_duration.mean is 9.0",
    ),
    "spread of durations": (
        in_manifest(lambda m: m["video_duration"]["std"].__setitem__(0, 0.9)),
        "video_duration.std is 0.9",
    ),
    "tag of the vocabulary": (
        in_manifest(lambda m: m["vocabulary"]["tags"].append(999)),
        "vocabulary.tags is",
    ),
    "type of the vocabulary": (
        in_manifest(lambda m: m["vocabulary"]["video_types"].append("ZZZ")),
        "vocabulary.video_types, by code, is",
    ),
    "order of the vocabulary": (
        in_manifest(lambda m: m["vocabulary"]["upload_types"].reverse()),
        "vocabulary.upload_types is",
    ),
    "a count of repairs": (
        in_manifest(lambda m: m["repairs"].update(videos_without_tag=77)),
        "repairs.videos_without_tag is 77",
    ),
}
CASES = ROWS | TABLES | {name: (*case, "manifest.json") for name, case in MANIFEST.items()}


@pytest.fixture(scope="module")
def dataset(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "dataset"
    prepare(tiny_world, folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_a_value_that_does_not_fit_is_found(case: str, dataset: Path, tmp_path: Path) -> None:
    """Fails if a value may be another than the one that the rest of the dataset makes."""
    corrupt, message, name = CASES[case]
    folder = Path(shutil.copytree(dataset, tmp_path / "dataset"))
    corrupt(folder)
    lines = verify(folder).lines
    assert any(line.startswith(name) and message in line for line in lines), lines
    assert all("\n" not in line and "expected" in line for line in lines)


def test_each_millisecond_of_a_day_is_seen(dataset: Path, tmp_path: Path) -> None:
    """Fails if a time may be moved by 1 ms at some hours, where the next row's state is not held
    to it: a random row is an episode of its own.
    """
    for row in range(0, 40, 4):
        folder = Path(shutil.copytree(dataset, tmp_path / str(row)))
        edit_rows(folder, RANDOM, put("time_ms", row, lambda v: v + 1))
        assert any("'obs'" in line for line in verify(folder).lines), row


def test_rows_are_put_together_in_any_pieces(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a user whose rows do not fit into what is read at a time has other states."""
    monkeypatch.setattr("noetik_rllib.offline.verify._ROWS", 3)
    monkeypatch.setattr("noetik_rllib.offline.verify_history._ROWS", 5)
    findings = verify(dataset)
    assert findings.lines == []
    assert findings.checked["states rebuilt"] == findings.checked["rewards"]
    folder = Path(shutil.copytree(dataset, tmp_path / "dataset"))
    edit_rows(folder, TEST, put("time_ms", inside, lambda v: v + 1))
    assert any("column 'obs'" in line for line in verify(folder).lines)


def test_random_rows_of_train_have_the_propensity_too(tiny_world: Path, tmp_path: Path) -> None:
    """Fails if uniformly exposed rows that were added to train may have any propensity."""
    prepare(tiny_world, tmp_path / "dataset", PrepareConfig(random_in_train=True))
    edit_rows(tmp_path / "dataset", TRAIN, halved)
    assert any("'propensity'" in line for line in verify(tmp_path / "dataset").lines)


def test_real_rows_hold(kuairand_pure: Path, tmp_path: Path) -> None:
    """Fails if a dataset of real rows, with random ones between others, is called wrong."""
    for split in ("user", "time"):
        config = PrepareConfig(split=split, random_in_train=split == "time")
        prepare(kuairand_pure, tmp_path / split, config)
        assert verify(tmp_path / split).lines == []

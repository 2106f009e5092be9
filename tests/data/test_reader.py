"""Reading KuaiRand's files: what is repaired, what is refused and how it is said."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from noetik_rllib.data.reader import read_source
from noetik_rllib.data.signals import SIGNALS, RewardWeights, watch_ratio
from noetik_rllib.errors import UserError
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.prepare_config import PrepareConfig
from noetik_rllib.offline.writer import prepare

LOG = "log_standard_4_08_to_4_21_pure.csv"


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change(lines)) + "\n")


def set_field(line: str, column: int, value: str) -> str:
    fields = next(csv.reader([line]))
    fields[column] = value
    return ",".join(f'"{field}"' if "," in field else field for field in fields)


def test_rows_are_sorted_and_duplicates_dropped(tiny_world: Path) -> None:
    """Fails if the two interleaved runs of a published file stay unsorted or rows count twice."""
    read = read_source(tiny_world)
    log = read.log
    order = np.lexsort((log.time_ms, log.user_id))
    np.testing.assert_array_equal(order, np.arange(len(log)))
    rows = sum(source.rows for source in read.sources if source.name.startswith("log_"))
    assert rows - len(log) == read.repairs["duplicate_rows_dropped"] > 0


def test_unknown_duration_counts_18_seconds_as_whole() -> None:
    """Fails if a video of unknown length is watched whole, or never, by definition."""
    play = np.array([0, 9_000, 18_000, 60_000, 5_000, 20_000])
    duration = np.array([0, 0, 0, 0, 10_000, 10_000])
    assert watch_ratio(play, duration).tolist() == [0.0, 0.5, 1.0, 1.0, 0.5, 1.0]


def test_negative_play_time_becomes_zero_and_is_counted(world: Path) -> None:
    """Fails if KuaiRand's negative play times reach the reward, or vanish unseen."""
    edit(world / "data" / LOG, lambda lines: [*lines, set_field(lines[1], 12, "-8")])
    read = read_source(world)
    assert read.repairs["negative_play_time_set_to_0"] == 1
    assert read.log.play_time_ms.min() == 0


def test_a_video_and_a_user_without_features_are_known_unknowns(world: Path) -> None:
    """Fails if a log row whose video or user has no features crashes or loses the row."""

    def stranger(lines: list[str]) -> list[str]:
        return [*lines, set_field(set_field(lines[1], 0, "77777"), 1, "88888")]

    edit(world / "data" / LOG, stranger)
    manifest = prepare(world, world / "dataset")
    assert manifest.repairs["users_without_features"] == 1
    assert manifest.repairs["videos_without_features"] == 1
    dataset = OfflineDataset(world / "dataset")
    index = dataset.catalog.index_of(np.array([88888, 99999]))
    assert index.tolist() == [len(dataset.catalog) - 1, -1]
    assert dataset.catalog.numeric[-1].tolist() == [0, 1, 0, 1]
    assert not dataset.users.features[dataset.users.user_id == 77777].any()
    assert dataset.latest_state(77777).shape == (128,)


def test_a_dataset_is_replaced_only_when_told_to(tiny_world: Path, tmp_path: Path) -> None:
    """Fails if preparing a dataset again loses the old one, or cannot be asked for."""
    out = tmp_path / "dataset"
    first = prepare(tiny_world, out)
    with pytest.raises(UserError, match="use --overwrite"):
        prepare(tiny_world, out)
    assert prepare(tiny_world, out, overwrite=True) == first
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(UserError, match="user 424242 has no event"):
        OfflineDataset(out).latest_state(424242)


def test_reward_moments_are_those_of_a_pass_over_the_data(tiny_dataset: Path) -> None:
    """Fails if reward normalisation in closed form differs from the data's own figures."""
    dataset = OfflineDataset(tiny_dataset)
    rows = dataset.load("train", [*SIGNALS, "rewards"])
    signals = np.stack([rows[name] for name in SIGNALS], axis=1).astype(np.float64)
    for weights in (RewardWeights(), RewardWeights(click=0.1, watch_ratio=0, like=3, hate=-2)):
        reward = signals @ weights.as_array()
        moments = dataset.manifest.signals
        np.testing.assert_allclose(moments.reward_mean(weights), reward.mean(), rtol=1e-6)
        np.testing.assert_allclose(moments.reward_std(weights), reward.std(), rtol=1e-6)
    default = signals @ RewardWeights().as_array()
    np.testing.assert_allclose(rows["rewards"], default, atol=1e-6)


@pytest.mark.real
def test_real_pure_rows(kuairand_pure: Path, tmp_path: Path) -> None:
    """Fails if reading the real KuaiRand-Pure slice loses, invents or misreads rows."""
    manifest = prepare(kuairand_pure, tmp_path / "pure")
    assert {part: size.rows for part, size in manifest.parts.items()} == {
        "train": 116_293,
        "judge": 29_618,
        "test": 35_463,
        "random": 71,
    }
    assert (manifest.num_users, manifest.num_videos) == (27_285, 7_583)
    assert manifest.repairs == {
        "duplicate_rows_dropped": 4_687,
        "negative_play_time_set_to_0": 0,
        "unknown_duration_rows": 2_818,
        "rows_dated_a_day_ahead": 1_634,
        "sorted_runs_merged": 0,
        "users_without_features": 0,
        "videos_without_features": 0,
        "users_with_blank_features": 714,
        "users_with_unknown_live_streamer": 21_127,
        "videos_without_duration": 239,
        "videos_without_tag": 96,
        "videos_with_several_tags": 1_791,
    }
    assert {source.name: source.rows for source in manifest.sources} == {
        "log_standard_4_08_to_4_21_pure.csv": 1_000,
        "log_standard_4_22_to_5_08_pure.csv": 185_061,
        "log_random_4_22_to_5_08_pure.csv": 71,
        "user_features_pure.csv": 27_285,
        "video_features_basic_pure.csv": 7_583,
    }
    means = dict(zip(SIGNALS, np.round(manifest.signals.mean, 5).tolist(), strict=True))
    assert means == {
        "click": 0.45233,
        "watch_ratio": 0.30767,
        "long_view": 0.31867,
        "like": 0.01771,
        "follow": 0.00125,
        "comment": 0.00263,
        "forward": 0.00085,
        "hate": 0.00089,
        "profile_enter": 0.01874,
    }
    by_time = prepare(kuairand_pure, tmp_path / "by_time", PrepareConfig(split="time"))
    assert {part: size.rows for part, size in by_time.parts.items()} == {
        "train": 115_685,
        "judge": 29_415,
        "test": 36_274,
        "random": 71,
    }
    rows = OfflineDataset(tmp_path / "pure").load("random", ["propensity"])
    np.testing.assert_allclose(rows["propensity"], 1 / 7_583, rtol=1e-6)

"""Which rows are for training: quantiles over shards, held-out users, the random log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from noetik_rllib.offline.catalog import IdIndex
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.split import TimeQuantile, held_out


@given(st.lists(st.lists(st.integers(0, 50_000), max_size=20), min_size=1, max_size=4))
def test_the_time_quantile_is_that_of_the_sorted_seconds(shards: list[list[int]]) -> None:
    """Fails if a log in several shards is split at another moment than the same log in one."""
    times = np.sort(np.array([time for shard in shards for time in shard], dtype=np.int64))
    if not len(times):
        return
    quantile = TimeQuantile()
    for shard in shards:
        quantile.add(np.array(shard, dtype=np.int64))
    cut = quantile.at(0.8)
    assert (times < cut).sum() >= 0.8 * len(times)
    # Without the last second before it, it would be less.
    assert (times < cut - 1000).sum() < 0.8 * len(times)
    # When exactly later rows came decides nothing.
    moved = TimeQuantile()
    spread = times + (times >= cut) * np.arange(len(times)) * 1000
    moved.add(spread)
    assert moved.at(0.8) == cut


def test_who_is_held_out_does_not_depend_on_who_else_is_there() -> None:
    """Fails if a user moves between training and evaluation when the log grows."""
    users = np.arange(10_000)
    chosen = held_out(users, 0.2, seed=3)
    np.testing.assert_array_equal(chosen[::7], held_out(users[::7], 0.2, seed=3))
    # A fifth, within five standard errors: a fresh seed fails with probability 6e-7.
    assert abs(chosen.mean() - 0.2) < 5 * np.sqrt(0.2 * 0.8 / len(users))


def test_random_rows_before_the_split_can_be_trained_on(
    mixed_dataset: Path, tiny_dataset: Path
) -> None:
    """Fails if rows are lost, counted twice, taken from held-out users or from after the split."""
    dataset = OfflineDataset(mixed_dataset)
    manifest = dataset.manifest
    plain = OfflineDataset(tiny_dataset).manifest
    assert manifest.random_in_train
    moved = manifest.parts["train"].rows - plain.parts["train"].rows
    assert moved > 0
    assert manifest.parts["random"].rows == plain.parts["random"].rows - moved
    for part in ("judge", "test"):
        assert manifest.parts[part].rows == plain.parts[part].rows
    rows = dataset.load("train", ["user_id", "time_ms", "propensity"])
    uniform = ~np.isnan(rows["propensity"])
    assert uniform.sum() == moved
    np.testing.assert_allclose(rows["propensity"][uniform], 1 / manifest.num_videos, rtol=1e-6)
    assert dataset.before_split(rows["user_id"], rows["time_ms"]).all()
    held = dataset.users.user_id[dataset.users.held_out]
    assert not np.isin(rows["user_id"], held).any()


@given(
    st.lists(st.integers(0, 3_000_000), unique=True, max_size=8),
    st.lists(st.integers(0, 2**40), unique=True, max_size=3),
    st.lists(st.integers(0, 2**40), max_size=8),
)
def test_ids_are_found_where_they_stand(near: list[int], far: list[int], asked: list[int]) -> None:
    """Fails if a video gets another's index, by the table of dense ids or by search."""
    for ids in (near, list(dict.fromkeys(near + far))):
        place = {number: position for position, number in enumerate(ids)}
        wanted = np.array(asked + ids, dtype=np.int64)
        found = IdIndex(np.array(ids, dtype=np.int64)).of(wanted)
        assert found.tolist() == [place.get(int(number), -1) for number in wanted]

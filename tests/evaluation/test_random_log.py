"""The random log as it is streamed to what judges policies."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.random_log import RandomLog
from noetik_rllib.offline.dataset import OfflineDataset


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> OfflineDataset:
    return OfflineDataset(tiny_dataset)


def changed(
    dataset: OfflineDataset, tmp_path: Path, column: str, row: int, value: float
) -> OfflineDataset:
    """Copy a dataset with another value in the random log; row -1 stands for every row."""
    shutil.copytree(dataset.directory, tmp_path / "copy")
    copy = OfflineDataset(tmp_path / "copy")
    file = copy.files("random")[0]
    table = pq.read_table(file)
    values = table[column].to_numpy().copy()
    values[slice(None) if row < 0 else row] = value
    place = table.column_names.index(column)
    new = pa.array(values, table.schema.field(column).type)
    pq.write_table(table.set_column(place, table.schema.field(column), new), file)
    return copy


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_streamed_as_in_one_piece(dataset: OfflineDataset, size: int) -> None:
    """Rows would get lost, be repeated or get another row's answer where batches meet, or a user's
    rows be divided, from which candidates are chosen.
    """
    columns = ("user_id", "time_ms", "obs", "actions", "propensity", *SIGNALS)
    whole = dataset.load("random", columns)
    late = ~dataset.before_split(whole["user_id"], whole["time_ms"])
    whole = {name: values[late] for name, values in whole.items()}
    log = RandomLog(dataset)
    batches = list(log.batches(size))
    assert 0 < late.sum() < len(late)
    assert len(log) == late.sum()
    for name, column in (("user_id", "user_id"), ("states", "obs"), ("videos", "actions")):
        streamed = np.concatenate([getattr(batch, name) for batch in batches])
        np.testing.assert_array_equal(streamed, whole[column])
    signals = np.concatenate([batch.signals for batch in batches])
    np.testing.assert_array_equal(signals, np.stack([whole[name] for name in SIGNALS], axis=1))
    propensity = np.concatenate([batch.propensity for batch in batches])
    np.testing.assert_allclose(propensity, 1 / 80)
    users = [np.unique(batch.user_id) for batch in batches]
    assert sum(map(len, users)) == len(log.users)
    for batch in batches:
        np.testing.assert_array_equal(log.users[batch.place], batch.user_id)


def test_a_part_of_the_users(dataset: OfflineDataset) -> None:
    """A cheaper evaluation would take more rows than asked for, parts of users, always the first
    ones, or other ones each time.
    """
    log, part = RandomLog(dataset), RandomLog(dataset, max_rows=60, seed=1)
    assert 0 < len(part) <= 60
    place = np.searchsorted(log.users, part.users)
    np.testing.assert_array_equal(log.rows_of_user[place], part.rows_of_user)
    assert sum(len(batch) for batch in part.batches(16)) == len(part)
    np.testing.assert_array_equal(RandomLog(dataset, max_rows=60, seed=1).users, part.users)
    assert set(RandomLog(dataset, max_rows=60, seed=2).users) != set(part.users)
    with pytest.raises(UserError, match="max rows is 0: expected at least"):
        RandomLog(dataset, max_rows=0)


def test_the_pool(dataset: OfflineDataset) -> None:
    """A video that the log never draws would count as one that policies can be judged on."""
    assert RandomLog(dataset).pool.all()
    smaller = OfflineDataset(dataset.directory)
    smaller.manifest = smaller.manifest.model_copy(update={"random_pool": 79})
    np.testing.assert_array_equal(RandomLog(smaller).pool, dataset.times_shown("random") > 0)


def test_no_random_log(dataset: OfflineDataset) -> None:
    """The user would not learn why there are no estimates."""
    without = OfflineDataset(dataset.directory)
    part = without.manifest.parts["random"].model_copy(update={"rows": 0})
    parts = without.manifest.parts | {"random": part}
    without.manifest = without.manifest.model_copy(update={"parts": parts})
    with pytest.raises(UserError, match="has no uniformly exposed rows: off-policy estimates need"):
        RandomLog(without)


def test_no_row_after_the_split(dataset: OfflineDataset, tmp_path: Path) -> None:
    """Rows that policies may have been trained on would judge them, or a division by zero would."""
    early = changed(dataset, tmp_path, "time_ms", -1, 0)
    with pytest.raises(UserError, match=r"lie before the split .*--split time --split-at TIME"):
        RandomLog(early)


@pytest.mark.parametrize("value", [np.nan, 0.0, 1.5])
def test_unknown_propensity(dataset: OfflineDataset, tmp_path: Path, value: float) -> None:
    """Estimates would be made with a probability that nobody knows."""
    unknown = changed(dataset, tmp_path, "propensity", -1, value)
    with pytest.raises(UserError, match=r"unknown propensity.*--random-pool NUMBER"):
        RandomLog(unknown)


def test_a_damaged_row(dataset: OfflineDataset, tmp_path: Path) -> None:
    """One answer that is no number would turn every figure into one."""
    rows = dataset.load("random", ("user_id", "time_ms"))
    late = np.flatnonzero(~dataset.before_split(rows["user_id"], rows["time_ms"]))
    damaged = changed(dataset, tmp_path, "click", int(late[3]), np.nan)
    with pytest.raises(UserError, match=rf"damaged: column 'click' of row {late[3]}"):
        list(RandomLog(damaged).batches())

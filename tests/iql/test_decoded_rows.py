"""Rows that were decoded once give every process the batches that the files would."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from noetik_rllib.data.signals import RewardWeights
from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.data import ColumnarOfflineData
from noetik_rllib.iql.decoded_rows import DecodedRows, holding
from noetik_rllib.iql.shard_iterator import ShardIterator


def shard(data: Path) -> ShardIterator:
    config = DiscreteIQLConfig().offline_data(input_=[str(data / "train")])
    config.training(reward_weights=RewardWeights(click=0.2, like=3.0), data_window_mb=1)
    (whole,) = ColumnarOfflineData(config).sample(64)
    return replace(whole, start=20, stop=whole.stop - 17)


def bits(column: torch.Tensor) -> bytes:
    return column.numpy().tobytes()


@pytest.mark.parametrize("which", ["tiny_dataset", "mixed_dataset"])
def test_the_same_batches_as_from_the_files(which: str, request: pytest.FixtureRequest) -> None:
    """Fails if a trial of a sweep trains on other rows, or another order, than a run by itself."""
    whole = shard(request.getfixturevalue(which))
    number = 2 * (whole.rows // 64) + 3
    expected = list(itertools.islice(whole.iter_torch_batches(batch_size=64), number))
    decoded = DecodedRows.read(whole.files, whole.form)
    for column in decoded.columns.values():
        column.flags.writeable = False  # as they come out of Ray's object store
    with holding(decoded):
        moved = replace(whole, residency="stream")
        assert moved.resident  # they are there already
        found = list(itertools.islice(moved.iter_torch_batches(batch_size=64), number))
    for left, right in zip(expected, found, strict=True):
        assert left.keys() == right.keys()
        # By their bytes: propensities that are not known are NaN.
        assert all(bits(left[name]) == bits(right[name]) for name in left)


def test_they_are_shared_and_only_with_their_own_log(tiny_dataset: Path) -> None:
    """Fails if a process copies the rows, uses those of another log, or keeps them for good."""
    whole = shard(tiny_dataset)
    decoded = DecodedRows.read(whole.files, whole.form)
    with holding(decoded):
        (rows, _) = next(whole._from_memory(whole._plan(64), torch.device("cpu")))
        assert np.shares_memory(rows["obs"].numpy(), decoded.columns["obs"])
        other = replace(whole, files=(replace(whole.files[0], path="/elsewhere"),))
        with pytest.raises(Exception, match="elsewhere"):
            next(other.iter_torch_batches(batch_size=64))
    (rows, _) = next(whole._from_memory(whole._plan(64), torch.device("cpu")))
    assert not np.shares_memory(rows["obs"].numpy(), decoded.columns["obs"])

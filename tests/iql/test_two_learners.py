"""Two learners take the steps that one would take on both their batches."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.data import ColumnarOfflineData
from noetik_rllib.iql.shard_iterator import ShardIterator

pytestmark = pytest.mark.usefixtures("ray_session")


@dataclass(frozen=True)
class BothShards:
    """Joins the batches that two learners would draw into one of twice the rows."""

    shards: tuple[ShardIterator, ShardIterator]

    def starting_at(self, batches_drawn: int) -> BothShards:
        left, right = self.shards
        return BothShards((left.starting_at(batches_drawn), right.starting_at(batches_drawn)))

    def iter_torch_batches(self, *, batch_size: int, **kwargs: Any) -> Iterator[dict[str, Any]]:
        halves = [
            shard.iter_torch_batches(batch_size=batch_size // 2, **kwargs) for shard in self.shards
        ]
        for left, right in zip(*halves, strict=True):
            yield {name: torch.cat([rows, right[name]]) for name, rows in left.items()}


class BothShardsData(ColumnarOfflineData):
    """Hands one learner the rows of two."""

    def sample(self, num_samples: int, *args: Any, **kwargs: Any) -> list[Any]:
        left, right = super().sample(num_samples // 2, num_shards=2)
        return [BothShards((left, right))]


def trained(config: DiscreteIQLConfig) -> list[dict[str, np.ndarray]]:
    """Train for two iterations; return each learner's parameters, targets included."""
    algorithm = config.build_algo()
    try:
        for _ in range(2):
            algorithm.train()
        found = algorithm.learner_group.foreach_learner(
            lambda learner: learner.module[DEFAULT_MODULE_ID].unwrapped().get_state()
        )
        return [result.get() for result in found]
    finally:
        algorithm.stop()


def with_an_effect(name: str, value: np.ndarray) -> np.ndarray:
    """Leave out parameters that nothing depends on.

    A key's bias adds the same to all scores of a query, and ``item_bias.bias`` to all logits, which
    the softmax takes away again: their exact gradient is 0, and Adam takes steps of full size on
    what rounding leaves of it.
    """
    if name.endswith("item_bias.bias"):
        return value[:0]
    if not name.endswith("qkv.bias"):
        return value
    query, _, values = np.split(value, 3)
    return np.concatenate([query, values])


def test_two_learners_are_one_with_both_batches(
    tiny_config: DiscreteIQLConfig, tiny_dataset: Path, tmp_path: Path
) -> None:
    """Fails if gradients are summed for averaged, rows are drawn twice, or learners drift apart.

    Ten steps, over the end of a window that is streamed.
    """
    cut = tmp_path / "cut"
    shutil.copytree(tiny_dataset, cut, ignore=shutil.ignore_patterns("train"))
    (cut / "train").mkdir()
    table = pq.read_table(tiny_dataset / "train")
    pq.write_table(table, cut / "train" / "part-00000.parquet", row_group_size=50)
    tiny_config.offline_data(input_=[str(cut / "train")])
    rows = 73  # no divisor of a window's: a batch reaches over its end
    tiny_config.training(
        data_residency="stream", data_window_mb=1, train_batch_size_per_learner=rows
    )
    for shard in ColumnarOfflineData(tiny_config).sample(rows, num_shards=2):
        first, *others = shard._deal(0)
        assert others
        assert not shard.resident
        assert sum(shard.spans[place].rows for place in first) < 10 * rows
    two = tiny_config.copy(copy_frozen=False).learners(num_learners=2)
    first, second = trained(two)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)

    one = tiny_config.copy(copy_frozen=False)
    one.offline_data(offline_data_class=BothShardsData)
    one.training(train_batch_size_per_learner=2 * rows)
    (alone,) = trained(one)
    for name, value in alone.items():
        got, expected = with_an_effect(name, first[name]), with_an_effect(name, value)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5, err_msg=name)

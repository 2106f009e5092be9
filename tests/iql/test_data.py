"""The rows that learners train on: all of them, once an epoch, in an order that can be repeated."""

from __future__ import annotations

import itertools
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.errors import UserError
from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.data import ColumnarOfflineData, input_dataset, input_files
from noetik_rllib.iql.reward import RewardDecomposition
from noetik_rllib.iql.shard_iterator import REWARD_COMPONENTS, ShardIterator
from noetik_rllib.offline.dataset import OfflineDataset

WEIGHTS = RewardWeights(click=1.0, like=5.0, hate=-10.0)


def shards(config: DiscreteIQLConfig, number: int, batch_size: int = 50) -> list[ShardIterator]:
    return ColumnarOfflineData(config).sample(batch_size, num_shards=number)


def draw(shard: ShardIterator, batches: int, batch_size: int = 50) -> list[dict[str, torch.Tensor]]:
    return list(itertools.islice(shard.iter_torch_batches(batch_size=batch_size), batches))


def ids(batches: list[dict[str, torch.Tensor]]) -> list[bytes]:
    """What tells rows apart: their state, action and reward together."""
    parts = ("obs", "actions", REWARD_COMPONENTS)
    return [
        b"".join(batch[f"default_policy/{name}"][row].numpy().tobytes() for name in parts)
        for batch in batches
        for row in range(len(batch["default_policy/actions"]))
    ]


def test_a_batch_holds_the_dataset_s_values(
    tiny_config: DiscreteIQLConfig, tiny_dataset: Path
) -> None:
    """Fails if columns are mixed up, or a row's parts come from different rows."""
    rows = OfflineDataset(tiny_dataset).load(
        "train", ("obs", "actions", "new_obs", "terminateds", *SIGNALS)
    )
    tiny_config.training(normalise_reward=False)
    number = len(rows["actions"])
    signals = np.stack([rows.pop(name) for name in SIGNALS], axis=1)
    reward = ColumnarOfflineData(tiny_config).reward
    rows[REWARD_COMPONENTS] = signals / np.array(reward.units)
    (batch,) = draw(shards(tiny_config, 1)[0], 1, number)
    order = np.random.default_rng([0, 0, 0, 1]).permutation(number)
    for name, column in rows.items():
        got = batch[f"default_policy/{name}"].numpy()
        np.testing.assert_allclose(got, column[order], atol=1e-6, err_msg=name)


def test_an_epoch_has_every_row_once(tiny_config: DiscreteIQLConfig, tiny_dataset: Path) -> None:
    """Fails if rows are repeated or left out, beyond the last batch's remainder."""
    number = OfflineDataset(tiny_dataset).manifest.parts["train"].rows
    (shard,) = shards(tiny_config, 1)
    divisor = next(size for size in range(40, 60) if number % size)
    per_epoch = number // divisor
    first, second = (
        draw(shard.starting_at(epoch * per_epoch), per_epoch, divisor) for epoch in (0, 1)
    )
    every = ids(draw(shard, 1, number))
    assert len(ids(first)) == per_epoch * divisor
    for epoch in (first, second):
        remaining = list(every)
        for row in ids(epoch):
            remaining.remove(row)
        assert len(remaining) == number - per_epoch * divisor
    assert ids(first) != ids(second), "both epochs have the same order"


def test_learners_share_the_rows(tiny_config: DiscreteIQLConfig, tiny_dataset: Path) -> None:
    """Fails if two learners see the same row, or one has more batches and waits for ever."""
    number = OfflineDataset(tiny_dataset).manifest.parts["train"].rows
    parts = shards(tiny_config, 3)
    sizes = {part.stop - part.start for part in parts}
    assert sizes == {number // 3}
    spans = sorted((part.start, part.stop) for part in parts)
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans))
    size = number // 3
    together = sorted(itertools.chain(*(ids(draw(part, 1, size)) for part in parts)))
    every = ids(draw(shards(tiny_config, 1)[0], 1, number))
    remaining = list(every)
    for row in together:
        remaining.remove(row)
    assert len(remaining) == number - 3 * size


@pytest.fixture
def cut_config(
    tiny_config: DiscreteIQLConfig, tiny_dataset: Path, tmp_path: Path
) -> DiscreteIQLConfig:
    """Config of the tiny dataset in files of 300 rows, in row groups of 100: some 20 files."""
    cut = tmp_path / "cut"
    shutil.copytree(tiny_dataset, cut, ignore=shutil.ignore_patterns("train"))
    (cut / "train").mkdir()
    table = pq.read_table(tiny_dataset / "train")
    for number, start in enumerate(range(0, len(table), 300)):
        path = cut / "train" / f"part-{number:05d}.parquet"
        pq.write_table(table.slice(start, 300), path, row_group_size=100)
    config = tiny_config.copy(copy_frozen=False)
    return config.offline_data(input_=[str(cut / "train")])


def test_files_and_row_groups_do_not_matter(
    tiny_config: DiscreteIQLConfig, cut_config: DiscreteIQLConfig
) -> None:
    """Fails if a shard that ends within a file or row group reads too little or too much."""
    whole, pieces = shards(tiny_config, 4), shards(cut_config, 4)
    for left, right in zip(whole, pieces, strict=True):
        assert ids(draw(left, 1, left.stop - left.start)) == ids(
            draw(right, 1, left.stop - left.start)
        )


def test_the_order_depends_on_seed_and_batch_alone(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if a run cannot be repeated, or a restored one sees other batches than an unbroken."""
    (shard,) = shards(tiny_config, 1)
    unbroken = ids(draw(shard, 60))  # into the second epoch
    sent = pickle.loads(pickle.dumps(shard))  # as to a learner's process, after it was used
    assert len(pickle.dumps(shard)) < 5_000, "the rows travel with the iterator"
    assert ids(draw(sent, 60)) == unbroken
    assert ids(draw(sent.starting_at(55), 5)) == unbroken[55 * 50 :]
    (other,) = shards(tiny_config.copy(copy_frozen=False).debugging(seed=1), 1)
    assert ids(draw(other, 60)) != unbroken


def test_reward_normalisation_is_exact(tiny_config: DiscreteIQLConfig, tiny_dataset: Path) -> None:
    """Fails if the manifest's moments give another scale than a pass over the rows does."""
    dataset = OfflineDataset(tiny_dataset)
    signals = dataset.load("train", SIGNALS)
    reward = np.stack([signals[name] for name in SIGNALS], axis=1) @ WEIGHTS.as_array()
    parts = RewardDecomposition.fit(dataset.manifest.signals, WEIGHTS, subtract_mean=True)
    for place, name in enumerate(SIGNALS):
        weight = WEIGHTS.as_array()[place]
        assert parts.means[place] == pytest.approx(signals[name].mean(dtype=float), abs=1e-6)
        unit = reward.std() / abs(weight) if weight else signals[name].std(dtype=float)
        assert parts.units[place] == pytest.approx(unit or 1.0, rel=1e-6)

    for subtract, mean in ((False, reward.mean() / reward.std()), (True, 0.0)):
        config = tiny_config.copy(copy_frozen=False).training(
            reward_weights=WEIGHTS, subtract_reward_mean=subtract
        )
        (batch,) = draw(shards(config, 1)[0], 1, len(reward))
        signs = torch.tensor(parts.signs, dtype=torch.float64)
        got = batch[f"default_policy/{REWARD_COMPONENTS}"].double() @ signs
        assert got.std(correction=0).item() == pytest.approx(1.0, abs=1e-5)
        assert got.mean().item() == pytest.approx(mean, abs=1e-5)


def test_a_constant_reward_is_refused(bandit_dataset: Path) -> None:
    """Fails if training on nothing starts, dividing by a standard deviation of 0."""
    config = DiscreteIQLConfig().offline_data(input_=[str(bandit_dataset / "train")])
    config.training(reward_weights=RewardWeights(click=0, watch_ratio=0, like=1))
    with pytest.raises(UserError, match="weights like=1 is the same on every training row"):
        ColumnarOfflineData(config)


def test_too_few_rows_are_refused(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if an epoch of no batches spins for ever."""
    with pytest.raises(UserError, match=r"fewer than 1 x 1,000,000.*batch size"):
        shards(tiny_config, 1, batch_size=1_000_000)


def test_inputs_must_be_the_train_part_of_one_dataset(
    tiny_dataset: Path, bandit_dataset: Path
) -> None:
    """Fails if a wrong path, held-out rows or a mixture of catalogues gets as far as training."""
    train = tiny_dataset / "train"
    by_folder = input_files([str(train)])
    by_file = [str(path) for path in by_folder]
    assert by_folder == input_files(by_file)
    found = input_dataset(by_file)
    assert found is not None
    assert found.directory == tiny_dataset
    for wrong in (tiny_dataset / "test", tiny_dataset / "judge"):
        with pytest.raises(UserError, match="is not DATASET/train"):
            input_dataset([str(wrong)])
    with pytest.raises(UserError, match=r"is a dataset: use '.*/train'"):
        input_dataset([str(tiny_dataset)])
    with pytest.raises(UserError, match="holds no Parquet file"):
        input_files([str(Path(__file__).parent)])
    with pytest.raises(UserError, match="does not exist"):
        input_files([str(tiny_dataset / "nothing" / "train")])
    with pytest.raises(UserError, match="several datasets"):
        input_dataset([str(train), str(bandit_dataset / "train")])


def test_a_damaged_file_is_named(tiny_config: DiscreteIQLConfig, tmp_path: Path) -> None:
    """Fails if a broken file ends in a traceback that does not say which file."""
    (shard,) = shards(tiny_config, 1)
    path = tmp_path / "part-00000.parquet"
    path.write_bytes(Path(shard.files[0].path).read_bytes()[:-100])
    broken = replace(shard, files=(replace(shard.files[0], path=str(path)),))
    with pytest.raises(UserError, match=r"part-00000\.parquet cannot be read"):
        draw(broken, 1)

"""Logs that others wrote: every usual way to store an array per row, and one line for mistakes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from noetik_rllib.errors import UserError
from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.data import ColumnarOfflineData, input_dataset
from noetik_rllib.iql.shard_iterator import REWARD_COMPONENTS

ROWS, SHAPE, ACTIONS = 60, (2, 3), 4

Columns = dict[str, Any]


def log() -> dict[str, np.ndarray]:
    """Columns of a log as arrays; observations are of ``SHAPE``."""
    rng = np.random.default_rng(0)
    return {
        "obs": rng.normal(size=(ROWS, *SHAPE)).astype(np.float32),
        "new_obs": rng.normal(size=(ROWS, *SHAPE)).astype(np.float32),
        "actions": rng.integers(ACTIONS, size=ROWS),
        "rewards": rng.normal(size=ROWS),
        "terminateds": rng.random(ROWS) < 0.1,
    }


def config(folder: Path, **spaces: gym.Space) -> DiscreteIQLConfig:
    box = gym.spaces.Box(-np.inf, np.inf, SHAPE, np.float32)
    defaults = {"observation_space": box, "action_space": gym.spaces.Discrete(ACTIONS)}
    return (
        DiscreteIQLConfig()
        .environment(**(defaults | spaces))
        .offline_data(input_=[str(folder)])
        .training(normalise_reward=False)
    )


def one_batch(settings: DiscreteIQLConfig) -> dict[str, torch.Tensor]:
    """All rows in the order of the log, by column."""
    (shard,) = ColumnarOfflineData(settings).sample(ROWS)
    batch = next(shard.iter_torch_batches(batch_size=shard.rows))
    order = np.argsort(np.random.default_rng([0, 0, 0, 1]).permutation(shard.rows))
    return {name.split("/")[1]: column[order] for name, column in batch.items()}


def fixed_lists(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values[0].size)


def lists(values: np.ndarray) -> pa.Array:
    return pa.array(values.reshape(len(values), -1).tolist(), pa.list_(pa.float32()))


def nested_lists(values: np.ndarray) -> pa.Array:
    return pa.array(values.tolist(), pa.large_list(pa.list_(pa.float32())))


def doubles(values: np.ndarray) -> pa.Array:
    return pa.array(values.tolist(), pa.list_(pa.list_(pa.float64())))


def arrow_tensors(values: np.ndarray) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(values)


def write(
    folder: Path, columns: Columns, store: Callable[[np.ndarray], pa.Array] = fixed_lists
) -> Path:
    """Write columns as two files of two row groups each; return the first."""
    stored = {
        name: store(values) if isinstance(values, np.ndarray) and values.ndim > 1 else values
        for name, values in columns.items()
    }
    table = pa.table(stored)
    folder.mkdir(exist_ok=True)
    half = len(table) // 2
    for number in (0, 1):
        part = table.slice(number * half, len(table) - half if number else half)
        pq.write_table(part, folder / f"{number}.parquet", row_group_size=20)
    return folder / "0.parquet"


def assert_equal(batch: dict[str, torch.Tensor], rows: dict[str, np.ndarray]) -> None:
    for name in ("obs", "new_obs"):
        assert batch[name].dtype == torch.float32
        np.testing.assert_array_equal(batch[name].numpy(), rows[name], err_msg=name)
    assert batch["actions"].dtype == torch.int64
    np.testing.assert_array_equal(batch["actions"].numpy(), rows["actions"])
    np.testing.assert_array_equal(batch["terminateds"].numpy(), rows["terminateds"])
    np.testing.assert_allclose(batch[REWARD_COMPONENTS][:, 0].numpy(), rows["rewards"], rtol=1e-6)


@pytest.mark.parametrize("store", [fixed_lists, lists, nested_lists, doubles, arrow_tensors])
def test_every_way_to_store_an_array_is_read(
    tmp_path: Path, store: Callable[[np.ndarray], pa.Array]
) -> None:
    """Fails if a log of another writer is read wrongly, or refused."""
    rows = log()
    write(tmp_path, rows, store)
    assert_equal(one_batch(config(tmp_path)), rows)


@pytest.mark.usefixtures("ray_session")
def test_what_ray_data_writes_is_read(tmp_path: Path) -> None:
    """Fails if RLlib's own way to store observations, tensors of an extension type, is not read.

    ``write_parquet`` makes a folder, whatever the name.
    """
    import ray.data

    rows = log()
    folder = tmp_path / "log.parquet"
    # One block: Ray Data writes several in the order in which they are done.
    ray.data.range(ROWS, override_num_blocks=1).map_batches(
        lambda batch: {name: column[batch["id"]] for name, column in rows.items()}
    ).write_parquet(str(folder))
    (path,) = folder.glob("*.parquet")
    assert "Tensor" in str(pq.read_schema(path).field("obs").type)
    batch = one_batch(config(folder))
    assert_equal(batch, rows)


@pytest.mark.parametrize("kind", ["int8", "uint16", "int32", "uint64"])
def test_actions_may_be_any_integers(tmp_path: Path, kind: str) -> None:
    """Fails if only the type that this package writes is read."""
    rows = log()
    write(tmp_path, rows | {"actions": rows["actions"].astype(kind)})
    assert_equal(one_batch(config(tmp_path)), rows)


def test_states_may_be_numbers(tmp_path: Path) -> None:
    """Fails if Discrete observations, such as FrozenLake's, cannot be trained on."""
    rows = log()
    states = np.arange(ROWS) % 16
    write(tmp_path, rows | {"obs": states, "new_obs": states.astype(np.int16)})
    batch = one_batch(config(tmp_path, observation_space=gym.spaces.Discrete(16)))
    for name in ("obs", "new_obs"):
        assert batch[name].dtype == torch.int64
        np.testing.assert_array_equal(batch[name].numpy(), states)


def test_images_stay_bytes(tmp_path: Path) -> None:
    """Fails if images take four times the memory that they need."""
    rows = log()
    images = np.random.default_rng(0).integers(256, size=(ROWS, *SHAPE)).astype(np.uint8)
    write(tmp_path, rows | {"obs": images, "new_obs": images})
    space = gym.spaces.Box(0, 255, SHAPE, np.uint8)
    batch = one_batch(config(tmp_path, observation_space=space))
    assert batch["obs"].dtype == torch.uint8
    np.testing.assert_array_equal(batch["obs"].numpy(), images)


def with_value(column: np.ndarray, value: Any) -> np.ndarray:
    """Return a column whose last row, which is in the second file, has another value."""
    column = column.copy()
    column[-1] = value
    return column


RAGGED = pa.array([[0.0] * 6] * (ROWS - 1) + [[0.0] * 5], pa.list_(pa.float32()))
MISTAKES: dict[str, tuple[Callable[[Columns], Columns], str]] = {
    "action too large": (
        lambda rows: {"actions": with_value(rows["actions"], 4)},
        "1.parquet: column 'actions' holds 4: the space has 0 to 3",
    ),
    "negative action": (
        lambda rows: {"actions": with_value(rows["actions"], -1)},
        "1.parquet: column 'actions' holds -1: the space has 0 to 3",
    ),
    "fractions": (
        lambda rows: {"actions": rows["actions"] + 0.5},
        "0.parquet: column 'actions' holds float64: expected whole numbers",
    ),
    "missing action": (
        lambda rows: {"actions": pa.array([*rows["actions"][:-1].tolist(), None])},
        "1.parquet: column 'actions' has empty values",
    ),
    "NaN observation": (
        lambda rows: {"obs": with_value(rows["obs"], np.nan)},
        "1.parquet: column 'obs' holds NaN or an infinite number",
    ),
    "infinite observation": (
        lambda rows: {"new_obs": with_value(rows["new_obs"], -np.inf)},
        "1.parquet: column 'new_obs' holds NaN or an infinite number",
    ),
    "NaN reward": (
        lambda rows: {"rewards": with_value(rows["rewards"], np.nan)},
        "1.parquet: column 'rewards' holds NaN or an infinite number",
    ),
    "ragged": (
        lambda rows: {"obs": RAGGED},
        "1.parquet: column 'obs' has lists of 5 to 6 values: expected equally many",
    ),
    "too few": (
        lambda rows: {"obs": rows["obs"][:, :, :2].copy()},
        "0.parquet: column 'obs' has 4 values per row: the space expects 6",
    ),
    "text": (
        lambda rows: {"obs": pa.array(["state"] * ROWS)},
        "0.parquet: column 'obs' holds string: expected numbers",
    ),
    "dictionaries": (
        lambda rows: {"obs": pa.array([{"position": 1.0}] * ROWS)},
        "0.parquet: column 'obs' holds struct<position: double>: expected numbers",
    ),
    "numbers for truth": (
        lambda rows: {"terminateds": rows["terminateds"].astype(float)},
        "0.parquet: column 'terminateds' holds float64: expected true or false",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_clear_line(tmp_path: Path, mistake: str) -> None:
    """Fails if a value that means nothing reaches the networks, or ends in a traceback."""
    change, message = MISTAKES[mistake]
    rows = log()
    write(tmp_path, rows | change(rows))
    (shard,) = ColumnarOfflineData(config(tmp_path)).sample(10)
    with pytest.raises(UserError) as caught:
        list(itertools.islice(shard.iter_torch_batches(batch_size=10), 6))
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


def test_mistakes_in_the_number_of_a_state_are_told(tmp_path: Path) -> None:
    """Fails if a state that does not exist becomes a row of zeros, or of another state."""
    rows = log()
    write(tmp_path, rows | {"obs": np.arange(ROWS), "new_obs": np.arange(ROWS)})
    with pytest.raises(UserError, match="column 'obs' holds 19: the space has 0 to 15"):
        one_batch(config(tmp_path, observation_space=gym.spaces.Discrete(16)))


@pytest.mark.parametrize("name", ["obs", "new_obs", "actions", "rewards", "terminateds"])
def test_a_missing_column_is_told_before_anything_is_read(tmp_path: Path, name: str) -> None:
    """Fails if a log in another layout starts to train."""
    rows = log()
    del rows[name]
    path = write(tmp_path, rows)
    with pytest.raises(UserError, match=f"^{path} has no column '{name}', only "):
        ColumnarOfflineData(config(tmp_path))


def test_rewards_are_looked_at_before_they_normalise(tmp_path: Path) -> None:
    """Fails if one NaN makes every normalised reward NaN, or a constant divides by 0."""
    rows = log()
    path = write(tmp_path, rows | {"rewards": with_value(rows["rewards"], np.nan)})
    normalised = config(tmp_path).training(normalise_reward=True)
    with pytest.raises(UserError, match="column 'rewards' holds NaN"):
        ColumnarOfflineData(normalised)
    path = write(tmp_path, rows | {"rewards": np.ones(ROWS)})
    with pytest.raises(UserError, match=r"do not vary.*normalise_reward=False"):
        ColumnarOfflineData(normalised)
    write(tmp_path, rows)
    reward = ColumnarOfflineData(normalised).reward
    assert reward.units == pytest.approx((rows["rewards"].std(),), rel=1e-6)
    assert input_dataset(str(path)) is None


def test_spaces_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    """Fails if actions that are no numbers from 0 on are taken for some."""
    write(tmp_path, log())
    box = gym.spaces.Box(0, 1, (2,))
    shifted = gym.spaces.Discrete(4, start=1)
    for space, message in ((box, "Discrete action space"), (shifted, "numbers from 0 on")):
        with pytest.raises(ValueError, match=message):
            ColumnarOfflineData(config(tmp_path, action_space=space))
    with pytest.raises(ValueError, match="Box or Discrete observation space"):
        ColumnarOfflineData(config(tmp_path, observation_space=gym.spaces.MultiBinary(3)))

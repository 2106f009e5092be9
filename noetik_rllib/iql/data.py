"""Training data for RLlib's learners: columnar, in each learner's own process, reproducible.

``ColumnarOfflineData`` takes the place of RLlib's ``OfflineData``: it finds the files, and hands
each learner a ``ShardIterator``. So there are no Ray Data actors, which would claim CPUs outside a
trial's placement group and deadlock a sweep on a small machine, and no Python object per row, which
limits RLlib's own path to some 10,000 rows a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from ray.rllib.core.columns import Columns
from ray.rllib.offline.offline_data import OfflineData

from noetik_rllib.errors import UserError
from noetik_rllib.iql.reward import RewardDecomposition
from noetik_rllib.iql.row_files import RowFormat, open_files, read_rewards
from noetik_rllib.iql.shard_iterator import ShardIterator
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from noetik_rllib.iql.config import DiscreteIQLConfig


def _paths(input_: str | list[str]) -> list[Path]:
    return [Path(path) for path in ([input_] if isinstance(input_, str) else input_)]


def _folder(path: Path) -> Path:
    return path.parent if path.is_file() else path


def input_dataset(input_: str | list[str]) -> OfflineDataset | None:
    """Return the dataset that RLlib's ``input_`` paths lie in; None where they are other logs.

    Args:
        input_: ``DATASET/train`` or a list of such folders or of Parquet files within them.

    Raises:
        UserError: another part of a dataset, or of several.
    """
    folders = {_folder(path) for path in _paths(input_)}
    roots = {folder.parent for folder in folders if (folder.parent / MANIFEST_NAME).is_file()}
    for folder in sorted(folders):
        if (folder / MANIFEST_NAME).is_file():
            raise UserError(f"offline_data input '{folder}' is a dataset: use '{folder / 'train'}'")
        if roots and folder.name != "train":
            raise UserError(
                f"offline_data input '{folder}' is not DATASET/train: the other parts of a dataset "
                "hold its held-out users and its test days"
            )
    if len(roots) > 1 or (roots and {folder.parent for folder in folders} != roots):
        raise UserError(
            f"offline_data inputs lie in several datasets ({', '.join(map(str, folders))}): "
            "action numbers mean different videos there, so train on one"
        )
    return OfflineDataset(roots.pop()) if roots else None


def dataset_spaces(dataset: OfflineDataset) -> tuple[gym.spaces.Box, gym.spaces.Discrete]:
    """Return the spaces of a dataset's states and videos."""
    manifest = dataset.manifest
    low, high = manifest.layout.bounds(manifest.num_videos)
    return gym.spaces.Box(low, high), gym.spaces.Discrete(manifest.num_videos)


def input_files(input_: str | list[str]) -> list[Path]:
    """Return the Parquet files of RLlib's ``input_`` paths.

    Raises:
        UserError: a path that does not exist, or without a Parquet file.
    """
    files: list[Path] = []
    for path in _paths(input_):
        # Not by the suffix: ``ray.data...write_parquet("log.parquet")`` makes a folder.
        found = [path] if path.is_file() else sorted(path.glob("*.parquet"))
        if not found:
            what = "holds no Parquet file" if path.exists() else "does not exist"
            raise UserError(
                f"offline_data input '{path}' {what}: expected Parquet files, as 'noetik data "
                "prepare' writes them to DATASET/train"
            )
        files += found
    return files


def reward_decomposition(config: DiscreteIQLConfig) -> RewardDecomposition:
    """Return what the reward of a config's log is made of.

    Raises:
        UserError: the reward is the same on every row, so it cannot be normalised.
    """
    dataset = input_dataset(config.input_)
    if dataset is not None:
        return RewardDecomposition.fit(
            dataset.manifest.signals,
            config.reward_weights,
            normalise=config.normalise_reward,
            subtract_mean=config.subtract_reward_mean,
        )
    if not (config.normalise_reward or config.subtract_reward_mean):
        return RewardDecomposition()
    rewards = read_rewards(input_files(config.input_)).astype(float)
    if config.normalise_reward and not (len(rewards) and rewards.std() > 0):
        raise UserError(
            f"the rewards in {config.input_} do not vary, so they cannot be normalised: call "
            "config.training(normalise_reward=False)"
        )
    return RewardDecomposition(
        means=(rewards.mean() if config.subtract_reward_mean else 0.0,),
        units=(rewards.std() if config.normalise_reward else 1.0,),
    )


class ColumnarOfflineData(OfflineData):
    """RLlib's ``offline_data_class`` for logs in Parquet: hands each learner its ``ShardIterator``.

    It replaces reading and mapping by Ray Data altogether, hence does not call the base class'
    constructor, which would start both.
    """

    def __init__(self, config: DiscreteIQLConfig) -> None:
        """Read the manifest and the Parquet footers; no rows yet, but rewards without a manifest.

        Raises:
            UserError: no such log, or damaged, or a column is missing, or its reward does not vary.
            ValueError: spaces whose rows cannot be read.
        """
        self.config = config
        dataset = input_dataset(config.input_)
        self.reward = reward_decomposition(config)
        # A plain reward has RLlib's name.
        signals = (Columns.REWARDS,) if dataset is None else self.reward.names
        spaces = (
            (config.observation_space, config.action_space)
            if dataset is None
            else dataset_spaces(dataset)
        )
        mixed = dataset is not None and dataset.manifest.random_in_train
        self.form = RowFormat.of_spaces(*spaces, signals, mixed and not config.imitate_random)
        self.files = open_files(input_files(config.input_), self.form.names)
        self.rows = sum(file.rows for file in self.files)
        # Algorithm.setup() fills these in (ray/rllib/algorithms/algorithm.py:1022-1040).
        self.locality_hints: Any = None
        self.learner_handles: Any = None
        self.module_spec: Any = None
        self.spaces: Any = None

    def sample(
        self,
        num_samples: int,
        return_iterator: bool = True,
        num_shards: int = 1,
        module_state: Any = None,
    ) -> list[ShardIterator]:
        """Return one iterator per learner, over disjoint rows, equally many each.

        Args:
            num_samples: rows per batch, to refuse a dataset that is smaller than one.
            return_iterator: must be true.
            num_shards: learners; 0 and 1 both mean one.
            module_state: of no use here: the rows do not depend on the policy.
        """
        if not return_iterator:
            raise ValueError("ColumnarOfflineData hands out iterators, not single batches")
        shards = max(1, num_shards)
        rows = self.rows // shards  # at most shards - 1 rows are left out
        if rows < num_samples:
            raise UserError(
                f"{self.rows:,} training rows are fewer than {shards} x {num_samples:,}, a batch "
                "for every learner: lower the batch size or the number of learners"
            )
        return [
            ShardIterator(
                files=self.files,
                start=shard * rows,
                stop=(shard + 1) * rows,
                form=self.form,
                reward=self.reward,
                # No seed is a fixed seed here: the order must be the same after a restore.
                seed=self.config.seed or 0,
                window_rows=max(1, self.config.data_window_mb * 2**20 // self.form.row_bytes),
                residency=self.config.data_residency,
                index=shard,
            )
            for shard in range(shards)
        ]

"""Training rows for RLlib's learners: columnar, in the learner's own process, reproducible.

RLlib hands a learner an iterator and asks it for one thing, ``iter_torch_batches(batch_size=,
device=)`` (``ray/rllib/utils/minibatch_utils.py:208``). ``ShardIterator`` answers with slices of
arrays that it read from Parquet itself. So there are no Ray Data actors, which would claim CPUs
outside a trial's placement group and deadlock a sweep on a small machine, and no Python object per
row, which limits RLlib's own path to some 10,000 rows a second.

The order of the rows is a pure function of (seed, shard, batches drawn): a restored run goes on
with exactly the batch that an unbroken one would have seen next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.offline.offline_data import OfflineData
from torch import Tensor

from noetik_rllib.errors import UserError
from noetik_rllib.iql.reward import RewardDecomposition
from noetik_rllib.offline.columns import column_to_numpy
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from noetik_rllib.iql.config import DiscreteIQLConfig


#: Column of a batch: the reward's components (B, S), see ``reward.py``.
REWARD_COMPONENTS = "reward_components"


@dataclass(frozen=True)
class RowFile:
    """A Parquet file and its number of rows."""

    path: str
    rows: int


@dataclass
class ShardIterator:
    """The rows ``start`` to ``stop`` of a dataset, as an endless shuffled stream of batches.

    Light to pickle: it carries paths and numbers, and each learner opens the files itself, once.

    Attributes:
        files: the dataset's files, in order.
        start: first row of this shard, over all files.
        stop: row after the last.
        reward: how the reward is made.
        seed: of the shuffling.
        index: number of this shard, so that learners shuffle differently.
        batches_drawn: batches that were drawn before, by the run that this one continues.
    """

    files: tuple[RowFile, ...]
    start: int
    stop: int
    reward: RewardDecomposition
    seed: int
    index: int = 0
    batches_drawn: int = 0
    _columns: dict[str, Tensor] | None = field(default=None, init=False, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_columns": None}

    @property
    def signal_columns(self) -> tuple[str, ...]:
        """Columns that the reward is made of; a plain reward has RLlib's name."""
        one = self.reward.names == RewardDecomposition().names
        return (Columns.REWARDS,) if one else self.reward.names

    def starting_at(self, batches_drawn: int) -> ShardIterator:
        """Return the same stream from its batch number ``batches_drawn`` on."""
        return replace(self, batches_drawn=batches_drawn)

    def iter_torch_batches(
        self, *, batch_size: int, device: str | torch.device | None = None, **unused: Any
    ) -> Iterator[dict[str, Tensor]]:
        """Yield batches without end, as RLlib's ``MiniBatchRayDataIterator`` unpacks them.

        Every epoch has an order of its own and drops its last, short batch: all learners must draw
        equally many, or the gradient exchange between them would wait for ever.

        Args:
            batch_size: rows per batch.
            device: where the batch goes.
            **unused: what RLlib passes to Ray Data's iterators; refused, as it has no effect.

        Yields:
            ``default_policy/<column>`` -> tensor of ``batch_size`` rows.
        """
        if unused:
            raise ValueError(f"iter_batches_kwargs {sorted(unused)} have no effect here: remove")
        rows = self.stop - self.start
        per_epoch = rows // batch_size
        if not per_epoch:
            raise UserError(
                f"{rows:,} training rows per learner are fewer than a batch of {batch_size:,}: "
                "lower the batch size or the number of learners"
            )
        columns = self._load()
        drawn = self.batches_drawn
        while True:
            epoch, first = divmod(drawn, per_epoch)
            # Not Python's hash of a tuple, nor seed + epoch, which repeats orders between seeds.
            order = np.random.default_rng([self.seed, self.index, epoch]).permutation(rows)
            chosen = torch.from_numpy(order)
            for place in range(first, per_epoch):
                index = chosen[place * batch_size : (place + 1) * batch_size]
                drawn += 1
                yield {
                    # index_select: column[index] takes 30 times as long for as few rows.
                    f"{DEFAULT_MODULE_ID}/{name}": column.index_select(0, index).to(device)
                    for name, column in columns.items()
                }

    def _load(self) -> dict[str, Tensor]:
        """Read this shard's rows, a row group at a time, into arrays of their final size."""
        if self._columns is not None:
            return self._columns
        names = [Columns.OBS, Columns.ACTIONS, Columns.NEXT_OBS, Columns.TERMINATEDS]
        columns: dict[str, np.ndarray] = {}
        done = 0
        for rows in self._row_groups([*names, *self.signal_columns]):
            signals = np.stack([rows.pop(name) for name in self.signal_columns], axis=1)
            rows[REWARD_COMPONENTS] = self.reward.components(signals)
            rows[Columns.ACTIONS] = rows[Columns.ACTIONS].astype(np.int64)
            rows[Columns.TERMINATEDS] = rows[Columns.TERMINATEDS].astype(np.float32)
            for name, part in rows.items():
                if name not in columns:
                    shape = (self.stop - self.start, *part.shape[1:])
                    columns[name] = np.empty(shape, dtype=part.dtype)
                columns[name][done : done + len(part)] = part
            done += len(rows[Columns.ACTIONS])
        self._columns = {name: torch.from_numpy(column) for name, column in columns.items()}
        return self._columns

    def _row_groups(self, names: list[str]) -> Iterator[dict[str, np.ndarray]]:
        """Yield the shard's part of each row group that it reaches into."""
        first = 0  # first row of the file, then of the row group, over all files
        for file in self.files:
            if first + file.rows <= self.start or first >= self.stop:
                first += file.rows
                continue
            try:
                parquet = pq.ParquetFile(file.path)
                for group in range(parquet.num_row_groups):
                    size = parquet.metadata.row_group(group).num_rows
                    begin, end = max(self.start - first, 0), min(self.stop - first, size)
                    first += size
                    if begin < end:
                        table = parquet.read_row_group(group, columns=names)
                        table = table.slice(begin, end - begin)
                        yield {name: column_to_numpy(table[name]) for name in names}
            except (pa.ArrowException, OSError, KeyError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"{file.path} cannot be read: {reason}") from None


def _paths(input_: str | list[str]) -> list[Path]:
    return [Path(path) for path in ([input_] if isinstance(input_, str) else input_)]


def _folder(path: Path) -> Path:
    return path.parent if path.suffix == ".parquet" else path


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


def input_files(input_: str | list[str]) -> list[Path]:
    """Return the Parquet files of RLlib's ``input_`` paths.

    Raises:
        UserError: a path that does not exist, or without a Parquet file.
    """
    files: list[Path] = []
    for path in _paths(input_):
        found = [path] if path.suffix == ".parquet" else sorted(path.glob("*.parquet"))
        if not found or not all(file.is_file() for file in found):
            what = "holds no Parquet file" if path.exists() else "does not exist"
            raise UserError(f"offline_data input '{path}' {what}: prepare it again")
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
    rewards = np.concatenate(
        [
            column_to_numpy(pq.read_table(path, columns=[Columns.REWARDS])[Columns.REWARDS])
            for path in input_files(config.input_)
        ]
    ).astype(np.float64)
    if config.normalise_reward and not rewards.std() > 0:
        raise UserError(
            f"every reward in {config.input_} is {rewards[0]:g}, so it cannot be normalised: call "
            "config.training(normalise_reward=False)"
        )
    return RewardDecomposition(
        means=(rewards.mean() if config.subtract_reward_mean else 0.0,),
        units=(rewards.std() if config.normalise_reward else 1.0,),
    )


class ColumnarOfflineData(OfflineData):
    """RLlib's ``offline_data_class`` for our datasets: hands each learner its ``ShardIterator``.

    It replaces reading and mapping by Ray Data altogether, hence does not call the base class'
    constructor, which would start both.
    """

    def __init__(self, config: DiscreteIQLConfig) -> None:
        """Read the manifest and the Parquet footers; no rows yet.

        Raises:
            UserError: no such dataset, or damaged, or its reward does not vary.
        """
        self.config = config
        files = input_files(config.input_)
        self.reward = reward_decomposition(config)
        try:
            self.files = tuple(
                RowFile(str(path.resolve()), pq.ParquetFile(path).metadata.num_rows)
                for path in files
            )
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{files[0].parent} is damaged: {reason}") from None
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
                reward=self.reward,
                # No seed is a fixed seed here: the order must be the same after a restore.
                seed=self.config.seed or 0,
                index=shard,
            )
            for shard in range(shards)
        ]

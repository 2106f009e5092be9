"""The uniformly exposed log from each user's split on: what policies are judged on, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.envs.rows import check_column
from noetik_rllib.errors import NoEvidenceError, UserError
from noetik_rllib.offline.columns import column_to_numpy
from noetik_rllib.offline.dataset import OfflineDataset

PART = "random"
#: Rows that are read at a time: their states of 128 are 17 MB.
BATCH_ROWS = 32_768


@dataclass(frozen=True)
class RandomRows:
    """Rows of whole users, sorted by user and time.

    Attributes (B rows):
        place: of the row's user among ``RandomLog.users``, (B,) int64.
        user_id: (B,) int64.
        states: before the row's request, (B, state size) float32.
        videos: shown, (B,) int64.
        signals: answers, (B, 9) float32 in ``SIGNALS`` order.
        propensity: probability with which the video was shown, (B,) float64.
    """

    place: np.ndarray
    user_id: np.ndarray
    states: np.ndarray
    videos: np.ndarray
    signals: np.ndarray
    propensity: np.ndarray

    def __len__(self) -> int:
        return len(self.videos)


class RandomLog:
    """Uniformly exposed rows that no policy was trained on: those from each user's split on.

    Args:
        dataset: offline dataset.
        max_rows: the most rows; whole users, chosen by ``seed``, are left out above.
        seed: of the choice.

    Attributes:
        users: their ids, ascending, (U,) int64.
        rows_of_user: (U,) int64, at least 1.
        pool: whether each video of the catalogue may have been drawn, (N,) bool. Where the pool
            is smaller than the catalogue, the log does not say which videos are in it: these are
            all that it shows.

    Raises:
        UserError: the dataset has no such row, or not its propensities; or ``max_rows`` is too
            small for any user.
    """

    def __init__(
        self, dataset: OfflineDataset, *, max_rows: int | None = None, seed: int = 0
    ) -> None:
        self.dataset = dataset
        where = dataset.directory
        if not dataset.manifest.parts[PART].rows:
            raise NoEvidenceError(
                f"{where} has no uniformly exposed rows: off-policy estimates need a log whose "
                "videos were drawn at random, with known probability"
            )
        rows = dataset.load(PART, ("user_id", "time_ms", "propensity"))
        late = ~dataset.before_split(rows["user_id"], rows["time_ms"])
        if not late.any():
            raise NoEvidenceError(
                f"all uniformly exposed rows of {where} lie before the split "
                f"({dataset.manifest.split_text} are for testing): prepare it with an earlier one, "
                "noetik data prepare --split time --split-at TIME"
            )
        propensity = rows["propensity"][late]
        if not ((propensity > 0) & (propensity <= 1)).all():
            raise NoEvidenceError(
                f"{where} has uniformly exposed rows of unknown propensity: say how many videos "
                "they were drawn from, noetik data prepare --random-pool NUMBER"
            )
        self.users, self.rows_of_user = np.unique(rows["user_id"][late], return_counts=True)
        if max_rows is not None:
            self._keep(max_rows, np.random.default_rng(seed))
        self.pool = np.ones(dataset.manifest.num_videos, dtype=bool)
        if (dataset.manifest.random_pool or 0) < dataset.manifest.num_videos:
            self.pool = dataset.times_shown(PART) > 0

    def __len__(self) -> int:
        return int(self.rows_of_user.sum())

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[RandomRows]:
        """Yield all rows, some ``rows`` at a time; a user's are never divided.

        Raises:
            UserError: a row cannot be meant (``envs.rows.check_column``).
        """
        waiting: list[RandomRows] = []
        for read in self._read(rows):
            # Those of the last user may go on in the next batch.
            last = int(np.searchsorted(read.user_id, read.user_id[-1]))
            if last:
                yield _joined([*waiting, _taken(read, slice(0, last))])
                waiting = []
            elif waiting and waiting[-1].user_id[-1] != read.user_id[0]:
                yield _joined(waiting)
                waiting = []
            waiting.append(_taken(read, slice(last, None)))
        yield _joined(waiting)

    def _keep(self, max_rows: int, rng: np.random.Generator) -> None:
        """Keep random users with at most ``max_rows`` rows together."""
        order = rng.permutation(len(self.users))
        chosen = np.sort(order[np.cumsum(self.rows_of_user[order]) <= max_rows])
        if not len(chosen):
            raise UserError(
                f"max rows is {max_rows}: expected at least {self.rows_of_user[order[0]]}, the "
                "random rows of the first user drawn"
            )
        self.users, self.rows_of_user = self.users[chosen], self.rows_of_user[chosen]

    def _read(self, rows: int) -> Iterator[RandomRows]:
        """Yield the rows as they lie in the files, without those before the split."""
        dataset = self.dataset
        names = ["user_id", "time_ms", "obs", "actions", "propensity", *SIGNALS]
        for file in dataset.files(PART):
            try:
                for batch in pq.ParquetFile(file).iter_batches(rows, columns=names):
                    table = pa.Table.from_batches([batch])
                    columns = {name: column_to_numpy(table[name]) for name in names}
                    user_id = columns["user_id"]
                    place = np.minimum(np.searchsorted(self.users, user_id), len(self.users) - 1)
                    kept = self.users[place] == user_id
                    kept &= ~dataset.before_split(user_id, columns["time_ms"])
                    if not kept.any():
                        continue
                    for name, values in columns.items():
                        check_column(dataset, PART, name, values)
                    yield RandomRows(
                        place[kept],
                        user_id[kept],
                        columns["obs"][kept],
                        columns["actions"][kept].astype(np.int64),
                        np.stack([columns[name][kept] for name in SIGNALS], axis=1),
                        columns["propensity"][kept].astype(np.float64),
                    )
            except (pa.ArrowException, OSError) as error:
                raise UserError(
                    f"{file} is damaged: {str(error).splitlines()[0]}; prepare the dataset again"
                ) from None


def _taken(rows: RandomRows, part: slice) -> RandomRows:
    return RandomRows(*(values[part] for values in vars(rows).values()))


def _joined(parts: list[RandomRows]) -> RandomRows:
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return RandomRows(*(np.concatenate(values) for values in columns))

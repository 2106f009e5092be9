"""Real states to start simulated sessions from: the first rows of logged episodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noetik_rllib.envs.rows import check_column
from noetik_rllib.errors import UserError
from noetik_rllib.offline.columns import column_to_numpy
from noetik_rllib.offline.dataset import OfflineDataset


@dataclass(frozen=True)
class Starts:
    """Start states of a part, sorted by user, then in the order of the log.

    ``states`` (S, state size) float32, ``user_id`` (S,) int64. ``users`` (U,) int64 are the
    distinct users, ascending; those of ``users[u]`` are rows ``first[u]`` to ``first[u + 1]``.
    """

    states: np.ndarray
    user_id: np.ndarray
    users: np.ndarray
    first: np.ndarray

    def rows_of(self, user_id: int) -> range:
        """Rows of one user; empty where the user has no start state."""
        place = int(np.searchsorted(self.users, user_id))
        if place == len(self.users) or self.users[place] != user_id:
            return range(0)
        return range(int(self.first[place]), int(self.first[place + 1]))


def load_starts(dataset: OfflineDataset, part: str, users: Iterable[int] | None = None) -> Starts:
    """Read the observations at ``t`` = 0 of a part, of ``users`` only if given.

    Raises:
        UserError: the part is unknown, damaged, or has no episode of these users, or a state is not
            finite.
    """
    filters: list[tuple[str, str, object]] = [("t", "=", 0)]
    if users is not None:
        filters.append(("user_id", "in", [int(user) for user in users]))
    names = ["user_id", "obs"]
    try:
        table = pa.concat_tables(
            pq.read_table(file, columns=names, filters=filters) for file in dataset.files(part)
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{dataset.directory / part} is damaged: {str(error).splitlines()[0]}"
        ) from None
    if not table.num_rows:
        whose = "" if users is None else " of the users asked for"
        raise UserError(f"part '{part}' of {dataset.directory} has no episode{whose}")
    user_id = column_to_numpy(table["user_id"]).astype(np.int64)
    order = np.argsort(user_id, kind="stable")
    # The index makes a copy, so the states are writable and Arrow's memory is let go.
    states = column_to_numpy(table["obs"])[order].astype(np.float32, copy=False)
    check_column(dataset, part, "obs", states)
    distinct, first = np.unique(user_id[order], return_index=True)
    return Starts(states, user_id[order], distinct, np.append(first, len(order)))

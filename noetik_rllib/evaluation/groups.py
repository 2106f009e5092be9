"""Groups of users and of videos, so that an average hides nobody."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from noetik_rllib.evaluation.figures import named, sums_by_user
from noetik_rllib.evaluation.intervals import Intervals, bootstrap_ratio
from noetik_rllib.evaluation.result import Interval
from noetik_rllib.offline.dataset import OfflineDataset

#: Users by their rows before the split, least first.
ACTIVITY = ("light", "medium", "heavy")
#: Videos by the rows of ``train`` that show them, least first.
POPULARITY = ("rarest fifth", "rare", "middle", "popular", "most popular fifth")


@dataclass(frozen=True)
class Groups:
    """A partition of ids: ``names`` (G,) of the groups, ``ids`` ascending (n,), ``group`` (n,) in
    0..G-1, and ``size`` (n,), the number of rows that decided.
    """

    names: tuple[str, ...]
    ids: np.ndarray
    group: np.ndarray
    size: np.ndarray

    @classmethod
    def by_size(cls, names: tuple[str, ...], ids: np.ndarray, size: np.ndarray) -> Groups:
        """Part ids into groups of as nearly the same number as ties allow, the smallest first.

        Ids of the same size are in one group, so one may be empty: where half of the videos were
        never shown, nothing tells one of them from another.

        Args:
            names: of the groups, (G,).
            ids: distinct, ascending, (n,).
            size: of each, (n,).
        """
        # Place of the first of each size in order of size, as a share of all.
        sorted_sizes = np.sort(size)
        place = np.searchsorted(sorted_sizes, size) / max(1, len(size))
        group = np.minimum((place * len(names)).astype(np.int64), len(names) - 1)
        return cls(names, ids, group, size)

    def of(self, ids: np.ndarray) -> np.ndarray:
        """Group of each id, int64 of the input's shape.

        Raises:
            ValueError: an id is in no group.
        """
        place = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        if (self.ids[place] != ids).any():
            unknown = ids[self.ids[place] != ids]
            raise ValueError(f"{len(unknown)} ids are in no group, the first is {unknown[0]}")
        return self.group[place]


class GroupFigures(BaseModel):
    """What is known of one group; ``metrics`` is empty where no value counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Users with a row in the group, and these rows.
    users: int
    rows: int
    #: Metric -> mean over the rows.
    metrics: dict[str, Interval]


def activity_groups(dataset: OfflineDataset) -> Groups:
    """Terciles of the users by their standard rows before the split (``train`` and ``judge``).

    Before the split, so that what is evaluated does not decide who is in which group.
    """
    users = dataset.users.user_id
    rows = np.zeros(len(users), dtype=np.int64)
    for part in ("train", "judge"):
        user_id = dataset.load(part, ("user_id",))["user_id"]
        rows += np.bincount(np.searchsorted(users, user_id), minlength=len(users))
    return Groups.by_size(ACTIVITY, users, rows)


def popularity_groups(dataset: OfflineDataset) -> Groups:
    """Fifths of the catalogue by the rows of ``train`` that show a video; ids are its indices."""
    shown = dataset.times_shown("train")
    return Groups.by_size(POPULARITY, np.arange(len(shown)), shown)


def figures_by_group(
    values: np.ndarray,
    metrics: tuple[str, ...],
    user_id: np.ndarray,
    group: np.ndarray,
    names: tuple[str, ...],
    seed: int,
    weights: np.ndarray | None = None,
) -> dict[str, GroupFigures]:
    """Mean of values over the rows of each group, with intervals by user.

    A value per user is one row of each user. Rows of a user may be in different groups, as those
    of a video's are. The same users are drawn for all groups.

    Args:
        values: (R, M); what is not a number does not count.
        metrics: names of the M values.
        user_id: whose rows they are, (R,).
        group: of each row, (R,) in 0..G-1.
        names: of the groups, (G,).
        seed: of the resampling.
        weights: what each value counts, (R, M) or (R, 1); the same if not given.
    """
    users, user = np.unique(user_id, return_inverse=True)
    cell = user * len(names) + group
    cells, shape = len(users) * len(names), (len(users), len(names), -1)
    known = ~np.isnan(values)
    weight = known * (1.0 if weights is None else weights)
    counts = sums_by_user(weight, cell, cells).reshape(shape)
    sums = sums_by_user(np.where(known, values, 0.0) * weight, cell, cells).reshape(shape)
    rows = np.bincount(cell, minlength=cells).reshape(len(users), len(names))
    there = np.asarray(counts.any(axis=0))  # (G, M)
    figures: list[dict[str, Interval]] = [{} for _ in names]
    if there.any():
        # One call for all groups: drawing the resamples is most of the work.
        found = bootstrap_ratio(sums[:, there], counts[:, there], seed)
        of_group = np.nonzero(there)[0]
        for place in np.unique(of_group):
            own = of_group == place
            labels = [metrics[column] for column in np.flatnonzero(there[place])]
            figures[place] = named(
                labels, Intervals(found.mean[own], found.low[own], found.high[own])
            )
    return {
        name: GroupFigures(
            users=int((rows[:, place] > 0).sum()),
            rows=int(rows[:, place].sum()),
            metrics=figures[place],
        )
        for place, name in enumerate(names)
    }

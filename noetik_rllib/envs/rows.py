"""Logged rows to fit on, to start from and to replay: a damaged one is refused by its place.

One number that is none would otherwise turn every weight into one, and users who answer nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow.parquet as pq

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.errors import UserError
from noetik_rllib.offline.columns import column_to_numpy
from noetik_rllib.offline.dataset import OfflineDataset


def load_rows(
    dataset: OfflineDataset,
    part: str,
    columns: Iterable[str],
    users: Iterable[int] | None = None,
) -> dict[str, np.ndarray]:
    """Read columns as ``OfflineDataset.load`` does, and check what they hold.

    Raises:
        UserError: a state is not finite or holds an unknown video, a signal is not within [0, 1],
            or an action is no video of the catalogue.
    """
    rows = dataset.load(part, columns, users=users)
    for name, values in rows.items():
        check_column(dataset, part, name, values)
    return rows


def check_column(dataset: OfflineDataset, part: str, name: str, values: np.ndarray) -> None:
    """Refuse values of a column that ``load_rows`` would not give out.

    Args:
        dataset: where they are from.
        part: part of it.
        name: column of it.
        values: of any of its rows, (R,) or (R, state size).

    Raises:
        UserError: as ``load_rows``, with the file and its first such row, counted from 0.
    """
    if not _wrong(dataset, name, values).any():
        return
    for file in dataset.files(part):
        whole = column_to_numpy(pq.read_table(file, columns=[name])[name])
        places = np.flatnonzero(_wrong(dataset, name, whole))
        if len(places):
            where, what = f"column '{name}' of row {places[0]}", _expected(dataset, name)
            raise UserError(f"{file} is damaged: {where} {what}; prepare the dataset again")
    raise UserError(f"{dataset.directory / part} was written while it was read: try again")


def _wrong(dataset: OfflineDataset, name: str, values: np.ndarray) -> np.ndarray:
    """Say of R values of a column whether they cannot be meant, (R,) bool."""
    num_videos = dataset.manifest.num_videos
    if name == "obs":
        past = dataset.layout.unpack(values).events[..., 0]  # video number + 1; 0 is empty
        known = ((past >= 0) & (past <= num_videos)).all(axis=1)
        return np.asarray(~(np.isfinite(values).all(axis=1) & known))
    if name in SIGNALS:
        return np.asarray(~((values >= 0) & (values <= 1)))  # True for NaN
    if name == "actions":
        return np.asarray((values < 0) | (values >= num_videos))
    return np.zeros(len(values), dtype=bool)


def _expected(dataset: OfflineDataset, name: str) -> str:
    """What is wrong with a value of which ``_wrong`` says so."""
    num_videos = dataset.manifest.num_videos
    if name == "obs":
        return f"is not finite, or holds a video beyond the catalogue's {num_videos}"
    if name == "actions":
        return f"is no video of the catalogue, 0 to {num_videos - 1}"
    return "is not within 0 to 1"

"""Which row belongs to which part: the time split, held-out users, the random log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

from noetik_rllib.errors import UserError

#: Share of the standard rows before the split.
TRAIN_SHARE = 0.8

#: "user": the last 20 % of each user's own rows are test. "time": the rows from one moment on,
#: the same for all users, are.
Split = Literal["user", "time"]

#: Parts of a dataset, in their order. ``train``: before the split, users that policies may learn
#: from. ``judge``: before the split, users held out, to fit the simulator that evaluates
#: policies. ``test``: from the split on, all users. ``random``: the uniformly exposed log.
PARTS = ("train", "judge", "test", "random")
TRAIN, JUDGE, TEST, RANDOM = range(len(PARTS))

#: A split time later than any row.
NEVER_MS = 2**62


def user_split_times(
    user_row: np.ndarray, time_ms: np.ndarray, is_random: np.ndarray, num_users: int
) -> np.ndarray:
    """Return the time of each user from which on their rows are test, (num_users,) int64.

    The first 80 % of the user's standard rows, to the nearest row, are before it, and with the last
    of them its whole request. The time is that just after that request, so that it follows from a
    row before it, and when exactly a later one came decides nothing. ``NEVER_MS`` where 80 % are
    all of the rows.

    Args:
        user_row: user of each row, (N,), ascending.
        time_ms: (N,), ascending within a user.
        is_random: whether the row was drawn uniformly, (N,) bool.
        num_users: user_row runs from 0 to this, exclusively.
    """
    standard = np.flatnonzero(~is_random)
    counts = np.bincount(user_row[standard], minlength=num_users)
    first = np.cumsum(counts) - counts
    kept = np.floor(TRAIN_SHARE * counts + 0.5).astype(np.int64)
    split = np.full(num_users, NEVER_MS, dtype=np.int64)
    some = np.flatnonzero(kept < counts)
    split[some] = time_ms[standard[(first + kept)[some] - 1]] + 1
    return split


class TimeQuantile:
    """Finds the moment before which a share of all rows lies, over any number of shards.

    Whole seconds are counted, so it is exact to the second and needs no more memory than the log
    has seconds.
    """

    def __init__(self) -> None:
        self._seconds = np.zeros(0, dtype=np.int64)
        self._counts = np.zeros(0, dtype=np.int64)

    def add(self, time_ms: np.ndarray) -> None:
        """Count times, (N,) int64 ms."""
        seconds = np.concatenate([self._seconds, time_ms // 1000])
        weights = np.concatenate([self._counts, np.ones(len(time_ms), dtype=np.int64)])
        self._seconds, place = np.unique(seconds, return_inverse=True)
        self._counts = np.bincount(place, weights=weights).astype(np.int64)

    def at(self, share: float) -> int:
        """Return the end, in ms, of the second with which ``share`` of the rows or more has come.

        It follows from the rows before it: when exactly later ones came decides nothing.
        """
        until = np.cumsum(self._counts)
        place = np.searchsorted(until, share * until[-1])
        return (int(self._seconds[place]) + 1) * 1000


def split_moment(shards: Iterable[np.ndarray]) -> int:
    """Return the moment, in ms, before which ``TRAIN_SHARE`` of all rows lie.

    Args:
        shards: times of the standard rows, (N,) int64 ms each.
    """
    quantile = TimeQuantile()
    for time_ms in shards:
        quantile.add(time_ms)
    return quantile.at(TRAIN_SHARE)


def held_out(user_id: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draw ``share`` of the users by a hash of id and seed, (n,) bool.

    A hash, not a shuffle: whether a user is held out does not depend on who else is in the log.
    The mixer is SplitMix64 (Steele et al. 2014).
    """
    with np.errstate(over="ignore"):
        x = user_id.astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return x.astype(np.float64) / 2.0**64 < share


def part_of(
    user_row: np.ndarray,
    time_ms: np.ndarray,
    is_random: np.ndarray,
    split_ms: np.ndarray,
    user_held_out: np.ndarray,
) -> np.ndarray:
    """Return the part of each of N rows, (N,) int8: a position in ``PARTS``.

    Args:
        user_row: user of each row, (N,).
        time_ms: (N,).
        is_random: whether the row was drawn uniformly, (N,) bool.
        split_ms: split time of each user, (n,).
        user_held_out: whether a user is kept from training, (n,) bool.
    """
    early = time_ms < split_ms[user_row]
    part = np.where(early, np.where(user_held_out[user_row], JUDGE, TRAIN), TEST)
    return np.where(is_random, RANDOM, part).astype(np.int8)


def require_parts(sizes: np.ndarray, users: int, split: Split) -> None:
    """Refuse parts that nothing can do without and that would be empty.

    Args:
        sizes: rows of each of ``PARTS``, (4,).
        users: number of all users.
        split: by which the parts were made.

    Raises:
        UserError: a part but ``random`` has no row.
    """
    advice = {
        TRAIN: "give a smaller --held-out-users, or another --seed",
        JUDGE: "give a larger --held-out-users, or another --seed",
        TEST: "most users have too few rows to cut: give --split time"
        if split == "user"
        else "expected rows of more than one moment",
    }
    for number, what in advice.items():
        if not sizes[number]:
            raise UserError(
                f"part '{PARTS[number]}' would be empty ({sizes.sum() - sizes[RANDOM]:,} standard "
                f"rows of {users:,} users): {what}"
            )

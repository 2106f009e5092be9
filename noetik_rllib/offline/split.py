"""Which row belongs to which part: time split, held-out users, the random log."""

from __future__ import annotations

import numpy as np

from noetik_rllib.data.reader import InteractionLog
from noetik_rllib.errors import UserError

#: Share of the standard rows before the split time.
TRAIN_SHARE = 0.8


def split_time(log: InteractionLog) -> int:
    """Time in ms at which the last 20 % of the standard rows begin.

    One time for all users: no training row is later than any test row, and a request, whose rows
    share their time, is never cut.
    """
    times = np.sort(log.time_ms[~log.is_random])
    return int(times[int(TRAIN_SHARE * len(times))])


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


def split_rows(
    log: InteractionLog, time_ms: int, row_held_out: np.ndarray
) -> dict[str, np.ndarray]:
    """Rows of each part, ascending int64: train, judge, test, random (``dataset.PARTS``).

    Raises:
        UserError: a part that training or evaluation cannot do without is empty.
    """
    standard = ~log.is_random
    early = log.time_ms < time_ms
    parts = {
        "train": standard & early & ~row_held_out,
        "judge": standard & early & row_held_out,
        "test": standard & ~early,
        "random": log.is_random,
    }
    for name in ("train", "judge", "test"):
        if not parts[name].any():
            raise UserError(
                f"the log has too few rows or users for a split: part '{name}' would be empty "
                f"({standard.sum()} standard rows, {len(np.unique(log.user_id))} users)"
            )
    return {name: np.flatnonzero(mask) for name, mask in parts.items()}

"""Cutting a part of the log into episodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Episodes:
    """Episode of each of N rows.

    Attributes:
        number: (N,) int64, counted from 0.
        step: (N,) int64, position within the episode.
        terminated: (N,) bool, the user left after this row.
        truncated: (N,) bool, the episode was cut after this row; its value bootstraps.
        continues: (N,) bool, the next row of the part is the next request of the same session.
    """

    number: np.ndarray
    step: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    continues: np.ndarray


def cut_episodes(user: np.ndarray, session: np.ndarray, max_steps: int) -> Episodes:
    """Cut N rows, sorted by user and time, into episodes of at most ``max_steps``.

    A row ends its episode where the user's next row lies in another session (``terminated``: the
    user had been away), where ``max_steps`` are reached, or where the part has no further row of
    the user (``truncated``: the end of the log is a cut, not an end).

    Args:
        user: user of each row, (N,).
        session: session of each row, (N,): rows of one user with the same value belong together.
        max_steps: the longest episode.
    """
    n = len(user)
    rows = np.arange(n)
    same_user = np.zeros(n, dtype=bool)
    same_user[:-1] = user[1:] == user[:-1]
    same_session = np.zeros(n, dtype=bool)
    same_session[:-1] = same_user[:-1] & (session[1:] == session[:-1])
    # Position within the run of rows of one session, then within pieces of max_steps.
    run_start = np.ones(n, dtype=bool)
    run_start[1:] = ~same_session[:-1]
    position = rows - np.maximum.accumulate(np.where(run_start, rows, 0))
    step = position % max_steps
    full = step == max_steps - 1
    terminated = same_user & ~same_session
    truncated = ~terminated & (full | ~same_session)
    return Episodes(
        number=np.cumsum(step == 0) - 1,
        step=step,
        terminated=terminated,
        truncated=truncated,
        continues=same_session,
    )

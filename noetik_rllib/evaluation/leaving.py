"""Sessions that users leave early: what would have been seen of sessions that ran to the end.

A policy recommends from what was shown and answered alone, so the sessions of users who may leave
are those of users who stay, cut short. Cutting them in expectation needs no further draw, and every
rule is compared on the same sessions.

S sessions of T steps, N videos.
"""

from __future__ import annotations

import numpy as np

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.envs.dynamics import Patience
from noetik_rllib.evaluation.sessions import SessionLog

#: Lengths of the window in which a repeated tag ends a session: those under which the published
#: results on KuaiRand are ranked (Gao et al. 2023, "Alleviating Matthew Effect of Offline
#: Reinforcement Learning in Interactive Recommendation", and its code), and 2 between them.
QUIT_WINDOWS = (1, 2, 4, 10)

_CLICK = SIGNALS.index("click")


def stays_with_patience(log: SessionLog, user_id: np.ndarray, patience: Patience) -> np.ndarray:
    """Return the probability (S, T) that each video of the sessions is still seen.

    Args:
        log: sessions that ran to the end.
        user_id: whose, (S,).
        patience: leaves after each video with log-odds that grow with what was not clicked.
    """
    count = log.videos.shape[-1]
    steps = np.arange(1, count + 1)
    unclicked = 1 - np.cumsum(log.signals[..., _CLICK], axis=1, dtype=np.float64) / steps  # (S, T)
    stays = np.empty(unclicked.shape)
    stays[:, 0] = 1.0
    for step in range(1, count):
        leaves = patience.leave_probability(user_id, unclicked[:, step - 1])
        stays[:, step] = stays[:, step - 1] * (1 - leaves)
    return stays


def stays_with_quit_window(log: SessionLog, tags: np.ndarray, window: int) -> np.ndarray:
    """Return whether each video of the sessions is still seen, (S, T) of 0 and 1.

    A user leaves after a video that shares a tag with one of the ``window`` videos before it: the
    rule of the published simulators (EasyRL4Rec's KuaiRand environment with a threshold of 0).
    It is no finding about users: the sessions of the real logs are full of such repeats. It
    rewards variety, the more the longer the window, and decides on rankings.

    Args:
        log: sessions that ran to the end.
        tags: tags of all videos, (N, 5), -1 padded.
        window: number of videos.
    """
    shown = tags[log.videos]  # (S, T, 5)
    stays = np.ones(log.videos.shape)
    # After the last video nothing is left to miss.
    for step in range(log.videos.shape[-1] - 1):
        quits = np.zeros(len(stays), dtype=bool)
        for before in range(max(0, step - window), step):
            same = shown[:, step, :, None] == shown[:, before, None, :]  # (S, 5, 5)
            quits |= (same & (shown[:, step, :, None] >= 0)).any(axis=(1, 2))
        stays[:, step + 1] = stays[:, step] * ~quits
    return stays


def cut_short(log: SessionLog, stays: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return expected videos seen and sum of the reward per session, user by user, (U, 2).

    Args:
        log: sessions that ran to the end.
        stays: probability that each video is seen, (S, T).
        weights: of the signals in the reward, (9,).
    """
    reward = (log.signals @ weights * stays).sum(axis=1, dtype=np.float64)
    both = np.stack([stays.sum(axis=1), reward], axis=1)  # (S, 2)
    return np.asarray(both.reshape(-1, log.num_seeds, 2).mean(axis=1))

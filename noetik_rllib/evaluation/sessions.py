"""Simulated sessions: a policy recommends greedily, simulated users answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.envs.simulator import Simulator
from noetik_rllib.envs.starts import Starts
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.policies import Policy

#: Sessions that are answered at a time: what a progress bar waits for.
CHUNK = 8_192


@dataclass(frozen=True)
class SessionStarts:
    """Where S sessions begin: ``states`` (S, state size) float32, ``user_id`` (S,).

    Sessions of a user lie together, as many for each: user u of U has rows u k to (u + 1) k.
    """

    states: np.ndarray
    user_id: np.ndarray
    sessions_per_user: int

    @property
    def num_users(self) -> int:
        """Number of users U."""
        return len(self.user_id) // self.sessions_per_user

    @classmethod
    def draw(cls, starts: Starts, users: int, sessions_per_user: int, seed: int) -> SessionStarts:
        """Choose users, and for each the states that the sessions begin in.

        A user's start states are taken in turn from a random one on, so that none is used twice
        before all are used once.

        Args:
            starts: start states to choose from.
            users: the most users; all where there are fewer.
            sessions_per_user: sessions of each.
            seed: of the choice.
        """
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.permutation(len(starts.users))[:users])
        count = np.diff(starts.first)[chosen]
        offset = rng.integers(count)
        turn = (offset[:, None] + np.arange(sessions_per_user)) % count[:, None]
        # (U, k) -> (U * k,)
        rows = (starts.first[chosen][:, None] + turn).reshape(-1)
        return cls(starts.states[rows], starts.user_id[rows], sessions_per_user)


@dataclass(frozen=True)
class SessionLog:
    """What happened in S sessions of T steps: ``videos`` (S, T) int64, ``signals`` (S, T, 9)."""

    videos: np.ndarray
    signals: np.ndarray

    @property
    def distinct_videos(self) -> int:
        """Number of different videos that were shown."""
        return len(np.unique(self.videos))

    def by_user(self, sessions_per_user: int) -> np.ndarray:
        """Mean of every signal per user, (U, 9), over sessions laid out as ``SessionStarts``."""
        signals = self.signals.shape[-1]
        # (S, T, 9) -> (U, k * T, 9)
        steps = sessions_per_user * self.signals.shape[1]
        return self.signals.reshape(-1, steps, signals).mean(axis=1, dtype=np.float64)


def run_sessions(
    policy: Policy,
    simulator: Simulator,
    starts: SessionStarts,
    *,
    steps: int,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> SessionLog:
    """Let a policy recommend ``steps`` videos in every session.

    The users' luck (the simulator's uniform numbers) follows from ``seed``, session and step
    alone: every policy meets the same.

    Args:
        policy: recommends; one that ranks repeats no video within a session.
        simulator: answers.
        starts: where the sessions begin.
        steps: videos per session.
        seed: of the users' luck.
        progress: called with the share that is done, 0 to 1.

    Raises:
        UserError: the catalogue has fewer videos than a session has steps.
    """
    num_videos = simulator.num_videos
    if num_videos < steps:
        raise UserError(
            f"the catalogue has {num_videos} videos: a session of {steps} steps that shows none "
            f"twice needs at least {steps}"
        )
    progress = progress or (lambda share: None)
    count = len(starts.user_id)
    states = starts.states.copy()
    videos = np.empty((count, steps), dtype=np.int64)
    signals = np.empty((count, steps, len(SIGNALS)), dtype=np.float32)
    for step in range(steps):
        uniforms = np.random.default_rng([seed, step]).random((count, simulator.users.num_uniforms))
        for first in range(0, count, CHUNK):
            rows = slice(first, first + CHUNK)
            videos[rows, step] = policy.recommend(
                states[rows], starts.user_id[rows], videos[rows, :step]
            )
            answer = simulator.step(
                states[rows], starts.user_id[rows], videos[rows, step], uniforms[rows]
            )
            signals[rows, step] = answer.signals
            states[rows] = answer.next_states
            progress((step + min(1.0, (first + CHUNK) / count)) / steps)
    return SessionLog(videos, signals)

"""Simulated sessions: a policy recommends greedily, simulated users answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """Where S = U x k sessions begin: ``states`` (S, state size) float32, ``user_id`` (S,).

    Sessions of a user lie together, one for each of k seeds: user u of U has rows u k to
    (u + 1) k.
    """

    states: np.ndarray
    user_id: np.ndarray
    seeds: tuple[int, ...]

    @property
    def num_users(self) -> int:
        """Number of users U."""
        return len(self.user_id) // len(self.seeds)

    @classmethod
    def draw(cls, starts: Starts, users: int, seeds: Sequence[int]) -> SessionStarts:
        """Choose users, and for each the states that the sessions begin in.

        A user's start states are taken in turn from a random one on, so that none is used twice
        before all are used once. The first seed decides on the users and where the turn begins.

        Args:
            starts: start states to choose from.
            users: the most users; all where there are fewer.
            seeds: of the sessions of each user, at least one.
        """
        rng = np.random.default_rng(seeds[0])
        chosen = np.sort(rng.permutation(len(starts.users))[:users])
        count = np.diff(starts.first)[chosen]
        offset = rng.integers(count)
        turn = (offset[:, None] + np.arange(len(seeds))) % count[:, None]
        # (U, k) -> (U * k,)
        rows = (starts.first[chosen][:, None] + turn).reshape(-1)
        return cls(starts.states[rows], starts.user_id[rows], tuple(seeds))

    def luck(self, step: int, numbers: int) -> np.ndarray:
        """Uniform numbers (S, ``numbers``) of a step, which follow from seed, user and step."""
        drawn = [
            # Not step 0: NumPy takes [seed, 0] for the seed alone, which others draw from.
            np.random.default_rng([seed, step + 1]).random((self.num_users, numbers))
            for seed in self.seeds
        ]
        # (k, U, n) -> (U * k, n)
        return np.stack(drawn, axis=1).reshape(-1, numbers)


@dataclass(frozen=True)
class SessionLog:
    """What happened in S sessions of T steps: ``videos`` (S, T) int64, ``signals`` (S, T, 9).

    ``num_seeds`` k says how the sessions lie, as in ``SessionStarts``.
    """

    videos: np.ndarray
    signals: np.ndarray
    num_seeds: int

    @property
    def distinct_videos(self) -> int:
        """Number of different videos that were shown."""
        return len(np.unique(self.videos))

    def by_seed(self) -> np.ndarray:
        """Mean of every signal per user and seed, (U, k, 9)."""
        mean = self.signals.mean(axis=1, dtype=np.float64)  # (S, 9)
        return mean.reshape(-1, self.num_seeds, mean.shape[-1])

    def by_user(self) -> np.ndarray:
        """Mean of every signal per user, (U, 9)."""
        return np.asarray(self.by_seed().mean(axis=1))


def check_catalogue(num_videos: int, steps: int) -> None:
    """Refuse sessions that would have to show a video twice.

    Raises:
        UserError: the catalogue has fewer videos than a session has steps.
    """
    if num_videos < steps:
        raise UserError(
            f"the catalogue has {num_videos} videos: a session of {steps} steps that shows none "
            f"twice needs at least {steps}"
        )


def run_sessions(
    policy: Policy,
    simulator: Simulator,
    starts: SessionStarts,
    *,
    steps: int,
    progress: Callable[[float], None] | None = None,
) -> SessionLog:
    """Let a policy recommend ``steps`` videos in every session.

    The users' luck (the simulator's uniform numbers) follows from the session's seed, user and
    step alone: every policy meets the same.

    Args:
        policy: recommends; one that ranks repeats no video within a session.
        simulator: answers.
        starts: where the sessions begin, and the seeds of their luck.
        steps: videos per session.
        progress: called with the share that is done, 0 to 1.

    Raises:
        UserError: the catalogue has fewer videos than a session has steps.
    """
    check_catalogue(simulator.num_videos, steps)
    progress = progress or (lambda share: None)
    count = len(starts.user_id)
    states = starts.states.copy()
    videos = np.empty((count, steps), dtype=np.int64)
    signals = np.empty((count, steps, len(SIGNALS)), dtype=np.float32)
    for step in range(steps):
        uniforms = starts.luck(step, simulator.users.num_uniforms)
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
    return SessionLog(videos, signals, len(starts.seeds))

"""The true value of a policy in a synthetic world, by rollouts of the true responses.

What is random about a rollout is kept to what must be: at each step the expected signals of all
videos that the policy may show are added up in closed form, and so is the chance to be still there;
only the video that is shown and the answer to it, which make the next state, are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from noetik_rllib.data.signals import SIGNALS, RewardWeights, watch_ratio
from noetik_rllib.data.world import SyntheticWorld

#: A policy: ``(user_id (B,), recent_videos (B, W), recent_clicks (B, W), recent_watch (B, W))`` to
#: the probability of each video, (B, V) float, or to the videos it has drawn, (B,) int. Recent
#: events come newest first; where there is none, the video is -1 and the rest 0.
Policy = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]

#: Pairs of user and video whose responses are computed at a time, which bounds the memory.
_PAIRS = 200_000


@dataclass(frozen=True)
class History:
    """The last W events of each of U users, newest first, all (U, W).

    ``videos`` are ids, -1 where there is none; ``clicks`` 0 or 1; ``watch`` in [0, 1].
    """

    videos: np.ndarray
    clicks: np.ndarray
    watch: np.ndarray

    def after(self, video: np.ndarray, click: np.ndarray, watch: np.ndarray) -> History:
        """Return the histories one event later; all (U,)."""

        def pushed(new: np.ndarray, past: np.ndarray) -> np.ndarray:
            return np.concatenate([new[:, None].astype(past.dtype), past[:, :-1]], axis=1)

        return History(
            pushed(video, self.videos), pushed(click, self.clicks), pushed(watch, self.watch)
        )

    def take(self, rows: np.ndarray) -> History:
        """Return the histories of the given rows."""
        return History(self.videos[rows], self.clicks[rows], self.watch[rows])

    @classmethod
    def empty(cls, users: int, window: int) -> History:
        """Return the histories of users without a past."""
        shape = users, window
        return cls(np.full(shape, -1), np.zeros(shape, dtype=np.int64), np.zeros(shape))


@dataclass(frozen=True)
class PolicyValue:
    """Sums over a session, averaged over users, with the standard errors of the rollouts.

    Attributes:
        mean: of each of ``SIGNALS``, "reward", and "steps" (videos shown).
        standard_error: of the same. The users are those asked for, so it does not hold the
            spread between users; it is 0 for what is known exactly.
        sessions: number of rollouts.
    """

    mean: Mapping[str, float]
    standard_error: Mapping[str, float]
    sessions: int


def policy_value(
    world: SyntheticWorld,
    policy: Policy,
    *,
    users: np.ndarray | None = None,
    start: History | None = None,
    sessions_per_user: int = 4,
    horizon: int = 10,
    patience: bool = False,
    weights: RewardWeights | None = None,
    seed: int = 0,
) -> PolicyValue:
    """Return the true expected signals and reward of sessions under a policy, on the main tab.

    Args:
        world: the world that answers.
        policy: what decides on the next video; see ``Policy``. One that draws videos itself adds
            the noise of its draws to the standard error.
        users: ids, (U,); all users if not given. Each weighs the same.
        start: their histories as a session begins; none if not given.
        sessions_per_user: rollouts of each user, 2 or more.
        horizon: videos of a session.
        patience: let users leave, as in the logs: the sums then count what is seen before.
        weights: of the reward; 0.5 click + 0.5 watch ratio if not given.
        seed: of the rollouts; the same seed gives the same value.

    Raises:
        ValueError: a number is out of range, or the policy's answer is not as described.
    """
    if sessions_per_user < 2 or horizon < 1:
        raise ValueError(
            "expected sessions_per_user of 2 or more and a horizon of 1 or more, got "
            f"{sessions_per_user} and {horizon}"
        )
    window = world.config.history_window
    users = np.arange(world.config.users) if users is None else np.asarray(users)
    start = start or History.empty(len(users), window)
    if start.videos.shape != (len(users), window):
        raise ValueError(f"expected histories ({len(users)}, {window}), got {start.videos.shape}")
    rng = np.random.default_rng(seed)
    row = np.repeat(np.arange(len(users)), sessions_per_user)
    user_id, history = users[row], start.take(row)
    total = np.zeros((len(row), len(SIGNALS) + 1))
    present, clicked = np.ones(len(row)), np.zeros(len(row))
    for step in range(horizon):
        answer = policy(user_id, history.videos, history.clicks, history.watch)
        expected, video = _expected(world, user_id, history, answer, rng)
        total[:, :-1] += present[:, None] * expected
        total[:, -1] += present
        drawn = world.sample(user_id, video, history.videos, history.clicks, rng)
        watch = watch_ratio(drawn["play_time_ms"], world.duration_ms[video])
        history = history.after(video, drawn["click"], watch)
        clicked += drawn["click"]
        if patience:
            present *= 1 - world.leave_probability(user_id, 1 - clicked / (step + 1))
    reward = total[:, :-1] @ (weights or RewardWeights()).as_array()
    return _summary(np.column_stack([total, reward]), len(users), sessions_per_user)


def _expected(
    world: SyntheticWorld,
    user_id: np.ndarray,
    history: History,
    answer: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the expected signals (B, 9) of a step, and the video (B,) that is shown in it."""
    count, videos = len(user_id), world.config.videos
    answer = np.asarray(answer)
    if answer.shape == (count,) and np.issubdtype(answer.dtype, np.integer):
        video = answer.astype(np.int64)
        pair_row, pair_video, weight = np.arange(count), video, np.ones(count)
    elif answer.shape == (count, videos):
        if (answer < 0).any() or not np.allclose(answer.sum(axis=1), 1.0, atol=1e-5):
            raise ValueError("expected probabilities of 0 or more that sum to 1 for each user")
        cumulative = np.cumsum(answer, axis=1, dtype=np.float64)
        draw = rng.random((count, 1)) * cumulative[:, -1:]
        video = (cumulative <= draw).sum(axis=1)
        pair_row, pair_video = np.nonzero(answer)
        weight = answer[pair_row, pair_video]
    else:
        raise ValueError(
            f"expected probabilities ({count}, {videos}) or whole numbers ({count},), "
            f"got {answer.dtype} {answer.shape}"
        )
    expected = np.zeros((count, len(SIGNALS)))
    for first in range(0, len(pair_row), _PAIRS):
        part = slice(first, first + _PAIRS)
        row = pair_row[part]
        response = world.response(
            user_id[row], pair_video[part], history.videos[row], history.clicks[row]
        )
        for place, name in enumerate(SIGNALS):
            expected[:, place] += np.bincount(row, weight[part] * response[name], count)
    return expected, video


def _summary(total: np.ndarray, users: int, sessions: int) -> PolicyValue:
    """Average sums (users x sessions, signals + steps + reward) of rollouts, user by user."""
    by_user = total.reshape(users, sessions, -1)
    mean = by_user.mean(axis=(0, 1))
    # Rollouts of one user are independent, and those of different users too.
    error = np.sqrt((by_user.var(axis=1, ddof=1) / sessions).sum(axis=0)) / users
    names = (*SIGNALS, "steps", "reward")
    return PolicyValue(
        mean=dict(zip(names, mean.tolist(), strict=True)),
        standard_error=dict(zip(names, error.tolist(), strict=True)),
        sessions=users * sessions,
    )

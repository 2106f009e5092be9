"""Sessions side by side: the one core of the single and the vectorised environment.

What is random about a session comes from its own generator alone, and as many numbers are taken
whatever happens: so a session does not depend on those beside it, and the luck of later steps does
not depend on earlier actions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.envs.dynamics import Returns, Satiation, unclicked_share
from noetik_rllib.envs.simulator import Simulator
from noetik_rllib.envs.starts import Starts
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.state import advance

#: Uniform numbers of a step beside those of the answer: is the video skipped, does the user leave,
#: how long are they away.
_SKIP, _LEAVE, _AWAY = range(3)
#: Steps whose numbers are drawn at a time, which is much quicker than one by one.
_LUCK_STEPS = 16

LeaveProbability = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class SessionPlan:
    """What every session of an environment shares; read, never written.

    Attributes:
        leave_probability: of users (B,) after a share (B,) of unclicked videos; None: nobody
            leaves.
        satiation, returns: None where there is none.
        reward: weights (9,), in ``SIGNALS`` order.
    """

    dataset: OfflineDataset
    starts: Starts
    simulator: Simulator
    horizon: int
    reward: np.ndarray
    repeat_interest: float
    mask_seen: bool
    leave_probability: LeaveProbability | None
    satiation: Satiation | None
    returns: Returns | None


@dataclass(frozen=True)
class SessionStep:
    """What happened in n sessions; arrays of n rows, ``signals`` (n, 9) in ``SIGNALS`` order.

    ``repeated``: the user had just seen the video. ``left``: the user left after it.
    ``elapsed_seconds``: until the next request.
    """

    videos: np.ndarray
    signals: np.ndarray
    rewards: np.ndarray
    logged: np.ndarray
    repeated: np.ndarray
    left: np.ndarray
    elapsed_seconds: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray

    @classmethod
    def of_none(cls) -> SessionStep:
        """What happened where no session was stepped: arrays of no rows, of the usual kinds."""
        flag, number = np.zeros(0, dtype=bool), np.zeros(0)
        return cls(
            videos=np.zeros(0, dtype=np.int64),
            signals=np.zeros((0, len(SIGNALS)), dtype=np.float32),
            rewards=number,
            logged=flag,
            repeated=flag,
            left=flag,
            elapsed_seconds=number,
            terminated=flag,
            truncated=flag,
        )


class Sessions:
    """A number of sessions, each of its own user, state, steps and luck.

    Args:
        plan: what they share.
        count: how many there are, B.

    Attributes:
        states: (B, state size) float32.
        user_id: (B,) int64; -1 before ``begin``.
        unseen: (B, N) int8, 1 where the user has not seen the video; None unless it is masked.
    """

    def __init__(self, plan: SessionPlan, count: int) -> None:
        self.plan = plan
        layout, num_videos = plan.dataset.layout, plan.dataset.manifest.num_videos
        self.states = np.zeros((count, layout.size), dtype=np.float32)
        self.user_id = np.full(count, -1, dtype=np.int64)
        self._steps = np.zeros(count, dtype=np.int64)
        # The history that a session began with, then what it has shown; -1 is empty.
        self._seen = np.full((count, layout.history_length + plan.horizon), -1, dtype=np.int64)
        self.unseen = np.ones((count, num_videos), dtype=np.int8) if plan.mask_seen else None
        self._rngs: list[np.random.Generator | None] = [None] * count
        self._answer_uniforms = plan.simulator.users.num_uniforms
        self._luck = np.empty((count, _LUCK_STEPS, self._answer_uniforms + 3))

    def begin(
        self,
        slots: np.ndarray,
        rngs: Sequence[np.random.Generator],
        users: Sequence[int | None],
        states: Sequence[np.ndarray | None],
    ) -> None:
        """Begin new sessions in places ``slots`` (n,).

        Args:
            slots: places, (n,) int64.
            rngs: what each draws from.
            users: ids, each with a start state unless a state is given; None draws one, each
                user of the starts as likely.
            states: states (state size,) to begin in; None draws one of the user's start states.
        """
        starts = self.plan.starts
        for slot, rng, user, state in zip(slots.tolist(), rngs, users, states, strict=True):
            # Drawn in any case, so that the luck does not depend on what was asked for.
            drawn = int(starts.users[rng.integers(len(starts.users))])
            share = rng.random()
            self._rngs[slot] = rng
            self.user_id[slot] = drawn if user is None else user
            if state is None:
                rows = starts.rows_of(int(self.user_id[slot]))
                self.states[slot] = starts.states[rows[int(share * len(rows))]]
            else:
                self.states[slot] = state
        self._steps[slots] = 0
        history = self.plan.dataset.layout.unpack(self.states[slots]).video_index
        self._seen[slots] = -1
        self._seen[slots, : history.shape[1]] = history
        if self.unseen is not None:
            self.unseen[slots] = 1
            row, place = np.nonzero(history >= 0)
            self.unseen[slots[row], history[row, place]] = 0

    def step(self, slots: np.ndarray, videos: np.ndarray) -> SessionStep:
        """Show a video to the users in places ``slots`` (n,); videos (n,) int64 in 0..N-1."""
        if not len(slots):
            return SessionStep.of_none()
        plan, layout = self.plan, self.plan.dataset.layout
        luck = self._draw(slots)
        answer_luck, luck = np.split(luck, [self._answer_uniforms], axis=1)
        states, user_id, steps = self.states[slots], self.user_id[slots], self._steps[slots]
        shown = layout.history_length + int(steps.max(initial=0))
        repeated = (self._seen[slots, :shown] == videos[:, None]).any(axis=1)

        repeat_interest = 0.0 if plan.mask_seen else plan.repeat_interest
        interest = np.where(repeated, repeat_interest, 1.0)
        if plan.satiation is not None:
            tags = plan.dataset.catalog.tags
            interest *= plan.satiation.interest(layout, states, videos, tags)
        answer = plan.simulator.answer(
            states,
            user_id,
            videos,
            answer_luck,
            known=repeated,
            skipped=luck[:, _SKIP] >= interest,
        )
        seconds = answer.seconds
        left = np.zeros(len(slots), dtype=bool)
        if plan.leave_probability is not None:
            share = unclicked_share(layout, states, answer.signals)
            left = luck[:, _LEAVE] < plan.leave_probability(user_id, share)
        if plan.returns is not None:
            seconds = seconds + np.where(left, plan.returns.gap_seconds(luck[:, _AWAY]), 0.0)

        self.states[slots] = advance(layout, states, videos, answer.signals, seconds)
        self._seen[slots, layout.history_length + steps] = videos
        self._steps[slots] = steps + 1
        if self.unseen is not None:
            self.unseen[slots, videos] = 0
        terminated = left & (plan.returns is None)
        return SessionStep(
            videos=videos,
            signals=answer.signals,
            # Not a matrix product: the order of its additions may depend on the number of rows.
            rewards=(answer.signals * plan.reward).sum(axis=1),
            logged=answer.logged,
            repeated=repeated,
            left=left,
            elapsed_seconds=seconds,
            terminated=terminated,
            truncated=(steps + 1 >= plan.horizon) & ~terminated,
        )

    def _draw(self, slots: np.ndarray) -> np.ndarray:
        """Return the uniform numbers (n, u) of the coming step."""
        place = self._steps[slots] % _LUCK_STEPS
        for slot in slots[place == 0].tolist():
            rng = self._rngs[slot]
            assert rng is not None  # begin() came first
            self._luck[slot] = rng.random(self._luck.shape[1:])
        return np.asarray(self._luck[slots, place])

    def facts(self, step: SessionStep) -> dict[str, np.ndarray]:
        """Return what ``info`` says about a step, by name; arrays (n,)."""
        named = {
            "video_id": self.plan.dataset.catalog.video_id[step.videos],
            "logged": step.logged,
            "repeated": step.repeated,
            "left": step.left,
            "elapsed_seconds": step.elapsed_seconds,
        }
        return named | dict(zip(SIGNALS, step.signals.T, strict=True))

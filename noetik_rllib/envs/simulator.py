"""Batched sessions of simulated users: signals, time and next states, without a loop over users.

A simulator has no state and no randomness of its own. It is given uniform numbers, so that two
policies can be compared on the same luck, and a session can be replayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from noetik_rllib.data.signals import (
    BINARY_SIGNALS,
    SIGNALS,
    UNKNOWN_DURATION_FULL_VIEW_MS,
)
from noetik_rllib.envs.logged import LoggedAnswers
from noetik_rllib.envs.response_model import WATCH_COLUMN, AnswerDistribution, ResponseModel
from noetik_rllib.envs.threads import one_thread
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.state import StateLayout, advance

#: Binary signals that share the first uniform with the watch ratio: on KuaiRand a click is a play
#: of 7 s and a long view one of 18 s, whatever else decides them.
THRESHOLD_SIGNALS = ("click", "long_view")
REACTIONS = tuple(name for name in BINARY_SIGNALS if name not in THRESHOLD_SIGNALS)
#: Uniform numbers per answer: one for the play time, one for each other signal.
NUM_UNIFORMS = 1 + len(REACTIONS)
#: Seconds between the end of a play and the next request.
PAUSE_SECONDS = 1.0


def sample_signals(distribution: AnswerDistribution, uniforms: np.ndarray) -> np.ndarray:
    """Draw answers from their distribution.

    The first uniform stands for the play time, high for a short one: a signal with probability p
    fires where it is below p, and the watch ratio is its quantile from above. So a long view
    comes with a click and a high ratio, and every marginal is exactly the model's. The other
    signals are drawn independently.

    Args:
        distribution: of B answers.
        uniforms: numbers in [0, 1), (B, NUM_UNIFORMS).

    Returns:
        Signals (B, 9) float32, in ``SIGNALS`` order.
    """
    signals = np.empty((len(uniforms), len(SIGNALS)), dtype=np.float32)
    columns = [*(0 for _ in THRESHOLD_SIGNALS), *range(1, NUM_UNIFORMS)]
    for name, column in zip((*THRESHOLD_SIGNALS, *REACTIONS), columns, strict=True):
        probability = distribution.binary[:, BINARY_SIGNALS.index(name)]
        signals[:, SIGNALS.index(name)] = uniforms[:, column] < probability
    # P(ratio is in a higher bin than w), (B, W): falls from below 1 to 0 along the bins, so the
    # number of bins with a share above u is the bin that u falls in, counted from the lowest.
    above = 1.0 - np.cumsum(distribution.watch, axis=1)
    bins = (above > uniforms[:, :1]).sum(axis=1)
    # Rounding may leave the last share a hair above 0.
    bins = np.minimum(bins, distribution.watch.shape[1] - 1)
    values = np.broadcast_to(distribution.watch_values, distribution.watch.shape)
    signals[:, WATCH_COLUMN] = values[np.arange(len(bins)), bins]
    return signals


def seconds_until_next(watch_ratio: np.ndarray, duration_ms: np.ndarray) -> np.ndarray:
    """Return the seconds (B,) from a request to the next: of the play, and a pause.

    Args:
        watch_ratio: what was watched of each video, (B,).
        duration_ms: of the same videos, (B,), 0 where unknown.
    """
    full = np.where(duration_ms > 0, duration_ms, UNKNOWN_DURATION_FULL_VIEW_MS)
    return np.asarray(watch_ratio * (full / 1000.0) + PAUSE_SECONDS)


class UserModel(Protocol):
    """Whoever answers: a fitted model, or the truth of a synthetic world."""

    @property
    def layout(self) -> StateLayout:
        """Layout of the states that it reads."""
        ...

    @property
    def num_videos(self) -> int:
        """Videos that it can be shown: 0 to ``num_videos`` - 1."""
        ...

    @property
    def num_uniforms(self) -> int:
        """Uniform numbers per answer."""
        ...

    def signals(
        self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray, uniforms: np.ndarray
    ) -> np.ndarray:
        """Draw answers (B, 9) float32, in ``SIGNALS`` order; arguments as ``Simulator.answer``."""
        ...


class FittedUsers:
    """Users who answer as a response model says.

    Args:
        model: fitted response model.
    """

    num_uniforms = NUM_UNIFORMS

    def __init__(self, model: ResponseModel) -> None:
        self.model = model
        self.layout: StateLayout = model.layout
        self.num_videos: int = model.num_videos

    def signals(
        self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray, uniforms: np.ndarray
    ) -> np.ndarray:
        """Draw answers (B, 9) float32, in ``SIGNALS`` order; arguments as ``Simulator.answer``."""
        with torch.inference_mode(), one_thread():
            distribution = self.model.distribution(states, videos, user_id)
        return sample_signals(distribution, uniforms)


@dataclass(frozen=True)
class Answer:
    """Answers of B users: ``signals`` (B, 9) in ``SIGNALS`` order, ``logged`` (B,) bool, True
    where the answer is a logged one, and ``seconds`` (B,) until the next request.
    """

    signals: np.ndarray
    logged: np.ndarray
    seconds: np.ndarray


@dataclass(frozen=True)
class Step(Answer):
    """Answers and the states that follow, ``next_states`` (B, state size) float32."""

    next_states: np.ndarray


class Simulator:
    """Users who answer videos as a user model says, or as the log says where it can.

    Args:
        users: user model.
        duration_ms: duration of each video, (N,), 0 where unknown.
        logged: logged answers, which go before the model's; None asks the model alone.
    """

    def __init__(
        self, users: UserModel, duration_ms: np.ndarray, logged: LoggedAnswers | None = None
    ) -> None:
        self.users = users
        self.layout = users.layout
        self.num_videos = users.num_videos
        self._logged = logged
        self._duration_ms = duration_ms

    @classmethod
    def for_dataset(
        cls, dataset: OfflineDataset, model: ResponseModel, logged: LoggedAnswers | None = None
    ) -> Simulator:
        """Simulate users with a fitted model on a dataset's catalogue.

        Raises:
            UserError: the model was fitted on another dataset.
        """
        model.check_dataset(dataset)
        return cls(FittedUsers(model), dataset.catalog.duration_ms, logged)

    def answer(
        self,
        states: np.ndarray,
        user_id: np.ndarray,
        videos: np.ndarray,
        uniforms: np.ndarray,
        *,
        known: np.ndarray | None = None,
        skipped: np.ndarray | None = None,
    ) -> Answer:
        """Show one video to each of B users.

        Args:
            states: (B, state size) float32.
            user_id: whose states they are, (B,).
            videos: index of the video, (B,) int64.
            uniforms: random numbers in [0, 1), (B, ``users.num_uniforms``). A logged answer leaves
                its row unused, so that the luck of later steps does not depend on it.
            known: (B,) bool, True where the user has seen the video just before: a logged answer
                was to a new video, and is not used again.
            skipped: (B,) bool, True where the user skips the video at once, every signal 0,
                unless there is a logged answer to it.
        """
        found = np.zeros(len(videos), dtype=bool)
        signals = np.zeros((len(videos), len(SIGNALS)), dtype=np.float32)
        if self._logged is not None:
            found, logged = self._logged.find(user_id, videos)
            signals[found] = logged
            if known is not None:
                signals[found & known] = 0.0
                found &= ~known
        asked = ~found if skipped is None else ~(found | skipped)
        if asked.all():
            signals = self.users.signals(states, user_id, videos, uniforms)
        elif asked.any():
            signals[asked] = self.users.signals(
                states[asked], user_id[asked], videos[asked], uniforms[asked]
            )
        seconds = seconds_until_next(signals[:, WATCH_COLUMN], self._duration_ms[videos])
        return Answer(signals, found, seconds)

    def step(
        self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray, uniforms: np.ndarray
    ) -> Step:
        """Show one new video to each of B users; arguments as ``answer``."""
        answer = self.answer(states, user_id, videos, uniforms)
        after = advance(self.layout, states, videos, answer.signals, answer.seconds)
        return Step(answer.signals, answer.logged, answer.seconds, after)

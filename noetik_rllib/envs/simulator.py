"""Batched sessions of simulated users: signals, time and next states, without a loop over users.

A simulator has no state and no randomness of its own. It is given uniform numbers, so that two
policies can be compared on the same luck, and a session can be replayed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from noetik_rllib.data.signals import (
    BINARY_SIGNALS,
    SIGNALS,
    UNKNOWN_DURATION_FULL_VIEW_MS,
)
from noetik_rllib.envs.logged import LoggedAnswers
from noetik_rllib.envs.response_model import WATCH_COLUMN, AnswerDistribution, ResponseModel
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


@dataclass(frozen=True)
class Step:
    """Answers of B users: ``signals`` (B, 9) in ``SIGNALS`` order, ``logged`` (B,) bool, True
    where the answer is a logged one, and ``next_states`` (B, state size) float32.
    """

    signals: np.ndarray
    logged: np.ndarray
    next_states: np.ndarray


class Simulator:
    """Users who answer videos as a response model says, or as the log says where it can.

    Args:
        model: response model.
        duration_ms: duration of each video, (N,), 0 where unknown.
        logged: logged answers, which go before the model's; None asks the model alone.
    """

    def __init__(
        self, model: ResponseModel, duration_ms: np.ndarray, logged: LoggedAnswers | None = None
    ) -> None:
        self.model = model
        self.layout: StateLayout = model.layout
        self._logged = logged
        full = np.where(duration_ms > 0, duration_ms, UNKNOWN_DURATION_FULL_VIEW_MS)
        self._full_view_seconds = full / 1000.0

    @classmethod
    def for_dataset(
        cls, dataset: OfflineDataset, model: ResponseModel, logged: LoggedAnswers | None = None
    ) -> Simulator:
        """Simulate on a dataset's catalogue.

        Raises:
            UserError: the model was fitted on another dataset.
        """
        model.check_dataset(dataset)
        return cls(model, dataset.catalog.duration_ms, logged)

    def step(
        self,
        states: np.ndarray,
        user_id: np.ndarray,
        videos: np.ndarray,
        uniforms: np.ndarray,
    ) -> Step:
        """Show one video to each of B users.

        Args:
            states: (B, state size) float32.
            user_id: whose states they are, (B,).
            videos: index of the video, (B,) int64.
            uniforms: random numbers in [0, 1), (B, NUM_UNIFORMS). A logged answer leaves its row
                unused, so that the luck of later steps does not depend on it.
        """
        signals = sample_signals(self.model.distribution(states, videos, user_id), uniforms)
        found = np.zeros(len(videos), dtype=bool)
        if self._logged is not None:
            found, answers = self._logged.find(user_id, videos)
            signals[found] = answers
        seconds = signals[:, WATCH_COLUMN] * self._full_view_seconds[videos] + PAUSE_SECONDS
        return Step(signals, found, advance(self.layout, states, videos, signals, seconds))

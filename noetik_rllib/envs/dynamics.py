"""What a session does beside answering: patience that runs out, satiation, and coming back.

All of it is off unless asked for. What the defaults stand on are counts over KuaiRand's published
logs; where the logs do not say, the field says so.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from scipy.special import expit, logit, ndtri

from noetik_rllib.data.signals import BINARY_SIGNALS, SIGNALS
from noetik_rllib.state import CONTEXT_NAMES, SESSION_GAP_SECONDS, StateLayout

_CLICK_BIT = BINARY_SIGNALS.index("click")
_CLICK = SIGNALS.index("click")
_SESSION_EVENTS = CONTEXT_NAMES.index("log_session_events")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Patience(_Strict):
    """After each video the user leaves with log-odds that grow with what was not clicked.

    ``leave = sigmoid(logit(1 / videos_per_session) + impatience x (u - usual_unclicked))``, with u
    the share of the session's videos without a click: the form of the synthetic world, which goes
    by its own numbers instead of these.
    """

    #: Mean videos of a session at the usual share (KuaiRand-27K, standard log, 30-minute gaps:
    #: 78.7 rows).
    videos_per_session: float = Field(default=78.7, gt=1.0)
    #: What the log-odds gain from a session of clicks alone to one without any. No published
    #: figure says; this is the synthetic world's.
    impatience: float = 1.0
    #: Share of the videos without a click in a usual session (the same log: 62 %).
    usual_unclicked: float = Field(default=0.62, ge=0.0, le=1.0)

    def leave_probability(self, user_id: np.ndarray, unclicked_share: np.ndarray) -> np.ndarray:
        """Return the probability (B,) that users leave; the same for every ``user_id``."""
        excess = unclicked_share - self.usual_unclicked
        return np.asarray(expit(logit(1 / self.videos_per_session) + self.impatience * excess))


class Satiation(_Strict):
    """A video whose tags fill the recent history is skipped at once, with a probability that grows.

    The interest that is left is ``exp(-strength x w)``, with w the weighted share of the state's
    past events that share a tag with the video. It multiplies the expected value of every
    signal of the fitted model; a logged answer is what it is.
    """

    #: The synthetic world's. The real logs show no satiation to calibrate it on: the residual
    #: covariance of clicks is higher, not lower, within a tag than across tags.
    strength: float = Field(default=0.8, ge=0.0)
    #: Weight of an event relative to the one after it.
    decay: float = Field(default=0.9, gt=0.0, le=1.0)

    def interest(
        self, layout: StateLayout, states: np.ndarray, videos: np.ndarray, tags: np.ndarray
    ) -> np.ndarray:
        """Return the interest (B,) in (0, 1] of users in states (B, size) in videos (B,).

        Args:
            layout: of the states.
            states: (B, size).
            videos: index of the video, (B,).
            tags: tags of all videos, (N, 5), -1 padded.
        """
        parts = layout.unpack(states)
        past, shown = tags[parts.video_index], tags[videos][:, None]  # (B, H, 5), (B, 1, 5)
        # (B, H, 5, 5) -> (B, H)
        shares = ((past[..., None] == shown[..., None, :]) & (past[..., None] >= 0)).any((-1, -2))
        weight = self.decay ** np.arange(layout.history_length)
        share = ((shares & parts.present) * weight).sum(axis=1) / weight.sum()
        return np.asarray(np.exp(-self.strength * share))


class Returns(_Strict):
    """A user who leaves comes back after a gap, in the same episode, instead of ending it.

    The gap is 30 minutes (less is no gap) plus a log-normal time. The defaults meet two counts of
    KuaiRand-27K's standard log: 54 % of the gaps of 30 minutes or more are below 2 hours, and
    4.84 sessions a day make the mean gap some 4.7 hours.
    """

    #: Median of the time beyond 30 minutes, and the spread of its logarithm.
    median_hours: float = Field(default=1.3, gt=0.0)
    sigma: float = Field(default=1.5, ge=0.0)

    def gap_seconds(self, uniforms: np.ndarray) -> np.ndarray:
        """Return gaps (B,) for uniform numbers (B,)."""
        beyond = 3600 * self.median_hours * np.exp(self.sigma * ndtri(uniforms))
        return np.asarray(SESSION_GAP_SECONDS + beyond)


_PartT = TypeVar("_PartT")


def _default_if_true(value: object) -> object:
    """``true`` asks for the defaults, ``false`` for none."""
    return {} if value is True else None if value is False else value


_Switch = Annotated[_PartT | None, BeforeValidator(_default_if_true)]


class Dynamics(_Strict):
    """Which dynamics a session has; ``True`` stands for one with its defaults."""

    patience: _Switch[Patience] = None
    satiation: _Switch[Satiation] = None
    #: Needs ``patience``: who does not leave cannot come back.
    returns: _Switch[Returns] = None


def unclicked_share(layout: StateLayout, states: np.ndarray, signals: np.ndarray) -> np.ndarray:
    """Return the share of the running session's videos without a click, (B,).

    Args:
        layout: of the states.
        states: in which the last video was shown, (B, size). Of the session's events before it,
            those that the history still holds count.
        signals: answers to it, (B, 9).
    """
    parts = layout.unpack(states)
    session = np.rint(np.expm1(parts.context[:, _SESSION_EVENTS].astype(np.float64)))
    in_session = np.arange(layout.history_length) < session[:, None]
    in_session &= parts.present
    clicks = parts.feedback[..., _CLICK_BIT] * in_session
    clicked = clicks.sum(axis=1) + signals[:, _CLICK]
    return np.asarray(1 - clicked / (in_session.sum(axis=1) + 1))

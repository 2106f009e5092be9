"""The one layout of a state: a flat float32 vector of user, history and context.

``user 32 | history H events x 4 | context 32``; with the default of 16 events that is 128. Flat,
so that every stock RLlib algorithm and reader works on it; structured, so that the transformer can
unpack real events. The environment, the offline writer, the networks and the explanations all
go through this module; nothing else knows a position.

An event is ``(video index + 1, watch ratio, feedback bits, log1p of the seconds since it)``; the
bits also say whether the platform had chosen the video for the user. The newest event is in slot 0.
A slot of zeros is empty, so a vector of zeros is a user without history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from noetik_rllib.data.signals import BINARY_COLUMNS, BINARY_SIGNALS, SIGNALS
from noetik_rllib.errors import UserError

if TYPE_CHECKING:  # importing torch takes seconds, and preparing a dataset needs none of it
    import torch

#: Raised when a position or a meaning below changes: datasets and policies carry it.
LAYOUT_VERSION = 2

USER_SIZE = 32
CONTEXT_SIZE = 32
EVENT_SIZE = 4
#: Fields of an event.
VIDEO, WATCH_RATIO, FEEDBACK, AGE = range(EVENT_SIZE)
EVENT_NAMES = ("video_index_plus_1", "watch_ratio", "feedback_bits", "log1p_age_seconds")
#: Value of the feedback bit that marks what the platform had not chosen: above the signals' bits.
_UNCHOSEN_PLACE = 2.0 ** len(BINARY_SIGNALS)

#: float32 holds every integer up to 2^24; ``index + 1`` must stay exact.
MAX_VIDEOS = 2**24 - 1

#: A user who was away this long has ended the session.
SESSION_GAP_SECONDS = 30 * 60

#: KuaiRand's ``tab`` (the page of the app) runs from 0 to 14.
TABS = 15
DAY_SECONDS = 24 * 3600
WEEK_SECONDS = 7 * DAY_SECONDS
#: Pseudo-count of the smoothed per-user signal rates: after 10 events a user's own rate weighs as
#: much as the population's.
RATE_PSEUDO_COUNT = 10.0

#: Values of ``user_active_degree`` in KuaiRand, most active first.
ACTIVE_DEGREES = (
    "full_active",
    "high_active",
    "middle_active",
    "low_active",
    "single_low_active",
    "30day_retention",
    "2_14_day_new",
    "day_new",
    "UNKNOWN",
)
#: Binary user features that KuaiRand publishes without a meaning, blank for some users.
ANONYMOUS_FLAGS = tuple(f"onehot_feat{number}" for number in range(12, 18))
USER_NAMES: tuple[str, ...] = (
    "log_follows",
    "log_fans",
    "log_friends",
    "log_register_days",
    *(f"active_degree_{degree}" for degree in ACTIVE_DEGREES),
    "live_streamer",
    "video_author",
    "low_active_period",
    *ANONYMOUS_FLAGS,
    "onehot_feat12_17_missing",
    "onehot_feat0",
    *(f"onehot_feat1_{value}" for value in range(7)),
    "features_known",
)
assert len(USER_NAMES) == USER_SIZE

CONTEXT_NAMES: tuple[str, ...] = (
    "hour_sin",
    "hour_cos",
    "week_sin",
    "week_cos",
    *(f"tab_{tab}" for tab in range(TABS)),
    *(f"{name}_rate" for name in SIGNALS),
    "log_events",
    "log_gap_seconds",
    "log_session_events",
    "log_session_seconds",
)
assert len(CONTEXT_NAMES) == CONTEXT_SIZE
_TIME = slice(0, 4)
_TAB = slice(4, 4 + TABS)
#: Positions of a user's smoothed signal rates within the context.
RATES = slice(4 + TABS, 4 + TABS + len(SIGNALS))
LOG_EVENTS, _LOG_GAP, _LOG_SESSION_EVENTS, _LOG_SESSION_SECONDS = range(28, 32)

ArrayT = TypeVar("ArrayT", np.ndarray, "torch.Tensor")


@dataclass(frozen=True)
class StateParts(Generic[ArrayT]):
    """A batch of states taken apart; NumPy or torch, views where possible.

    ``user`` (B, 32); ``events`` (B, H, 4), newest first; ``context`` (B, 32).
    """

    user: ArrayT
    events: ArrayT
    context: ArrayT

    @property
    def video_index(self) -> ArrayT:
        """Video index of each event, (B, H) int64; -1 where the slot is empty."""
        slots = self.events[..., VIDEO]
        if isinstance(slots, np.ndarray):
            return slots.astype(np.int64) - 1
        return slots.long() - 1

    @property
    def present(self) -> ArrayT:
        """True where a slot holds an event, (B, H) bool."""
        return self.events[..., VIDEO] > 0

    @property
    def feedback(self) -> ArrayT:
        """Binary signals of each event, (B, H, 8) of 0.0 or 1.0, in ``BINARY_SIGNALS`` order."""
        bits = self.events[..., FEEDBACK]
        if isinstance(bits, np.ndarray):
            places = (2.0 ** np.arange(len(BINARY_SIGNALS))).astype(bits.dtype)
            return np.floor(bits[..., None] / places) % 2
        import torch

        powers = 2.0 ** torch.arange(len(BINARY_SIGNALS), device=bits.device, dtype=bits.dtype)
        return torch.floor(bits[..., None] / powers) % 2

    @property
    def unchosen(self) -> ArrayT:
        """True where the platform had not chosen an event's video for the user, (B, H) bool."""
        return self.events[..., FEEDBACK] >= _UNCHOSEN_PLACE


def feedback_bits(binary_signals: np.ndarray, unchosen: np.ndarray | bool = False) -> np.ndarray:
    """Pack 0/1 signals and the kind of exposure into one float32 of 0 to 511.

    Args:
        binary_signals: (..., 8), in ``BINARY_SIGNALS`` order.
        unchosen: whether the platform's policy had not chosen the video for the user, (...): it was
            drawn uniformly, or shown by another policy. What the platform shows is a sign of the
            user's taste, of which it knows more than a state does; a random video is none, and
            what a policy has shown tells it only what it thought before.
    """
    places = (2.0 ** np.arange(len(BINARY_SIGNALS))).astype(np.float32)
    signals = (binary_signals.astype(np.float32) * places).sum(axis=-1)
    return signals + np.float32(_UNCHOSEN_PLACE) * np.asarray(unchosen, dtype=np.float32)


@dataclass(frozen=True)
class StateLayout:
    """Positions of a state's parts for a given length of history.

    Attributes:
        history_length: number of past events that a state holds. 16 makes a state of 128.
    """

    history_length: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.history_length <= 1024:
            raise UserError(
                f"history_length is {self.history_length}: expected 1 to 1024 past events"
            )

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        return USER_SIZE + EVENT_SIZE * self.history_length + CONTEXT_SIZE

    @property
    def user(self) -> slice:
        """Positions of the user features."""
        return slice(0, USER_SIZE)

    @property
    def history(self) -> slice:
        """Positions of the events."""
        return slice(USER_SIZE, USER_SIZE + EVENT_SIZE * self.history_length)

    @property
    def context(self) -> slice:
        """Positions of the context features."""
        return slice(self.history.stop, self.size)

    def unpack(self, states: ArrayT) -> StateParts[ArrayT]:
        """Take states (B, size) apart.

        Raises:
            ValueError: the last dimension is not ``size``.
        """
        if states.shape[-1] != self.size:
            raise ValueError(f"expected states of {self.size} numbers, got shape {states.shape}")
        events = states[..., self.history]
        return StateParts(
            user=states[..., self.user],
            # (B, H * 4) -> (B, H, 4)
            events=events.reshape(*events.shape[:-1], self.history_length, EVENT_SIZE),
            context=states[..., self.context],
        )

    def pack(self, user: np.ndarray, events: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Put user (B, 32), events (B, H, 4) and context (B, 32) into states (B, size) float32."""
        states = np.empty((len(user), self.size), dtype=np.float32)
        states[:, self.user] = user
        # (B, H, 4) -> (B, H * 4)
        states[:, self.history] = events.reshape(len(user), -1)
        states[:, self.context] = context
        return states

    def bounds(self, num_videos: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest value of every position, float32 of shape (size,).

        Ages and counts are logarithms: 30 stands for 10^13 seconds or events, beyond any log.
        User features are standardised and clipped to +-10 by the offline writer.
        """
        if not 1 <= num_videos <= MAX_VIDEOS:
            raise UserError(
                f"{num_videos:,} videos: the state holds video numbers exactly only from 1 to "
                f"{MAX_VIDEOS:,}; restrict the catalogue"
            )
        event_high = np.zeros((self.history_length, EVENT_SIZE), dtype=np.float32)
        event_high[:] = (num_videos, 1.0, 2.0 * _UNCHOSEN_PLACE - 1, 30.0)
        context_low = np.zeros(CONTEXT_SIZE, dtype=np.float32)
        context_low[_TIME] = -1.0
        context_high = np.ones(CONTEXT_SIZE, dtype=np.float32)
        context_high[LOG_EVENTS:] = 30.0
        ones = np.ones((1, USER_SIZE), dtype=np.float32)
        low = self.pack(-10 * ones, np.zeros_like(event_high)[None], context_low[None])
        high = self.pack(10 * ones, event_high[None], context_high[None])
        return low[0], high[0]


def encode_time(seconds: np.ndarray) -> np.ndarray:
    """Return the hour and the day of the week as points on circles, float64 of shape (B, 4).

    Args:
        seconds: local time (UTC+8) in seconds since a Monday at midnight, (B,).
    """
    day = 2 * np.pi * (seconds % DAY_SECONDS) / DAY_SECONDS
    week = 2 * np.pi * (seconds % WEEK_SECONDS) / WEEK_SECONDS
    return np.stack([np.sin(day), np.cos(day), np.sin(week), np.cos(week)], axis=1)


def encode_context(
    *,
    seconds: np.ndarray,
    tab: np.ndarray,
    signal_sums: np.ndarray,
    events: np.ndarray,
    gap_seconds: np.ndarray,
    session_events: np.ndarray,
    session_seconds: np.ndarray,
    signal_means: np.ndarray,
) -> np.ndarray:
    """Encode the context of B requests, as float32 of shape (B, 32).

    Args:
        seconds: local time (UTC+8) in seconds since a Monday at midnight, (B,).
        tab: page of the app, 0 to 14, (B,).
        signal_sums: sum of each signal over the user's events before the request, (B, 9).
        events: number of those events, (B,).
        gap_seconds: seconds since the newest of them, 0 where there is none, (B,).
        session_events: events of the running session before the request, (B,).
        session_seconds: seconds since the session began, (B,).
        signal_means: mean of each signal in the training part, (9,): the prior of the rates.
    """
    context = np.zeros((len(tab), CONTEXT_SIZE), dtype=np.float32)
    context[:, _TIME] = encode_time(seconds)
    context[np.arange(len(tab)), _TAB.start + tab] = 1.0
    context[:, RATES] = (signal_sums + RATE_PSEUDO_COUNT * signal_means) / (
        events[:, None] + RATE_PSEUDO_COUNT
    )
    context[:, LOG_EVENTS] = np.log1p(events)
    context[:, _LOG_GAP] = np.log1p(gap_seconds)
    context[:, _LOG_SESSION_EVENTS] = np.log1p(session_events)
    context[:, _LOG_SESSION_SECONDS] = np.log1p(session_seconds)
    return context


def _rotate(sin_cos: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Turn points (B, 2) on the unit circle, or (0, 0), by ``angle`` (B,)."""
    sin, cos = sin_cos[:, 0], sin_cos[:, 1]
    turned = np.stack(
        [
            sin * np.cos(angle) + cos * np.sin(angle),
            cos * np.cos(angle) - sin * np.sin(angle),
        ],
        axis=1,
    )
    length = np.linalg.norm(turned, axis=1, keepdims=True)
    # Rounding adds up over a session: back onto the circle, and so into the observation space. A
    # state of zeros, of which not even the time is known, stays there.
    return (turned / np.where(length > 0, length, 1.0)).clip(-1.0, 1.0)


def advance(
    layout: StateLayout,
    states: np.ndarray,
    video_index: np.ndarray,
    signals: np.ndarray,
    elapsed_seconds: np.ndarray,
    unchosen: np.ndarray | bool = True,
) -> np.ndarray:
    """Return the states that follow once each user has answered one video.

    Args:
        layout: layout of the states.
        states: states in which the video was shown, (B, size).
        video_index: the video shown, (B,) int.
        signals: the user's answer, (B, 9) in ``SIGNALS`` order.
        elapsed_seconds: seconds until the next request, (B,).
        unchosen: see ``feedback_bits``; a policy that is not the platform's shows the videos of a
            session, so that is what is assumed.

    Returns:
        float32 of shape (B, size). It equals what the offline writer builds from a log in which
        the same event was followed by a request after ``elapsed_seconds``, up to rounding.
    """
    parts = layout.unpack(states)
    elapsed = np.asarray(elapsed_seconds, dtype=np.float64)

    events = np.empty_like(parts.events)
    events[:, 1:] = parts.events[:, :-1]
    age = np.log1p(np.expm1(events[:, 1:, AGE].astype(np.float64)) + elapsed[:, None])
    events[:, 1:, AGE] = np.where(events[:, 1:, VIDEO] > 0, age, 0.0)
    events[:, 0, VIDEO] = video_index + 1
    events[:, 0, WATCH_RATIO] = signals[:, SIGNALS.index("watch_ratio")]
    events[:, 0, FEEDBACK] = feedback_bits(signals[:, BINARY_COLUMNS], unchosen)
    events[:, 0, AGE] = np.log1p(elapsed)

    context = parts.context.astype(np.float64)
    context[:, 0:2] = _rotate(context[:, 0:2], 2 * np.pi * elapsed / DAY_SECONDS)
    context[:, 2:4] = _rotate(context[:, 2:4], 2 * np.pi * elapsed / WEEK_SECONDS)
    events_before = np.expm1(context[:, LOG_EVENTS])[:, None]
    context[:, RATES] = (context[:, RATES] * (events_before + RATE_PSEUDO_COUNT) + signals) / (
        events_before + 1 + RATE_PSEUDO_COUNT
    )
    context[:, LOG_EVENTS] = np.log1p(events_before[:, 0] + 1)
    context[:, _LOG_GAP] = np.log1p(elapsed)
    away = elapsed >= SESSION_GAP_SECONDS
    session_events = np.expm1(context[:, _LOG_SESSION_EVENTS]) + 1
    session_seconds = np.expm1(context[:, _LOG_SESSION_SECONDS]) + elapsed
    context[:, _LOG_SESSION_EVENTS] = np.where(away, 0.0, np.log1p(session_events))
    context[:, _LOG_SESSION_SECONDS] = np.where(away, 0.0, np.log1p(session_seconds))
    return layout.pack(parts.user, events, context)

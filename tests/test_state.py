"""The state layout: what is packed comes back, and time moves it as the log would."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noetik_rllib.data.interactions import InteractionLog
from noetik_rllib.data.signals import BINARY_COLUMNS, BINARY_SIGNALS, SIGNALS
from noetik_rllib.errors import UserError
from noetik_rllib.offline.history import HistoryIndex
from noetik_rllib.state import (
    CONTEXT_NAMES,
    FEEDBACK,
    MAX_VIDEOS,
    USER_NAMES,
    StateLayout,
    advance,
    feedback_bits,
)


def test_default_layout_is_the_promised_128_with_50_events_264() -> None:
    """Fails if the state is not the 128 numbers that the product promises."""
    assert StateLayout().size == 128
    assert StateLayout(history_length=50).size == 264
    assert len(USER_NAMES) == len(CONTEXT_NAMES) == 32


@given(st.lists(st.integers(0, 1), min_size=8, max_size=8), st.booleans())
def test_feedback_bits_come_back_in_numpy_and_torch(flags: list[int], unchosen: bool) -> None:
    """Fails if a network or an explanation reads another feedback than was stored, or takes a
    random exposure for a chosen one, or the mark for a signal.
    """
    layout = StateLayout(history_length=1)
    events = np.zeros((1, 1, 4), dtype=np.float32)
    events[0, 0] = (MAX_VIDEOS, 0.5, feedback_bits(np.array(flags), unchosen), 2.0)
    states = layout.pack(np.zeros((1, 32)), events, np.zeros((1, 32)))
    for parts in (layout.unpack(states), layout.unpack(torch.as_tensor(states))):
        assert parts.feedback[0, 0].tolist() == flags
        assert parts.unchosen[0, 0].item() is unchosen
        assert parts.video_index[0, 0].item() == MAX_VIDEOS - 1
    assert len(BINARY_SIGNALS) == len(flags)


def test_each_event_has_its_own_mark() -> None:
    """Fails if one random exposure marks the others of a batch, or what is not said to
    be random is taken for it.
    """
    signals = np.array([[1, 0, 0, 0, 0, 0, 0, 1], [1] * 8, [0] * 8])
    marked = feedback_bits(signals, np.array([True, False, True]))
    assert marked.dtype == np.float32
    assert marked.tolist() == [129 + 256, 255, 256]
    assert feedback_bits(signals).tolist() == [129, 255, 0]


def test_zeros_are_a_user_without_history() -> None:
    """Fails if padding can be mistaken for video 0."""
    parts = StateLayout().unpack(np.zeros((2, 128), dtype=np.float32))
    assert not parts.present.any()
    assert (parts.video_index == -1).all()


def test_wrong_size_is_named() -> None:
    """Fails if a state of another layout would be read as if it fitted."""
    with pytest.raises(ValueError, match=r"128 numbers, got shape \(3, 264\)"):
        StateLayout().unpack(np.zeros((3, 264)))
    with pytest.raises(UserError, match="history_length is 0"):
        StateLayout(history_length=0)


def test_too_many_videos_are_refused() -> None:
    """Fails if video numbers could be rounded to their neighbours in float32."""
    assert np.float32(MAX_VIDEOS) != np.float32(MAX_VIDEOS - 1)
    with pytest.raises(UserError, match="restrict the catalogue"):
        StateLayout().bounds(MAX_VIDEOS + 1)


@given(
    seed=st.integers(0, 2**32 - 1),
    gaps=st.lists(st.sampled_from([1.0, 35.0, 600.0, 3600.0, 90_000.0]), min_size=2, max_size=9),
)
def test_advance_equals_what_the_writer_builds_from_the_log(seed: int, gaps: list[float]) -> None:
    """Fails if simulated sessions drift from the states that a policy was trained on."""
    layout = StateLayout(history_length=4)
    rng = np.random.default_rng(seed)
    n = len(gaps) + 1
    signals = rng.integers(0, 2, (n, len(SIGNALS))).astype(np.float32)
    signals[:, SIGNALS.index("watch_ratio")] = rng.random(n)
    log = InteractionLog(
        user_id=np.zeros(n, dtype=np.int64),
        video_id=rng.integers(0, 50, n),
        time_ms=1_650_000_000_000 + (1000 * np.cumsum([0.0, *gaps])).astype(np.int64),
        play_time_ms=np.zeros(n, dtype=np.int64),
        duration_ms=np.full(n, 1000),
        tab=np.full(n, 4),
        is_random=rng.random(n) < 0.3,
        signals=signals,
    )
    index = HistoryIndex(
        layout=layout,
        log=log,
        user_row=log.user_id,
        user_features=rng.normal(size=(1, 32)).astype(np.float32),
        video_index=log.video_id,
        signal_means=rng.random(len(SIGNALS)),
    )
    built = index.states(index.before(np.arange(n)))
    for row, gap in enumerate(gaps):
        moved = advance(
            layout,
            built[row : row + 1],
            log.video_id[row : row + 1],
            signals[row : row + 1],
            np.array([gap]),
            unchosen=log.is_random[row : row + 1],
        )
        np.testing.assert_allclose(moved[0], built[row + 1], rtol=2e-4, atol=2e-4)


def test_what_a_policy_shows_is_not_the_platforms_choice() -> None:
    """Fails if a policy takes its own guesses of a moment before for the platform's knowledge of
    the user, or if time makes a random exposure a chosen one.
    """
    layout = StateLayout(history_length=3)
    events = np.zeros((1, 3, 4), dtype=np.float32)
    events[0, :2] = [(8, 1.0, feedback_bits(np.ones(8), True), 3.0), (3, 0.0, 0.0, 4.0)]
    states = layout.pack(np.zeros((1, 32)), events, np.zeros((1, 32)))
    after = advance(layout, states, np.array([5]), np.ones((1, 9), np.float32), np.array([9.0]))
    parts = layout.unpack(after)
    assert parts.video_index[0].tolist() == [5, 7, 2]
    assert parts.unchosen[0].tolist() == [True, True, False]
    assert parts.feedback[0, :2].all()


def test_states_lie_within_the_bounds_of_the_observation_space() -> None:
    """Fails if Gymnasium would call a legal state illegal."""
    low, high = StateLayout().bounds(num_videos=10)
    assert (low <= high).all()
    assert high[32] == 10
    every_bit = feedback_bits(np.ones(len(BINARY_COLUMNS)), True)
    assert high[32 + FEEDBACK] == every_bit == 2 ** (len(BINARY_COLUMNS) + 1) - 1

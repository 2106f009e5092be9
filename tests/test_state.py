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


@given(st.lists(st.integers(0, 1), min_size=8, max_size=8))
def test_feedback_bits_come_back_in_numpy_and_torch(flags: list[int]) -> None:
    """Fails if a network or an explanation reads another feedback than was stored."""
    layout = StateLayout(history_length=1)
    events = np.zeros((1, 1, 4), dtype=np.float32)
    events[0, 0] = (MAX_VIDEOS, 0.5, feedback_bits(np.array(flags)), 2.0)
    states = layout.pack(np.zeros((1, 32)), events, np.zeros((1, 32)))
    assert layout.unpack(states).feedback[0, 0].tolist() == flags
    parts = layout.unpack(torch.as_tensor(states))
    assert parts.feedback[0, 0].tolist() == flags
    assert parts.video_index[0, 0].item() == MAX_VIDEOS - 1
    assert len(BINARY_SIGNALS) == len(flags)


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
        is_random=np.zeros(n, dtype=bool),
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
        )
        np.testing.assert_allclose(moved[0], built[row + 1], rtol=2e-4, atol=2e-4)


def test_states_lie_within_the_bounds_of_the_observation_space() -> None:
    """Fails if Gymnasium would call a legal state illegal."""
    low, high = StateLayout().bounds(num_videos=10)
    assert (low <= high).all()
    assert high[32] == 10
    assert high[34] == 2 ** len(BINARY_COLUMNS) - 1

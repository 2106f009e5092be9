"""Numbers in words: near the number, and the same number in the same words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.interpret import words
from noetik_rllib.interpret.groups import CONTEXT_GROUPS, USER_GROUPS
from noetik_rllib.offline.manifest import Normaliser
from noetik_rllib.state import CONTEXT_NAMES, TABS, USER_NAMES, encode_context

COUNTS = Normaliser(mean=[3.0] * 4, std=[2.0] * 4)
ZEROS = np.zeros(32, dtype=np.float32)


@given(st.floats(1e-6, 1.0))
def test_a_percentage_is_within_half_of_its_last_digit(share: float) -> None:
    """Otherwise a share in a text is not the share that was computed."""
    said = float(words.percent(share).removesuffix("%"))
    assert said == pytest.approx(100 * share, rel=0.055, abs=1e-9)


@given(st.floats(0, 1e8), st.floats(0, 1e8))
def test_a_longer_time_never_sounds_shorter(one: float, other: float) -> None:
    """Otherwise the order of a user's past is told wrong."""
    seconds = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}

    def said(length: float) -> float:
        count, unit = words.duration(length).split()
        return int(count.replace(",", "")) * seconds[unit.removesuffix("s")]

    short, long = sorted((one, other))
    assert said(short) <= said(long)
    assert said(long) == pytest.approx(long, rel=0.5, abs=0.5)


@pytest.mark.parametrize("group", [group.name for group in (*USER_GROUPS, *CONTEXT_GROUPS)])
def test_every_group_has_words(group: str) -> None:
    """Otherwise a new feature breaks explanations, or stays unnamed."""
    if any(group == one.name for one in USER_GROUPS):
        text = words.user_group(group, ZEROS, ZEROS, COUNTS)
    else:
        text = words.context_group(group, ZEROS, ZEROS)
    assert len(text.split()) >= 3
    assert "_" not in text


def context(*, seconds: float, tab: int = 1, events: float = 99.0) -> np.ndarray:
    return encode_context(
        seconds=np.array([seconds]),
        tab=np.array([tab]),
        signal_sums=np.zeros((1, len(SIGNALS))),
        events=np.array([events]),
        gap_seconds=np.array([170.0]),
        session_events=np.array([4.0]),
        session_seconds=np.array([3600.0]),
        signal_means=np.full(len(SIGNALS), 0.5),
    )[0]


@given(st.integers(0, 6), st.floats(0, 24, exclude_max=True), st.integers(0, TABS - 1))
def test_the_situation_is_read_back_from_its_encoding(day: int, hour: float, tab: int) -> None:
    """Otherwise an explanation names another hour, day or page than the request's."""
    now = context(seconds=(24 * day + hour) * 3600, tab=tab)
    hour_said = int(words.context_group("hour", now, ZEROS).split()[-1].removesuffix(":00"))
    assert min(abs(hour_said - hour), 24 - abs(hour_said - hour)) <= 0.501
    day_said = words.context_group("weekday", now, ZEROS)
    assert day_said == f"it is {words.WEEKDAYS[day]}" or hour > 23.99
    assert words.context_group("tab", now, ZEROS) == f"they are on tab {tab} of the app"


def test_counts_and_rates_are_read_back() -> None:
    """Otherwise "they have seen 99 videos" is a logarithm or a smoothed guess."""
    now, average = context(seconds=0.0), context(seconds=0.0, events=19.0)
    assert (
        words.context_group("log_events", now, average)
        == "they have seen 99 videos on record (typically 19)"
    )
    assert (
        words.context_group("log_gap_seconds", now, average)
        == "their last video was 3 minutes ago (typically 3 minutes)"
    )
    # 10 pseudo-views at the mean of 0.5 and 99 views without a click.
    assert words.context_group("click_rate", now, average).startswith(
        "they have clicked about 4.6% of"
    )
    assert CONTEXT_NAMES.index("click_rate") == 19


def test_the_profile_is_read_back() -> None:
    """Otherwise a standardised logarithm is taken for a count, or a flag is inverted."""
    user = np.zeros(32, dtype=np.float32)
    user[USER_NAMES.index("log_fans")] = (np.log1p(1200) - 3.0) / 2.0
    user[USER_NAMES.index("active_degree_full_active")] = 1
    user[USER_NAMES.index("video_author")] = 1
    said = {group.name: words.user_group(group.name, user, ZEROS, COUNTS) for group in USER_GROUPS}
    assert said["log_fans"] == "they have 1,200 followers (typically 19)"
    assert said["active_degree"] == "their level of activity is full active"
    assert said["video_author"] == "they upload videos of their own"
    assert said["live_streamer"] == "they do not stream live"


def test_what_a_user_did_is_told_in_full() -> None:
    """Otherwise a strong reaction, or what two videos share, goes unmentioned."""
    facts = {"name": "video 12", "video_tags": [], "age_seconds": 0.0, "same_author": True}
    assert (
        words.event(**facts, watch_ratio=0.05, feedback=["follow", "hate"], shared_tags=[3, 4])
        == "they skipped video 12 (no tag) just now, 5.0% into it, and followed its author and "
        "reported disliking it; both carry tags 3 and 4 and both are by the same author"
    )
    alone = facts | {"same_author": False, "is_random": True}
    assert (
        words.event(**alone, watch_ratio=1.0, feedback=["like"], shared_tags=[])
        == "they watched all of video 12 (no tag), drawn at random, just now and liked it"
    )

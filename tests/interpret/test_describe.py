"""An explanation's words and shares follow from numbers, and change with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetik_rllib.data.signals import BINARY_SIGNALS
from noetik_rllib.interpret import words
from noetik_rllib.interpret.attribution import Attribution
from noetik_rllib.interpret.baseline import Baseline
from noetik_rllib.interpret.counterfactual import Found
from noetik_rllib.interpret.describe import choose, describe
from noetik_rllib.interpret.facts import Choice, Explanation
from noetik_rllib.interpret.groups import CONTEXT_GROUPS, USER_GROUPS
from noetik_rllib.offline.catalog import Catalog
from noetik_rllib.offline.manifest import Normaliser
from noetik_rllib.state import (
    AGE,
    CONTEXT_NAMES,
    EVENT_SIZE,
    FEEDBACK,
    VIDEO,
    WATCH_RATIO,
    StateLayout,
)

LAYOUT = StateLayout(4)
COUNTS = Normaliser(mean=[3.0] * 4, std=[1.0] * 4)
BASELINE = Baseline(np.zeros(32, dtype=np.float32), np.full(32, 0.1, dtype=np.float32))
CHOICE = Choice(
    rank=1,
    index=2,
    candidates=40,
    probability=0.25,
    runner_up=3,
    lead=0.7,
    entropy=float(np.log(25)),
)
#: Video 2 (the choice) shares tag 8 with video 0, and its author with video 1.
CATALOG = Catalog(
    video_id=np.arange(5) + 100,
    author_id=np.array([7, 9, 9, 8, -1]),
    duration_ms=np.array([10_000, 0, 14_000, 20_000, 30_000]),
    tags=np.array([[8, -1], [5, -1], [8, 39], [5, -1], [-1, -1]]),
    tag_codes=np.ones((5, 2), dtype=np.int64),
    video_type_code=np.ones(5, dtype=np.int64),
    upload_type_code=np.ones(5, dtype=np.int64),
    numeric=np.zeros((5, 4), dtype=np.float32),
)


def state(**changes: float) -> np.ndarray:
    """Two events: video 0, all watched and liked, 3 minutes ago; video 1, skipped, 2 hours ago."""
    events = np.zeros((1, 4, EVENT_SIZE), dtype=np.float32)
    like = float(2 ** BINARY_SIGNALS.index("like"))
    events[0, 0, VIDEO] = 1
    events[0, 0, WATCH_RATIO] = changes.get("watch_ratio", 1.0)
    events[0, 0, FEEDBACK] = changes.get("feedback", like)
    events[0, 0, AGE] = np.log1p(changes.get("seconds", 180.0))
    events[0, 1] = (2, 0.0, 0.0, np.log1p(7200.0))
    context = np.full((1, 32), 0.1, dtype=np.float32)
    context[0, CONTEXT_NAMES.index("click_rate")] = changes.get("click_rate", 0.62)
    return LAYOUT.pack(np.zeros((1, 32)), events, context)[0]


def attribution(**values: float) -> Attribution:
    """Attributions of one decision: ``event_0`` or a group's name, all others 0."""
    events = np.array([[values.pop(f"event_{slot}", 0.0) for slot in range(4)]])
    user = np.array([[values.pop(group.name, 0.0) for group in USER_GROUPS]])
    context = np.array([[values.pop(group.name, 0.0) for group in CONTEXT_GROUPS]])
    assert not values
    total = events.sum() + user.sum() + context.sum()
    return Attribution(
        events=events,
        user=user,
        context=context,
        value=np.array([1.0 + total]),
        baseline_value=np.array([1.0]),
        gap=np.zeros(1),
        steps=np.array([32]),
    )


def explanation(
    influence: Attribution,
    at: np.ndarray | None = None,
    choice: Choice = CHOICE,
    found: Found | None = None,
    catalog: Catalog = CATALOG,
) -> Explanation:
    return describe(
        user_id=17,
        choice=choice,
        state=state() if at is None else at,
        layout=LAYOUT,
        catalog=catalog,
        attribution=influence,
        row=0,
        baseline=BASELINE,
        counts=COUNTS,
        found=found,
    )


MIXED = attribution(event_0=2.0, event_1=-1.0, click_rate=0.5, hour=0.25, log_fans=-0.25)


def test_the_whole_text() -> None:
    """Otherwise nobody has read what users will read."""
    assert explanation(MIXED).sentence == (
        "For user 17 the policy's first choice is video 102 (tags 8 and 39, 14 s), with a "
        "probability of 25%: 10 times an even share and 2.0 times that of the next, video 103. "
        "What speaks for it most: they watched all of video 100 (tag 8) 3 minutes ago and liked "
        "it; both carry tag 8 (50% of all influence). "
        "Next: they have clicked about 62% of the videos they saw (typically 10%) (12%). "
        "Against it: they skipped video 101 (tag 5) 2 hours ago; both are by the same author "
        "(25%). "
        "Not named here: 12% of the influence, spread over 2 features of the "
        "profile and the situation. "
        "The average user without history would place it above a typical video; what is known of "
        "this user multiplies its odds by 4.5. "
        "The choice is wide open: it is as undecided as among 25 equally likely videos out of 40."
    )


def test_shares_are_shares_of_all_influence() -> None:
    """Otherwise a reason looks stronger than it is."""
    found = explanation(MIXED)
    assert [reason.share for reason in found.reasons] == [0.5, 0.25, 0.125]
    assert found.unnamed_share == 0.125
    assert found.source_shares == {"history": 0.75, "profile": 0.0625, "situation": 0.1875}


def test_an_event_without_any_influence_is_still_told() -> None:
    """Otherwise a history is shown with holes, and nobody knows that the policy saw more."""
    found = explanation(attribution(event_1=-1.0))
    assert [event.video.video_id for event in found.inert] == [100]
    assert found.history_events == 2
    assert explanation(MIXED).inert == []


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        ({"watch_ratio": 0.62}, "watched all of video 100", "watched 62% of video 100"),
        ({"watch_ratio": 0.04}, "watched all of video 100", "skipped video 100"),
        ({"feedback": 0.0}, "and liked it", "3 minutes ago; both"),
        ({"feedback": 260.0}, "(tag 8) 3", "(tag 8), drawn at random, 3 minutes ago and liked it"),
        ({"seconds": 5 * 3600.0}, "3 minutes ago", "5 hours ago"),
        ({"click_rate": 0.08}, "clicked about 62% of", "clicked about 8.0% of"),
    ],
)
def test_a_changed_state_changes_the_words(
    change: dict[str, float], before: str, after: str
) -> None:
    """Otherwise the text is canned."""
    assert before in explanation(MIXED).sentence
    changed = explanation(MIXED, state(**change)).sentence
    assert before not in changed
    assert after in changed


def test_a_changed_choice_changes_the_words() -> None:
    """Otherwise the text does not say how sure the policy is."""
    sure = CHOICE.model_copy(update={"probability": 0.97, "lead": 4.0, "entropy": 0.15, "rank": 2})
    text = explanation(MIXED, choice=sure).sentence
    assert "second choice" in text
    assert "probability of 97%" in text
    assert "55 times that of the next" in text
    assert "nearly certain" in text
    tied = CHOICE.model_copy(update={"lead": 0.001})
    assert "and about that of the next, video 103" in explanation(MIXED, choice=tied).sentence
    alone = CHOICE.model_copy(
        update={"probability": 1.0, "candidates": 1, "runner_up": None, "lead": None, "entropy": 0}
    )
    assert "probability of 100%. " in explanation(MIXED, choice=alone).sentence


def test_a_negative_change_divides_the_odds() -> None:
    """Otherwise a user who is less likely to see a video than others is told the opposite."""
    text = explanation(attribution(event_0=-1.0)).sentence
    assert "divides its odds by 2.7" in text
    assert "What speaks for it most" not in text


signed = st.floats(-5, 5).filter(lambda value: abs(value) > 1e-3)


@given(event_0=signed, event_1=signed, click_rate=signed, log_fans=signed)
def test_words_follow_numbers(
    event_0: float, event_1: float, click_rate: float, log_fans: float
) -> None:
    """Otherwise a sign, an order or a share in the text is not the number's."""
    values = {
        "event_0": event_0,
        "event_1": event_1,
        "click_rate": click_rate,
        "log_fans": log_fans,
    }
    found = explanation(attribution(**values))
    total = sum(map(abs, values.values()))
    strongest = sorted(values.items(), key=lambda pair: -abs(pair[1]))
    assert len(found.reasons) == 3
    for reason, (_, size) in zip(found.reasons, strongest, strict=False):
        value = values[reason.name.replace(" ", "_")]
        assert abs(value) == abs(size), "not in order of strength"
        assert reason.share == pytest.approx(abs(value) / total)
        assert reason.direction == ("for" if value > 0 else "against")
        said = found.sentence.index(reason.text)
        against = found.sentence.find("gainst it")
        assert (value < 0) == (0 <= against < said)
        assert f"{words.percent(reason.share)}" in found.sentence[said:]
    assert sum(one.share for one in found.influences) == pytest.approx(1)
    assert sum(found.source_shares.values()) == pytest.approx(1)
    assert found == explanation(attribution(**values)), "same numbers, other explanation"

    flipped = explanation(attribution(**{name: -value for name, value in values.items()}))
    assert [one.share for one in flipped.reasons] == [one.share for one in found.reasons]
    assert all(
        one.direction != other.direction
        for one, other in zip(flipped.influences, found.influences, strict=True)
    )


def test_a_policy_that_ignores_the_user_says_so() -> None:
    """Otherwise reasons are invented, or a division by 0 is reported."""
    found = explanation(attribution())
    assert not found.influences
    assert "Nothing that the policy sees of this user moves" in found.sentence
    assert "neither up nor down" in found.sentence


def test_a_user_without_history_is_said_to_have_none() -> None:
    """Otherwise the reader believes that a history was weighed."""
    empty = state()
    empty[LAYOUT.history] = 0
    found = explanation(attribution(hour=1.0), empty)
    assert found.history_events == 0
    assert "No watched video of this user is on record" in found.sentence
    assert "video 100" not in found.sentence


def test_unknown_facts_are_left_out() -> None:
    """Otherwise two unknown authors are "the same", or a duration of 0 s is claimed."""
    unknown = replace(CATALOG, author_id=np.full(5, -1), duration_ms=np.zeros(5, dtype=np.int64))
    found = explanation(MIXED, catalog=unknown)
    assert "same author" not in found.sentence
    assert "video 102 (tags 8 and 39)" in found.sentence


def test_a_video_of_which_nothing_is_known_is_said_to_be_one() -> None:
    """Fails if the reader takes what is unknown for what is not worth saying."""
    tags = CATALOG.tags.copy()
    tags[2] = -1
    blank = replace(
        CATALOG, author_id=np.full(5, -1), duration_ms=np.zeros(5, dtype=np.int64), tags=tags
    )
    text = explanation(MIXED, catalog=blank).sentence
    assert "is video 102 (no tag, author or length known), with a probability" in text
    known = explanation(MIXED, catalog=replace(blank, author_id=np.full(5, 9))).sentence
    assert "is video 102 (no tag), with a probability" in known


def test_an_only_candidate_is_no_choice() -> None:
    """Fails if the policy is called certain of what it could not choose otherwise."""
    alone = {"probability": 1.0, "candidates": 1, "runner_up": None, "lead": None, "entropy": 0.0}
    text = explanation(MIXED, choice=CHOICE.model_copy(update=alone)).sentence
    assert "it is the only video left to recommend." in text
    assert "certain" not in text


@given(
    st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=30),
    st.sets(st.integers(0, 29), max_size=40),
    st.integers(1, 40),
)
def test_choices_are_the_policy_restricted_to_unseen_videos(
    logits: list[float], seen: set[int], top_k: int
) -> None:
    """Otherwise a video just seen is recommended, or a probability is of another policy."""
    scores = np.array(logits, dtype=np.float32)
    gone = np.array([index for index in seen if index < len(logits)], dtype=np.int64)
    choices = choose(scores, gone, top_k)
    left = np.setdiff1d(np.arange(len(logits)), gone)
    assert len(choices) == min(top_k, len(left))
    if not choices:
        return
    weights = np.exp(scores[left].astype(np.float64))
    probability = dict(zip(left.tolist(), weights / weights.sum(), strict=True))
    assert [choice.index for choice in choices] == sorted(
        left.tolist(), key=lambda index: (-scores[index], index)
    )[:top_k]
    for choice in choices:
        assert choice.probability == pytest.approx(probability[choice.index])
        assert 0 <= choice.entropy <= np.log(len(left)) + 1e-9
        assert (choice.lead is None) == (choice.rank == len(left))
        assert choice.lead is None or choice.lead >= 0

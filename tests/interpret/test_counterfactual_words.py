"""The words of a counterfactual follow from its numbers, and change with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetik_rllib.data.mapping import kuairand
from noetik_rllib.interpret import words
from noetik_rllib.interpret.counterfactual import Found, FoundSkip
from noetik_rllib.interpret.facts import Explanation
from noetik_rllib.interpret.removal import FoundRemoval
from noetik_rllib.interpret.sentence import counterfactual_sentence
from noetik_rllib.state import EVENT_SIZE
from tests.interpret.test_describe import CHOICE, LAYOUT, MIXED, explanation, state

ONE = FoundRemoval(slots=(0,), becomes=3, is_smallest=True)
SKIP = FoundSkip(slot=0, margin_change=-0.35, probability=0.18, becomes=None)
LIKED = "video 100 (tag 8, watched 3 minutes ago)"
OTHER = "video 101 (tag 5, skipped 2 hours ago)"


def told(
    removal: FoundRemoval | None = ONE,
    skip: FoundSkip | None = SKIP,
    sets_tried: int = 2,
    at: np.ndarray | None = None,
    **choice: Any,
) -> Explanation:
    return explanation(
        MIXED, at, CHOICE.model_copy(update=choice), Found(removal, sets_tried, skip)
    )


def changed(skip: FoundSkip, **values: Any) -> FoundSkip:
    return FoundSkip(**{**vars(skip), **values})


def test_the_whole_counterfactual() -> None:
    """Fails if nobody has read what users will read."""
    found = told()
    text = counterfactual_sentence(found)
    assert text == (
        f"Without {LIKED}, video 103 (tag 5, 20 s) would be recommended instead. "
        f"Had they skipped {LIKED}, video 102 would still be first, with a probability of 18% "
        "instead of 25% (0.7 times its odds)."
    )
    assert f" {text} " in found.sentence
    assert told() == found, "same numbers, other words"


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        ({"removal": FoundRemoval((1,), 3, True)}, f"Without {LIKED}", f"Without {OTHER}"),
        ({"removal": FoundRemoval((0,), 4, True)}, "video 103 (tag 5, 20 s)", "video 104 (no tag"),
        (
            {"removal": FoundRemoval((0, 1), 3, True)},
            "recommended instead.",
            f"{LIKED} and {OTHER}, video 103 (tag 5, 20 s) would be recommended instead; no "
            "smaller removal changes the choice.",
        ),
        (
            {"removal": FoundRemoval((0, 1), 3, False)},
            "recommended instead.",
            "instead; each of the 2 is needed, but another set may be smaller.",
        ),
        (
            {"removal": None, "sets_tried": 3},
            "Without",
            "No removal of past events changes this choice, not even that of all 2.",
        ),
        (
            {"removal": None, "sets_tried": 2},
            "Without",
            "None of the 2 removals of past events that were tried changes this choice",
        ),
        (
            {"rank": 2},
            "would be recommended instead",
            "video 103 (tag 5, 20 s) would be among the first 2 instead",
        ),
        ({"rank": 3}, "still be first", "video 102 would still be among the first 3"),
        (
            {"skip": changed(SKIP, becomes=3)},
            "still be first",
            "video 103 (tag 5, 20 s) would be recommended instead; video 102 would have a "
            "probability of 18% instead of 25% (0.7 times its odds).",
        ),
        ({"skip": changed(SKIP, slot=1)}, f"skipped {LIKED}", f"Had they skipped {OTHER}"),
        ({"skip": changed(SKIP, margin_change=0.7)}, "0.7 times", "2.0 times its odds"),
        ({"skip": changed(SKIP, margin_change=-3.5)}, "0.7 times", "0.03 times its odds"),
        ({"skip": changed(SKIP, margin_change=0.01)}, "0.7 times", "about the same odds"),
        ({"skip": changed(SKIP, margin_change=-1e4)}, "0.7 times", "0 times its odds"),
        ({"skip": changed(SKIP, probability=0.25)}, "instead of 25%", "probability of 25% as now"),
        ({"skip": None}, "Had they skipped", "instead."),
        (
            {"candidates": 1, "runner_up": None, "lead": None},
            "Without",
            "No other video is left to take its place, whatever they had watched.",
        ),
        (
            {"at": state(watch_ratio=0.02, feedback=0.0)},
            "watched 3 minutes ago",
            "Without video 100 (tag 8, skipped 3 minutes ago)",
        ),
        ({"at": state(seconds=5 * 3600.0)}, "3 minutes ago", "watched 5 hours ago"),
    ],
)
def test_changed_numbers_change_the_words(change: dict[str, Any], before: str, after: str) -> None:
    """Fails if the text is canned."""
    assert before in told().sentence
    found = told(**change)
    text = counterfactual_sentence(found)
    assert before not in text
    assert after in text
    assert text in found.sentence


def test_nothing_is_said_where_nothing_was_looked_for() -> None:
    """Fails if a user without history is told what its removal would do."""
    assert counterfactual_sentence(explanation(MIXED)) == ""
    assert "  " not in explanation(MIXED).sentence


def test_alike_events_are_counted() -> None:
    """Fails if the same words come twice, as if by mistake."""
    twice = state()
    first, second = (LAYOUT.history.start + EVENT_SIZE * slot for slot in (0, 1))
    twice[second : second + EVENT_SIZE] = twice[first : first + EVENT_SIZE]
    text = counterfactual_sentence(told(FoundRemoval((0, 1), 3, True), at=twice))
    assert text.startswith(f"Without 2 events of {LIKED}, video 103 (tag 5, 20 s) would be")


def test_a_large_removal_is_counted_and_its_newest_events_named() -> None:
    """Fails if nobody can read to the end of it."""
    found = told()
    assert found.counterfactual is not None
    assert found.counterfactual.removal is not None
    liked = found.counterfactual.removal.events[0]
    events = [liked.model_copy(update={"slot": slot, "text": f"video {slot}"}) for slot in range(7)]
    removal = found.counterfactual.removal.model_copy(
        update={"slots": list(range(7)), "events": events, "is_smallest": False}
    )
    large = found.model_copy(
        update={
            "history_events": 50,
            "counterfactual": found.counterfactual.model_copy(update={"removal": removal}),
        }
    )
    assert counterfactual_sentence(large).startswith(
        "Without 7 of the 50 past events, the newest of them video 0, video 1 and video 2, "
        "video 103 (tag 5, 20 s) would be recommended instead; each of the 7 is needed, but "
        "another set may be smaller."
    )


def test_a_single_event_is_called_the_only_one() -> None:
    """Fails if one event is told as "all 1"."""
    one = state()
    first = LAYOUT.history.start + EVENT_SIZE
    one[first : first + EVENT_SIZE] = 0
    text = counterfactual_sentence(told(None, sets_tried=1, at=one))
    assert text.startswith("Removing the only past event does not change this choice. Had they")


def test_an_event_of_another_log_is_answered_not_watched() -> None:
    """Fails if a log without a watched share is told of watching and skipping."""
    log = kuairand().log.model_copy(update={"signals": {"click": "accepted"}})
    noun = words.past_video(
        name="video g1",
        video_tags=None,
        watch_ratio=0.0,
        feedback=["click"],
        age_seconds=180,
        log=log,
    )
    assert noun == "video g1 (shown 3 minutes ago)"
    assert words.had_skipped(noun, log) == f"had no signal followed {noun}"


@given(st.floats(-20, 20), st.floats(1e-9, 1.0), st.booleans())
def test_the_numbers_in_the_words_are_the_numbers(
    change: float, probability: float, replaced: bool
) -> None:
    """Fails if a factor or a probability in the text is not what was computed."""
    skip = FoundSkip(0, change, probability, 3 if replaced else None)
    text = counterfactual_sentence(told(skip=skip))
    assert ("still be first" in text) != replaced
    assert f"probability of {words.percent(probability)}" in text
    if "about the same odds" in text:
        assert np.exp(change) == pytest.approx(1, abs=0.051)
    else:
        said = text.split(" times its odds")[0].rsplit("(", 1)[1].replace(",", "")
        assert float(said) == pytest.approx(np.exp(change), rel=0.055)

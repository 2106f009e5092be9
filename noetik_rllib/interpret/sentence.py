"""The sentences of an explanation, put together from its numbers alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from noetik_rllib.interpret import words
from noetik_rllib.interpret.facts import Counterfactual, Event, Explanation, Skipped, Video

#: How open a choice is, by the effective number of videos as a share of the candidates.
_ONE_BELOW = 1.5  # videos
_NEARLY_CERTAIN_BELOW = 2.0  # videos
_FEW_BELOW = 10.0  # videos
_LEANING_BELOW = 0.5  # of the candidates
#: Past events of a removal that are all named; of a larger one, the newest three.
_NAMED_EVENTS = 4
#: ``exp`` of more than 709 overflows.
_LARGEST_LOG = 700.0


def video_label(video: Video) -> str:
    """A video with what is known of it: ``video 12 (tags 3 and 39, 14 s)``."""
    about = about_video(video)
    return f"video {video.label} ({about})" if about else f"video {video.label}"


def about_video(video: Video) -> str:
    """What is known of a video: ``tags 3 and 39, 14 s``; empty if the log tells nothing of any."""
    if video.tags == [] and video.author_id is None and video.duration_seconds is None:
        return "no tag, author or length known"
    facts = [] if video.tags is None else [words.tags(video.tags)]
    if video.duration_seconds is not None:
        facts.append(words.clip_length(video.duration_seconds))
    return ", ".join(facts)


def certainty(explanation: Explanation) -> str:
    """How sure the policy is, as a sentence."""
    effective, candidates = explanation.effective_videos, explanation.candidates
    if candidates == 1:
        return "There is no choice to be sure of: it is the only video left to recommend."
    if effective < _ONE_BELOW:
        return (
            "The policy is nearly certain here: one video has nearly all of the probability, out "
            f"of {candidates:,}."
        )
    if effective < _NEARLY_CERTAIN_BELOW:
        mood = "The policy is nearly certain here"
    elif effective < _FEW_BELOW:
        mood = "The policy wavers between few videos"
    elif effective < _LEANING_BELOW * candidates:
        mood = "The policy leans towards some videos without being sure"
    else:
        mood = "The choice is wide open"
    equals = words.plural(round(effective), "equally likely video")
    return f"{mood}: it is as undecided as among {equals} out of {candidates:,}."


def standing(explanation: Explanation) -> str:
    """How likely the video is, with what that compares to, as a part of a sentence."""
    said = f"a probability of {words.percent(explanation.probability)}"
    comparisons = []
    if explanation.candidates > 1:
        even = explanation.probability * explanation.candidates
        comparisons.append(f"{words.times(even)} an even share")
    if explanation.runner_up is not None and explanation.lead is not None:
        ratio = _ratio(explanation.lead)
        how = "about" if ratio < 1.05 else words.times(ratio)
        comparisons.append(f"{how} that of the next, video {explanation.runner_up.label}")
    return f"{said}: {words.listing(comparisons)}" if comparisons else said


def _opening(explanation: Explanation) -> str:
    place = {1: "first", 2: "second", 3: "third"}.get(explanation.rank)
    choice = f"{place} choice" if place else f"choice number {explanation.rank}"
    user, label = explanation.user_label, video_label(explanation.video)
    return f"For user {user} the policy's {choice} is {label}, with {standing(explanation)}."


def no_history(explanation: Explanation) -> str:
    """That nothing is known of what the user watched; empty where something is."""
    if explanation.history_events:
        return ""
    decide = "profile and situation decide"
    if not explanation.source_shares["situation"]:
        decide = "the profile alone decides, in a situation taken as average"
    return (
        "No watched video of this user is on record, so nothing in a history speaks for or "
        f"against it: {decide}."
    )


def _ratio(log_odds: float) -> float:
    return math.exp(max(-_LARGEST_LOG, min(log_odds, _LARGEST_LOG)))


def _personal(explanation: Explanation) -> str:
    """How much of the preference is owed to this user, and how much any user would have given."""
    anyone, here = explanation.baseline_margin, explanation.margin
    change = here - anyone
    if abs(change) < 0.005:
        return "This user's state moves it neither up nor down, compared with the average user's."
    moved = f"{'multiplies' if change > 0 else 'divides'} its odds by "
    general = "above" if anyone > 0 else "below"
    return (
        f"The average user without history would place it {general} a typical video; "
        f"what is known of this user {moved}{words.factor(_ratio(abs(change)))}."
    )


def counterfactual_sentence(explanation: Explanation) -> str:
    """What would have to be otherwise for the policy to choose otherwise.

    A pure function of the explanation's numbers; empty without history.
    """
    counterfactual = explanation.counterfactual
    if counterfactual is None:
        return ""
    if explanation.candidates <= explanation.rank:
        return "No other video is left to take its place, whatever they had watched."
    said = [_removal(explanation, counterfactual)]
    if counterfactual.skipped is not None:
        said.append(_skipped(explanation, counterfactual.skipped))
    return " ".join(said)


def _instead(explanation: Explanation, becomes: Video) -> str:
    where = "recommended" if explanation.rank == 1 else f"among the first {explanation.rank}"
    return f"{video_label(becomes)} would be {where} instead"


def _removal(explanation: Explanation, counterfactual: Counterfactual) -> str:
    removal, events = counterfactual.removal, explanation.history_events
    if removal is None:
        if events == 1:
            return "Removing the only past event does not change this choice."
        if counterfactual.sets_tried == 2**events - 1:
            return f"No removal of past events changes this choice, not even that of all {events}."
        return (
            f"None of the {counterfactual.sets_tried:,} removals of past events that were tried "
            f"changes this choice, not even that of all {events}."
        )
    size, instead = len(removal.events), _instead(explanation, removal.becomes)
    names = _events(removal.events)
    if size == 1:
        return f"Without {names}, {instead}."
    if size > _NAMED_EVENTS:
        newest = _events(removal.events[:3])
        names = f"{size} of the {events} past events, the newest of them {newest}"
    more = "no smaller removal changes the choice"
    if not removal.is_smallest:
        more = f"each of the {size} is needed, but another set may be smaller"
    return f"Without {names}, {instead}; {more}."


def _events(events: Sequence[Event]) -> str:
    """Past events as nouns; alike ones together, at the place of the first."""
    return words.listing(
        [
            text if count == 1 else f"{count} events of {text}"
            for text, count in Counter(event.text for event in events).items()
        ]
    )


def _skipped(explanation: Explanation, skipped: Skipped) -> str:
    condition = skipped.text[0].upper() + skipped.text[1:]
    label = f"video {explanation.video.label}"
    before, after = (words.percent(one.probability) for one in (explanation, skipped))
    probability = f"{after} as now" if after == before else f"{after} instead of {before}"
    odds = words.times(_ratio(skipped.margin_change))
    odds = "about the same" if odds == words.times(1.0) else odds + " its"
    then = f"a probability of {probability} ({odds} odds)"
    if skipped.becomes is not None:
        instead = _instead(explanation, skipped.becomes)
        return f"{condition}, {instead}; {label} would have {then}."
    place = "first" if explanation.rank == 1 else f"among the first {explanation.rank}"
    return f"{condition}, {label} would still be {place}, with {then}."


def _alone(change: float) -> str:
    """What taking one event out alone does to the margin."""
    return f"without it alone {words.signed(change)}"


def _reasons(explanation: Explanation) -> list[str]:
    said: list[str] = []
    for direction, openings in (
        ("for", ("What speaks for it most", "Next", "Then")),
        ("against", ("Against it", "Also against it", "And against it")),
    ):
        chosen = [reason for reason in explanation.reasons if reason.direction == direction]
        for place, reason in enumerate(chosen):
            share = words.percent(reason.share) + ("" if said else " of all influence")
            if reason.alone is not None:
                share += (
                    f"; {_alone(reason.alone)}" if said else f"; {_alone(reason.alone)} log-odds"
                )
            opening = openings[min(place, len(openings) - 1)]
            said.append(f"{opening}: {reason.text} ({share}).")
    return said


def _unnamed(explanation: Explanation, source: str) -> int:
    return sum(influence.source == source for influence in explanation.others)


def _rest(explanation: Explanation) -> str:
    if not explanation.reasons:
        return "Nothing that the policy sees of this user moves this recommendation."
    if not explanation.others:
        return "That is all of its influence."
    events = _unnamed(explanation, "history")
    counts = []
    if events:
        counts.append(words.plural(events, "further event"))
    sources = [f"the {one}" for one in ("profile", "situation") if _unnamed(explanation, one)]
    if sources:
        features = words.plural(len(explanation.others) - events, "feature")
        counts.append(f"{features} of {words.listing(sources)}")
    return (
        f"Not named here: {words.percent(explanation.unnamed_share)} of the influence, spread "
        f"over {words.listing(counts)}."
    )


def write_sentence(explanation: Explanation) -> str:
    """Say in plain English what is recommended, how surely, why, what is left out, what if not.

    A pure function of the explanation's numbers.
    """
    said = [
        _opening(explanation),
        no_history(explanation),
        *_reasons(explanation),
        _rest(explanation),
        counterfactual_sentence(explanation),
        _personal(explanation),
        certainty(explanation),
    ]
    return " ".join(sentence for sentence in said if sentence)

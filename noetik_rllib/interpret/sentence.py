"""The sentences of an explanation, put together from its numbers alone."""

from __future__ import annotations

import math

from noetik_rllib.interpret import words
from noetik_rllib.interpret.facts import Explanation, Video

#: How open a choice is, by the effective number of videos as a share of the candidates.
_NEARLY_CERTAIN_BELOW = 2.0  # videos
_FEW_BELOW = 10.0  # videos
_LEANING_BELOW = 0.5  # of the candidates
#: ``exp`` of more than 709 overflows.
_LARGEST_LOG = 700.0


def video_label(video: Video) -> str:
    """A video with what is known of it: ``video 12 (tags 3 and 39, 14 s)``."""
    about = about_video(video)
    return f"video {video.label} ({about})" if about else f"video {video.label}"


def about_video(video: Video) -> str:
    """What is known of a video: ``tags 3 and 39, 14 s``; empty if nothing is."""
    facts = [] if video.tags is None else [words.tags(video.tags)]
    if video.duration_seconds is not None:
        facts.append(words.clip_length(video.duration_seconds))
    return ", ".join(facts)


def certainty(explanation: Explanation) -> str:
    """How sure the policy is, as a sentence."""
    effective, candidates = explanation.effective_videos, explanation.candidates
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


def _opening(explanation: Explanation) -> str:
    place = {1: "first", 2: "second", 3: "third"}.get(explanation.rank)
    choice = f"{place} choice" if place else f"choice number {explanation.rank}"
    user, label = explanation.user_label, video_label(explanation.video)
    said = (
        f"For user {user} the policy's {choice} is {label}, with a probability of "
        f"{words.percent(explanation.probability)}"
    )
    comparisons = []
    if explanation.candidates > 1:
        even = explanation.probability * explanation.candidates
        comparisons.append(f"{words.times(even)} an even share")
    if explanation.runner_up is not None and explanation.lead is not None:
        ratio = math.exp(min(explanation.lead, _LARGEST_LOG))
        how = "about" if ratio < 1.05 else words.times(ratio)
        comparisons.append(f"{how} that of the next, video {explanation.runner_up.label}")
    return f"{said}: {words.listing(comparisons)}." if comparisons else f"{said}."


def _personal(explanation: Explanation) -> str:
    """How much of the preference is owed to this user, and how much any user would have given."""
    anyone, here = explanation.baseline_margin, explanation.margin
    change = here - anyone
    if abs(change) < 0.005:
        return "This user's state moves it neither up nor down, compared with the average user's."
    factor = words.factor(math.exp(min(abs(change), _LARGEST_LOG)))
    moved = f"{'multiplies' if change > 0 else 'divides'} its odds by {factor}"
    general = "above" if anyone > 0 else "below"
    return (
        f"The average user without history would place it {general} a typical video; "
        f"what is known of this user {moved}."
    )


def _reasons(explanation: Explanation) -> list[str]:
    said: list[str] = []
    for direction, openings in (
        ("for", ("What speaks for it most", "Next", "Then")),
        ("against", ("Against it", "Also against it", "And against it")),
    ):
        chosen = [reason for reason in explanation.reasons if reason.direction == direction]
        for place, reason in enumerate(chosen):
            share = words.percent(reason.share) + ("" if said else " of all influence")
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


def counterfactual_sentence(explanation: Explanation) -> str:
    """What would have changed the recommendation; empty without a history."""
    found = explanation.counterfactual
    if found is None:
        return ""
    said = ["No removal of past events would change this choice."]
    if removal := found.removal:
        count = words.plural(len(removal.events), "event")
        said = [f"Without {count} of the history, {video_label(removal.becomes)} takes its place."]
        if removal.is_smallest:
            said.append("No fewer would do.")
    if skipped := found.skipped:
        then = "it would stay"
        if skipped.becomes is not None:
            then = f"{video_label(skipped.becomes)} would take its place"
        said.append(
            f"Had they skipped video {skipped.event.video.label} "
            f"{words.ago(skipped.event.age_seconds)}, {then}, with its probability at "
            f"{words.percent(skipped.probability)}."
        )
    return " ".join(said)


def write_sentence(explanation: Explanation) -> str:
    """Say in plain English what is recommended, how surely, why, and what is left out.

    A pure function of the explanation's numbers.
    """
    said = [_opening(explanation)]
    if not explanation.history_events:
        decide = "profile and situation decide"
        if not explanation.source_shares["situation"]:
            decide = "the profile alone decides, in a situation taken as average"
        said.append(
            "No watched video of this user is on record, so nothing in a history speaks for or "
            f"against it: {decide}."
        )
    said += [*_reasons(explanation), _rest(explanation)]
    said += [_personal(explanation), certainty(explanation)]
    return " ".join(said)

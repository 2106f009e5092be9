"""The explorer's data: every text ready to show, so that the script in the page formats nothing.

``explorer.js`` reads it and builds elements; what it may show is decided here, by the same words
that the terminal prints.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from collections.abc import Mapping as Dict
from typing import Any

from markupsafe import Markup

from noetik_rllib.data.mapping import LogFiles, Mapping
from noetik_rllib.interpret import words
from noetik_rllib.interpret.facts import Event, Explanation, Influence
from noetik_rllib.interpret.groups import user_groups
from noetik_rllib.interpret.sentence import about_video, counterfactual_sentence, video_label

#: Profile features that say nothing of the person.
_MEANINGLESS = ("anonymous_features", "unused", "features_known")
#: Effects below this are shown with a third digit, or a policy of small logits has only zeros.
_SMALL = 0.1
#: Features below this share of the influence are folded away.
_MINOR_BELOW = 0.01


def explorer_data(
    explanations: Sequence[Explanation], *, held_out: Collection[int], mapping: Mapping
) -> dict[str, Any]:
    """Turn explanations into what the explorer shows, user by user.

    Args:
        explanations: any number of users and choices, in the order in which they are shown.
        held_out: ids of the users that the policy learnt nothing from.
        mapping: what the dataset's log holds.
    """
    log = mapping.log
    by_user: dict[int, list[Explanation]] = {}
    for explanation in explanations:
        by_user.setdefault(explanation.user_id, []).append(explanation)
    watches = "watch_ratio" in log.signals
    return {
        "watched": log.meanings.get("watch_ratio", "watched") if watches else None,
        "users": [
            _user(choices, user_id in held_out, mapping) for user_id, choices in by_user.items()
        ],
    }


def embedded(content: object) -> Markup:
    r"""Return JSON that can stand in a ``<script>`` element, whatever texts it holds.

    ``<``, ``>`` and ``&`` are escaped, so that no ``</script>`` or ``<!--`` ends or opens anything;
    so is all that is not ASCII, U+2028 among it.

    >>> embedded({"name": "</script><!--"})
    Markup('{"name":"\\u003c/script\\u003e\\u003c!--"}')
    """
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def facts(explanation: Explanation) -> list[tuple[str, str, str]]:
    """Name, value and a remark of the numbers that say what was chosen, and how surely."""
    found = [
        ("probability", words.percent(explanation.probability), ""),
        (
            "as undecided as among",
            f"{explanation.effective_videos:,.0f}",
            f"of {explanation.candidates:,}",
        ),
    ]
    if explanation.lead is not None:
        found.append(("lead over the next", words.signed(explanation.lead), ""))
    change = explanation.margin - explanation.baseline_margin
    return [*found, ("effect in total", words.signed(change), "")]


def unnamed(explanation: Explanation) -> str:
    """How much of the influence the reasons leave out."""
    if not explanation.others:
        return ""
    return (
        f"These {len(explanation.reasons)} hold {words.percent(1 - explanation.unnamed_share)} of "
        f"all influence; {words.percent(explanation.unnamed_share)} is spread over "
        f"{words.plural(len(explanation.others), 'smaller influence')}."
    )


def numerical_error(explanation: Explanation) -> str:
    """How far the effects are from adding up to what they explain."""
    return (
        f"Numerical error of the effects: {words.signed(explanation.gap, 4)}, "
        f"{words.error(explanation.relative_gap)} of all influence."
    )


def _user(choices: Sequence[Explanation], held_out: bool, mapping: Mapping) -> dict[str, Any]:
    """One user: who they are, what they watched, and what is recommended to them."""
    events = {event.slot: event for event in _events(choices[0])}
    slots = sorted(events)  # newest first
    # A feature that moves one choice and not another has a row: its effect there is 0.
    features = {
        one.name: one for choice in choices for one in choice.influences if one.event is None
    }
    return {
        "name": choices[0].user_label,
        "heldOut": held_out,
        "profile": _profile(features, mapping),
        "history": [_event(events[slot], mapping.log) for slot in slots],
        "features": [feature.text for feature in features.values()],
        "choices": [_choice(choice, slots, list(features)) for choice in choices],
    }


def _events(explanation: Explanation) -> list[Event]:
    """The whole history, in no order."""
    moving = [one.event for one in explanation.influences if one.event is not None]
    return [*moving, *explanation.inert]


def _profile(features: Dict[str, Influence], mapping: Mapping) -> str:
    """The user's profile in a line, in the mapping's order; empty if none of it moves the policy.

    Args:
        features: by name.
        mapping: what the dataset's log holds.
    """
    known = features.get("features_known")
    if known and known.text.endswith("not known"):
        return _capitalised(known.text)
    names = [group.name for group in user_groups(mapping) if group.name not in _MEANINGLESS]
    said = [features[name].text for name in names if name in features]
    return _capitalised("; ".join(said)) if said else ""


def _capitalised(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _event(event: Event, log: LogFiles) -> dict[str, Any]:
    """A row of the history: what does not depend on the choice."""
    watches = "watch_ratio" in log.signals
    return {
        "age": words.ago(event.age_seconds, log),
        "video": f"video {event.video.label}",
        "about": about_video(event.video),
        "watched": words.percent(event.watch_ratio) if watches else None,
        "ratio": round(event.watch_ratio, 3) if watches else None,
        "acts": words.acts(event.feedback, log),
        "random": event.is_random,
    }


def _choice(
    explanation: Explanation, slots: Sequence[int], features: Sequence[str]
) -> dict[str, Any]:
    """One recommended video, with an effect for every row of the history and every feature."""
    influences = {one.name: one for one in explanation.influences}
    events = {event.slot: event for event in _events(explanation)}
    largest = max((abs(one.attribution) for one in explanation.influences), default=0.0)
    digits = 2 if largest >= _SMALL or not largest else 3
    reasons = {one.name: place for place, one in enumerate(explanation.reasons, start=1)}

    def effect(name: str) -> dict[str, Any]:
        influence = influences.get(name)
        value = influence.attribution if influence else 0.0
        return {
            "effect": words.signed(value, digits),
            # Of the strongest influence, -1 to 1: the length of its bar.
            "size": round(value / largest, 4) if influence else 0,
            "share": _share(influence.share if influence else 0.0),
            **({"reason": reasons[name]} if name in reasons else {}),
        }

    changes = counterfactual_sentence(explanation)
    return {
        "rank": explanation.rank,
        "video": video_label(explanation.video),
        "probability": words.percent(explanation.probability),
        # What would change the choice has a place of its own: it is said once.
        "sentence": " ".join(explanation.sentence.replace(changes, "").split()),
        "changes": changes,
        "facts": facts(explanation),
        "reasons": [{**effect(one.name), "text": one.text} for one in explanation.reasons],
        "unnamed": unnamed(explanation),
        "sources": [
            {"name": source, "share": words.percent(share), "size": round(share, 4)}
            for source, share in explanation.source_shares.items()
        ],
        "events": [
            {**effect(f"event {slot}"), **_marks(events[slot], explanation)} for slot in slots
        ],
        "features": [effect(name) for name in features],
        "minor": [
            place
            for place, name in enumerate(features)
            if name not in reasons
            and (name not in influences or influences[name].share < _MINOR_BELOW)
        ],
        "error": numerical_error(explanation),
    }


def _share(share: float) -> str:
    """A share in a narrow column.

    >>> _share(0.31), _share(3e-7), _share(0.0)
    ('31%', '<0.01%', '0%')
    """
    return "<0.01%" if 0 < share < 1e-4 else words.percent(share)


def _marks(event: Event, explanation: Explanation) -> dict[str, Any]:
    """What an event has to do with the recommended video, beside its effect."""
    marks: dict[str, Any] = {}
    common = [f"shares {words.tags(event.shared_tags)}"] if event.shared_tags else []
    common += ["same author"] if event.same_author else []
    if common:
        marks["common"] = ", ".join(common)
    found = explanation.counterfactual
    if found and found.removal and event.slot in found.removal.slots:
        marks["decisive"] = True
    if found and found.skipped and event.slot == found.skipped.event.slot:
        marks["skipped"] = words.signed(found.skipped.margin_change)
    return marks

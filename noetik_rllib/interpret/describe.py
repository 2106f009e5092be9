"""From numbers to an explanation: pure functions of a state, a policy's logits, an attribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dict
from functools import partial

import numpy as np

from noetik_rllib.data.mapping import LogFiles, Mapping, kuairand
from noetik_rllib.data.signals import BINARY_SIGNALS
from noetik_rllib.interpret import words
from noetik_rllib.interpret.attribution import Attribution
from noetik_rllib.interpret.baseline import Baseline
from noetik_rllib.interpret.counterfactual import Found, FoundSkip
from noetik_rllib.interpret.facts import (
    Choice,
    Counterfactual,
    Event,
    Explanation,
    Influence,
    Removal,
    Skipped,
    Source,
    Video,
)
from noetik_rllib.interpret.groups import CONTEXT_GROUPS, user_groups
from noetik_rllib.interpret.removal import FoundRemoval
from noetik_rllib.interpret.sentence import write_sentence
from noetik_rllib.offline.catalog import Catalog
from noetik_rllib.offline.manifest import Normaliser
from noetik_rllib.state import AGE, WATCH_RATIO, StateLayout

#: Influences that are named as reasons: what a person keeps in mind from one reading.
REASONS = 3


def choose(logits: np.ndarray, seen: np.ndarray, top_k: int) -> list[Choice]:
    """Rank the videos of a catalogue for one state.

    Args:
        logits: the policy's logits, (N,).
        seen: dense indices that are not candidates, any number of them.
        top_k: at most so many choices are returned: fewer where there are fewer candidates.
    """
    candidates = np.setdiff1d(np.arange(len(logits)), seen)
    if not len(candidates):
        return []
    scores = logits[candidates].astype(np.float64)
    log_probability = scores - scores.max()
    log_probability -= np.log(np.exp(log_probability).sum())
    probability = np.exp(log_probability)
    # 0 log 0 = 0: an exp that underflows has a finite logarithm here.
    entropy = max(0.0, float(-(probability * log_probability).sum()))
    # Ties go to the lower index, so that the same input gives the same text.
    order = np.argsort(-scores, kind="stable")
    choices = []
    for rank, place in enumerate(order[:top_k], start=1):
        following = order[rank] if rank < len(order) else None
        choices.append(
            Choice(
                rank=rank,
                index=int(candidates[place]),
                candidates=len(candidates),
                probability=float(probability[place]),
                runner_up=None if following is None else int(candidates[following]),
                lead=None if following is None else float(scores[place] - scores[following]),
                entropy=entropy,
            )
        )
    return choices


def _events(
    layout: StateLayout,
    state: np.ndarray,
    video_of: Callable[[int], Video],
    recommended: Video,
    log: LogFiles,
) -> list[Event]:
    """Facts of the events in a state (state size,), newest first."""
    parts = layout.unpack(state[None])
    video_index, feedback, is_random = parts.video_index[0], parts.feedback[0], parts.unchosen[0]
    events = []
    for slot in np.flatnonzero(parts.present[0]):
        video = video_of(int(video_index[slot]))
        watch_ratio = float(parts.events[0, slot, WATCH_RATIO])
        given = [
            name for name, bit in zip(BINARY_SIGNALS, feedback[slot], strict=True) if bit > 0.5
        ]
        age_seconds = float(np.expm1(np.float64(parts.events[0, slot, AGE])))
        events.append(
            Event(
                slot=int(slot),
                video=video,
                watch_ratio=watch_ratio,
                feedback=given,
                age_seconds=age_seconds,
                shared_tags=[tag for tag in video.tags or () if tag in (recommended.tags or ())],
                same_author=video.author_id is not None
                and video.author_id == recommended.author_id,
                is_random=bool(is_random[slot]),
                text=words.past_video(
                    name=f"video {video.label}",
                    video_tags=video.tags,
                    watch_ratio=watch_ratio,
                    feedback=given,
                    age_seconds=age_seconds,
                    log=log,
                ),
            )
        )
    return events


def _counterfactual(
    found: Found, events: Sequence[Event], video_of: Callable[[int], Video], log: LogFiles
) -> Counterfactual:
    """Facts of what was found, for the same events."""
    by_slot = {event.slot: event for event in events}

    def removal(one: FoundRemoval) -> Removal:
        return Removal(
            slots=list(one.slots),
            events=[by_slot[slot] for slot in one.slots],
            becomes=video_of(one.becomes),
            is_smallest=one.is_smallest,
        )

    def skipped(one: FoundSkip) -> Skipped:
        event = by_slot[one.slot]
        return Skipped(
            event=event,
            margin_change=one.margin_change,
            probability=one.probability,
            becomes=None if one.becomes is None else video_of(one.becomes),
            text=words.had_skipped(event.text, log),
        )

    return Counterfactual(
        removal=None if found.removal is None else removal(found.removal),
        skipped=None if found.skip is None else skipped(found.skip),
        sets_tried=found.sets_tried,
    )


def _event_text(event: Event, mapping: Mapping) -> str:
    return words.event(
        name=f"video {event.video.label}",
        video_tags=event.video.tags,
        watch_ratio=event.watch_ratio,
        feedback=event.feedback,
        age_seconds=event.age_seconds,
        shared_tags=event.shared_tags,
        same_author=event.same_author,
        is_random=event.is_random,
        log=mapping.log,
    )


def _influences(
    *,
    layout: StateLayout,
    state: np.ndarray,
    events: Sequence[Event],
    attribution: Attribution,
    row: int,
    baseline: Baseline,
    counts: Normaliser,
    mapping: Mapping,
    without: np.ndarray | None,
) -> list[Influence]:
    """Every influence of row ``row``, strongest first; equally strong ones keep their order."""
    parts = layout.unpack(state)
    found: list[tuple[Source, str, float, str, Event | None]] = [
        (
            "history",
            f"event {event.slot}",
            float(attribution.events[row, event.slot]),
            _event_text(event, mapping),
            event,
        )
        for event in events
    ]
    for place, group in enumerate(user_groups(mapping)):
        text = words.user_group(group.name, parts.user, baseline.user, counts, mapping)
        found.append(("profile", group.name, float(attribution.user[row, place]), text, None))
    for place, group in enumerate(CONTEXT_GROUPS):
        text = words.context_group(group.name, parts.context, baseline.context, mapping.log)
        value = float(attribution.context[row, place])
        found.append(("situation", group.name, value, text, None))
    total = sum(abs(value) for _, _, value, _, _ in found)
    influences = [
        Influence(
            source=source,
            name=name,
            attribution=value,
            share=abs(value) / total,
            direction="for" if value > 0 else "against",
            text=text,
            event=event,
            alone=None
            if event is None or without is None
            else float(without[row, event.slot] - attribution.value[row]),
        )
        for source, name, value, text, event in found
        if value != 0  # a feature exactly as in the baseline, or a policy that ignores it
    ]
    return sorted(influences, key=lambda influence: -abs(influence.attribution))


def describe(
    *,
    user_id: int,
    choice: Choice,
    state: np.ndarray,
    layout: StateLayout,
    catalog: Catalog,
    attribution: Attribution,
    row: int,
    baseline: Baseline,
    counts: Normaliser,
    reasons: int = REASONS,
    mapping: Mapping | None = None,
    keys: Dict[str, Dict[int, str]] | None = None,
    found: Found | None = None,
    without: np.ndarray | None = None,
) -> Explanation:
    """Turn numbers into an explanation; the same numbers give the same explanation.

    Args:
        user_id: the dataset's id.
        choice: what is recommended, and how surely.
        state: the user's state, (state size,).
        layout: layout of the state.
        catalog: the videos.
        attribution: attributions of several decisions.
        row: the one that belongs to ``choice``.
        baseline: what the attributions compare with.
        counts: normaliser of the users' counts (``manifest.user_numeric``).
        reasons: influences to name.
        mapping: what the dataset's log holds; KuaiRand's where not given.
        without: scores with one event taken out, (B, H), as ``Attributor.value_without_each``.
        keys: texts that the ids of "users" and "items" stand for, where they do.
        found: what would change the choice; None where nothing was looked for.
    """
    mapping, keys = mapping or kuairand(), keys or {}
    tagged = mapping.items is not None and mapping.items.tags is not None
    video_of = partial(Video.of, catalog, tagged=tagged, keys=keys.get("items", {}))
    video = video_of(choice.index)
    events = _events(layout, state, video_of, video, mapping.log)
    influences = _influences(
        layout=layout,
        state=state,
        events=events,
        attribution=attribution,
        row=row,
        baseline=baseline,
        counts=counts,
        mapping=mapping,
        without=without,
    )
    shares: dict[Source, float] = {"history": 0.0, "profile": 0.0, "situation": 0.0}
    for influence in influences:
        shares[influence.source] += influence.share
    explanation = Explanation(
        user_id=user_id,
        user_name=keys["users"][user_id] if "users" in keys else None,
        rank=choice.rank,
        video=video,
        candidates=choice.candidates,
        probability=choice.probability,
        runner_up=None if choice.runner_up is None else video_of(choice.runner_up),
        lead=choice.lead,
        entropy=choice.entropy,
        effective_videos=float(np.exp(choice.entropy)),
        margin=float(attribution.value[row]),
        baseline_margin=float(attribution.baseline_value[row]),
        history_events=len(events),
        inert=[event for event in events if attribution.events[row, event.slot] == 0],
        reasons=influences[:reasons],
        others=influences[reasons:],
        source_shares=shares,
        unnamed_share=sum(influence.share for influence in influences[reasons:]),
        gap=float(attribution.gap[row]),
        relative_gap=float(attribution.relative_gap[row]),
        counterfactual=(
            None if found is None else _counterfactual(found, events, video_of, mapping.log)
        ),
    )
    return explanation.model_copy(update={"sentence": write_sentence(explanation)})

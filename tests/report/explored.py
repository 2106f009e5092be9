"""Pages for the browser tests, and what they were made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from playwright.sync_api import Page

from noetik_rllib.interpret.explanation import Explainer, default_users
from noetik_rllib.interpret.facts import (
    Counterfactual,
    Event,
    Explanation,
    Influence,
    Removal,
    Skipped,
)
from noetik_rllib.interpret.sentence import counterfactual_sentence
from noetik_rllib.report.page import write_report
from noetik_rllib.runs import Run
from noetik_rllib.state import EVENT_SIZE

#: As a reader would find it if someone had named a user, a video and a folder to do harm.
HOSTILE = (
    "</script><!--<script>window.harm = 1</script><img src=x onerror='window.harm=1'>\u2028"
    "+%26&choice=9#"
)


@dataclass(frozen=True)
class Explored:
    """A page and what it was made from; ``users`` in the page's order."""

    url: str
    explanations: list[Explanation]

    @property
    def users(self) -> list[str]:
        return list(dict.fromkeys(one.user_label for one in self.explanations))

    def of(self, user: str, rank: int = 1) -> Explanation:
        return next(one for one in self.explanations if one.user_label == user and one.rank == rank)


def _with_counterfactual(explanation: Explanation) -> Explanation:
    """Say that the two strongest events decide, and what skipping the newest would do."""
    strongest = [one.event for one in explanation.influences if one.event][:2]
    decisive = sorted(strongest, key=lambda event: event.slot)
    newest = event_of(explanation, 0)
    assert explanation.runner_up is not None
    found = Counterfactual(
        removal=Removal(
            slots=[event.slot for event in decisive],
            events=decisive,
            becomes=explanation.runner_up,
            is_smallest=True,
        ),
        skipped=Skipped(
            event=newest,
            margin_change=-0.3719,
            probability=0.0123,
            becomes=None,
            text=f"they had skipped video {newest.video.label}",
        ),
        sets_tried=3,
    )
    plain = explanation.sentence.replace(f" {counterfactual_sentence(explanation)}", "")
    changed = explanation.model_copy(update={"counterfactual": found, "sentence": plain})
    said = counterfactual_sentence(changed)
    # In the middle of the sentence, where it has to be cut out without a trace.
    first, _, rest = plain.partition(". ")
    return changed.model_copy(update={"sentence": f"{first}. {said} {rest}"})


def event_of(explanation: Explanation, slot: int) -> Event:
    events = [one.event for one in explanation.influences if one.event] + explanation.inert
    return next(event for event in events if event.slot == slot)


def _with_inert_event(explanation: Explanation) -> Explanation:
    """Take the influence of the weakest event for exactly none."""
    weakest = next(one for one in reversed(explanation.others) if one.event)
    others = [one for one in explanation.others if one is not weakest]
    return explanation.model_copy(update={"others": others, "inert": [weakest.event]})


def poisoned(explanation: Explanation, name: str) -> Explanation:
    """Put hostile texts wherever a name or a sentence is shown."""

    def named(influence: Influence) -> Influence:
        event = influence.event
        if event is not None:
            video = event.video.model_copy(update={"name": HOSTILE})
            event = event.model_copy(update={"video": video})
        return influence.model_copy(update={"event": event, "text": HOSTILE})

    return explanation.model_copy(
        update={
            "user_name": name,
            "video": explanation.video.model_copy(update={"name": HOSTILE}),
            "sentence": HOSTILE,
            "reasons": [named(one) for one in explanation.reasons],
            "others": [named(one) for one in explanation.others],
        }
    )


def explored_page(run: Run) -> Explored:
    """Four users with three choices each: the second has counterfactuals, the third an inert
    event, the fourth no history.
    """
    dataset = run.dataset()
    explainer = Explainer(dataset, run.networks())
    first, second, third, fourth = default_users(dataset, 4)
    none = np.zeros((1, dataset.layout.history_length, EVENT_SIZE), dtype=np.float32)
    parts = dataset.layout.unpack(dataset.latest_state(fourth)[None])
    empty = dataset.layout.pack(parts.user, none, parts.context)[0]
    explanations = [
        *explainer.explain(first, 3),
        *(_with_counterfactual(one) for one in explainer.explain(second, 3)),
        *(_with_inert_event(one) for one in explainer.explain(third, 3)),
        *explainer.explain_state(fourth, empty, 3),
    ]
    return Explored(write_report(run, explanations).as_uri(), explanations)


def hostile_page(run: Run) -> Explored:
    """A page whose every name is an attack, or too long for any screen."""
    explainer = Explainer(run.dataset(), run.networks())
    users = default_users(run.dataset(), 2)
    explanations = [
        poisoned(explainer.explain(user)[0], name)
        for user, name in zip(users, (HOSTILE, "long" * 80), strict=True)
    ]
    return Explored(write_report(run, explanations).as_uri(), explanations)


def clean(text: str) -> str:
    """Text as a browser lays it out: white space collapsed."""
    return " ".join(text.split())


def shown(page: Page, name: str) -> str:
    """Text of one of the explorer's parts."""
    return clean(page.locator(f"#explorer-{name}").inner_text())

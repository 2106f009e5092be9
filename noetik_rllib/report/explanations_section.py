"""The section that says why: an explorer of users, and cards where scripts do not run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from noetik_rllib.interpret.facts import Explanation
from noetik_rllib.interpret.sentence import video_label
from noetik_rllib.report.explorer import embedded, explorer_data, facts, numerical_error, unnamed
from noetik_rllib.report.plots import Plot, history_plot
from noetik_rllib.report.section import Material, Section

#: Cards of more users would be a long page to scroll through.
_CARDS = 3


@dataclass(frozen=True)
class Card:
    """An explanation as it is read without the explorer.

    Attributes:
        explanation: of the user's first choice.
        label: of the recommended video.
        facts: name, value and remark of its numbers.
        unnamed: how much the reasons leave out, in words.
        error: the numerical error, in words.
        plot: effects of the history's events, None without any.
        held_out: whether the policy learnt nothing from this user.
    """

    explanation: Explanation
    label: str
    facts: Sequence[tuple[str, str, str]]
    unnamed: str
    error: str
    plot: Plot | None
    held_out: bool


def explanations_section(material: Material) -> Section:
    """Explain every recommendation, or say how to have some explained."""
    explanations = material.explanations
    users = material.dataset.users
    held_out = set(users.user_id[users.held_out].tolist())
    firsts = {one.user_id: one for one in reversed(explanations)}
    shown = list(dict.fromkeys(one.user_id for one in explanations))
    content = {
        "directory": str(material.directory),
        "users": len(shown),
        "cards": [
            _card(firsts[user_id], place, user_id in held_out)
            for place, user_id in enumerate(shown[:_CARDS], start=1)
        ],
        "data": embedded(
            explorer_data(
                explanations, held_out=held_out, mapping=material.dataset.manifest.mapping
            )
        ),
    }
    return Section(
        "explanations",
        "Explained recommendations",
        "explanations.html",
        content,
        script="explorer.js" if explanations else None,
    )


def _card(explanation: Explanation, place: int, held_out: bool) -> Card:
    return Card(
        explanation,
        video_label(explanation.video),
        facts(explanation),
        unnamed(explanation),
        numerical_error(explanation),
        history_plot(explanation, f"history-{place}"),
        held_out,
    )

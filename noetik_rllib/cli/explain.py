"""``noetik explain``: why a trained policy recommends a video to a user."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from noetik_rllib.cli.console import err
from noetik_rllib.cli.console import out as console
from noetik_rllib.cli.types import PATH

if TYPE_CHECKING:  # importing it imports torch
    from noetik_rllib.interpret.facts import Explanation, Influence

#: Cells of a bar on each side of its zero line.
_BAR = 8
#: Blue and orange: told apart by everyone, colour-blind or not.
_STYLES = {"for": "blue", "against": "dark_orange3"}
_SOURCES = {"history": "what they watched", "profile": "who they are", "situation": "when and how"}
_HOW_TO_READ = (
    "Margins and effects are log-odds against the catalogue's average video: +0.7 doubles the "
    "odds. Effects compare with the average training user without history ('typically') and add up "
    "to the margin's difference. 'Without': how the margin changes if that event alone is taken "
    "out; others then stand in for it. All of it is about what the policy chooses, not about what "
    "the user would do."
)


@click.command(epilog="Example: noetik explain runs/demo --user 17 --top-k 3")
@click.argument("run", type=PATH)
@click.option("--user", required=True, help="The user's id in the log.")
@click.option("--top-k", type=int, default=5, show_default=True, help="Best videos to explain.")
@click.option("--json", "as_json", is_flag=True, help="Print the explanations as JSON.")
def explain(run: Path, user: str, top_k: int, as_json: bool) -> None:
    """Explain what a run recommends to a user, after the user's last event in the log."""
    from noetik_rllib.interpret import words
    from noetik_rllib.interpret.explanation import explain as explain_run
    from noetik_rllib.runs import Run

    opened = Run.open(run)
    explanations = explain_run(opened, opened.dataset().user_of(user), top_k)
    if len(explanations) < top_k:
        err.print(
            f"There {'is' if len(explanations) == 1 else 'are'} only "
            f"{words.plural(len(explanations), 'video')} left to recommend."
        )
    if as_json:
        content = [explanation.model_dump(mode="json") for explanation in explanations]
        click.echo(json.dumps(content, indent=2))
        return
    console.print(view(explanations))


def view(explanations: Sequence[Explanation]) -> Group:
    """Explanations of one user as a terminal shows them; ``noetik demo`` prints the same."""
    from noetik_rllib.interpret import words
    from noetik_rllib.interpret.sentence import certainty, no_history

    first = explanations[0]
    after = ""
    if first.history_events:
        after = f" after {words.plural(first.history_events, 'past event')}"
    said = f"What the policy recommends to user {first.user_label}{after}."
    entropy = f"Its entropy is {first.entropy:.2f} nats."
    parts: list[RenderableType] = [
        Text(" ".join(filter(None, [said, no_history(first), certainty(first), entropy])))
    ]
    parts += [_panel(explanation) for explanation in explanations]
    return Group(*parts, Text(_HOW_TO_READ, style="dim"))


def _panel(explanation: Explanation) -> Panel:
    from noetik_rllib.interpret.sentence import counterfactual_sentence, standing, video_label

    likely = standing(explanation)
    parts: list[RenderableType] = [Text(f"{likely[0].upper()}{likely[1:]}.")]
    if explanation.reasons:
        parts += ["", _reasons(explanation)]
    if what_if := counterfactual_sentence(explanation):
        parts += ["", Text(what_if)]
    parts += ["", Text(_fine_print(explanation), style="dim")]
    return Panel(
        Group(*parts),
        title=Text(f"{explanation.rank} · {video_label(explanation.video)}", style="bold"),
        title_align="left",
        box=box.ROUNDED,
        border_style="dim",
        padding=(0, 1),
        width=min(console.width, 100),
    )


def _reasons(explanation: Explanation) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), show_header=True, header_style="dim")
    table.add_column(Text("against ┃ for"), justify="center", width=2 * _BAR + 1)
    table.add_column("effect", justify="right", width=6)
    table.add_column("share", justify="right", width=5)
    table.add_column("without", justify="right", width=7)
    table.add_column("reason", ratio=1)
    largest = abs(explanation.reasons[0].attribution)
    for reason in explanation.reasons:
        table.add_row(*_row(reason, largest))
    from noetik_rllib.interpret import words

    others = explanation.others
    if others:
        total = sum(influence.attribution for influence in others)
        left = words.plural(len(others), "smaller influence")
        table.add_row(
            "",
            words.signed(total),
            words.percent(explanation.unnamed_share),
            "",
            f"{left}, net",
            style="dim",
        )
    return table


def _row(reason: Influence, largest: float) -> tuple[Text, str, str, str, str]:
    from noetik_rllib.interpret import words

    return (
        signed_bar(reason.attribution / largest),
        words.signed(reason.attribution),
        words.percent(reason.share),
        "" if reason.alone is None else words.signed(reason.alone),
        reason.text,
    )


def signed_bar(value: float) -> Text:
    """A bar for ``value`` in [-1, 1]: to the right of its zero line if positive, else to the left.

    >>> signed_bar(0.5).plain, signed_bar(-1.0).plain
    ('        ┃████    ', '████████┃        ')
    """
    halves = round(abs(value) * 2 * _BAR)
    whole, half = divmod(halves, 2)
    text = Text(no_wrap=True)
    if value >= 0:
        blocks = "█" * whole + "▌" * half
        text.append(" " * _BAR + "┃")
        text.append(blocks.ljust(_BAR), style=_STYLES["for"])
    else:
        blocks = "▐" * half + "█" * whole
        text.append(blocks.rjust(_BAR), style=_STYLES["against"])
        text.append("┃" + " " * _BAR)
    return text


def _fine_print(explanation: Explanation) -> str:
    from noetik_rllib.interpret import words

    change = explanation.margin - explanation.baseline_margin
    shares = ", ".join(
        f"{_SOURCES[source]} {words.percent(share)}"
        for source, share in explanation.source_shares.items()
    )
    return (
        f"Margin {words.signed(explanation.margin)}: {words.signed(explanation.baseline_margin)} "
        f"for the average user, {words.signed(change)} from what is known of this one ({shares}). "
        f"Error of the sum {words.signed(explanation.gap, 4)}, "
        f"{words.error(explanation.relative_gap)} of all influence."
    )

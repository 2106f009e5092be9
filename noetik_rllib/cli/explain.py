"""``noetik explain``: why a trained policy recommends a video to a user."""

from __future__ import annotations

import json
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


@click.command(epilog="Example: noetik explain runs/demo --user 17 --top-k 3")
@click.argument("run", type=PATH)
@click.option("--user", required=True, help="The user's id in the log.")
@click.option("--top-k", type=int, default=1, show_default=True, help="Best videos to explain.")
@click.option("--json", "as_json", is_flag=True, help="Print the explanations as JSON.")
def explain(run: Path, user: str, top_k: int, as_json: bool) -> None:
    """Explain what a run recommends to a user, after the user's last event in the log."""
    from noetik_rllib.interpret.explanation import explain as explain_run
    from noetik_rllib.runs import Run

    opened = Run.open(run)
    explanations = explain_run(opened, opened.dataset().user_of(user), top_k)
    if len(explanations) < top_k:
        err.print(f"Only {len(explanations)} videos are left that this user has not just seen.")
    if as_json:
        content = [explanation.model_dump(mode="json") for explanation in explanations]
        click.echo(json.dumps(content, indent=2))
        return
    for explanation in explanations:
        console.print(panel(explanation))


def panel(explanation: Explanation) -> Panel:
    """One explanation as a terminal shows it; ``noetik demo`` prints the same."""
    from noetik_rllib.interpret.sentence import video_label

    parts: list[RenderableType] = [Text(explanation.sentence), ""]
    if explanation.reasons:
        parts += [_reasons(explanation), ""]
    parts.append(Text(_fine_print(explanation), style="dim"))
    label = video_label(explanation.video)
    return Panel(
        Group(*parts),
        title=Text(f"user {explanation.user_label} · {label}", style="bold"),
        title_align="left",
        box=box.ROUNDED,
        border_style="dim",
        padding=(1, 2),
        width=min(console.width, 100),
    )


def _reasons(explanation: Explanation) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), show_header=True, header_style="dim")
    table.add_column(Text("against ┃ for"), justify="center", width=2 * _BAR + 1)
    table.add_column("effect", justify="right", width=6)
    table.add_column("share", justify="right", width=5)
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
            f"{left}, net",
            style="dim",
        )
    return table


def _row(reason: Influence, largest: float) -> tuple[Text, str, str, str]:
    from noetik_rllib.interpret import words

    return (
        signed_bar(reason.attribution / largest),
        words.signed(reason.attribution),
        words.percent(reason.share),
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
        f"All influence: {shares}. Effects are log-odds against the catalogue's average video, "
        "compared with the average training user without history ('typically'); they add up to "
        f"{words.signed(change)} with an error of "
        f"{words.signed(explanation.gap, 4)} ({words.error(explanation.relative_gap)} of all "
        "influence)."
    )

"""``noetik data check``: is a folder of logs KuaiRand-like?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from rich.table import Table

from noetik_rllib.cli.console import out as console
from noetik_rllib.cli.console import progress_bar
from noetik_rllib.cli.types import PATH
from noetik_rllib.data.figures import SOURCES, VARIANTS, Variant
from noetik_rllib.data.targets import TARGETS
from noetik_rllib.errors import UserError

if TYPE_CHECKING:  # measuring imports SciPy and pandas: a second that other commands need not wait
    from noetik_rllib.data.reader import Progress
    from noetik_rllib.data.verdicts import TargetVerdict


@click.command(epilog="Example: noetik data check data/pure-world data/1k-world --at-least 27")
@click.argument("directories", type=PATH, nargs=-1, required=True, metavar="DIR...")
@click.option(
    "--variant",
    type=click.Choice(VARIANTS),
    help="Compare with this KuaiRand; by default, what the file names end in.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Exit with 1 unless nine in ten of the targets that apply to these folders hold, "
    "rounded up: 18 of 20 for a Pure, 15 of 16 for a 1K, 27 of 29 for both. With --at-least, "
    "that counts.",
)
@click.option(
    "--at-least",
    type=click.IntRange(0, len(TARGETS)),
    help="Exit with 1 unless this many targets hold.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check(
    *,
    directories: Sequence[Path],
    variant: str | None,
    strict: bool,
    at_least: int | None,
    as_json: bool,
) -> None:
    """Hold logs against 30 statistics of the real KuaiRand.

    Of several folders, such as a Pure and a 1K, a target holds if it holds on each that it
    applies to.
    """
    from noetik_rllib.data.measures import measure
    from noetik_rllib.data.published import read_published
    from noetik_rllib.data.verdicts import combine, judge, strict_count

    if variant and len(directories) > 1:
        raise UserError("--variant is for one folder: name the files of several by their variant")
    folders: list[tuple[Path, Variant, list[TargetVerdict]]] = []
    for directory in directories:
        with progress_bar(f"check {directory}") as update:
            logs = read_published(directory, cast(Variant | None, variant), _half(update, 0))
            measures = measure(logs, _half(update, 1))
        folders.append((directory, logs.variant, judge(measures, logs.variant)))
        del logs  # before the next folder is read
    together = combine([verdicts for _, _, verdicts in folders])
    needed = strict_count(together) if strict and at_least is None else at_least
    if as_json:
        click.echo(json.dumps(_as_json(folders, together, needed), indent=2, ensure_ascii=False))
    else:
        for directory, name, verdicts in folders:
            _show(directory, name, verdicts)
        console.print(_summary(together, needed), highlight=False, soft_wrap=True)
    if _hold(together) < (needed or 0):
        raise SystemExit(1)


def _half(update: Progress, number: int) -> Progress:
    """Report to one half of a bar: reading and measuring take about as long as each other."""
    return lambda doing, share: update(doing, (number + share) / 2)


def _hold(verdicts: Sequence[TargetVerdict]) -> int:
    return sum(one.verdict == "ok" for one in verdicts)


def _apply(verdicts: Sequence[TargetVerdict]) -> int:
    return sum(one.applies for one in verdicts)


def _summary(verdicts: Sequence[TargetVerdict], needed: int | None) -> str:
    """Say how many targets hold of those that apply, how many must, and which do not."""
    parts = [f"{_hold(verdicts)} of {_apply(verdicts)} targets that apply hold"]
    if needed is not None:
        parts.append(f"{needed} must")
    for verdict, word in (("off", "off"), ("n.a.", "not measured")):
        numbers = [
            str(one.target.number) for one in verdicts if one.applies and one.verdict == verdict
        ]
        if numbers:
            parts.append(f"{word}: {', '.join(numbers)}")
    return "; ".join(parts)


def _show(directory: Path, variant: Variant, verdicts: Sequence[TargetVerdict]) -> None:
    table = Table("#", "statistic", "measured", "target", "tolerance", "", box=None, pad_edge=False)
    for column in (0, 2, 3):
        table.columns[column].justify = "right"
    remarks: dict[str, list[str]] = {}
    for one in verdicts:
        if not one.figures:
            remarks.setdefault(one.reason, []).append(str(one.target.number))
        for position, figure in enumerate(one.figures):
            table.add_row(
                str(one.target.number) if position == 0 else "",
                figure.figure.label,
                _number(figure.measured),
                _number(figure.figure.target),
                figure.figure.tolerance,
                f"[red]{figure.verdict}[/red]" if figure.verdict == "off" else figure.verdict,
            )
            if figure.reason and figure.figure.judged:
                numbers = remarks.setdefault(figure.reason, [])
                if str(one.target.number) not in numbers:
                    numbers.append(str(one.target.number))
    console.print(f"[bold]{directory}[/bold], compared with {variant}", highlight=False)
    console.print(table)
    for reason, numbers in remarks.items():
        console.print(
            f"n.a. {', '.join(numbers)}: {reason}", highlight=False, soft_wrap=True, markup=False
        )
    console.print()


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def _as_json(
    folders: Sequence[tuple[Path, Variant, Sequence[TargetVerdict]]],
    together: Sequence[TargetVerdict],
    needed: int | None,
) -> dict[str, Any]:
    return {
        "hold": _hold(together),
        "apply": _apply(together),
        "needed": needed,
        "sources": SOURCES,
        "targets": [_target_json(one) for one in together],
        "folders": [
            {
                "folder": str(directory),
                "variant": variant,
                "targets": [
                    {
                        **_target_json(one),
                        "figures": [
                            {
                                "name": figure.figure.key,
                                "statistic": figure.figure.label,
                                "measured": figure.measured,
                                "target": figure.figure.target,
                                "tolerance": figure.figure.tolerance,
                                "verdict": figure.verdict,
                                "reason": figure.reason,
                            }
                            for figure in one.figures
                        ],
                    }
                    for one in verdicts
                ],
            }
            for directory, variant, verdicts in folders
        ],
    }


def _target_json(one: TargetVerdict) -> dict[str, Any]:
    return {
        "number": one.target.number,
        "name": one.target.name,
        "source": one.target.source,
        "applies": one.applies,
        "verdict": one.verdict,
        "reason": one.reason,
    }

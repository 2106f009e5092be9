"""Pieces that all sections of docs/results.md are made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def command(found: dict[str, Any]) -> str:
    """Say which command found it, and how long that took."""
    seconds = found["seconds"]
    took = "" if seconds is None else f"{seconds / 60:.0f} minutes, "
    return f"`{found['command']}` ({took}release {found['version']})"


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def interval(value: dict[str, float] | None) -> str:
    """Return a mean with its interval; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def signed(value: list[float]) -> str:
    """Return a difference with its interval: mean, low, high."""
    mean, low, high = value
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def plain(name: str) -> str:
    """Return a name as words."""
    return name.replace("_", " ")

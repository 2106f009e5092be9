"""What ``noetik data verify`` finds, gathered until there is enough to see."""

from __future__ import annotations

from collections import Counter

from noetik_rllib.offline.manifest import MANIFEST_NAME

#: Differences of a figure that come from summing in another order.
TOLERANCE = 1e-6

#: More findings than this say no more: the dataset is to be prepared again.
MAX_FINDINGS = 20


class EnoughError(Exception):
    """Ends a verification that has found ``MAX_FINDINGS``."""


class Findings:
    """Counts what was checked and keeps one line per failure.

    Attributes:
        checked: check -> how many rows, files or values went through it.
        lines: the failures, each naming file, row and column, what was expected and found.
    """

    def __init__(self) -> None:
        self.checked: Counter[str] = Counter()
        self.lines: list[str] = []
        self._said: set[tuple[str, str]] = set()

    def count(self, check: str, number: int = 1) -> None:
        """Count things that a check looked at."""
        self.checked[check] += number

    def add(self, check: str, where: str, message: str) -> None:
        """Keep the first failure of a check in each file: the next rows' are mostly the same one.

        Raises:
            EnoughError: this was the last that is kept.
        """
        if (check, where) in self._said:
            return
        self._said.add((check, where))
        self.lines.append(message)
        if len(self.lines) >= MAX_FINDINGS:
            raise EnoughError

    def equal(self, name: str, found: object, expected: object, by: str = "the files") -> None:
        """Compare a figure of the manifest with what something else gives.

        Raises:
            EnoughError: see ``add``.
        """
        self.count("figures of the manifest")
        same = found == expected
        if isinstance(found, float) and isinstance(expected, float):
            same = abs(found - expected) <= TOLERANCE
        if not same:
            self.add(name, "", f"{MANIFEST_NAME}: {name} is {found}; expected {expected} by {by}")

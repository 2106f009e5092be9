"""Progress of work that consists of stages which take very different times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class Stages:
    """Turns the progress of one stage after another into that of the whole.

    Args:
        durations: name of each stage -> how long it takes, in any unit, in the order of running.
        report: called with the stage's name and the share of the whole that is done, 0 to 1.
    """

    def __init__(
        self, durations: Mapping[str, float], report: Callable[[str, float], None] | None
    ) -> None:
        self._durations = durations
        self._report = report or (lambda doing, share: None)
        self._whole = sum(durations.values())
        self._done = 0.0

    @contextmanager
    def __call__(self, name: str) -> Iterator[Callable[[float], None]]:
        """Run a stage; yields what is to be called with the share of it that is done, 0 to 1."""
        duration = self._durations[name]
        self._report(name, self._done / self._whole)
        yield lambda share: self._report(name, (self._done + share * duration) / self._whole)
        self._done += duration
        self._report(name, self._done / self._whole)

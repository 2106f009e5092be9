"""Counting a sweep's finished trials while Ray Tune runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.experiment import Trial


class TrialCount(tune.Callback):
    """Calls ``on_trial`` with the number of trials that are done, whenever one ends."""

    def __init__(self, on_trial: Callable[[int], None]) -> None:
        self.on_trial = on_trial
        self.done = 0

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks into the experiment's folder; a terminal cannot be pickled.
        return {"done": self.done, "on_trial": int}

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Count a trial (Tune's hook)."""
        self.done += 1
        self.on_trial(self.done)

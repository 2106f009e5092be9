"""What explaining costs: engagement against faithfulness over ``interpretability_coeff``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from noetik_rllib.evaluation.result import Interval
from noetik_rllib.sweeps.outcomes import EXPLAINED
from noetik_rllib.sweeps.results import SweepResult, Trial

COEFFICIENT = "interpretability_coeff"
REWARD = "reward"
#: Share of the reward without the term that a recommended setting may cost at most.
TOLERANCE = 0.02
#: Labels in sentences and plots.
LABELS = {
    "reward": "reward",
    "faithfulness": "faithfulness of attributions",
    "attention_faithfulness": "faithfulness of attention",
    "concentration": "share of the three strongest events",
    "attention_concentration": "concentration of attention",
}
#: What a setting is recommended for, the first that any setting clearly raises: an explanation that
#: is faithful is worth more than one that is short.
_PREFERRED = (
    "faithfulness",
    "concentration",
    "attention_faithfulness",
    "attention_concentration",
)


@dataclass(frozen=True)
class Setting:
    """One coefficient: its trials, which differ in their seed or other parameters.

    Attributes:
        coefficient: the value of ``interpretability_coeff``.
        trials: finished ones.
        means: outcome -> mean over the trials.
    """

    coefficient: float
    trials: list[Trial]
    means: dict[str, float]

    def interval(self, name: str) -> Interval:
        """Mean over the trials with the mean ends of their intervals over users."""
        found = [trial.outcomes[name] for trial in self.trials]
        return Interval(
            mean=float(np.mean([one.mean for one in found])),
            low=float(np.mean([one.low for one in found])),
            high=float(np.mean([one.high for one in found])),
        )


@dataclass(frozen=True)
class Tradeoff:
    """The curve.

    Attributes:
        settings: by coefficient, ascending, two or more.
        outcomes: of ``EXPLAINED``, those that all trials have.
        recommended: the setting that explains best within the tolerance; the first where no other
            clearly explains better.
        measure: what it explains best by; None where the first is recommended.
    """

    settings: list[Setting]
    outcomes: list[str]
    recommended: Setting
    measure: str | None

    @property
    def verdict(self) -> str:
        """What the curve says, in one or two sentences that follow from its numbers."""
        first, best = self.settings[0], self.recommended
        allowed = f"{TOLERANCE:.0%}"
        if self.measure is None:
            return (
                f"No {COEFFICIENT} above {first.coefficient:g} clearly explains better at a "
                f"loss of reward of {allowed} or less."
            )
        cost = best.means[REWARD] / first.means[REWARD] - 1
        changes = "; ".join(
            f"{LABELS[name]} {first.means[name]:.3f} to {best.means[name]:.3f}"
            f" ({change(first.interval(name), best.interval(name))})"
            for name in self.outcomes
        )
        return (
            f"Recommended {COEFFICIENT}: {best.coefficient:g}, for the {LABELS[self.measure]}. "
            f"Against {first.coefficient:g} the reward changes by {cost:+.1%} (a loss of {allowed} "
            f"is allowed); {changes}."
        )


def change(before: Interval, after: Interval) -> str:
    """Say which way a figure went: clearly only where the intervals do not overlap."""
    if after.low > before.high:
        return "clearly more"
    return "clearly less" if after.high < before.low else "no clear change"


def tradeoff(result: SweepResult) -> Tradeoff | None:
    """Return the curve of a sweep; None where it did not search the coefficient.

    Recommended is, of the settings whose mean reward is at most ``TOLERANCE`` below that of the
    lowest coefficient, the best by the first of ``_PREFERRED`` that one of them clearly raises.
    """
    if COEFFICIENT not in result.config.search:
        return None
    by_value: dict[float, list[Trial]] = {}
    # One that was stopped early, or copied, differs from the others by more than the coefficient.
    for trial in result.judged:
        if trial.status != "finished" or trial.lineage:
            continue
        by_value.setdefault(float(trial.parameters[COEFFICIENT]), []).append(trial)
    names = [name for name in EXPLAINED if name in result.outcomes]
    if len(by_value) < 2 or not names:
        return None
    settings = [
        Setting(
            coefficient,
            trials,
            {
                name: float(np.mean([trial.outcomes[name].mean for trial in trials]))
                for name in (REWARD, *names)
            },
        )
        for coefficient, trials in sorted(by_value.items())
    ]
    least = (1 - TOLERANCE) * settings[0].means[REWARD]
    first = settings[0]
    allowed = [one for one in settings if one.means[REWARD] >= least]
    for name in _PREFERRED:
        if name not in names:
            continue
        best = allowed[int(np.argmax([one.means[name] for one in allowed]))]
        if change(first.interval(name), best.interval(name)) == "clearly more":
            return Tradeoff(settings, names, best, name)
    return Tradeoff(settings, names, first, None)

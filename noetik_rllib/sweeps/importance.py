"""How much a parameter matters to an outcome, as far as a handful of trials can tell.

The measure is Spearman's rank correlation over trials, of numbers as they are and of anything else
by one 0-or-1 column per value. It sees a parameter alone, and only what rises or falls with it: a
best value in the middle, or two parameters that matter together, it does not see. Its p-value says
how often trials in a random order would correlate as much; with twenty pairs, one below 0.05 is
what chance gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.stats import rankdata

from noetik_rllib.data.signals import RewardWeights

#: Random orders of trials behind a p-value: its error at 0.05 is then below 0.01.
PERMUTATIONS = 2_000
#: Fewer trials correlate by chance as much as they like.
MIN_TRIALS = 4


class Importance(BaseModel):
    """Of one parameter for one outcome.

    Attributes:
        correlation: Spearman's, -1 to 1; above 0, more of the parameter is more of the outcome.
        p_value: share of random orders of the trials that correlate as much or more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    correlation: float
    p_value: float


def columns(parameters: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Turn trials' parameters into columns of numbers (n,); those that never differ are left out.

    ``reward`` becomes one column per signal, ``share`` one per value, ``share=tower``, of two
    values only the second.
    """
    found: dict[str, list[Any]] = {}
    for place, one in enumerate(parameters):
        for name, value in flat(one).items():
            found.setdefault(name, [None] * place).append(value)
    numbers: dict[str, np.ndarray] = {}
    for name, values in found.items():
        if all(isinstance(value, (int, float)) for value in values):
            numbers[name] = np.array(values, dtype=np.float64)
        else:
            texts = list(dict.fromkeys(map(str, values)))
            for text in texts[1:] if len(texts) == 2 else texts:
                numbers[f"{name}={text}"] = np.array([float(str(v) == text) for v in values])
    return {name: column for name, column in numbers.items() if np.ptp(column) > 0}


def flat(parameters: dict[str, Any]) -> dict[str, Any]:
    """Give the weights of ``reward`` names of their own: ``reward.click``; all, named or not."""
    found: dict[str, Any] = {}
    for name, value in parameters.items():
        if name == "reward":
            weights = RewardWeights().model_dump() | value
            found |= {f"{name}.{signal}": weight for signal, weight in weights.items()}
        else:
            found[name] = value
    return found


def importance(
    parameters: dict[str, np.ndarray], outcomes: dict[str, np.ndarray], seed: int
) -> dict[str, dict[str, Importance]]:
    """Correlate every parameter with every outcome, all (n,) over the same trials.

    Returns:
        Parameter -> outcome -> importance; empty below ``MIN_TRIALS`` trials. Outcomes that are
        the same in all trials are left out.
    """
    trials = len(next(iter(outcomes.values()), ()))
    if trials < MIN_TRIALS:
        return {}
    rng = np.random.default_rng(seed)
    orders = rng.permuted(np.tile(np.arange(trials), (PERMUTATIONS, 1)), axis=1)
    ranked = {name: _ranks(column) for name, column in outcomes.items() if np.ptp(column) > 0}
    found: dict[str, dict[str, Importance]] = {}
    for name, column in parameters.items():
        own = _ranks(column)
        found[name] = {}
        for outcome, ranks in ranked.items():
            correlation = float(own @ ranks)
            by_chance = np.abs(own[orders] @ ranks)
            # The order that was found is one of those that chance could give.
            more = int((by_chance >= abs(correlation) - 1e-12).sum()) + 1
            found[name][outcome] = Importance(
                correlation=correlation, p_value=more / (PERMUTATIONS + 1)
            )
    return found


def _ranks(column: np.ndarray) -> np.ndarray:
    """Ranks (n,) less their mean, of length 1."""
    ranks = rankdata(column)
    ranks -= ranks.mean()
    return np.asarray(ranks / np.sqrt((ranks * ranks).sum()))


def parameter_text(parameters: dict[str, Any]) -> str:
    """Parameters of a trial in one line; weights of 0 are left out."""
    parts = []
    for name, value in flat(parameters).items():
        if name.startswith("reward."):
            if value:
                parts.append(f"{name.removeprefix('reward.')} {value:.2f}")
        else:
            number = isinstance(value, float)
            parts.append(f"{name} {value:.3g}" if number else f"{name} {value}")
    return ", ".join(parts)

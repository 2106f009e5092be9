"""Population based training: who copies whom, and what it goes on with (no Ray, no files).

Jaderberg et al. 2017, arXiv 1711.09846, with truncation selection. All trials train for an interval
and are scored; then the worst take over the policies of the best and go on with settings that
differ a little, and so forth to the end. What is decided follows from the sweep's settings, its
seed and the scores in its journal, and from nothing else: whoever is killed, and whatever finishes
first, a sweep ends in the same policies.

Ray Tune's ``PopulationBasedTraining`` decides alike, but cannot promise that. In Ray 2.60.0
(``ray/tune/schedulers/pbt.py``) it draws from Python's one global generator (:109, :719), compares
a trial with whatever the others have reached by then, and has its scores in a pickle that is
written now and then. Where it waits for all (``synch=True``), it does so for ever if the last one
fails, for only a result begins the next interval (:600).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from noetik_rllib.errors import UserError
from noetik_rllib.sweeps.outcomes import MINIMISED
from noetik_rllib.sweeps.search import Metric, Search, Strict, Uniform, draw_parameters

if TYPE_CHECKING:
    from noetik_rllib.sweeps.config import SweepConfig
    from noetik_rllib.sweeps.folder import Event

#: Settings that act on each gradient step by themselves. Sizes of networks, rewards (what Q is the
#: value of) and what rows a step sees would make nonsense of a copy, or of the steps before it.
PERTURBED = (
    "actor_lr",
    "critic_lr",
    "value_lr",
    "expectile",
    "beta",
    "max_weight",
    "gamma",
    "target_polyak",
    "interpretability_coeff",
)
#: What a number is multiplied by, one or the other (the paper's, and Tune's).
_FACTORS = (0.8, 1.2)


class Pbt(Strict):
    """Lets trials that lag behind go on from copies of the best: population based training.

    Attributes:
        metric: what trials are compared by: the default reward or a signal, in sessions with
            training users; of ``hate``, less is better.
        perturbation_interval: iterations between comparisons.
        quantile_fraction: share of the trials that copy, and of those that are copied.
        resample_probability: how often a setting is drawn anew instead of changed a little.
    """

    type: Literal["pbt"]
    metric: Metric = "reward"
    perturbation_interval: int = Field(ge=1)
    quantile_fraction: float = Field(default=0.25, gt=0, le=0.5)
    resample_probability: float = Field(default=0.25, ge=0, le=1)


class Copy(BaseModel):
    """That a trial went on from a copy of another.

    Attributes:
        iteration: that both had come to.
        trial: name of the one that was copied.
        changed: setting -> its values before and after, where they differ.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    iteration: int
    trial: str
    changed: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Member:
    """A trial in the population.

    Attributes:
        settings: those of ``PERTURBED`` that are searched, as it trains with now.
        lineage: copies behind its policy, the oldest first, those of who was copied among them.
    """

    settings: dict[str, float]
    lineage: tuple[Copy, ...] = ()


@dataclass(frozen=True)
class Generation:
    """Where a population is.

    Attributes:
        begin: iteration that all trials have come to.
        end: iteration that they train to now.
        last: whether that is the end of their runs.
        members: by number of the trial.
        copies: trials that go on from a copy that is made at ``begin`` -> whom they copy.
        scores: trials that have come to ``end`` -> their score, None of one that failed on the way.
    """

    begin: int
    end: int
    last: bool
    members: list[Member]
    copies: dict[int, int] = field(default_factory=dict)
    scores: dict[int, float | None] = field(default_factory=dict)

    @property
    def waiting(self) -> list[int]:
        """Trials that have not come to ``end``, nor failed."""
        return [number for number in range(len(self.members)) if number not in self.scores]


def check_search(config: SweepConfig) -> None:
    """Refuse what a copy cannot go on with.

    Raises:
        ValueError: naming it.
    """
    if config.reward is not None:
        raise ValueError(
            "reward: not with pbt, for what was learnt for one reward is worth nothing for another"
        )
    names = set(config.search) - {"seed"}
    for name in sorted(names):
        if name not in PERTURBED:
            raise ValueError(
                f"search: {name} cannot change within a run, as pbt asks; expected some of "
                f"{', '.join(PERTURBED)}, and seed"
            )
        values = config.search[name].ends()
        if not all(isinstance(value, (int, float)) for value in values):
            raise ValueError(f"search: {name}: expected numbers only, with pbt")
        if name == "interpretability_coeff" and min(values) <= 0:
            raise ValueError(f"search: {name}: expected values above 0, with pbt")
    if not names:
        raise ValueError(f"search: pbt has nothing to change; give some of {', '.join(PERTURBED)}")


def check_population(settings: Pbt, iterations: int, trials: int) -> None:
    """Refuse a population in which nobody could ever copy anybody.

    Raises:
        UserError: saying why.
    """
    if trials < 2:
        raise UserError("scheduler: pbt compares trials, and there is one: raise num_samples")
    if settings.perturbation_interval >= iterations:
        raise UserError(
            f"scheduler: perturbation_interval is {settings.perturbation_interval}, but trials "
            f"have {iterations} iterations: expected fewer"
        )


def replay(
    config: SweepConfig, settings: Pbt, iterations: int, events: Iterable[Event]
) -> Generation:
    """Return where the population is after what the journal says.

    Of each trial, the first score or failure in a generation counts; one that failed copies, unless
    all did: then there is nobody to copy, and they are to be tried again.
    """
    searched = sorted(set(config.search) - {"seed"})
    members = [
        Member({name: drawn[name] for name in searched}) for drawn in draw_parameters(config)
    ]
    ends = [*range(settings.perturbation_interval, iterations, settings.perturbation_interval)]
    now = Generation(0, ends[0], False, members)
    for event in events:
        if now.last or event.trial in now.scores:
            continue
        if event.what == "score" and event.iteration == now.end:
            now.scores[event.trial] = event.score
        elif event.what == "fail":
            now.scores[event.trial] = None
        if now.waiting:
            continue
        if all(score is None for score in now.scores.values()):
            now.scores.clear()
            continue
        place = ends.index(now.end) + 1
        members, copies = _select(config, settings, now, place)
        last = place == len(ends)
        now = Generation(now.end, iterations if last else ends[place], last, members, copies)
    return now


def _select(
    config: SweepConfig, settings: Pbt, now: Generation, generation: int
) -> tuple[list[Member], dict[int, int]]:
    """Let the worst, and those that failed, copy the best."""
    sign = -1.0 if settings.metric in MINIMISED else 1.0
    scored = {number: sign * score for number, score in now.scores.items() if score is not None}
    ranked = sorted(scored, key=lambda number: (scored[number], number))
    # As many as Tune takes: at least one, and never one that would copy itself.
    count = min(math.ceil(len(ranked) * settings.quantile_fraction), len(ranked) // 2)
    failed = sorted(set(now.scores) - set(scored))
    best = ranked[len(ranked) - max(1, count) :]
    members, copies = list(now.members), {}
    for number in (*ranked[:count], *failed):
        # Of its own, so that what one draws does not hang on who else copies.
        rng = np.random.default_rng([config.seed, generation, number])
        donor = copies[number] = int(rng.choice(best))
        before = now.members[donor]
        after = _explore(before.settings, config.search, settings.resample_probability, rng)
        copy = Copy(
            iteration=now.end,
            trial=f"{donor:04d}",
            changed={
                name: (before.settings[name], value)
                for name, value in after.items()
                if value != before.settings[name]
            },
        )
        members[number] = replace(before, settings=after, lineage=(*before.lineage, copy))
    return members, copies


def _explore(
    settings: Mapping[str, float],
    search: Mapping[str, Search],
    resample: float,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Change every setting: a range's times one of ``_FACTORS``, a list's to a neighbour.

    Other than Tune's, none leaves the range that is searched.
    """
    changed: dict[str, float] = {}
    for name, value in settings.items():
        one = search[name]
        again, side = rng.random() < resample, int(rng.integers(2))
        if isinstance(one, Uniform):
            moved = one.draw(rng) if again else value * _FACTORS[side]
            changed[name] = min(max(moved, one.low), one.high)
            continue
        values = one.ends()
        place = int(rng.integers(len(values))) if again else values.index(value) + 2 * side - 1
        changed[name] = values[min(max(place, 0), len(values) - 1)]
    return changed

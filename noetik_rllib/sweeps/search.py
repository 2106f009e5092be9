"""What a sweep searches: how each parameter is drawn, and the trials that follow from a seed."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.errors import did_you_mean
from noetik_rllib.sweeps.outcomes import ENGAGEMENT

if TYPE_CHECKING:
    from noetik_rllib.sweeps.config import SweepConfig


#: The file that makes a folder a sweep's: its settings.
CONFIG_NAME = "sweep.yaml"


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (folder / CONFIG_NAME).is_file()


class Strict(BaseModel):
    """A part of a sweep's file: it cannot change, and what is not known is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Uniform(Strict):
    """A number drawn uniformly, or log-uniformly, between two bounds."""

    low: float
    high: float
    scale: Literal["linear", "log"] = "linear"

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"low {self.low:g} must be above 0 on a log scale")
        return self

    def draw(self, rng: np.random.Generator) -> float:
        """Draw one value."""
        if self.scale == "log":
            return float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))
        return float(rng.uniform(self.low, self.high))

    def ends(self) -> list[Any]:
        """The bounds."""
        return [self.low, self.high]


class Choice(Strict):
    """One of several values, each as likely."""

    choice: list[Any] = Field(min_length=1)

    def draw(self, rng: np.random.Generator) -> Any:
        """Draw one value."""
        return self.choice[int(rng.integers(len(self.choice)))]

    def ends(self) -> list[Any]:
        """All values."""
        return self.choice


class Grid(Strict):
    """Every one of several values; several grids make every combination."""

    grid: list[Any] = Field(min_length=1)

    def ends(self) -> list[Any]:
        """All values."""
        return self.grid

    @field_validator("grid")
    @classmethod
    def _once(cls, values: list[Any]) -> list[Any]:
        for place, value in enumerate(values):
            if value in values[:place]:
                raise ValueError(f"{value!r} stands there twice")
        return values


def _kind(search: Any) -> str:
    """Which of the three a value is meant to be: by its key, so that a mistake is named in it."""
    if isinstance(search, dict):
        return "Grid" if "grid" in search else "Choice" if "choice" in search else "Uniform"
    return type(search).__name__


Search = Annotated[
    Annotated[Uniform, Tag("Uniform")]
    | Annotated[Choice, Tag("Choice")]
    | Annotated[Grid, Tag("Grid")],
    Discriminator(
        _kind,
        custom_error_type="search",
        custom_error_message="expected {low, high}, {choice} or {grid}",
    ),
]


class RewardSearch(Strict):
    """Reward weights drawn uniformly from the simplex over some signals: 0 or more, sum 1.

    Only the direction of the weights matters to an optimal policy, since rewards are normalised:
    the simplex holds each direction once.
    """

    simplex: list[str] = Field(min_length=2)

    @field_validator("simplex")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        check_names(names, SIGNALS, "signal")
        return names

    def draw(self, rng: np.random.Generator) -> dict[str, float]:
        """Draw weights: exponential variables divided by their sum (Dirichlet, parameters 1).

        Signals that are not named weigh nothing, whatever the default reward gives them.
        """
        weights = rng.dirichlet(np.ones(len(self.simplex))).round(4)
        return dict.fromkeys(SIGNALS, 0.0) | dict(zip(self.simplex, weights.tolist(), strict=True))


def check_names(names: list[str], known: tuple[str, ...], what: str) -> None:
    """Refuse unknown and repeated names.

    Raises:
        ValueError: there is one.
    """
    for name in names:
        if name not in known:
            raise ValueError(
                f"unknown {what} '{name}'; expected some of {', '.join(known)}."
                f"{did_you_mean(name, known)}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"{what} stands there twice: {', '.join(names)}")


def _metric(name: str) -> str:
    check_names([name], ENGAGEMENT, "metric")
    return name


#: What a scheduler compares trials by: the default reward or a signal.
Metric = Annotated[str, AfterValidator(_metric)]


def draw_parameters(config: SweepConfig) -> list[dict[str, Any]]:
    """Draw what each trial is trained with, from the sweep's seed alone.

    Each of ``num_samples`` draws meets every combination of the grids, so that what a grid changes
    is compared with all else equal. More samples leave the first ones as they are.
    """
    grids = {name: one.grid for name, one in config.search.items() if isinstance(one, Grid)}
    trials = []
    for child in np.random.SeedSequence(config.seed).spawn(config.num_samples):
        rng = np.random.default_rng(child)
        drawn: dict[str, Any] = {}
        if config.reward is not None:
            drawn["reward"] = config.reward.draw(rng)
        for name, search in config.search.items():
            if not isinstance(search, Grid):
                drawn[name] = search.draw(rng)
        for values in itertools.product(*grids.values()):
            trials.append(drawn | dict(zip(grids, values, strict=True)))
    return trials

"""The schema of ``tune_configs/*.yaml``, checked before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.errors import UserError, did_you_mean
from noetik_rllib.runs import TrainConfig

#: Objectives of which less is better.
MINIMISED = ("hate",)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Uniform(_Strict):
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


class Choice(_Strict):
    """One of several values, each as likely."""

    choice: list[Any] = Field(min_length=1)


class RewardSearch(_Strict):
    """Reward weights drawn uniformly from the simplex over some signals: 0 or more, sum 1.

    Only the direction of the weights matters to an optimal policy, since rewards are normalised:
    the simplex holds each direction once.
    """

    simplex: list[str] = Field(min_length=2)

    @field_validator("simplex")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        _check_signals(names)
        return names


def _check_signals(names: list[str]) -> None:
    for name in names:
        if name not in SIGNALS:
            raise ValueError(
                f"unknown signal '{name}'; expected some of {', '.join(SIGNALS)}."
                f"{did_you_mean(name, SIGNALS)}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"a signal stands there twice: {', '.join(names)}")


class SweepConfig(_Strict):
    """One sweep: what is fixed, what is searched, what is compared.

    Attributes:
        name: folder of the sweep below ``runs/``.
        data: offline dataset, relative to the working directory.
        num_samples: number of trials.
        seed: seed of the search and of every trial, so that trials differ in what is searched.
        train: fixed parameters of every trial, by their names in ``noetik train``.
        reward: how the reward weights are drawn; none keeps the default reward.
        search: how other parameters are drawn, by their names in ``noetik train``.
        objectives: signals on which trials are compared, each measured in the simulator.
        evaluation_users: held-out users whose sessions each trial is judged on.
        cpus_per_trial: CPUs of a trial; with 1, as many run side by side as there are CPUs.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    data: Path
    num_samples: int = Field(ge=1)
    seed: int = Field(default=0, ge=0)
    train: dict[str, Any] = Field(default_factory=dict)
    reward: RewardSearch | None = None
    search: dict[str, Uniform | Choice] = Field(default_factory=dict)
    objectives: list[str] = Field(min_length=1)
    evaluation_users: int = Field(default=500, ge=10)
    cpus_per_trial: int = Field(default=1, ge=1)

    @field_validator("objectives")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        _check_signals(names)
        return names

    @model_validator(mode="after")
    def _train_parameters(self) -> SweepConfig:
        free = [name for name in TrainConfig.model_fields if name not in ("data", "out", "seed")]
        for group, names in (("train", self.train), ("search", self.search)):
            for name in names:
                if name not in free:
                    raise ValueError(
                        f"{group}: unknown parameter '{name}'; expected one of "
                        f"{', '.join(sorted(free))}.{did_you_mean(name, free)}"
                    )
        for name in ("num_learners", "gpus_per_learner"):
            if self.train.get(name) or name in self.search:
                raise ValueError(
                    f"{name} is not for sweeps: a trial trains in one process, on the CPUs of "
                    "cpus_per_trial"
                )
        twice = set(self.train) & set(self.search)
        if self.reward and "reward" in (*self.train, *self.search):
            twice.add("reward")
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))} is both fixed and searched")
        if not self.reward and not self.search:
            raise ValueError("nothing is searched: give 'reward' or 'search'")
        return self

    @classmethod
    def load(cls, path: str | Path) -> SweepConfig:
        """Read a sweep from YAML.

        Raises:
            UserError: no such file, not YAML, or anything in it that does not fit.
        """
        path = Path(path)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict):
            raise UserError(
                f"{path} is not a sweep: expected 'key: value' lines, see docs/sweeps.md"
            )
        for name in content:
            if name not in cls.model_fields:
                raise UserError(
                    f"{path}: unknown key '{name}'; expected one of "
                    f"{', '.join(cls.model_fields)}.{did_you_mean(str(name), cls.model_fields)}"
                )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise UserError(f"{path}: {where + ': ' if where else ''}{message}") from None

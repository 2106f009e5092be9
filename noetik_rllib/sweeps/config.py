"""The schema of ``tune_configs/*.yaml``, checked before anything starts; docs/sweeps.md has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from noetik_rllib.errors import UserError, did_you_mean
from noetik_rllib.io import atomic_path
from noetik_rllib.places import Place, below
from noetik_rllib.runs import TrainConfig
from noetik_rllib.sweeps.outcomes import OUTCOMES
from noetik_rllib.sweeps.population import Pbt, check_search
from noetik_rllib.sweeps.search import Metric, RewardSearch, Search, Strict, check_names

#: Names of parameters that the sweep itself sets.
_OWN = ("data", "data_source", "out", "storage", "stopped_at")
#: A trial's processes are the sweep's to decide: ``cpus_per_trial`` and ``gpus_per_trial``.
_PROCESSES = ("num_learners", "gpus_per_learner")


class Asha(Strict):
    """Stops trials that lag behind: asynchronous successive halving (Li et al. 2020).

    A trial's policies are validated as it trains, those that the run keeps (``snapshots``), in
    sessions with ``validation_users`` training users. One that is not among the best
    1 / ``reduction_factor`` of those that came as far before it is stopped.

    Attributes:
        metric: what is compared: the default reward or a signal; of ``hate``, less is better.
        grace_period: iterations before a trial can be stopped.
        reduction_factor: of n trials that come to one rung, n / ``reduction_factor`` go on; the
            next rung is as many times the iterations away.
    """

    type: Literal["asha"]
    metric: Metric = "reward"
    grace_period: int = Field(default=1, ge=1)
    reduction_factor: float = Field(default=3.0, gt=1)


class SweepConfig(Strict):
    """One sweep: what is fixed, what is searched, what is compared.

    Attributes:
        name: folder of the sweep below ``storage``.
        data: offline dataset, relative to the working directory; on a cluster, at the same path on
            every host, or a URI, from where every host that needs it gets a copy.
        storage: where the sweep's folder goes; on a cluster, on a disk that all hosts share, or a
            URI.
        num_samples: draws; with grids, each draw meets every combination of them.
        seed: seed of the search and of every trial, so that trials differ in what is searched.
        train: fixed parameters of every trial, by their names in ``noetik train``.
        reward: how the reward weights are drawn; none keeps the default reward.
        search: how other parameters are drawn, by their names in ``noetik train``.
        objectives: outcomes on which trials are compared.
        reference: of some objectives, the value from which their hypervolume counts; 0, and 1
            where less is better, for the others.
        scheduler: which trials are stopped early, or go on from copies of others; none lets each
            train to its end.
        evaluation_users: the most held-out users whose sessions each trial is judged on.
        cpus_per_trial: CPUs of a trial; with 1, as many run side by side as there are CPUs.
        gpus_per_trial: GPUs of a trial; below 1, trials share one.
        max_failures: how often a trial whose process dies is started again, from its checkpoint.
        loggers: who hears of every result, beside TensorBoard.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    data: Place
    storage: Place = Path("runs")
    num_samples: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    train: dict[str, Any] = Field(default_factory=dict)
    reward: RewardSearch | None = None
    search: dict[str, Search] = Field(default_factory=dict)
    objectives: list[str] = Field(min_length=1)
    reference: dict[str, float] = Field(default_factory=dict)
    scheduler: Asha | Pbt | None = Field(default=None, discriminator="type")
    evaluation_users: int = Field(default=500, ge=10)
    cpus_per_trial: int = Field(default=1, ge=1)
    gpus_per_trial: float = Field(default=0.0, ge=0)
    max_failures: int = Field(default=3, ge=0)
    loggers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(default=["tensorboard"])

    @field_validator("objectives")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        check_names(names, OUTCOMES, "objective")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> SweepConfig:
        self._check_parameters()
        twice = set(self.train) & set(self.search)
        if self.reward and "reward" in (*self.train, *self.search):
            twice.add("reward")
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))} is both fixed and searched")
        if not self.reward and not self.search:
            raise ValueError("nothing is searched: give 'reward' or 'search'")
        if isinstance(self.scheduler, Pbt):
            check_search(self)
        if self.scheduler and self.train.get("validation_users") == 0:
            raise ValueError("scheduler: it goes by validation, so validation_users cannot be 0")
        for name in self.reference:
            if name not in self.objectives:
                raise ValueError(
                    f"reference: '{name}' is no objective; expected some of "
                    f"{', '.join(self.objectives)}"
                )
        return self

    def _check_values(self) -> None:
        """Refuse what no trial can be trained with, drawn or not: a copy of ``pbt`` may get it."""
        for name, search in self.search.items():
            for value in search.ends():
                try:
                    TrainConfig.model_validate({"data": "data", "out": "out", name: value})
                except ValidationError as error:
                    # Of one value alone: what does not go together is said of a whole trial.
                    found = [one for one in error.errors() if one["loc"][:1] == (name,)]
                    if found:
                        raise ValueError(
                            f"search: {name}: {value!r}: {found[0]['msg'].lower()}"
                        ) from None

    def _check_parameters(self) -> None:
        searched = [name for name in TrainConfig.model_fields if name not in _OWN]
        fixed = [name for name in searched if name != "seed"]
        for group, names, free in (
            ("train", self.train, fixed),
            ("search", self.search, searched),
        ):
            for name in names:
                if name not in free:
                    raise ValueError(
                        f"{group}: unknown parameter '{name}'; expected one of "
                        f"{', '.join(sorted(free))}.{did_you_mean(name, free)}"
                    )
        for name in _PROCESSES:
            if self.train.get(name) or name in self.search:
                raise ValueError(
                    f"{name} is not for sweeps: a trial trains in one process, on the CPUs of "
                    "cpus_per_trial and the GPUs of gpus_per_trial"
                )
        self._check_values()

    @property
    def uri(self) -> str | None:
        """URI that the sweep is kept at; None where a disk is all that it has."""
        return below(self.storage, self.name) if isinstance(self.storage, str) else None

    def save(self, path: Path) -> None:
        """Write the sweep as YAML that ``load`` reads."""
        with atomic_path(path) as part:
            content = self.model_dump(mode="json")
            part.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

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
            # Of a union, pydantic names the branch as well: "search.beta.Uniform.low".
            where = ".".join(str(part) for part in first["loc"] if not str(part)[:1].isupper())
            message = first["msg"].removeprefix("Value error, ")
            raise UserError(f"{path}: {where + ': ' if where else ''}{message}") from None

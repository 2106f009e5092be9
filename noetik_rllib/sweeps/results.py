"""The result of a sweep: its trials, and what they say together; ``results.json`` and Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.result import Interval
from noetik_rllib.io import atomic_path, write_json
from noetik_rllib.runs import TrainConfig
from noetik_rllib.sweeps.config import SweepConfig
from noetik_rllib.sweeps.folder import Event, SweepFolder
from noetik_rllib.sweeps.importance import Importance, columns, flat, importance, parameter_text
from noetik_rllib.sweeps.outcomes import MINIMISED, OUTCOMES
from noetik_rllib.sweeps.pareto import hypervolume, pareto_front
from noetik_rllib.sweeps.population import Copy, Member, Pbt, replay
from noetik_rllib.sweeps.search import draw_parameters
from noetik_rllib.sweeps.trial_place import trial_place

RESULTS_NAME = "results.json"
TABLE_NAME = "results.parquet"
#: Name in ``importance`` of how long a trial was trained.
ITERATIONS = "iterations"

Status = Literal["finished", "stopped", "failed", "unfinished"]


class Trial(BaseModel):
    """One trial: what was drawn, and what its policy reached.

    Attributes:
        name: folder of its run below ``trials/``.
        parameters: what differs between trials; of a population's, what they trained with last.
        lineage: of a population's, the copies behind its policy, the oldest first.
        status: ``finished``; ``stopped`` early by the scheduler; ``failed``; or ``unfinished``, as
            in a sweep that is still to be resumed.
        iterations: that it was trained.
        score: the last that the scheduler saw of it.
        outcomes: of a judged trial; ``OUTCOMES`` that the dataset has evidence for.
        training_seconds: of a judged trial.
        error: of a failed one, in one line.
        pareto: whether no other judged trial beats it in every objective at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    parameters: dict[str, Any]
    lineage: list[Copy] = []
    status: Status
    iterations: int
    score: float | None = None
    outcomes: dict[str, Interval] = {}
    training_seconds: float | None = None
    error: str | None = None
    pareto: bool = False


class SweepResult(BaseModel):
    """A sweep's trials, in the order in which they were drawn, and what they say together.

    Attributes:
        config: the sweep.
        trials: all of them.
        reference: objective -> the value from which the hypervolume counts.
        hypervolume: of the Pareto front, in the product of the objectives' units.
        importance: parameter -> outcome -> how they go together over the judged trials; where they
            were not trained alike long, ``iterations`` is one of the parameters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: SweepConfig
    trials: list[Trial]
    reference: dict[str, float]
    hypervolume: float
    importance: dict[str, dict[str, Importance]]

    @property
    def judged(self) -> list[Trial]:
        """Trials with outcomes: a policy is one, whether it was trained to its end or stopped."""
        return [trial for trial in self.trials if trial.outcomes]

    @property
    def outcomes(self) -> list[str]:
        """Outcomes that every judged trial has, in their order."""
        return [
            name
            for name in OUTCOMES
            if self.judged and all(name in trial.outcomes for trial in self.judged)
        ]

    def save(self, directory: Path) -> None:
        """Write ``results.parquet`` and ``results.json`` to a folder."""
        with atomic_path(directory / TABLE_NAME) as part:
            pq.write_table(self.table(), part, compression="zstd")
        write_json(directory / RESULTS_NAME, self.model_dump(mode="json"))

    @classmethod
    def load(cls, directory: Path) -> SweepResult:
        """Read ``results.json`` of a folder.

        Raises:
            UserError: it is missing or damaged.
        """
        path = directory / RESULTS_NAME
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        except ValidationError as error:
            raise UserError(
                f"{path} is damaged: {' '.join(str(error).split())}; remove it, and run 'noetik "
                f"tune --show {directory}'"
            ) from None

    def table(self) -> pa.Table:
        """One row per trial.

        Columns: ``trial``, ``status``, ``pareto``, ``iterations``, ``training_seconds``, ``score``,
        ``error``, ``lineage`` (JSON); then one per parameter, ``parameter.NAME``; then three per
        outcome, ``NAME``, ``NAME.low`` and ``NAME.high``. What a trial does not have is empty.
        """
        rows = []
        for trial in self.trials:
            row: dict[str, Any] = {
                "trial": trial.name,
                **trial.model_dump(
                    include={"status", "pareto", "iterations", "training_seconds", "score", "error"}
                ),
                "lineage": json.dumps([copy.model_dump() for copy in trial.lineage]),
            }
            row |= {f"parameter.{k}": v for k, v in flat(trial.parameters).items()}
            for name in OUTCOMES:
                interval = trial.outcomes.get(name)
                row[name] = interval and interval.mean
                row[f"{name}.low"] = interval and interval.low
                row[f"{name}.high"] = interval and interval.high
            rows.append(row)
        return pa.Table.from_pylist(rows, schema=_schema(rows))


_TYPES = {
    "trial": pa.string(),
    "status": pa.string(),
    "pareto": pa.bool_(),
    "iterations": pa.int64(),
    "training_seconds": pa.float64(),
    "score": pa.float64(),
    "error": pa.string(),
    "lineage": pa.string(),
}


def _schema(rows: list[dict[str, Any]]) -> pa.Schema:
    """Types that hang on the column and not on which trials were finished."""
    fields = []
    for name in rows[0]:
        kind = _TYPES.get(name, pa.float64())
        if name.startswith("parameter."):
            values = [row[name] for row in rows]
            kind = pa.float64()
            if all(isinstance(value, bool) for value in values):
                kind = pa.bool_()
            elif all(isinstance(value, int) for value in values):
                kind = pa.int64()
            elif not all(isinstance(value, (int, float)) for value in values):
                for row in rows:
                    row[name] = str(row[name])
                kind = pa.string()
        fields.append(pa.field(name, kind))
    return pa.schema(fields)


def collect(folder: SweepFolder, config: SweepConfig, trials: list[TrainConfig]) -> SweepResult:
    """Put the result of a sweep together from what its trials left on disk.

    Args:
        folder: of the sweep, finished or not.
        config: its settings.
        trials: the settings of its trials.

    Raises:
        UserError: an outcome is damaged.
    """
    last: dict[int, Event] = {}
    scores: dict[int, float] = {}
    for event in folder.events():
        last[event.trial] = event
        if event.score is not None:
            scores[event.trial] = event.score
    stops = folder.stops()
    members = [Member({}) for _ in trials]
    if isinstance(config.scheduler, Pbt):
        events = folder.events()
        members = replay(config, config.scheduler, trials[0].iterations, events).members
    found = []
    for number, (drawn, trial) in enumerate(zip(draw_parameters(config), trials, strict=True)):
        place = trial_place(trial)
        made = Trial(
            name=trial.out.name,
            parameters=drawn | members[number].settings,
            lineage=list(members[number].lineage),
            status="unfinished",
            iterations=place.iterations(),
            score=scores.get(number),
        )
        outcome, ended = place.outcome(), last.get(number)
        change: dict[str, Any] = {}
        if outcome is not None:
            change = {
                "status": "stopped" if outcome.stopped_at else "finished",
                "iterations": outcome.stopped_at or trial.iterations,
                "outcomes": outcome.outcomes,
                "training_seconds": outcome.training_seconds,
            }
        elif ended is not None and ended.what == "fail":
            change = {"status": "failed", "error": ended.error}
        elif number in stops:
            change = {"status": "stopped", "iterations": stops[number]}
        found.append(made.model_copy(update=change))
    return together(config, found)


def together(config: SweepConfig, trials: list[Trial]) -> SweepResult:
    """Add what trials say together: the front, its hypervolume, and importance.

    Stopped trials count like the others. To leave them out of importance would be to look for what
    matters only among trials that did well, where what matters differs least; so that it is seen
    how much of an outcome goes with the length of training alone, that is one of the parameters.
    Trials that are copies of each other say nothing of importance: they are not as many, and what
    they were trained with is not what they began with.
    """
    reference = {
        name: config.reference.get(name, 1.0 if name in MINIMISED else 0.0)
        for name in config.objectives
    }
    made = SweepResult(
        config=config, trials=trials, reference=reference, hypervolume=0.0, importance={}
    )
    judged = made.judged
    for name in config.objectives:
        if judged and name not in made.outcomes:
            raise UserError(
                f"the dataset has no evidence for the objective '{name}': compare on others"
            )
    if not judged:
        return made
    values = oriented(judged, config.objectives)
    origin = np.array([reference[name] * _sign(name) for name in config.objectives])
    best = pareto_front(values)
    front = {trial.name for trial, on_front in zip(judged, best, strict=True) if on_front}
    outcomes = {
        name: np.array([trial.outcomes[name].mean for trial in judged]) for name in made.outcomes
    }
    return made.model_copy(
        update={
            "trials": [
                trial.model_copy(update={"pareto": trial.name in front}) for trial in trials
            ],
            "hypervolume": hypervolume(values, origin),
            "importance": {}
            if any(trial.lineage for trial in judged)
            else importance(
                columns([trial.parameters | {ITERATIONS: trial.iterations} for trial in judged]),
                outcomes,
                config.seed,
            ),
        }
    )


def trained_text(trial: Trial) -> str:
    """What a trial was trained with, in one line, and what else there is to say of how."""
    text = parameter_text(trial.parameters)
    for copy in trial.lineage:
        text += f"; a copy of {copy.trial} from iteration {copy.iteration}"
    return text if trial.status != "stopped" else f"{text}; stopped at iteration {trial.iterations}"


def oriented(trials: list[Trial], objectives: list[str]) -> np.ndarray:
    """Means of trials in some objectives (n, k), with the sign that makes more better."""
    return np.array(
        [[_sign(name) * trial.outcomes[name].mean for name in objectives] for trial in trials]
    )


def _sign(name: str) -> float:
    return -1.0 if name in MINIMISED else 1.0

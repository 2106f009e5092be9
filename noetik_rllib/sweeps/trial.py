"""One trial of a sweep, in the process that Ray Tune gives it: train, score, judge, report."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.result import DONE, TRAINING_ITERATION

from noetik_rllib import runs
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.policies import ActorPolicy
from noetik_rllib.evaluation.validation import validate
from noetik_rllib.interpret.measure import DEFAULT_DECISIONS
from noetik_rllib.iql.decoded_rows import DecodedRows, holding
from noetik_rllib.progress import VALIDATION_PREFIX
from noetik_rllib.remote import TransferError
from noetik_rllib.run_folder import is_run, settings_to_resume
from noetik_rllib.runs import Run, TrainConfig, unfinished
from noetik_rllib.sweeps.folder import Outcome
from noetik_rllib.sweeps.outcomes import measure
from noetik_rllib.sweeps.shared import Courses
from noetik_rllib.sweeps.trial_place import TrialPlace, trial_place

#: Names of what trials report to Tune beside their training statistics and outcomes. By the first,
#: TensorBoard knows where a trial goes on that another process had begun.
ITERATION, SCORE, FAILURE, FINISHED = TRAINING_ITERATION, "score", "failure", "finished"
#: Of one that has come to the end of a generation.
COME_AS_FAR = "come_as_far"


@dataclass(frozen=True)
class Task:
    """What every trial of a sweep is told.

    Attributes:
        trials: settings of all trials, by number.
        cpus: threads of each.
        metric: what policies are scored by; None for not at all.
        judged: whether trials are judged at their end, and scored on their way; otherwise their end
            is that of a generation, where they are scored.
        courses: Ray's reference to a ``Courses``.
        rows: Ray's reference to ``DecodedRows``; None where each trial reads its own.
    """

    trials: list[TrainConfig]
    cpus: int
    metric: str | None
    judged: bool
    courses: Any
    rows: Any


def run_trial(parameters: dict[str, Any], task: Task) -> None:
    """Train and judge one trial, from wherever an earlier process left it (Tune's function)."""
    # A trial has its CPUs to itself: more threads would only wait for other trials'.
    torch.set_num_threads(task.cpus)
    config = task.trials[parameters["trial"]]
    try:
        place = trial_place(config)
        with place.taken():
            result = _run(config, task, place)
    except TransferError:
        raise  # it may go better the next time: Tune tries, ``max_failures`` times
    except UserError as error:
        report_failure(str(error))
        return
    except RayTaskError as error:
        # A file that could not be read for all trials at once.
        if not isinstance(error.cause, UserError):
            raise
        report_failure(str(error.cause))
        return
    # Done with this report: Tune would ask for more, and run the trial again if nobody answered.
    tune.report({**result, ITERATION: config.last_iteration, DONE: True})


def report_failure(message: str) -> None:
    """End a trial whose mistake another attempt would only repeat."""
    tune.report({FAILURE: message})


def _run(config: TrainConfig, task: Task, place: TrialPlace) -> dict[str, float]:
    """Train the trial, or what is left of it, and judge or score it: what is reported of that."""
    outcome = place.outcome()
    if outcome is None:
        courses: Courses = ray.get(task.courses)
        place.bring()
        if not _is_trained(config):
            _train(config, task, courses, place)
        run = Run.open(config.out)
        if not task.judged:
            assert courses.validation is not None
            assert task.metric is not None
            worth = validate(ActorPolicy.of(run.networks()), courses.validation)
            return {SCORE: worth[task.metric], COME_AS_FAR: True}
        outcome = _judge(run, courses)
        place.keep(outcome)
    means = {name: value.mean for name, value in outcome.outcomes.items()}
    return {**means, FINISHED: True}


def _is_trained(config: TrainConfig) -> bool:
    """Whether the run is there, and not one of an earlier generation that this one goes on from."""
    out = config.out
    return is_run(out) and TrainConfig.load(out).last_iteration >= config.last_iteration


def _judge(run: Run, courses: Courses) -> Outcome:
    """Measure what a run came to."""
    begun = time.monotonic()
    dataset = run.dataset()
    outcomes, evaluation = measure(
        run, dataset, courses.judged, courses.baseline, DEFAULT_DECISIONS
    )
    evaluation.save(run.directory)
    return Outcome(
        outcomes=outcomes,
        stopped_at=run.config.stopped_at,
        training_seconds=run.progress()[-1]["seconds"],
        judging_seconds=round(time.monotonic() - begun, 3),
    )


def _train(config: TrainConfig, task: Task, courses: Courses, place: TrialPlace) -> None:
    resume = is_run(config.out) or unfinished(config.out).exists()
    if resume:
        # As it was begun, e.g. with the way to read rows that suited the machine then.
        begun = settings_to_resume(config.out)
        config = begun.model_copy(update={"stopped_at": config.stopped_at})
    # Whoever was stopped has been scored, and whoever is in a generation is at its end.
    metric = task.metric if config.stopped_at is None else None

    def report(row: dict[str, float]) -> None:
        place.check()
        done = int(row["iteration"])
        known = {name: value for name, value in row.items() if math.isfinite(value)}
        score = row.get(f"{VALIDATION_PREFIX}{metric}")
        # The last policy is judged, not scored: a scheduler that stopped it now would save nothing.
        if score is not None and done < config.last_iteration:
            known[SCORE] = score
        tune.report({**known, ITERATION: done})

    rows: DecodedRows | None = None if task.rows is None else ray.get(task.rows)
    with nullcontext() if rows is None else holding(rows):
        # What it has come to in an earlier generation is there until this one is whole.
        runs.train(config, report, resume=resume, overwrite=resume, course=courses.validation)

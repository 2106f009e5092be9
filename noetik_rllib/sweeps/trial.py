"""One trial of a sweep, in the process that Ray Tune gives it: train, score, judge, report."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.result import DONE

from noetik_rllib import runs
from noetik_rllib.errors import UserError
from noetik_rllib.interpret.measure import DEFAULT_DECISIONS
from noetik_rllib.iql.decoded_rows import DecodedRows, holding
from noetik_rllib.progress import VALIDATION_PREFIX
from noetik_rllib.remote import TransferError
from noetik_rllib.run_folder import settings_to_resume
from noetik_rllib.runs import Run, TrainConfig, unfinished
from noetik_rllib.sweeps.folder import Outcome
from noetik_rllib.sweeps.outcomes import measure
from noetik_rllib.sweeps.shared import Courses
from noetik_rllib.sweeps.trial_place import TrialPlace, trial_place

#: Names of what trials report to Tune beside their training statistics and outcomes.
ITERATION, SCORE, FAILURE, FINISHED = "iteration", "score", "failure", "finished"


@dataclass(frozen=True)
class Task:
    """What every trial of a sweep is told.

    Attributes:
        trials: settings of all trials, by number.
        cpus: threads of each.
        metric: what policies are scored by while they train; None for not at all.
        courses: Ray's reference to a ``Courses``.
        rows: Ray's reference to ``DecodedRows``; None where each trial reads its own.
    """

    trials: list[TrainConfig]
    cpus: int
    metric: str | None
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
            outcome = place.outcome() or _run(config, task, place)
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
    means = {name: value.mean for name, value in outcome.outcomes.items()}
    # Done with this report: Tune would ask for more, and run the trial again if nobody answered.
    tune.report({**means, ITERATION: config.last_iteration, FINISHED: True, DONE: True})


def report_failure(message: str) -> None:
    """End a trial whose mistake another attempt would only repeat."""
    tune.report({FAILURE: message})


def _run(config: TrainConfig, task: Task, place: TrialPlace) -> Outcome:
    """Train the trial, or what is left of it, and judge it."""
    courses: Courses = ray.get(task.courses)
    place.bring()
    if not (config.out / runs.CONFIG_NAME).is_file():
        _train(config, task, courses, place)
    run = Run.open(config.out)
    begun = time.monotonic()
    dataset = run.dataset()
    outcomes, evaluation = measure(
        run, dataset, courses.judged, courses.baseline, DEFAULT_DECISIONS
    )
    evaluation.save(run.directory)
    outcome = Outcome(
        outcomes=outcomes,
        stopped_at=run.config.stopped_at,
        training_seconds=run.progress()[-1]["seconds"],
        judging_seconds=round(time.monotonic() - begun, 3),
    )
    place.keep(outcome)
    return outcome


def _train(config: TrainConfig, task: Task, courses: Courses, place: TrialPlace) -> None:
    resume = unfinished(config.out).exists()
    if resume:
        # As it was begun, e.g. with the way to read rows that suited the machine then.
        begun = settings_to_resume(config.out)
        config = begun.model_copy(update={"stopped_at": config.stopped_at})
    # Whoever was stopped has been scored.
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
    if rows is None:
        runs.train(config, report, resume=resume, course=courses.validation)
        return
    with holding(rows):
        runs.train(config, report, resume=resume, course=courses.validation)

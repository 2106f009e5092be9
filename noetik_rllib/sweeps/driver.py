"""The driver's part while Ray Tune runs trials: its journal, its scheduler, its loggers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.result import DONE
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from noetik_rllib.errors import UserError
from noetik_rllib.remote import TransferError
from noetik_rllib.runs import TrainConfig
from noetik_rllib.sweeps.config import Asha, SweepConfig
from noetik_rllib.sweeps.folder import SweepFolder
from noetik_rllib.sweeps.outcomes import MINIMISED
from noetik_rllib.sweeps.trial import COME_AS_FAR, FAILURE, FINISHED, ITERATION, SCORE
from noetik_rllib.sweeps.trial_place import TrialPlace, trial_place

#: Called with what is being done and the share of all trials' iterations that is done, 0 to 1.
Progress = Callable[[str, float], None]


class Journal(tune.Callback):
    """Writes down what happens to trials, and tells how far they are.

    Args:
        folder: of the sweep.
        iterations: of every trial, by number.
        finished: trials that are finished already.
        done: iterations that need not be trained any more, of trials that have some.
        progress: see ``Progress``.
        places: of every trial.
    """

    def __init__(
        self,
        folder: SweepFolder,
        iterations: Sequence[int],
        finished: set[int],
        done: dict[int, int],
        progress: Progress,
        places: Sequence[TrialPlace],
    ) -> None:
        self.folder = folder
        self.iterations = iterations
        self.finished = set(finished)
        self.done = dict(done)
        self.progress = progress
        self.places = places

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks into the experiment's folder; a terminal cannot be pickled, and
        # a resumed sweep makes its own.
        return {}

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A process begins with a trial, or goes on with it (Tune's hook)."""
        number = _number(trial)
        self.folder.note(number, "start", iteration=self._kept(number))

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """A trial reports (Tune's hook); ``done`` is the scheduler's decision to stop it."""
        number = _number(trial)
        if FAILURE in result:
            self.folder.note(number, "fail", error=result[FAILURE])
            self._leave(number)
            return
        at = int(result[ITERATION])
        if result.get(FINISHED):
            self.finished.add(number)
            self.folder.note(number, "finish", iteration=at)
        elif SCORE in result:
            # One line for both: a score without what it came to would be judged again, otherwise.
            what = "stop" if result.get(DONE) and not result.get(COME_AS_FAR) else "score"
            self.folder.note(number, what, iteration=at, score=float(result[SCORE]))
            if what == "stop":
                self._leave(number)
                return
        # What counts as done does so while what a process had not kept of it is trained again.
        self.done[number] = max(at, self.done.get(number, 0))
        self._tell(f"trial {number:04d} at iteration {at} of {self.iterations[number]}")

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial's process or host died; another process will go on with it (Tune's hook)."""
        number = _number(trial)
        self.folder.note(number, "lost", iteration=self._kept(number))
        self._tell(f"trial {number:04d} lost its process, and goes on from its last checkpoint")

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial's process died once too often (Tune's hook)."""
        number = _number(trial)
        if trial.should_recover():
            # Of a process that dies between two trials, as it is handed on, Tune hears twice, and
            # ends the second one (Ray 2.60: tune_controller.py, _schedule_trial_reset and
            # _actor_failed). It is ``lost`` already, and run again when the others are done.
            return
        error = trial.get_error()
        said = str(error).strip().splitlines()[-1] if error else "its process died"
        self.folder.note(number, "fail", error=said)
        self._leave(number)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Tune has handled something (its hook); what is raised here ends the sweep."""
        self.folder.check()

    def _kept(self, number: int) -> int | None:
        """Iterations that a trial need not train again, as far as it can be told just now."""
        try:
            return self.places[number].iterations()
        except TransferError:  # its next report tells it, too
            return None

    def _leave(self, number: int) -> None:
        """Count a trial that will not go on as done."""
        self.done[number] = self.iterations[number]
        self._tell(f"trial {number:04d} has ended")

    def _tell(self, what: str) -> None:
        share = sum(self.done.values()) / sum(self.iterations)
        self.progress(f"{len(self.finished)} of {len(self.iterations)} trials done; {what}", share)


def _number(trial: Trial) -> int:
    return int(trial.config["trial"])


def scheduler(
    config: SweepConfig, folder: SweepFolder, trials: Sequence[TrainConfig]
) -> TrialScheduler:
    """Return Tune's scheduler, told of every score that the sweep has had so far.

    Tune keeps a scheduler's state in pickles that it writes now and then. The journal has each
    score at once, so a resumed sweep judges by exactly what was known when it stopped.
    """
    if not isinstance(config.scheduler, Asha):
        return FIFOScheduler()
    asha = make_asha(config.scheduler, max(trial.iterations for trial in trials))
    known: set[int] = set()
    kept = [trial_place(trial).iterations() for trial in trials]
    for event in folder.events():
        if event.score is None or event.iteration is None:
            continue
        ended = trials[event.trial].stopped_at is not None
        # What was scored after the last checkpoint will be trained, and scored, again.
        if not ended and event.iteration > kept[event.trial]:
            continue
        before: Any = SimpleNamespace(trial_id=f"before-{event.trial}")
        if event.trial not in known:
            asha.on_trial_add(None, before)
            known.add(event.trial)
        asha.on_trial_result(None, before, {ITERATION: event.iteration, SCORE: event.score})
    return asha


def check_asha(settings: Asha, trials: Sequence[TrainConfig]) -> None:
    """Refuse trials of which none could be stopped.

    Raises:
        UserError: saying why.
    """
    make_asha(settings, max(trial.iterations for trial in trials))
    longest = max(trials, key=lambda trial: trial.iterations)
    scored = longest.snapshot_iterations[:-1]
    if not scored or scored[-1] < settings.grace_period:
        raise UserError(
            f"scheduler: asha compares the policies that a run keeps before its end, here after "
            f"{', '.join(map(str, scored)) or 'no'} iterations, and grace_period is "
            f"{settings.grace_period}: raise snapshots in 'train'"
        )


def make_asha(settings: Asha, iterations: int) -> ASHAScheduler:
    """Return Tune's scheduler for trials of at most so many iterations.

    Raises:
        UserError: no trial is long enough to be stopped.
    """
    if settings.grace_period >= iterations:
        raise UserError(
            f"scheduler: grace_period is {settings.grace_period}, but trials have {iterations} "
            "iterations: expected fewer"
        )
    return ASHAScheduler(
        time_attr=ITERATION,
        metric=SCORE,
        mode="min" if settings.metric in MINIMISED else "max",
        max_t=iterations,
        grace_period=settings.grace_period,
        reduction_factor=settings.reduction_factor,
    )


def loggers(config: SweepConfig) -> list[tune.Callback]:
    """Return Tune's callbacks for the loggers beside TensorBoard, which is always on.

    Raises:
        UserError: a logger is not installed, or not set up.
    """
    found: list[tune.Callback] = []
    for name in config.loggers:
        if name == "tensorboard":
            continue
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"loggers: {name} is not installed: run 'pip install {name}', or leave it out"
            )
        try:
            found.append(_logger(name, config.name))
        except ValueError as error:  # wandb without a key
            raise UserError(f"loggers: {name}: {' '.join(str(error).split())}") from None
    return found


def _logger(name: str, project: str) -> tune.Callback:
    if name == "wandb":
        from ray.air.integrations.wandb import WandbLoggerCallback

        wandb = WandbLoggerCallback(project=project)
        wandb.setup()  # Tune calls it again; a missing key is said before anything runs
        return wandb
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return MLflowLoggerCallback(experiment_name=project)

"""What of a sweep's trials is to be done next: each pass is one experiment of Ray Tune's.

Without a scheduler there is one pass. After ASHA's, another judges what it has stopped. A
population takes one per generation: only when all of it have come as far is it known who copies
whom. Each pass follows from the journal and the trials' folders as they are, so a sweep that is
resumed goes on with the pass that was cut off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from noetik_rllib.errors import UserError
from noetik_rllib.run_folder import begin_copy, is_run, read_lineage
from noetik_rllib.runs import TrainConfig, unfinished
from noetik_rllib.sweeps.config import SweepConfig
from noetik_rllib.sweeps.folder import SweepFolder, kept_iterations
from noetik_rllib.sweeps.population import Generation, Pbt, replay
from noetik_rllib.sweeps.trial_place import trial_place


@dataclass(frozen=True)
class Pass:
    """One experiment of Ray Tune's.

    Attributes:
        trials: settings of all trials, each to be trained to its ``last_iteration``.
        left: those that are to be run, by number.
        finished: those that have outcomes.
        done: iterations that need not be trained any more, of trials that have some.
        metric: what policies are scored by, if they are.
        judged: whether trials are judged at their end; they are scored there otherwise.
    """

    trials: list[TrainConfig]
    left: list[int]
    finished: set[int]
    done: dict[int, int]
    metric: str | None
    judged: bool = True


def passes(config: SweepConfig, folder: SweepFolder, trials: list[TrainConfig]) -> Iterator[Pass]:
    """Say what is to be done, again after each pass, until every trial has outcomes or has failed.

    Tune gives up some trials that were lost (``Journal.on_trial_error``): they are in the next.

    Raises:
        UserError: a folder is not what the journal says of it.
    """
    if isinstance(config.scheduler, Pbt):
        yield from _generations(config, config.scheduler, folder, trials)
        return
    metric = config.scheduler.metric if config.scheduler else None
    left = _without_outcome(trials)
    while left:
        stops = folder.stops()
        ended = [
            trial.model_copy(update={"stopped_at": stops.get(number)})
            for number, trial in enumerate(trials)
        ]
        finished = set(range(len(trials))) - set(_without_outcome(trials))
        done = {number: ended[number].last_iteration for number in {*finished, *stops}}
        yield Pass(ended, left, finished, done, metric)
        # Tune ends the process of a trial that it stops: another one judges what that has left.
        last = _last(folder)
        left = [number for number in left if last.get(number) in ("stop", "lost")]


def _without_outcome(trials: list[TrainConfig]) -> list[int]:
    return [number for number, trial in enumerate(trials) if trial_place(trial).outcome() is None]


def _last(folder: SweepFolder) -> dict[int, str]:
    """What happened last to each trial."""
    return {event.trial: event.what for event in folder.events()}


def _generations(
    config: SweepConfig, settings: Pbt, folder: SweepFolder, trials: list[TrainConfig]
) -> Iterator[Pass]:
    def population() -> Generation:
        return replay(config, settings, trials[0].iterations, folder.events())

    while not (now := population()).last:
        yield _generation(now, now.waiting, trials, settings.metric)
        last = _last(folder)
        lost = any(last.get(number) == "lost" for number in now.waiting)
        if not lost and population().begin == now.begin:
            return  # all have failed
    left = _without_outcome(trials)
    while left:
        yield _generation(now, left, trials, None)
        last = _last(folder)
        left = [number for number in left if last.get(number) == "lost"]


def _generation(
    now: Generation, left: list[int], trials: list[TrainConfig], metric: str | None
) -> Pass:
    """Let those that are left come to the end of a generation, copies from where they were made."""
    for number, donor in now.copies.items():
        _copy(now, number, trials[number], trials[donor])
    there = set(range(len(trials))) - set(left)
    return Pass(
        trials=[
            trial.model_copy(update=member.settings | {"stopped_at": None if now.last else now.end})
            for trial, member in zip(trials, now.members, strict=True)
        ],
        left=left,
        finished=there if now.last else set(),
        done={n: now.end if n in there else now.begin for n in range(len(trials))},
        metric=metric,
        judged=now.last,
    )


def _copy(now: Generation, number: int, trial: TrainConfig, donor: TrainConfig) -> None:
    """Begin a trial again as a copy, unless that was done before this process was started.

    Raises:
        UserError: the one to be copied is not what it was when it was scored.
    """
    member = now.members[number]
    lineage = [copy.model_dump(mode="json") for copy in member.lineage]
    place, source = trial_place(trial), trial_place(donor)
    with place.taken(), source.taken():
        place.bring()
        if any(read_lineage(run) == lineage for run in (unfinished(trial.out), trial.out)):
            return
        source.bring()
        if not is_run(donor.out) or kept_iterations(donor.out) != now.begin:
            raise UserError(
                f"{donor.out} does not hold the {now.begin} iterations that trial "
                f"{trial.out.name} is to go on from: start another sweep"
            )
        begin_copy(donor.out, trial.model_copy(update=member.settings), lineage)
        place.keep_begun()

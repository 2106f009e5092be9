"""Running a sweep with Ray Tune: every trial a run of its own, all judged on the same course."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from noetik_rllib.cluster import check_address
from noetik_rllib.errors import UserError
from noetik_rllib.runs import TRIALS_NAME, TrainConfig
from noetik_rllib.sweeps.config import Asha, SweepConfig
from noetik_rllib.sweeps.driver import Journal, Progress, check_asha, loggers, scheduler
from noetik_rllib.sweeps.folder import USER_MODELS_NAME, SweepFolder, trial_configs
from noetik_rllib.sweeps.passes import Pass, passes
from noetik_rllib.sweeps.population import check_population
from noetik_rllib.sweeps.results import RESULTS_NAME, TABLE_NAME, SweepResult, collect
from noetik_rllib.sweeps.search import draw_parameters
from noetik_rllib.sweeps.storage import create_sweep, fetch_sweep, open_sweep
from noetik_rllib.sweeps.trial_place import trial_place

_TUNE_NAME = "tune"

if TYPE_CHECKING:  # importing it imports torch and Ray
    from noetik_rllib.sweeps.trial import Task


def run_sweep(config: SweepConfig, out: Path, progress: Progress | None = None) -> SweepResult:
    """Train and judge every trial; trials run side by side where there are CPUs.

    Writes ``out``, see ``folder``. Whatever ends this process, ``resume_sweep`` goes on. A sweep
    whose ``storage`` is a URI is kept there, see ``storage``, and goes on from there as well.

    Args:
        config: what to run.
        out: folder to write; it must not exist.
        progress: see ``driver.Progress``.

    Raises:
        UserError: ``out`` exists, the dataset or a setting cannot be used, or every trial failed.
    """
    check_sweep(config)
    check_address()
    return resume_sweep(create_sweep(out, config).path, progress)


def check_sweep(config: SweepConfig) -> None:
    """Check what a sweep's file asks for, before there is anything.

    Raises:
        UserError: a trial's settings do not go together, its scheduler could do nothing, or a
            logger is missing.
    """
    loggers(config)
    trials = trial_configs(config, Path(config.name))
    if isinstance(config.scheduler, Asha):
        check_asha(config.scheduler, trials)
    elif config.scheduler:
        check_population(config.scheduler, trials[0].iterations, len(trials))


def resume_sweep(out: Path, progress: Progress | None = None) -> SweepResult:
    """Go on with a sweep: trials with outcomes stay, all others are trained to their end.

    A trial goes on from its last checkpoint. Failed ones are tried again. Of one that the scheduler
    has stopped, the end is where that was.

    Args:
        out: folder of the sweep; ``fetch_sweep`` makes that of one that is kept at a URI.
        progress: see ``driver.Progress``.

    Raises:
        UserError: there is no sweep, another process runs it, its dataset is another, or every
            trial failed.
    """
    folder = open_sweep(out)
    config = folder.config()
    trials = folder.trials(config)
    places = [trial_place(trial) for trial in trials]
    progress = progress or (lambda doing, share: None)
    with folder.claimed():
        if any(place.outcome() is None for place in places):
            _run(config, folder, trials, progress)
        for place in places:
            place.fetch(lambda doing: progress(doing, 1.0))
        result = collect(folder, config, trials)
        failed = [trial for trial in result.trials if trial.status == "failed"]
        if failed and not result.judged:
            raise UserError(f"every trial failed; {failed[0].name}: {failed[0].error}")
        result.save(folder.path)
        folder.keep(RESULTS_NAME, TABLE_NAME, _TUNE_NAME)
    return result


def show_sweep(place: Path | str) -> SweepResult:
    """Return the result of a sweep as it is now, finished or not.

    Args:
        place: its folder, or the URI that it is kept at.

    Raises:
        UserError: there is no sweep, or an outcome is damaged.
    """
    if isinstance(place, str):
        with tempfile.TemporaryDirectory(prefix="noetik-") as directory:
            folder = Path(directory) / "sweep"
            fetch_sweep(place, folder)
            return show_sweep(folder)
    opened = open_sweep(place)
    config = opened.config()
    return collect(opened, config, opened.trials(config))


def _run(
    config: SweepConfig,
    folder: SweepFolder,
    trials: list[TrainConfig],
    progress: Progress,
) -> None:
    """Run what is left."""
    import ray

    from noetik_rllib.cluster import connected_ray
    from noetik_rllib.sweeps.shared import prepare_courses, share_rows
    from noetik_rllib.sweeps.trial import Task

    dataset = folder.dataset(config)
    (folder.path / TRIALS_NAME).mkdir(exist_ok=True)
    courses = prepare_courses(
        dataset,
        folder.path / USER_MODELS_NAME,
        users=config.evaluation_users,
        validation_users=max(trial.validation_users for trial in trials),
        seed=config.seed,
        progress=lambda doing: progress(doing, 0.0),
    )
    folder.keep(USER_MODELS_NAME)
    os.environ |= {
        # Ray's own reporter prints to stdout, which is for the result, even with verbose=0.
        "RAY_AIR_NEW_OUTPUT": os.environ.get("RAY_AIR_NEW_OUTPUT", "0"),
        # Ctrl-C shall end this process at once: what is done is on disk.
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        # Not every report has a score: only of policies that a run keeps.
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    }
    progress("starting trials", 0.0)
    with connected_ray():
        _check_room(config)
        rows = share_rows(dataset) if all(t.data_residency != "stream" for t in trials) else None
        if rows is None:
            # Trials would each fill the memory that they find free, for they start together.
            trials = [
                trial.model_copy(update={"data_residency": "stream"})
                if trial.data_residency == "auto"
                else trial
                for trial in trials
            ]
        kept = ray.put(courses)
        for one in passes(config, folder, trials):
            task = Task(
                trials=one.trials,
                cpus=config.cpus_per_trial,
                metric=one.metric,
                judged=one.judged,
                courses=kept,
                rows=rows,
            )
            _fit(config, folder, one, task, progress)


def _fit(
    config: SweepConfig, folder: SweepFolder, one: Pass, task: Task, progress: Progress
) -> None:
    """Let Ray Tune run a pass."""
    from ray import tune

    from noetik_rllib.sweeps.tensorboard import TrialBoard
    from noetik_rllib.sweeps.trial import run_trial

    tune.Tuner(
        # The whole trial runs in one process: all that it needs is in its placement group.
        tune.with_resources(
            tune.with_parameters(run_trial, task=task),
            tune.PlacementGroupFactory([_bundle(config)]),
        ),
        param_space=_param_space(config, one),
        tune_config=tune.TuneConfig(
            scheduler=scheduler(config, folder, one.trials),
            # A process that has imported torch and Ray takes the next trial.
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=_TUNE_NAME,
            storage_path=str(folder.path),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=config.max_failures),
            callbacks=[
                Journal(
                    folder,
                    [
                        trial.last_iteration if one.judged else trial.iterations
                        for trial in one.trials
                    ],
                    finished=one.finished,
                    done=one.done,
                    progress=progress,
                    places=[trial_place(trial) for trial in one.trials],
                ),
                TrialBoard(draw_parameters(config), config.objectives),
                *loggers(config),
            ],
        ),
    ).fit()


def _param_space(config: SweepConfig, one: Pass) -> dict[str, Any]:
    """The numbers of the trials, each with what it is trained with: for dashboards."""
    from ray import tune

    def value(number: int, name: str) -> Any:
        found = getattr(one.trials[number], name)
        return found.model_dump() if isinstance(found, BaseModel) else found

    searched = {
        name: tune.sample_from(lambda config, name=name: value(config["trial"], name))
        for name in draw_parameters(config)[0]
    }
    return {"trial": tune.grid_search(one.left), **searched}


def _name(trial: object) -> str:
    # Any: Tune's Trial, which is imported with Ray only.
    return f"{trial.config['trial']:04d}"  # type: ignore[attr-defined]


def _bundle(config: SweepConfig) -> dict[str, float]:
    bundle: dict[str, float] = {"CPU": config.cpus_per_trial}
    if config.gpus_per_trial:
        bundle["GPU"] = config.gpus_per_trial
    return bundle


def _check_room(config: SweepConfig) -> None:
    """Refuse a trial that would wait for ever: no host has room for it, nor can have.

    Raises:
        UserError: it is larger than the machine, or than any host of the cluster.
    """
    import ray

    from noetik_rllib.cluster import Cluster, cluster_is_running

    bundle = _bundle(config)
    if cluster_is_running():
        cluster = Cluster.look()
        if cluster.most_places(bundle) < 1:
            amounts = " and ".join(f"{amount:g} {name}" for name, amount in bundle.items())
            raise UserError(
                f"a trial needs {amounts}: no host of this cluster ({cluster}) has room for it; "
                "lower cpus_per_trial or gpus_per_trial, or use larger hosts"
            )
        return
    there = ray.cluster_resources()
    for name, needed in bundle.items():
        if there.get(name, 0) < needed:
            raise UserError(
                f"a trial needs {needed:g} {name} and this machine has {there.get(name, 0):g}: "
                f"lower {name.lower()}s_per_trial, or name a cluster with --address"
            )

"""Training a run with RLlib: from a ``TrainConfig`` to a finished run directory."""

from __future__ import annotations

import pickle
import shutil
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from ray.exceptions import RayTaskError
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import LEARNER_RESULTS

from noetik_rllib import runs
from noetik_rllib.cluster import Cluster, connected_ray
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.baseline_cache import USER_MODEL, cache_path
from noetik_rllib.evaluation.baselines import user_model
from noetik_rllib.evaluation.comparison import Course
from noetik_rllib.evaluation.policies import ActorPolicy
from noetik_rllib.evaluation.validation import validate, validation_course
from noetik_rllib.io import atomic_directory, replace_directory
from noetik_rllib.iql.algorithm import DiscreteIQL
from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.data import reward_decomposition
from noetik_rllib.iql.learner import DATA_WAIT, GRADIENT_STEPS, statistics
from noetik_rllib.iql.learner_group import LearnerLostError, learner_resources, log
from noetik_rllib.iql.network_config import NetworkSizes
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.iql.random_state import undisturbed
from noetik_rllib.iql.settings import IQLSettings
from noetik_rllib.iql.telling import Telling
from noetik_rllib.iql.transformer_rl_module import network_config
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.progress import (
    PROGRESS_NAME,
    VALIDATION_NAME,
    VALIDATION_PREFIX,
    Progress,
    Row,
    append_row,
    write_rows,
)
from noetik_rllib.remote import RunStorage, copy_dataset
from noetik_rllib.run_folder import check_dataset, claim
from noetik_rllib.runs import (
    CHECKPOINT_NAME,
    POLICY_NAME,
    SNAPSHOTS_NAME,
    TRIALS_NAME,
    UNFINISHED_SUFFIX,
    Run,
    TrainConfig,
    iterations_done,
    unfinished,
)

OnIteration = Callable[[Row], None]
OnStart = Callable[[int], None]


def algorithm_config(config: TrainConfig) -> DiscreteIQLConfig:
    """Translate a run's config into RLlib's."""
    settings = {name: getattr(config, name) for name in IQLSettings.model_fields}
    return (
        DiscreteIQLConfig()
        .offline_data(
            # Absolute: learners and restored runs work in other directories.
            input_=[str(config.data.resolve() / "train")],
            dataset_num_iters_per_learner=config.steps_per_iteration,
        )
        .training(
            **settings,
            reward_weights=config.reward,
            train_batch_size_per_learner=config.batch_size,
            data_source=config.data_source,
            host_wait_seconds=60 * config.host_wait_minutes,
            actor_lr_decay_steps=(
                config.iterations * config.steps_per_iteration if config.actor_lr_decay else 0
            ),
        )
        .rl_module(model_config={name: getattr(config, name) for name in NetworkSizes.model_fields})
        .learners(num_learners=config.num_learners, num_gpus_per_learner=config.gpus_per_learner)
        .debugging(seed=config.seed)
    )


def train(
    config: TrainConfig,
    on_iteration: OnIteration,
    *,
    on_start: OnStart,
    overwrite: bool,
    resume: bool,
    course: Course | None,
) -> Run:
    """Train a run; see ``noetik_rllib.runs.train``."""
    # Before Ray starts: a wrong path or reward fails at once.
    if config.data_source is not None:
        copy_dataset(config.data_source, config.data)
    dataset = OfflineDataset(config.data)
    dataset.files("train")
    dataset.manifest.signals.reward_std(config.reward)
    storage = None if config.storage is None else RunStorage(config.storage, UNFINISHED_SUFFIX)
    if storage is not None:
        if resume:
            storage.check_newest(iterations_done(unfinished(config.out)))
        elif not overwrite:
            storage.check_free()
    work = claim(config, overwrite=overwrite, resume=resume)
    if storage is not None and not resume:
        storage.clear()
    try:
        cpus = config.num_learners  # RLlib gives each learner process one
        gpus = config.gpus_per_learner * max(1, config.num_learners)
        with connected_ray(cpus=cpus, gpus=gpus):
            _check_room(config)
            course = course or _course(config, dataset, work)
            _train_through_losses(config, work, storage, on_iteration, on_start, course)
        if storage is not None:
            storage.finish(work)
        replace_directory(work, config.out)
    except RayTaskError as error:
        # A mistake that only a learner process could see, e.g. no dataset on its node.
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    finally:
        if not (work / CHECKPOINT_NAME).is_dir():
            shutil.rmtree(work, ignore_errors=True)
    return Run.open(config.out)


def _check_room(config: TrainConfig) -> None:
    """Say what the run will use, and refuse what the cluster will never have.

    Raises:
        UserError: more is asked for than there is or can be.
    """
    cluster = Cluster.look()
    where = "this process"
    if config.num_learners:
        each = learner_resources(algorithm_config(config))
        cluster.check_room(config.num_learners, each)
        amounts = " and ".join(f"{amount:g} {name}" for name, amount in each.items())
        where = f"{config.num_learners} learners of {amounts} each"
    elif config.gpus_per_learner and not torch.cuda.is_available():
        raise UserError(
            "--gpus-per-learner without --num-learners trains in this process, and this machine "
            "has no GPU: add --num-learners 1"
        )
    log.info("Cluster: %s. Training in %s.", cluster, where)
    log.info(
        "Data: %s. Run: %s%s.",
        config.data_source or config.data,
        config.out,
        f", kept at {config.storage}" if config.storage else "",
    )


def _course(config: TrainConfig, dataset: OfflineDataset, work: Path) -> Course | None:
    """Prepare the validation of kept policies, if it is asked for.

    The user model is kept in the run, where ``noetik evaluate`` finds it.
    """
    if not config.validation_users:
        return None
    if not cache_path(work, USER_MODEL).is_file():
        log.info("Fitting the user model for validation, once per run: a minute or two.")
    with undisturbed():
        model = user_model(dataset, work, config.seed)
    return validation_course(dataset, model, users=config.validation_users, seed=config.seed)


def _train_through_losses(
    config: TrainConfig,
    work: Path,
    storage: RunStorage | None,
    on_iteration: OnIteration,
    on_start: OnStart,
    course: Course | None,
) -> None:
    """Train to the end, from the last checkpoint again wherever a learner or its host is lost.

    Raises:
        UserError: it happened too often in a row.
    """
    failures, kept = 0, iterations_done(work)
    while True:
        try:
            _train(config, work, storage, on_iteration, on_start, course)
            return
        except LearnerLostError as error:
            reason = str(error)  # the error itself would hold the dead learners' handles
        if iterations_done(work) > kept:
            failures, kept = 0, iterations_done(work)
        failures += 1
        log.warning("A learner was lost: %s", reason)
        if failures > config.max_restarts:
            raise UserError(
                f"learners were lost {failures} times without a checkpoint in between; the "
                f"{kept} iterations until then are kept: continue with --resume {config.out}"
            )
        log.warning(
            "Going on from iteration %d, restart %d of at most %d in a row.",
            kept,
            failures,
            config.max_restarts,
        )


def _train(
    config: TrainConfig,
    work: Path,
    storage: RunStorage | None,
    on_iteration: OnIteration,
    on_start: OnStart,
    course: Course | None,
) -> None:
    """Take the remaining iterations, and leave everything of a finished run in ``work``."""
    checkpoint = (work / CHECKPOINT_NAME).resolve()
    if checkpoint.is_dir():
        progress = Progress.read(checkpoint)
        algorithm = _restored(checkpoint, config)
    else:
        progress = Progress()
        algorithm = algorithm_config(config).build_algo()
    rows = progress.iterations
    progress.write(work)

    def save() -> None:
        _save_checkpoint(algorithm, checkpoint, progress)
        if storage is not None:
            storage.keep(work, len(rows))

    try:
        on_start(len(rows))
        with Telling(
            _name(config.out), work, done=len(rows), iterations=config.last_iteration
        ) as telling:
            before = rows[-1]["seconds"] if rows else 0.0
            start = saved = time.monotonic()
            while len(rows) < config.last_iteration:
                begun = time.monotonic()
                result = algorithm.train()
                now = time.monotonic()
                learnt = result[LEARNER_RESULTS][DEFAULT_MODULE_ID]
                clocks = {
                    "seconds": round(before + now - start, 3),
                    "rows_per_second": round(_rows_of_an_iteration(config) / (now - begun), 1),
                    "data_wait_share": round(float(learnt[DATA_WAIT]) / (now - begun), 4),
                }
                rows.append({"iteration": len(rows) + 1, **clocks, **_learnt(learnt)})
                append_row(work / PROGRESS_NAME, rows[-1])
                told = dict(rows[-1])
                if len(rows) in config.snapshot_iterations:
                    told |= _keep_policy(algorithm, work, config, progress, course)
                telling.tell(told)
                due = now - saved >= config.checkpoint_seconds or len(rows) == config.last_iteration
                if due:
                    save()
                    saved = now
                try:
                    on_iteration(told)
                except (KeyboardInterrupt, SystemExit):
                    if not due:
                        save()
                    raise
        _save_policy(_networks(algorithm), work / POLICY_NAME, work, config)
    finally:
        algorithm.stop()
        if storage is not None:
            storage.wait()
        # RLlib makes a folder in ~/ray_results for every algorithm, and leaves it empty.
        with suppress(OSError):
            Path(algorithm.logdir).rmdir()


def _name(out: Path) -> str:
    """What dashboards call a run: of a trial, with its sweep's name, as there are many ``0000``."""
    if out.parent.name == TRIALS_NAME:
        return f"{out.parent.parent.name}/{out.name}"
    return out.name


def _keep_policy(
    algorithm: DiscreteIQL,
    work: Path,
    config: TrainConfig,
    progress: Progress,
    course: Course | None,
) -> Row:
    """Keep the policy as it is now, and validate it; what is learnt later does not depend on it.

    Returns:
        What ``on_iteration`` is told of it.
    """
    done = len(progress.iterations)
    networks = _networks(algorithm)
    if done < config.last_iteration:  # the last one is kept when the training is over
        _save_policy(networks, work / SNAPSHOTS_NAME / str(done), work, config)
    if course is None:
        return {}
    with undisturbed():
        found = validate(ActorPolicy.of(networks), course)
    progress.validations.append({"iteration": done, **found})
    write_rows(work / VALIDATION_NAME, progress.validations)
    return {VALIDATION_PREFIX + name: value for name, value in found.items()}


def _restored(checkpoint: Path, config: TrainConfig) -> DiscreteIQL:
    """Restore the algorithm of a checkpoint, with the run's settings on this machine.

    Those that the checkpoint has say where the dataset was on the machine that wrote it, and what a
    run was trained with that this one has begun as a copy of.

    Raises:
        UserError: a file of it is cut short or is missing.
    """
    try:
        algorithm: DiscreteIQL = DiscreteIQL.from_checkpoint(
            str(checkpoint), config=algorithm_config(config)
        )
    except (pickle.UnpicklingError, EOFError, FileNotFoundError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{checkpoint} is damaged ({reason}): train again with --overwrite"
        ) from None
    return algorithm


def _rows_of_an_iteration(config: TrainConfig) -> int:
    return config.steps_per_iteration * config.batch_size * max(1, config.num_learners)


def _learnt(learnt: dict[str, Any]) -> Row:
    """Return the learner's part of a line of ``progress.csv``."""
    return {
        GRADIENT_STEPS: int(learnt[GRADIENT_STEPS]),
        **{name: float(learnt[name]) for name in statistics(learnt)},
    }


def _save_checkpoint(algorithm: DiscreteIQL, path: Path, progress: Progress) -> None:
    """Write RLlib's checkpoint, with the progress up to it, in place of the last one."""
    with atomic_directory(path) as part:
        algorithm.save_to_path(str(part))
        progress.write(part)


def _networks(algorithm: DiscreteIQL) -> IQLNetworks:
    """Return a copy of the networks as they are now, without the target, on the CPU."""
    reward = reward_decomposition(algorithm.config)
    with undisturbed():  # networks begin with random weights
        networks = IQLNetworks(network_config(algorithm.config.model_config), reward=reward)
    weights = algorithm.learner_group.get_weights()[DEFAULT_MODULE_ID]
    networks.load_state_dict(
        {
            name: torch.tensor(array)  # a copy: some come read-only
            for name, array in weights.items()
            if not name.startswith("target_q.")
        }
    )
    return networks


def _save_policy(networks: IQLNetworks, folder: Path, work: Path, config: TrainConfig) -> None:
    """Write the networks to ``folder`` in a form without pickles."""
    check_dataset(work, config.data)
    runs.save_policy(folder, networks, config.data)

"""Training a run with RLlib: from a ``TrainConfig`` to a finished run directory."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
import torch
from ray._common.utils import get_ray_address_file
from ray.exceptions import RayTaskError
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import LEARNER_RESULTS
from tensorboardX import SummaryWriter

from noetik_rllib import runs
from noetik_rllib.errors import UserError
from noetik_rllib.io import atomic_directory, replace_directory
from noetik_rllib.iql.algorithm import DiscreteIQL
from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.data import reward_decomposition
from noetik_rllib.iql.learner import GRADIENT_STEPS, statistics
from noetik_rllib.iql.network_config import NetworkSizes
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.iql.settings import IQLSettings
from noetik_rllib.iql.transformer_rl_module import network_config
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.run_folder import check_dataset, claim
from noetik_rllib.runs import CHECKPOINT_NAME, POLICY_NAME, SNAPSHOTS_NAME, Run, TrainConfig

OnIteration = Callable[[dict[str, float]], None]
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
            actor_lr_decay_steps=(
                config.iterations * config.steps_per_iteration if config.actor_lr_decay else 0
            ),
        )
        .rl_module(model_config={name: getattr(config, name) for name in NetworkSizes.model_fields})
        .learners(num_learners=config.num_learners, num_gpus_per_learner=config.gpus_per_learner)
        .debugging(seed=config.seed)
    )


def cluster_is_running() -> bool:
    """Whether there is a Ray cluster that ``ray.init()`` would join.

    That is one named by RAY_ADDRESS, or started with ``ray start`` or ``ray up`` on this machine,
    as under ``ray submit``.
    """
    started = Path(get_ray_address_file(None))
    return os.environ.get("RAY_ADDRESS", "local") != "local" or started.is_file()


@contextmanager
def connected_ray(*, cpus: float = 0, gpus: float = 0) -> Iterator[None]:
    """Use the Ray that is there, or start a quiet local one for the time of this block.

    Args:
        cpus: CPUs that will be asked for. A local Ray that has fewer would wait for ever; a
            cluster may still grow.
        gpus: GPUs, likewise.

    Raises:
        UserError: this machine has fewer, or the cluster does not answer.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local = not cluster_is_running()
    try:
        ray.init(
            address="local" if local else None,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,  # RLlib warns of its own deprecations
        )
    except ConnectionError as error:
        raise UserError(
            f"no Ray cluster answers ({error}); if it asks for a token, as Ray 2.60 does by "
            "default, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from None
    except Exception as error:
        # Ray raises a plain Exception here (ray/_private/node.py).
        if "timed out" not in str(error):
            raise
        raise UserError(
            "Ray did not start in time: this machine is too busy; try again, or set RAY_ADDRESS "
            "to a cluster"
        ) from None
    try:
        for name, needed in (("CPU", cpus), ("GPU", gpus)):
            here = ray.cluster_resources().get(name, 0)
            if local and here < needed:
                raise UserError(
                    f"the learners need {needed:g} {name} and this machine has {here:g}: use fewer "
                    "learners, or set RAY_ADDRESS to a cluster"
                )
        yield
    finally:
        ray.shutdown()


def train(
    config: TrainConfig,
    on_iteration: OnIteration,
    *,
    on_start: OnStart,
    overwrite: bool,
    resume: bool,
) -> Run:
    """Train a run; see ``noetik_rllib.runs.train``."""
    # Before Ray starts: a wrong path or reward fails at once.
    dataset = OfflineDataset(config.data)
    dataset.files("train")
    dataset.manifest.signals.reward_std(config.reward)
    work = claim(config, overwrite=overwrite, resume=resume)
    try:
        cpus = config.num_learners  # RLlib gives each learner process one
        gpus = config.gpus_per_learner * max(1, config.num_learners)
        with connected_ray(cpus=cpus, gpus=gpus):
            _train(config, work, on_iteration, on_start)
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


def _train(config: TrainConfig, work: Path, on_iteration: OnIteration, on_start: OnStart) -> None:
    """Take the remaining iterations, and leave everything of a finished run in ``work``."""
    checkpoint = (work / CHECKPOINT_NAME).resolve()
    if checkpoint.is_dir():
        rows = runs.read_progress(checkpoint)
        algorithm = _restored(checkpoint)
    else:
        rows = []
        algorithm = algorithm_config(config).build_algo()
    runs.write_progress(work, rows)
    try:
        on_start(len(rows))
        with SummaryWriter(str(work), purge_step=len(rows) + 1) as tensorboard:
            before = rows[-1]["seconds"] if rows else 0.0
            start = saved = time.monotonic()
            while len(rows) < config.iterations:
                begun = time.monotonic()
                result = algorithm.train()
                now = time.monotonic()
                clocks = {
                    "seconds": round(before + now - start, 3),
                    "rows_per_second": round(_rows_of_an_iteration(config) / (now - begun), 1),
                }
                rows.append({"iteration": len(rows) + 1, **clocks, **_learnt(result)})
                runs.append_progress(work, rows[-1])
                for name, value in rows[-1].items():
                    tensorboard.add_scalar(name, value, len(rows))
                due = now - saved >= config.checkpoint_seconds or len(rows) == config.iterations
                if len(rows) in config.snapshot_iterations[:-1]:
                    folder = work / SNAPSHOTS_NAME / str(len(rows))
                    _save_policy(algorithm, folder, work, config)
                if due:
                    _save_checkpoint(algorithm, checkpoint, rows)
                    saved = now
                try:
                    on_iteration(rows[-1])
                except (KeyboardInterrupt, SystemExit):
                    if not due:
                        _save_checkpoint(algorithm, checkpoint, rows)
                    raise
        _save_policy(algorithm, work / POLICY_NAME, work, config)
    finally:
        algorithm.stop()
        # RLlib makes a folder in ~/ray_results for every algorithm, and leaves it empty.
        with suppress(OSError):
            Path(algorithm.logdir).rmdir()


def _restored(checkpoint: Path) -> DiscreteIQL:
    """Restore the algorithm of a checkpoint.

    Raises:
        UserError: a file of it is cut short or is missing.
    """
    try:
        algorithm: DiscreteIQL = DiscreteIQL.from_checkpoint(str(checkpoint))
    except (pickle.UnpicklingError, EOFError, FileNotFoundError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{checkpoint} is damaged ({reason}): train again with --overwrite"
        ) from None
    return algorithm


def _rows_of_an_iteration(config: TrainConfig) -> int:
    return config.steps_per_iteration * config.batch_size * max(1, config.num_learners)


def _learnt(result: dict[str, Any]) -> dict[str, float]:
    """Pick the learner's part of a line of ``progress.csv`` out of RLlib's result."""
    learnt = result[LEARNER_RESULTS][DEFAULT_MODULE_ID]
    return {
        GRADIENT_STEPS: int(learnt[GRADIENT_STEPS]),
        **{name: float(learnt[name]) for name in statistics(learnt)},
    }


def _save_checkpoint(algorithm: DiscreteIQL, path: Path, rows: list[dict[str, float]]) -> None:
    """Write RLlib's checkpoint, with the progress up to it, in place of the last one."""
    with atomic_directory(path) as part:
        algorithm.save_to_path(str(part))
        runs.write_progress(part, rows)


def _save_policy(algorithm: DiscreteIQL, folder: Path, work: Path, config: TrainConfig) -> None:
    """Write the networks, without the target, to ``folder`` in a form without pickles."""
    reward = reward_decomposition(algorithm.config)
    networks = IQLNetworks(network_config(algorithm.config.model_config), reward=reward)
    weights = algorithm.learner_group.get_weights()[DEFAULT_MODULE_ID]
    networks.load_state_dict(
        {
            name: torch.tensor(array)  # a copy: some come read-only
            for name, array in weights.items()
            if not name.startswith("target_q.")
        }
    )
    check_dataset(work, config.data)
    runs.save_policy(folder, networks, config.data)

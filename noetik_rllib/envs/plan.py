"""From a configuration to what its sessions share: dataset, start states and who answers.

Kept for the next environment of the same configuration: beside one another they share the memory,
and the second one starts in a millisecond.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from noetik_rllib.data.world_files import WORLD_FILE
from noetik_rllib.envs.config import KuaiRandEnvConfig
from noetik_rllib.envs.default_model import default_model
from noetik_rllib.envs.logged import LoggedAnswers
from noetik_rllib.envs.response_model import MODEL_NAME, WEIGHTS_NAME, ResponseModel
from noetik_rllib.envs.session import LeaveProbability, SessionPlan
from noetik_rllib.envs.simulator import FittedUsers, Simulator, UserModel
from noetik_rllib.envs.starts import Starts, load_starts
from noetik_rllib.envs.world_users import WorldUsers
from noetik_rllib.errors import UserError
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.split import PARTS


def read_config(
    config: KuaiRandEnvConfig | Mapping[str, Any] | None, options: Mapping[str, Any]
) -> KuaiRandEnvConfig:
    """Return the configuration given as such, as a mapping, or as options by name.

    Raises:
        UserError: an option is wrong.
    """
    if not isinstance(config, KuaiRandEnvConfig):
        return KuaiRandEnvConfig.from_options({**(config or {}), **options})
    if options:
        raise TypeError("give a KuaiRandEnvConfig or options by name, not both")
    config.check()
    return config


def make_plan(config: KuaiRandEnvConfig) -> SessionPlan:
    """Load what the sessions of a configuration share, or find it in memory.

    Raises:
        UserError: ``data`` is not a dataset, the model or the world does not fit it, or a user in
            ``users`` has no episode in the part.
    """
    dataset = OfflineDataset(config.data)
    paths = [dataset.directory, config.response_model, config.world]
    files = [MODEL_NAME, WEIGHTS_NAME, WORLD_FILE]
    stamps = [_stamp(path / name) for path in paths if path is not None for name in files]
    where = Path.cwd()  # a path may be relative to it
    return _plan(_Key(config, (str(where), dataset.fingerprint, *stamps)))


@dataclass(frozen=True)
class _Key:
    """A configuration and the state of the files that it names; equal where both are."""

    config: KuaiRandEnvConfig
    state: tuple[Any, ...]

    def __hash__(self) -> int:
        return hash((self.config.model_dump_json(), self.state))


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file is written again; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=4)
def _plan(key: _Key) -> SessionPlan:
    config = key.config
    dataset = OfflineDataset(config.data)
    held_out = dataset.users.user_id[dataset.users.held_out]
    starts = load_starts(
        dataset, config.part, held_out if config.users == "held_out" else config.users
    )
    for user in config.users if isinstance(config.users, list) else ():
        check_user(config, dataset, starts, user)
    users: UserModel
    leave: LeaveProbability | None
    if config.user_model == "world":
        assert config.world is not None  # the configuration has been checked
        true_users = WorldUsers.load(config.world, dataset)
        users, leave = true_users, true_users.world.leave_probability
    else:
        model = _response_model(config, dataset)
        model.check_dataset(dataset)
        _warn_of_other_users(model, starts, held_out)
        users, patience = FittedUsers(model), config.dynamics.patience
        leave = None if patience is None else patience.leave_probability
    logged = None
    if config.user_model == "logged":
        rows = [part for part in PARTS if dataset.manifest.parts[part].rows]
        logged = LoggedAnswers.load(dataset, rows, users=starts.users)
    return SessionPlan(
        dataset=dataset,
        starts=starts,
        simulator=Simulator(users, dataset.catalog.duration_ms, logged),
        horizon=config.horizon,
        reward=config.reward.as_array(),
        repeat_interest=config.repeat_interest,
        mask_seen=config.mask_seen,
        leave_probability=leave if config.dynamics.patience else None,
        satiation=config.dynamics.satiation,
        returns=config.dynamics.returns,
    )


def check_user(
    config: KuaiRandEnvConfig, dataset: OfflineDataset, starts: Starts, user: int
) -> None:
    """Refuse a user without a start state.

    Raises:
        UserError: the user has no episode in the part.
    """
    if not starts.rows_of(user):
        raise UserError(
            f"user {user} has no episode in part '{config.part}' of {dataset.directory}"
        )


def _response_model(config: KuaiRandEnvConfig, dataset: OfflineDataset) -> ResponseModel:
    if config.response_model is None:
        return default_model(dataset.directory.resolve(), dataset.fingerprint)
    return ResponseModel.load(config.response_model)


def _warn_of_other_users(model: ResponseModel, starts: Starts, held_out: np.ndarray) -> None:
    """Warn where the model that judges answers for training users, or the other way round."""
    judges = model.record.part == "judge"
    other = int((np.isin(starts.users, held_out) != judges).sum())
    if other:
        warnings.warn(
            f"{other} of the environment's {len(starts.users)} users are "
            f"{'training users' if judges else 'held out from training'}, but the response model "
            f"was fitted on part '{model.record.part}', that is on the others: train with part "
            "'train' and a model of it, judge with users 'held_out' and a model of part 'judge'",
            stacklevel=2,
        )


def spaces(dataset: OfflineDataset) -> tuple[gym.spaces.Box, gym.spaces.Discrete]:
    """Return the spaces of one session's observations and actions."""
    num_videos = dataset.manifest.num_videos
    low, high = dataset.layout.bounds(num_videos)
    return gym.spaces.Box(low, high, dtype=np.float32), gym.spaces.Discrete(num_videos)

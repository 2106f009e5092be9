"""Who is evaluated: the run's own policy, and the baselines that it is held against."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

from noetik_rllib.envs.response_model import ResponseModel
from noetik_rllib.envs.world_users import WorldUsers
from noetik_rllib.evaluation.baselines import best_cycle, best_rewarded, greedy
from noetik_rllib.evaluation.cloning import CloningConfig, behaviour_cloning
from noetik_rllib.evaluation.policies import Policy, RandomPolicy, popularity
from noetik_rllib.evaluation.rllib_baselines import RLlibAlgorithm, RLlibEffort, rllib_baseline
from noetik_rllib.evaluation.stages import Stages
from noetik_rllib.evaluation.world_policies import LoggingPolicy, OraclePolicy
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.runs import Run

#: Called with the share that is done, 0 to 1.
Progress = Callable[[float], None]


def standard_baselines(
    run: Run, dataset: OfflineDataset, networks: IQLNetworks, seed: int, stages: Stages
) -> list[Policy]:
    """Return behaviour cloning, popularity and chance: in every evaluation."""
    with stages("training behaviour cloning") as progress:
        cloned = behaviour_cloning(
            dataset, networks.config, cloning_effort(run), run.directory, progress
        )
    return [cloned, popularity(dataset), RandomPolicy(dataset.manifest.num_videos, seed)]


def more_baselines(
    run: Run, dataset: OfflineDataset, model: ResponseModel, seed: int, stages: Stages
) -> list[Policy]:
    """Return the policies of ``noetik evaluate --baselines``, trained unless the run has them.

    Args:
        run: the run that they are compared with.
        dataset: of the run.
        model: the training simulator's.
        seed: of what is trained.
        stages: reports the progress.
    """
    policies: list[Policy] = []
    weights = dataset.manifest.reward
    with stages("greedy on the user model") as progress:
        policies.append(greedy(model, dataset, weights, run.directory, seed, progress))
    with stages("best cycle of six videos") as progress:
        policies.append(best_cycle(model, dataset, weights, run.directory, seed, progress))
    policies.append(best_rewarded(dataset, weights))
    for algorithm in get_args(RLlibAlgorithm):
        with stages(f"RLlib's {algorithm.upper()}") as progress:
            effort = rllib_effort(run)
            policies.append(rllib_baseline(algorithm, dataset, effort, run.directory, progress))
    return policies


def world_baselines(world: Path, dataset: OfflineDataset, seed: int) -> list[Policy]:
    """Return what only a synthetic world has: its log's policy, and one that knows its truth.

    Raises:
        UserError: the dataset was not made from this world.
    """
    users = WorldUsers.load(world, dataset)
    return [LoggingPolicy(users, seed), OraclePolicy(users, dataset.manifest.reward)]


def _rows_per_step(run: Run) -> int:
    return run.config.batch_size * max(1, run.config.num_learners)


def _steps(run: Run) -> int:
    return run.config.last_iteration * run.config.steps_per_iteration


def cloning_effort(run: Run) -> CloningConfig:
    """Return the run's own effort: gradient steps, rows of each over all learners, step size."""
    return CloningConfig(
        steps=_steps(run),
        batch_size=_rows_per_step(run),
        learning_rate=run.config.actor_lr,
        decay=run.config.actor_lr_decay,
        seed=run.config.seed,
    )


def rllib_effort(run: Run) -> RLlibEffort:
    """Return the run's own gradient steps, rows, discount and reward, with RLlib's step size."""
    return RLlibEffort(
        steps=_steps(run),
        batch_size=_rows_per_step(run),
        gamma=run.config.gamma,
        reward=run.config.reward,
        seed=run.config.seed,
    )

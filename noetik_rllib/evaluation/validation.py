"""Which of a run's policies is its own: the one that validation likes best.

A policy may get worse while it trains on, and its losses do not say so. So policies that the run
kept along the way go through sessions with the users that it was trained on, who answer as the
training simulator says. The judge of ``noetik evaluate`` is another model of other users: choosing
by it would make its figures the maximum of several, and too good.
"""

from __future__ import annotations

from collections.abc import Callable

from noetik_rllib.envs.response_model import ResponseModel
from noetik_rllib.envs.simulator import Simulator
from noetik_rllib.envs.starts import load_starts
from noetik_rllib.evaluation.figures import named
from noetik_rllib.evaluation.intervals import bootstrap_by_user
from noetik_rllib.evaluation.policies import ActorPolicy
from noetik_rllib.evaluation.result import Validation
from noetik_rllib.evaluation.sessions import SessionStarts, run_sessions
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.runs import Run

#: Policies of one run differ by some 0.05 in reward; 500 users tell apart 0.02.
USERS = 500
SEEDS = 2


def choose_snapshot(
    run: Run,
    dataset: OfflineDataset,
    model: ResponseModel,
    *,
    progress: Callable[[float], None] | None = None,
) -> Validation:
    """Find the kept policy with the highest reward in validation.

    Args:
        run: whose policies.
        dataset: of the run.
        model: the training simulator's user model, fitted on the part ``train``.
        progress: called with the share that is done, 0 to 1.
    """
    progress = progress or (lambda share: None)
    users = dataset.users
    # The run's own seed: what its policy is must not hang on how it is evaluated.
    seed = run.config.seed
    starts = SessionStarts.draw(
        load_starts(dataset, "train", users.user_id[~users.held_out]),
        USERS,
        range(seed, seed + SEEDS),
    )
    simulator = Simulator.for_dataset(dataset, model)
    # What the run was trained to raise, not the product's reward: that is what it can be best at.
    weights = run.config.reward.as_array()
    iterations, rewards = run.snapshots(), {}
    for number, iteration in enumerate(iterations):
        policy = ActorPolicy.of(run.networks(iteration))
        log = run_sessions(policy, simulator, starts, steps=dataset.manifest.episode_steps)
        rewards[iteration] = log.by_user() @ weights  # (U,)
        progress((number + 1) / len(iterations))
    chosen = max(iterations, key=lambda iteration: float(rewards[iteration].mean()))
    return Validation(
        iteration=chosen,
        rewards={
            iteration: named(("reward",), bootstrap_by_user(value[:, None], seed))["reward"]
            for iteration, value in rewards.items()
        },
        reward=run.config.reward,
        users=starts.num_users,
    )

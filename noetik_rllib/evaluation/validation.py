"""What a run's policies are worth to the users that it was trained on, and which is its own.

A policy may get worse while it trains on, and its losses do not say so. So policies that the run
keeps along the way go through sessions with the users that it was trained on, who answer as the
training simulator says. The judge of ``noetik evaluate`` is another model of other users: choosing
by it would make its figures the maximum of several, and too good.
"""

from __future__ import annotations

from collections.abc import Callable

from noetik_rllib.envs.response_model import ResponseModel
from noetik_rllib.envs.simulator import Simulator
from noetik_rllib.envs.starts import load_starts
from noetik_rllib.evaluation.comparison import Course, metrics_by_user
from noetik_rllib.evaluation.figures import named
from noetik_rllib.evaluation.intervals import bootstrap_by_user
from noetik_rllib.evaluation.policies import ActorPolicy
from noetik_rllib.evaluation.result import METRICS, Validation
from noetik_rllib.evaluation.sessions import SessionStarts, check_catalogue, run_sessions
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.runs import Run

#: Policies of one run differ by some 0.05 in reward; 500 users tell apart 0.02.
USERS = 500
SEEDS = 2


def validation_course(
    dataset: OfflineDataset, model: ResponseModel, *, users: int, seed: int
) -> Course:
    """The course of every validation; its users are none of those who judge in the end.

    Args:
        dataset: of the run.
        model: the training simulator's user model, fitted on the part ``train``.
        users: the most training users; each has ``SEEDS`` sessions.
        seed: of the choice of users, and with the next ones of their luck.

    Raises:
        UserError: the catalogue has fewer videos than a session has steps, or the model is another
            dataset's.
    """
    check_catalogue(dataset.manifest.num_videos, dataset.manifest.episode_steps)
    known = dataset.users
    trained_on = load_starts(dataset, "train", known.user_id[~known.held_out])
    return Course(
        simulator=Simulator.for_dataset(dataset, model),
        starts=SessionStarts.draw(trained_on, users, range(seed, seed + SEEDS)),
        steps=dataset.manifest.episode_steps,
        reward=dataset.manifest.reward,
        tags=dataset.catalog.tags,
    )


def validate(policy: ActorPolicy, course: Course) -> dict[str, float]:
    """Return a policy's mean of each of ``METRICS`` over users; the reward is the product's."""
    log = run_sessions(policy, course.simulator, course.starts, steps=course.steps)
    means = metrics_by_user(log, course.reward).mean(axis=0)
    return dict(zip(METRICS, means.tolist(), strict=True))


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
    # The run's own seed: what its policy is must not hang on how it is evaluated.
    seed = run.config.seed
    course = validation_course(dataset, model, users=USERS, seed=seed)
    # What the run was trained to raise, not the product's reward: that is what it can be best at.
    weights = run.config.reward.as_array()
    iterations, rewards = run.snapshots(), {}
    for number, iteration in enumerate(iterations):
        policy = ActorPolicy.of(run.networks(iteration))
        log = run_sessions(policy, course.simulator, course.starts, steps=course.steps)
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
        users=course.starts.num_users,
    )

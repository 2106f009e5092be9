"""``noetik evaluate``: a run's policy and its baselines, by every means there is."""

from __future__ import annotations

from noetik_rllib.evaluation.cloning import CloningConfig, behaviour_cloning
from noetik_rllib.evaluation.comparison import (
    DEFAULT_SEEDS,
    DEFAULT_USERS,
    Progress,
    compare,
    prepare_course,
)
from noetik_rllib.evaluation.policies import ActorPolicy, Policy, RandomPolicy, popularity
from noetik_rllib.evaluation.result import EvaluationResult
from noetik_rllib.runs import Run

#: Shares of the time: fitting the judge's user model and training behaviour cloning end here.
_JUDGE_DONE, _CLONING_DONE = 0.1, 0.6


def evaluate(
    run: Run,
    *,
    users: int = DEFAULT_USERS,
    seeds: int = DEFAULT_SEEDS,
    seed: int = 0,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Compare a run's policy with behaviour cloning, popularity and chance.

    Writes the run's ``metrics.json``, and ``baselines/`` on the first call.

    Args:
        run: a finished run.
        users: the most held-out users; all where there are fewer.
        seeds: sessions of each, with the seeds ``seed``, ``seed`` + 1 ...
        seed: of the judge's model and the users, and the first of the sessions.
        progress: called with what is being done and the share that is done.

    Raises:
        UserError: the run's dataset is gone or not the one it was trained on, or a number is
            below 1.
    """
    report = progress or (lambda doing, share: None)
    dataset, networks = run.dataset(), run.networks()
    course = prepare_course(
        dataset,
        users=users,
        seeds=seeds,
        seed=seed,
        progress=lambda share: report("fitting the judge's user model", share * _JUDGE_DONE),
    )
    between = _CLONING_DONE - _JUDGE_DONE
    cloned = behaviour_cloning(
        dataset,
        networks.config,
        cloning_effort(run),
        run.directory,
        lambda share: report("training behaviour cloning", _JUDGE_DONE + share * between),
    )
    policies: list[Policy] = [
        ActorPolicy.of(networks),
        cloned,
        popularity(dataset),
        RandomPolicy(dataset.manifest.num_videos, seed),
    ]
    sessions, _ = compare(
        policies,
        course,
        lambda doing, share: report(doing, _CLONING_DONE + share * (1 - _CLONING_DONE)),
    )
    result = EvaluationResult(policy=policies[0].name, reward=course.reward, sessions=sessions)
    result.save(run.directory)
    return result


def cloning_effort(run: Run) -> CloningConfig:
    """Return the run's own effort: gradient steps, rows of each over all learners, step size."""
    config = run.config
    return CloningConfig(
        steps=config.iterations * config.steps_per_iteration,
        batch_size=config.batch_size * max(1, config.num_learners),
        learning_rate=config.actor_lr,
        seed=config.seed,
    )

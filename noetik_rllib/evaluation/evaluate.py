"""``noetik evaluate``: a run's policy and its baselines in the same simulated sessions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.envs.response_fit import fit_response_model
from noetik_rllib.envs.response_quality import assess
from noetik_rllib.envs.simulator import Simulator
from noetik_rllib.envs.starts import load_starts
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.cloning import CloningConfig, behaviour_cloning
from noetik_rllib.evaluation.intervals import Intervals, bootstrap_by_user
from noetik_rllib.evaluation.policies import ActorPolicy, Policy, RandomPolicy, popularity
from noetik_rllib.evaluation.result import METRICS, EvaluationResult, Interval, Judge
from noetik_rllib.evaluation.sessions import SessionLog, SessionStarts, run_sessions
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.runs import Run

#: Called with what is being done and the share of the whole that is done, 0 to 1.
Progress = Callable[[str, float], None]

#: 1,000 users put the interval of the click rate within some 0.01 of its mean.
DEFAULT_USERS = 1_000
DEFAULT_SESSIONS = 2
#: Shares of the time: fitting the judge's user model and training behaviour cloning end here.
_JUDGE_DONE, _CLONING_DONE = 0.1, 0.6


@dataclass(frozen=True)
class Course:
    """What every policy goes through: users, where they start, and how their answers count.

    ``judge`` describes the user model that answers; ``seed`` decides the users' luck and the
    resampling of the intervals.
    """

    simulator: Simulator
    judge: Judge
    starts: SessionStarts
    steps: int
    reward: RewardWeights
    seed: int


def prepare_course(
    dataset: OfflineDataset,
    *,
    users: int = DEFAULT_USERS,
    sessions_per_user: int = DEFAULT_SESSIONS,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Course:
    """Fit the judge's user model and choose the users, all of them held out from training.

    The model is fitted on those users' rows before the split time, the part ``judge`` and their
    random exposures: no policy has seen them, so none can have learnt to exploit its errors.

    Raises:
        UserError: a number is below 1, or no held-out user has an episode in ``test``.
    """
    for name, value in (("users", users), ("sessions", sessions_per_user)):
        if value < 1:
            raise UserError(f"{name} is {value}: expected at least 1")
    if seed < 0:
        raise UserError(f"seed is {seed}: expected 0 or more")
    held_out = dataset.users.user_id[dataset.users.held_out]
    starts = load_starts(dataset, "test", held_out)
    model = fit_response_model(dataset, "judge", seed=seed, progress=progress)
    quality = assess(model, dataset, "test", held_out)
    assert quality is not None  # there are start states, hence rows
    uniform = None
    if dataset.manifest.parts["random"].rows:
        uniform = assess(model, dataset, "random", held_out, from_split=True)
    return Course(
        simulator=Simulator.for_dataset(dataset, model),
        judge=Judge(fitted_on=model.record, quality=quality, quality_uniform=uniform),
        starts=SessionStarts.draw(starts, users, sessions_per_user, seed),
        steps=dataset.manifest.episode_steps,
        reward=dataset.manifest.reward,
        seed=seed,
    )


def compare(
    policies: Sequence[Policy], course: Course, progress: Progress | None = None
) -> EvaluationResult:
    """Send policies through the course; the first is ours, the others are what it is held against.

    Args:
        policies: at least one, with different names.
        course: see ``prepare_course``.
        progress: called with the policy and the share of all sessions that is done.
    """
    progress = progress or (lambda doing, share: None)
    values: dict[str, np.ndarray] = {}  # policy -> (U, metrics)
    logs: dict[str, SessionLog] = {}
    for number, policy in enumerate(policies):

        def update(share: float, policy: Policy = policy, number: int = number) -> None:
            progress(f"sessions of {policy.name}", (number + share) / len(policies))

        log = run_sessions(
            policy,
            course.simulator,
            course.starts,
            steps=course.steps,
            seed=course.seed,
            progress=update,
        )
        logs[policy.name] = log
        values[policy.name] = _metrics(log, course)
    ours = policies[0].name
    return EvaluationResult(
        policy=ours,
        policies={
            name: _named(bootstrap_by_user(value, course.seed)) for name, value in values.items()
        },
        differences={
            name: _named(bootstrap_by_user(values[ours] - value, course.seed))
            for name, value in values.items()
            if name != ours
        },
        distinct_videos={name: log.distinct_videos for name, log in logs.items()},
        reward=course.reward,
        logged=_logged(course),
        judge=course.judge,
        users=course.starts.num_users,
        sessions_per_user=course.starts.sessions_per_user,
        steps=course.steps,
        seed=course.seed,
    )


def evaluate(
    run: Run,
    *,
    users: int = DEFAULT_USERS,
    sessions_per_user: int = DEFAULT_SESSIONS,
    seed: int = 0,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Compare a run's policy with behaviour cloning, popularity and chance.

    Writes the run's ``metrics.json``, and ``baselines/`` on the first call.

    Args:
        run: a finished run.
        users: the most held-out users; all where there are fewer.
        sessions_per_user: sessions of each.
        seed: of the judge's model, the users and their luck.
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
        sessions_per_user=sessions_per_user,
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
    result = compare(
        policies,
        course,
        lambda doing, share: report(doing, _CLONING_DONE + share * (1 - _CLONING_DONE)),
    )
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


def _metrics(log: SessionLog, course: Course) -> np.ndarray:
    """Mean per user of each of ``METRICS``, (U, 10): the reward, then the signals."""
    signals = log.by_user(course.starts.sessions_per_user)  # (U, 9)
    return np.concatenate([signals @ course.reward.as_array()[:, None], signals], axis=1)


def _named(intervals: Intervals) -> dict[str, Interval]:
    """Give the metrics (10,) their names."""
    return {
        name: Interval(
            mean=float(intervals.mean[i]),
            low=float(intervals.low[i]),
            high=float(intervals.high[i]),
        )
        for i, name in enumerate(METRICS)
    }


def _logged(course: Course) -> dict[str, float]:
    """Mean of each metric over the held-out users' logged test rows."""
    means = course.judge.quality.logged_mean
    reward = course.reward.as_array() @ np.array([means[name] for name in SIGNALS])
    return {"reward": float(reward), **means}

"""Policies in the same simulated sessions: who gets what, and by how much they differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.envs.dynamics import Patience
from noetik_rllib.envs.response_fit import fit_response_model
from noetik_rllib.envs.response_model import ResponseModel
from noetik_rllib.envs.response_quality import ResponseQuality, assess
from noetik_rllib.envs.simulator import Simulator
from noetik_rllib.envs.starts import load_starts
from noetik_rllib.envs.world_users import WorldUsers
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.figures import named
from noetik_rllib.evaluation.intervals import bootstrap_by_user
from noetik_rllib.evaluation.leaving import (
    QUIT_WINDOWS,
    cut_short,
    stays_with_patience,
    stays_with_quit_window,
)
from noetik_rllib.evaluation.policies import Policy
from noetik_rllib.evaluation.result import METRICS, Judge, Leaving, SessionsResult
from noetik_rllib.evaluation.sessions import SessionLog, SessionStarts, run_sessions
from noetik_rllib.offline.dataset import OfflineDataset

#: Called with what is being done and the share of the whole that is done, 0 to 1.
Progress = Callable[[str, float], None]

#: 1,000 users put the interval of the click rate within some 0.01 of its mean.
DEFAULT_USERS = 1_000
#: Sessions of each user, each with a start and luck of its own: enough to see whether a difference
#: holds whatever the seed.
DEFAULT_SEEDS = 5


@dataclass(frozen=True)
class Course:
    """What every policy goes through: users, where they start, and how their answers count.

    ``tags`` (N, 5) are those of the videos.
    """

    simulator: Simulator
    starts: SessionStarts
    steps: int
    reward: RewardWeights
    tags: np.ndarray


@dataclass(frozen=True)
class JudgedCourse(Course):
    """A course whose users answer as ``model`` says; ``judge`` says how good it is."""

    model: ResponseModel
    judge: Judge


def prepare_course(
    dataset: OfflineDataset,
    *,
    users: int = DEFAULT_USERS,
    seeds: int = DEFAULT_SEEDS,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> JudgedCourse:
    """Fit the judge's user model and choose the users, all of them held out from training.

    The model is fitted on those users' rows before the split time, the part ``judge`` and their
    random exposures: no policy has seen them, so none can have learnt to exploit its errors.

    Args:
        dataset: dataset of the run.
        users: the most users.
        seeds: how many sessions of each, with the seeds ``seed``, ``seed`` + 1 ...
        seed: of the judge's model and the users too.
        progress: called with the share that is done, 0 to 1.

    Raises:
        UserError: a number is below 1, or no held-out user has an episode in ``test``.
    """
    starts = held_out_starts(dataset, users, seeds, seed)
    model = fit_response_model(dataset, "judge", seed=seed, progress=progress)
    return judged_course(dataset, model, starts)


def judged_course(
    dataset: OfflineDataset, model: ResponseModel, starts: SessionStarts
) -> JudgedCourse:
    """The course whose judge is ``model``, fitted on the part ``judge``; see ``prepare_course``."""
    held_out = dataset.users.user_id[dataset.users.held_out]
    quality = assess(model, dataset, "test", held_out)
    assert quality is not None  # there are start states, hence rows
    uniform = None
    if dataset.manifest.parts["random"].rows:
        uniform = assess(model, dataset, "random", held_out, from_split=True)
    return JudgedCourse(
        simulator=Simulator.for_dataset(dataset, model),
        starts=starts,
        steps=dataset.manifest.episode_steps,
        reward=dataset.manifest.reward,
        tags=dataset.catalog.tags,
        model=model,
        judge=Judge(
            fitted_on=model.record,
            quality=quality,
            quality_uniform=uniform,
            logged=_logged(quality, dataset.manifest.reward),
        ),
    )


def true_course(world: Path, dataset: OfflineDataset, users: int, seeds: int, seed: int) -> Course:
    """The same course, with the true users of a synthetic world; arguments as ``prepare_course``.

    Raises:
        UserError: as ``prepare_course``, or the dataset was not made from this world.
    """
    return Course(
        simulator=Simulator(WorldUsers.load(world, dataset), dataset.catalog.duration_ms),
        starts=held_out_starts(dataset, users, seeds, seed),
        steps=dataset.manifest.episode_steps,
        reward=dataset.manifest.reward,
        tags=dataset.catalog.tags,
    )


def held_out_starts(dataset: OfflineDataset, users: int, seeds: int, seed: int) -> SessionStarts:
    """Choose held-out users and where their sessions start; arguments as ``prepare_course``.

    Raises:
        UserError: a number is out of range, or no held-out user has an episode in ``test``.
    """
    for name, value in (("users", users), ("seeds", seeds)):
        if value < 1:
            raise UserError(f"{name} is {value}: expected at least 1")
    if seed < 0:
        raise UserError(f"seed is {seed}: expected 0 or more")
    held_out = dataset.users.user_id[dataset.users.held_out]
    starts = load_starts(dataset, "test", held_out)
    return SessionStarts.draw(starts, users, range(seed, seed + seeds))


def compare(
    policies: Sequence[Policy], course: Course, progress: Progress | None = None
) -> tuple[SessionsResult, dict[str, SessionLog]]:
    """Send policies through the course; the first is ours, the others are what it is held against.

    Args:
        policies: at least one, with different names.
        course: see ``prepare_course``.
        progress: called with the policy and the share of all sessions that is done.

    Returns:
        The figures, and each policy's sessions.
    """
    progress = progress or (lambda doing, share: None)
    logs: dict[str, SessionLog] = {}
    for number, policy in enumerate(policies):

        def update(share: float, policy: Policy = policy, number: int = number) -> None:
            progress(f"sessions of {policy.name}", (number + share) / len(policies))

        logs[policy.name] = run_sessions(
            policy, course.simulator, course.starts, steps=course.steps, progress=update
        )
    seed = course.starts.seeds[0]
    values = {name: metrics_by_user(log, course.reward) for name, log in logs.items()}
    ours = policies[0].name
    weights = course.reward.as_array()
    windows = {
        window: _leaving(
            {n: stays_with_quit_window(log, course.tags, window) for n, log in logs.items()},
            logs,
            course,
        )
        for window in QUIT_WINDOWS
    }
    patience = Patience()
    return SessionsResult(
        policies={
            name: named(METRICS, bootstrap_by_user(value, seed)) for name, value in values.items()
        },
        differences={
            name: named(METRICS, bootstrap_by_user(values[ours] - value, seed))
            for name, value in values.items()
            if name != ours
        },
        by_seed={
            name: (log.by_seed() @ weights).mean(axis=0).tolist() for name, log in logs.items()
        },
        patience=_leaving(
            {
                n: stays_with_patience(log, course.starts.user_id, patience)
                for n, log in logs.items()
            },
            logs,
            course,
        ),
        quit_windows=windows,
        order_stability=_stability(
            [
                {name: float(value[:, 0].mean()) for name, value in values.items()},
                *(
                    {name: reward.mean for name, reward in rule.reward.items()}
                    for rule in windows.values()
                ),
            ]
        ),
        distinct_videos={name: log.distinct_videos for name, log in logs.items()},
        users=course.starts.num_users,
        seeds=list(course.starts.seeds),
        steps=course.steps,
    ), logs


def metrics_by_user(log: SessionLog, reward: RewardWeights) -> np.ndarray:
    """Mean per user of each of ``METRICS``, (U, 10): the reward, then the signals."""
    signals = log.by_user()  # (U, 9)
    return np.concatenate([signals @ reward.as_array()[:, None], signals], axis=1)


def _leaving(stays: dict[str, np.ndarray], logs: dict[str, SessionLog], course: Course) -> Leaving:
    """Figures of sessions cut short; ``stays`` (S, T) of each policy as in ``leaving``."""
    seed, weights = course.starts.seeds[0], course.reward.as_array()
    found = {
        name: named(
            ("length", "reward"), bootstrap_by_user(cut_short(log, stays[name], weights), seed)
        )
        for name, log in logs.items()
    }
    reward = {name: figures["reward"] for name, figures in found.items()}
    return Leaving(
        length={name: figures["length"] for name, figures in found.items()},
        reward=reward,
        order=sorted(reward, key=lambda name: -reward[name].mean),
    )


def _stability(rules: list[dict[str, float]]) -> float | None:
    """Lowest Spearman correlation of the policies' rewards under any two rules."""
    names = list(rules[0])
    if len(names) < 2:
        return None
    values = [[rule[name] for name in names] for rule in rules]
    return min(float(spearmanr(a, b)[0]) for a, b in combinations(values, 2))


def _logged(quality: ResponseQuality, reward: RewardWeights) -> dict[str, float]:
    """Mean of each metric over the rows that a model's quality was measured on."""
    means = quality.logged_mean
    weighted = reward.as_array() @ np.array([means[name] for name in SIGNALS])
    return {"reward": float(weighted), **means}

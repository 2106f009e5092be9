"""Simulated sessions and the comparison made of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from noetik_rllib.envs.simulator import FittedUsers, Simulator
from noetik_rllib.envs.starts import load_starts
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.comparison import JudgedCourse, compare, prepare_course
from noetik_rllib.evaluation.policies import (
    FixedPolicy,
    Policy,
    RandomPolicy,
    ScoringPolicy,
)
from noetik_rllib.evaluation.sessions import SessionStarts, run_sessions
from tests.envs.planted import Planted


@pytest.fixture(scope="module")
def course(world: Planted) -> JudgedCourse:
    return prepare_course(world.dataset, users=50, seeds=2)


def constant(scores: np.ndarray) -> FixedPolicy:
    """The same scores in every state."""
    return FixedPolicy("constant", scores)


class Taste(ScoringPolicy):
    """Knows the users' true tastes, and follows them (sign 1) or flouts them (sign -1)."""

    def __init__(self, world: Planted, sign: int, name: str) -> None:
        super().__init__(name, 60)
        self._world, self._sign = world, sign

    def score_all(self, states: np.ndarray, user_id: np.ndarray) -> np.ndarray:
        return self._sign * self._world.taste(user_id).astype(np.float32)


def play(course: JudgedCourse, policy: Policy, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    starts = dataclasses.replace(course.starts, seeds=(seed, seed + 1))
    log = run_sessions(policy, course.simulator, starts, steps=course.steps)
    return log.videos, log.signals


def test_no_video_twice_and_the_best_first(course: JudgedCourse) -> None:
    """A policy would collect one video's reward ten times, or not be greedy."""
    scores = np.random.default_rng(0).random(60)
    videos, signals = play(course, constant(scores))
    assert videos.shape == (100, 10)
    assert signals.shape == (100, 10, 9)
    np.testing.assert_array_equal(videos, np.tile(np.argsort(-scores)[:10], (100, 1)))


def test_all_policies_have_the_same_luck(course: JudgedCourse) -> None:
    """A lucky draw would be taken for a better policy: two that show the same videos must get the
    same answers, and another seed others.
    """
    one, other = play(course, constant(np.arange(60))), play(course, constant(np.arange(60) * 2.0))
    np.testing.assert_array_equal(one[1], other[1])
    assert (play(course, constant(np.arange(60)), seed=1)[1] != one[1]).any()


def test_chunks_change_nothing(course: JudgedCourse, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result would depend on how much memory is used."""
    scores = np.random.default_rng(1).random(60)
    whole = play(course, constant(scores))
    monkeypatch.setattr("noetik_rllib.evaluation.sessions.CHUNK", 7)
    parts = play(course, constant(scores))
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_array_equal(whole[1], parts[1])


def test_only_held_out_users_start_and_from_the_test_part(
    course: JudgedCourse, world: Planted
) -> None:
    """A policy would be judged on users that it was trained on, or in states before the split."""
    users = world.dataset.users
    held_out = users.user_id[users.held_out]
    assert np.isin(course.starts.user_id, held_out).all()
    assert len(np.unique(course.starts.user_id)) == course.starts.num_users == 50
    starts = load_starts(world.dataset, "test", held_out)
    real = {state.tobytes() for state in starts.states}
    assert {state.tobytes() for state in course.starts.states} <= real
    # As many sessions of each, and different ones where the user has them.
    for user in np.unique(course.starts.user_id):
        mine = course.starts.states[course.starts.user_id == user]
        available = len(starts.rows_of(int(user)))
        assert len(mine) == 2
        assert len(np.unique(mine, axis=0)) == min(2, available)


def test_judge_is_fitted_on_the_held_out_users_alone(course: JudgedCourse, world: Planted) -> None:
    """A policy could exploit the very model that it, or its environment, was fitted with."""
    assert isinstance(course.simulator.users, FittedUsers)
    judge = course.simulator.users.model
    users = world.dataset.users
    assert course.judge.fitted_on.part == "judge"
    assert np.isin(judge.network.user_id.numpy(), users.user_id[users.held_out]).all()
    assert course.judge.quality.users == 85


def test_better_policies_score_better(course: JudgedCourse, world: Planted) -> None:
    """The table would mislead: of three policies whose true order is known, following the users'
    tastes beats chance, and chance beats flouting them, with intervals that exclude 0. The true
    click rates are 0.6, 0.2 and 0.1.
    """
    starts = course.starts
    policies = [
        Taste(world, 1, "follows"),
        RandomPolicy(60, seed=0),
        Taste(world, -1, "flouts"),
    ]
    result, _ = compare(policies, course)
    truth = []
    for policy in policies:
        shown = policy.top_k(starts.states, starts.user_id, 1)[:, 0]
        truth.append(world.click(starts.user_id, shown, starts.states).mean())
    assert truth[0] > truth[1] + 0.2 > truth[2] + 0.2
    clicks = [result.policies[policy.name]["click"].mean for policy in policies]
    assert clicks[0] > clicks[1] > clicks[2]
    assert set(result.differences) == {"random", "flouts"}
    assert result.differences["random"]["reward"].low > 0
    assert result.differences["flouts"]["reward"].low > 0
    reverse, _ = compare(policies[::-1], course)
    assert reverse.differences["random"]["reward"].high < 0


def test_result_adds_up(course: JudgedCourse) -> None:
    """A figure of the table would not be the mean of what happened in the sessions."""
    policy = constant(np.random.default_rng(2).random(60))
    result, _ = compare([policy], course)
    videos, signals = play(course, policy)
    metrics = result.policies["constant"]
    assert metrics["click"].mean == pytest.approx(signals[..., 0].mean())
    assert metrics["watch_ratio"].mean == pytest.approx(signals[..., 1].mean(), rel=1e-5)
    assert metrics["reward"].mean == pytest.approx(signals[..., :2].mean(), rel=1e-5)
    for interval in metrics.values():
        assert interval.low <= interval.mean <= interval.high
    assert result.distinct_videos == {"constant": len(np.unique(videos))} == {"constant": 10}
    assert course.judge.logged["reward"] == pytest.approx(
        (course.judge.logged["click"] + course.judge.logged["watch_ratio"]) / 2
    )
    assert (result.users, result.seeds, result.steps) == (50, [0, 1], 10)


def test_progress_reaches_the_end(course: JudgedCourse) -> None:
    """A bar would stand still, run backwards or never fill."""
    seen: list[tuple[str, float]] = []
    compare(
        [constant(np.arange(60)), RandomPolicy(60)],
        course,
        lambda doing, share: seen.append((doing, share)),
    )
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert [doing for doing, _ in seen][-1] == "sessions of random"


def test_a_catalogue_too_small_is_refused(course: JudgedCourse) -> None:
    """A session would have to show a video twice without saying so."""
    with pytest.raises(UserError, match="60 videos: a session of 61 steps"):
        run_sessions(constant(np.arange(60)), course.simulator, course.starts, steps=61)


def test_many_sessions_of_few_starts_take_turns(world: Planted) -> None:
    """A user with two start states would be started three times in one and never in the other."""
    starts = load_starts(world.dataset, "test")
    drawn = SessionStarts.draw(starts, users=10**6, seeds=range(3, 8))
    assert drawn.num_users == len(starts.users)
    for user in starts.users[:20]:
        available = starts.states[starts.rows_of(int(user))]
        mine = drawn.states[drawn.user_id == user]
        _, counts = np.unique(mine, axis=0, return_counts=True)
        if len(np.unique(available, axis=0)) == len(available):
            assert counts.max() - counts.min() <= 1
            assert len(counts) == min(5, len(available))


def test_course_refuses_impossible_numbers(world: Planted) -> None:
    """A mistyped option would end in a traceback or an empty table."""
    for options, message in (
        ({"users": 0}, "users is 0"),
        ({"seeds": -1}, "seeds is -1"),
        ({"seed": -1}, "seed is -1"),
    ):
        with pytest.raises(UserError, match=message):
            prepare_course(world.dataset, **options)


def test_the_simulator_asks_the_model_alone(course: JudgedCourse) -> None:
    """Logged answers would favour the policy that repeats the log."""
    assert isinstance(course.simulator, Simulator)
    step = course.simulator.step(
        course.starts.states,
        course.starts.user_id,
        np.zeros(100, dtype=np.int64),
        np.zeros((100, 7)),
    )
    assert not step.logged.any()
    assert dataclasses.asdict(course.starts)["seeds"] == (0, 1)

"""The true value of a policy: rollouts agree with exact enumeration, and with the logs."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.data.world import PRESETS, SyntheticWorld, WorldConfig
from noetik_rllib.data.world_value import History, policy_value

#: So small that all that can happen in two steps can be written down.
SMALL = WorldConfig(3, 5, 8, 1_000, 100, tag_sets=6, habit=6.0, satiation=3.0, impatience=2.0)
#: Beyond five standard errors: two-sided 6e-7 for one normal comparison.
MAX_Z = 5.0


def leaning(
    user_id: np.ndarray, videos: np.ndarray, clicks: np.ndarray, watch: np.ndarray
) -> np.ndarray:
    """A policy of the user and of the newest event: after a click, rather the same again."""
    score = np.cos(user_id[:, None] + np.arange(SMALL.videos))
    same = videos[:, :1] == np.arange(SMALL.videos)
    score = score + same * (3.0 * clicks[:, :1] - 1.0)
    weight = np.exp(score)
    return weight / weight.sum(axis=1, keepdims=True)


def enumerated(world: SyntheticWorld, patience: bool) -> dict[str, float]:
    """Exact sums over two steps of ``leaning``, averaged over all users."""
    window = world.config.history_window
    total = dict.fromkeys((*SIGNALS, "steps"), 0.0)

    def respond(user: np.ndarray, video: int, past: History) -> dict[str, float]:
        answer = world.response(user, np.array([video]), past.videos, past.clicks)
        return {name: float(value[0]) for name, value in answer.items()}

    def add(probability: float, user: np.ndarray, past: History) -> list[tuple[int, float, float]]:
        """Add a step that happens with this probability; return video, its chance, P(click)."""
        chances = leaning(user, past.videos, past.clicks, past.watch)[0]
        result = []
        total["steps"] += probability / world.config.users
        for video, chance in enumerate(chances):
            answer = respond(user, video, past)
            for name in SIGNALS:
                total[name] += probability * chance * answer[name] / world.config.users
            result.append((video, float(chance), answer["click"]))
        return result

    for number in range(world.config.users):
        user, empty = np.array([number]), History.empty(1, window)
        for (video, chance, click), clicked in product(add(1.0, user, empty), (0, 1)):
            happens = chance * (click if clicked else 1 - click)
            if patience:
                happens *= 1 - float(world.leave_probability(user, np.array([1 - clicked]))[0])
            add(happens, user, empty.after(np.array([video]), np.array([clicked]), np.zeros(1)))
    return total


@pytest.mark.parametrize("patience", [False, True])
def test_two_steps_equal_exact_enumeration(patience: bool) -> None:
    """The "true" value that estimators are judged by would be wrong, or its error understated.
    10 comparisons within five standard errors: error rate below 1e-5.
    """
    world = SyntheticWorld(SMALL)
    exact = enumerated(world, patience)
    value = policy_value(world, leaning, sessions_per_user=2_000, horizon=2, patience=patience)
    assert value.sessions == 6_000
    for name, truth in exact.items():
        slack = 1e-9 + (2e-4 if name == "watch_ratio" else 0)
        error = value.standard_error[name]
        assert abs(value.mean[name] - truth) < MAX_Z * error + slack, name
        assert error < 0.01 * truth + 1e-9, f"{name}: too coarse to test anything"
    reward = 0.5 * value.mean["click"] + 0.5 * value.mean["watch_ratio"]
    assert value.mean["reward"] == pytest.approx(reward)
    assert (value.mean["steps"] == 2) == (not patience)


def test_drawn_videos_and_probabilities_have_the_same_value() -> None:
    """A policy that draws for itself would be judged on other sessions. Error rate 1e-6."""
    world = SyntheticWorld(SMALL)
    rng = np.random.default_rng(5)

    def drawing(*state: np.ndarray) -> np.ndarray:
        chances = leaning(*state)
        return (chances.cumsum(axis=1) < rng.random((len(chances), 1))).sum(axis=1)

    known, drawn = (
        policy_value(world, policy, sessions_per_user=1_000, horizon=4, seed=seed)
        for seed, policy in enumerate((leaning, drawing))
    )
    error = np.hypot(known.standard_error["reward"], drawn.standard_error["reward"])
    assert abs(known.mean["reward"] - drawn.mean["reward"]) < MAX_Z * error
    assert known.standard_error["reward"] < drawn.standard_error["reward"]


def test_stated_error_is_the_spread_of_the_estimate() -> None:
    """Confidence intervals would be too narrow. 30 seeds: error rate below 1e-3."""
    world = SyntheticWorld(SMALL)
    values = [policy_value(world, leaning, horizon=3, seed=seed) for seed in range(30)]
    spread = np.std([value.mean["reward"] for value in values], ddof=1)
    stated = np.sqrt(np.mean([value.standard_error["reward"] ** 2 for value in values]))
    assert 0.6 < spread / stated < 1.5


def test_start_seed_and_users_are_respected() -> None:
    """The value would be that of other users, of no past, or change between runs."""
    world = SyntheticWorld(SMALL)
    users = np.array([2, 0])
    past = History(
        np.tile(np.arange(16) % 5, (2, 1)), np.ones((2, 16), dtype=np.int64), np.ones((2, 16))
    )
    one, again, fresh = (
        policy_value(world, leaning, users=users, start=start, horizon=1)
        for start in (past, past, None)
    )
    assert one == again
    chances = leaning(users, past.videos, past.clicks, past.watch)
    pairs = np.repeat(users, 5), np.tile(np.arange(5), 2)
    rows = np.repeat([0, 1], 5)
    click = world.response(*pairs, past.videos[rows], past.clicks[rows])["click"]
    assert one.mean["click"] == pytest.approx((click * chances.ravel()).sum() / 2)
    assert one.standard_error["click"] == pytest.approx(0.0, abs=1e-12)
    assert one.mean["click"] != pytest.approx(fresh.mean["click"], abs=0.01)


def test_taste_has_more_value_than_popularity() -> None:
    """There would be nothing to gain by a policy in the world that the demo trains on."""
    world = SyntheticWorld(replace(PRESETS["demo"], users=100))
    users = np.arange(world.config.users)
    best = (world.plain_utility(users[:, None], np.arange(500)).argsort(axis=1))[:, -1]
    popular = int(world.log_popularity.argmax())
    taste = policy_value(world, lambda user_id, *_: best[user_id])
    favourite = policy_value(world, lambda user_id, *_: np.full(len(user_id), popular))
    assert taste.mean["reward"] > 1.3 * favourite.mean["reward"]


def test_mistakes_are_refused() -> None:
    """A wrong shape would be broadcast to a wrong value without a word."""
    world = SyntheticWorld(SMALL)
    for policy in (
        lambda user_id, *_: np.zeros((len(user_id), 4)),
        lambda user_id, *_: np.zeros(len(user_id)),
        lambda user_id, *_: np.full((len(user_id), 5), 0.3),
    ):
        with pytest.raises(ValueError, match="expected probabilities"):
            policy_value(world, policy)
    with pytest.raises(ValueError, match="sessions_per_user"):
        policy_value(world, leaning, sessions_per_user=1)
    with pytest.raises(ValueError, match="expected histories"):
        policy_value(world, leaning, start=History.empty(3, 8))

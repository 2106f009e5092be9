"""Policies of a synthetic world: the one that made the log, and the one that knows the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.data.world_config import TABS
from noetik_rllib.envs.simulator import Simulator
from noetik_rllib.envs.starts import load_starts
from noetik_rllib.envs.world_users import WorldUsers
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation import world_policies
from noetik_rllib.evaluation.baselines import GreedyPolicy
from noetik_rllib.evaluation.policies import Policy, RandomPolicy, popularity
from noetik_rllib.evaluation.sessions import SessionStarts, run_sessions
from noetik_rllib.evaluation.world_policies import LoggingPolicy, OraclePolicy
from noetik_rllib.state import CONTEXT_NAMES
from tests.envs.planted import Planted

REWARD = RewardWeights()


@pytest.fixture(scope="module")
def users(world: Planted) -> WorldUsers:
    return WorldUsers(world.world, world.dataset)


@pytest.fixture(scope="module")
def starts(world: Planted) -> SessionStarts:
    return SessionStarts.draw(load_starts(world.dataset, "test"), 150, [0])


def truth(
    users: WorldUsers, states: np.ndarray, user_id: np.ndarray, weights: RewardWeights
) -> np.ndarray:
    """Expected rewards (B, N) from the world's closed form, pair by pair."""
    count = users.num_videos
    row = np.repeat(np.arange(len(states)), count)
    recent, clicks, tab = users.read(states)
    signals = users.world.response(
        user_id[row],
        np.tile(users.video_id, len(states)),
        recent[row],
        clicks[row],
        tab[row],
    )
    rewards = sum(w * signals[name] for w, name in zip(weights.as_array(), SIGNALS, strict=True))
    return np.asarray(rewards).reshape(-1, count)


@pytest.mark.parametrize(
    "weights",
    [REWARD, RewardWeights(click=-1, watch_ratio=0, long_view=2), RewardWeights(like=3, hate=-2)],
    ids=["default", "long views", "reactions"],
)
def test_oracle_scores_are_the_truth(
    users: WorldUsers, starts: SessionStarts, weights: RewardWeights
) -> None:
    """The oracle would not know the truth: on every page of the app, with and without a history,
    its tables must give the closed form.
    """
    states, user_id = starts.states[: 4 * len(TABS)].copy(), starts.user_id[: 4 * len(TABS)]
    context = users.layout.unpack(states).context  # a view
    first = CONTEXT_NAMES.index("tab_0")
    context[:, first : first + len(TABS)] = np.tile(np.eye(len(TABS)), (4, 1))
    states[-10:, users.layout.history] = 0.0  # nothing seen yet
    assert set(users.read(states).tab) == set(range(len(TABS)))
    policy = OraclePolicy(users, weights)
    expected = truth(users, states, user_id, weights)
    assert np.ptp(expected) > 0.3
    np.testing.assert_allclose(policy.score_all(states, user_id), expected, atol=1e-4)
    videos = np.arange(len(states)) % users.num_videos
    np.testing.assert_allclose(
        policy.score(states, user_id, videos), expected[np.arange(len(states)), videos], atol=1e-6
    )


def test_oracle_beats_all_in_truth(
    world: Planted, users: WorldUsers, starts: SessionStarts
) -> None:
    """A gap to an oracle that is none would be reported: of 150 users, in the world's own sessions,
    it must beat greedy on the user model, the log's policy, popularity and chance, each by more
    than three standard errors of the difference.
    """
    simulator = Simulator(users, world.dataset.catalog.duration_ms)

    def value(policy: Policy) -> np.ndarray:
        log = run_sessions(policy, simulator, starts, steps=10)
        return log.by_user() @ REWARD.as_array()

    oracle = value(OraclePolicy(users, REWARD))
    others: list[Policy] = [
        GreedyPolicy(world.model, REWARD),
        LoggingPolicy(users),
        popularity(world.dataset),
        RandomPolicy(users.num_videos),
    ]
    for other in others:
        gain = oracle - value(other)
        assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain)), other.name


def test_log_is_by_the_logging_policy(
    world: Planted, users: WorldUsers, starts: SessionStarts
) -> None:
    """The log's own policy would be another than the one compared with it: 4,000 draws for one user
    must have its probabilities (chi-square of 60 videos, error 1e-4), and the same seed the same.
    """
    count = 4_000
    user_id = np.full(count, starts.user_id[0])
    states = np.tile(starts.states[0], (count, 1))
    nothing = np.empty((count, 0), dtype=np.int64)
    drawn = LoggingPolicy(users, seed=3).recommend(states, user_id, nothing)
    again = LoggingPolicy(users, seed=3).recommend(states, user_id, nothing)
    np.testing.assert_array_equal(drawn, again)
    probability = world.world.standard_policy(user_id[:1])[0, users.video_id]
    seen = np.bincount(drawn, minlength=users.num_videos)
    expected = count * probability
    rare = expected < 5
    seen, expected = (np.append(x[~rare], x[rare].sum()) for x in (seen, expected))
    statistic = ((seen - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    assert statistic < chi2.ppf(1 - 1e-4, len(seen) - 1)
    scores = LoggingPolicy(users).score(
        starts.states, starts.user_id, np.arange(len(starts.user_id)) % users.num_videos
    )
    whole = np.log(world.world.standard_policy(starts.user_id)[:, users.video_id])
    rows = np.arange(len(scores))
    np.testing.assert_allclose(scores, whole[rows, rows % users.num_videos], rtol=1e-5)


def test_catalogues_too_large_are_refused(
    users: WorldUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process would be killed for its memory, without a word."""
    monkeypatch.setattr(world_policies, "MAX_VIDEOS", 59)
    with pytest.raises(UserError, match="has 60, more than 59"):
        OraclePolicy(users, REWARD)

"""Fitted Q evaluation of sessions, against the truth of a synthetic world."""

from __future__ import annotations

import numpy as np
import pytest

from noetik_rllib.data.signals import BINARY_SIGNALS, RewardWeights
from noetik_rllib.envs.simulator import Simulator
from noetik_rllib.envs.starts import load_starts
from noetik_rllib.envs.world_users import WorldUsers
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation import fitted_q as module
from noetik_rllib.evaluation.fitted_q import (
    FittedQResult,
    SessionRows,
    choices,
    describe_logged,
    fitted_q,
    load_session_rows,
    transitions,
)
from noetik_rllib.evaluation.policies import (
    FixedPolicy,
    Policy,
    RandomPolicy,
    ScoringPolicy,
    popularity,
)
from noetik_rllib.evaluation.result import METRICS
from noetik_rllib.evaluation.session_features import SessionFeatures
from noetik_rllib.evaluation.sessions import SessionStarts, run_sessions
from tests.envs.planted import Planted

STEPS = 10
REWARD = RewardWeights()


class RecentTags(ScoringPolicy):
    """Videos with tags of what the user clicked lately, and some noise."""

    def __init__(self, name: str, world: Planted, noise: float) -> None:
        super().__init__(name, 60)
        self._noise, self._rng = noise, np.random.default_rng(0)
        self._layout = world.dataset.layout
        tags = world.dataset.catalog.tags
        alike = (tags[:, None, :, None] == tags[None, :, None]) & (tags >= 0)[:, None, :, None]
        self._alike = alike.any((-1, -2)).astype(np.float32)  # (N, N)

    def score_all(self, states: np.ndarray, user_id: np.ndarray) -> np.ndarray:
        parts = self._layout.unpack(states)
        clicked = parts.feedback[..., BINARY_SIGNALS.index("click")] - 0.5
        weight = np.where(parts.present, clicked, 0).astype(np.float32)
        scores = np.einsum("be,ben->bn", weight, self._alike[parts.video_index])
        return scores + self._noise * self._rng.gumbel(size=scores.shape).astype(np.float32)


@pytest.fixture(scope="module")
def rows(world: Planted) -> SessionRows:
    return load_session_rows(world.dataset)


@pytest.fixture(scope="module")
def policies(world: Planted) -> list[Policy]:
    return [RecentTags("tags", world, 0), RecentTags("noisy", world, 0.7), RandomPolicy(60)]


@pytest.fixture(scope="module")
def result(world: Planted, rows: SessionRows, policies: list[Policy]) -> FittedQResult:
    return fitted_q(policies, world.dataset, world.judge, rows, REWARD, steps=STEPS, seed=0)


def test_estimates_are_near_the_truth_and_ranked_as_it_is(
    world: Planted, rows: SessionRows, policies: list[Policy], result: FittedQResult
) -> None:
    """A policy would be praised for what it does not bring. 240 users leave intervals of some
    0.05 around rewards of 0.2 to 0.5; an error of the interval's half width and 0.05 would be one
    of the method. Coverage is measured on a world a hundred times as large
    (``benchmarks/fitted_q_coverage.py``).
    """
    starts = SessionStarts.draw(load_starts(world.dataset, "test"), 10**6, range(20))
    simulator = Simulator(WorldUsers(world.world, world.dataset), world.dataset.catalog.duration_ms)
    truth, found = [], []
    for policy in policies:
        log = run_sessions(policy, simulator, starts, steps=STEPS)
        truth.append(float(log.signals.mean((0, 1)) @ REWARD.as_array()))
        figures = result.policies[policy.name]
        assert set(figures.metrics) == set(METRICS)
        assert figures.warnings == []
        interval = figures.metrics["reward"]
        found.append(interval.mean)
        half = (interval.high - interval.low) / 2
        assert abs(interval.mean - truth[-1]) < half + 0.05, policy.name
    assert np.argsort(truth).tolist() == np.argsort(found).tolist() == [2, 1, 0]
    assert result.policies["random"].differences["reward"].low > 0
    assert result.policies["tags"].differences == {}
    assert (result.rows, result.users) == (len(rows.videos), len(rows.users))


def test_only_rows_after_the_split_are_fitted_on(world: Planted, rows: SessionRows) -> None:
    """Policies would be judged on answers that they were trained on."""
    expected = 0
    for part in ("test", "random"):
        own = world.dataset.load(part, ("user_id", "time_ms"), users=rows.users)
        late = ~world.dataset.before_split(own["user_id"], own["time_ms"])
        expected += int(late.sum())
        if part == "random":
            assert rows.uniform_rows == late.sum()
    assert len(rows.videos) == expected
    some = load_session_rows(world.dataset, users=rows.users[::2])
    np.testing.assert_array_equal(some.users, rows.users[::2])
    np.testing.assert_array_equal(
        some.videos, rows.of_users(np.arange(len(rows.users))[::2]).videos
    )


def test_next_states_are_those_of_a_session(world: Planted, rows: SessionRows) -> None:
    """What follows would be the log's next request, after hours or on another page."""
    simulator = Simulator(WorldUsers(world.world, world.dataset), world.dataset.catalog.duration_ms)
    before = world.dataset.layout.unpack(rows.states)
    after = world.dataset.layout.unpack(rows.next_states)
    np.testing.assert_array_equal(after.video_index[:, 0], rows.videos)
    np.testing.assert_array_equal(after.video_index[:, 1:], before.video_index[:, :-1])
    # The simulator makes the same state of the same answer.
    some = slice(0, 50)
    uniforms = np.random.default_rng(0).random((50, simulator.users.num_uniforms))
    step = simulator.step(
        rows.states[some], rows.users[rows.user[some]], rows.videos[some], uniforms
    )
    same = (step.signals == rows.signals[some]).all(axis=1)
    assert same.any()
    np.testing.assert_allclose(
        step.next_states[same], rows.next_states[some][same], rtol=1e-5, atol=1e-6
    )


def test_a_session_repeats_no_video() -> None:
    """A policy would be paid ten times for one video."""
    listed = np.array([[4, 2, 7, 1], [4, 2, 7, 1], [4, 2, 7, 1]])
    newest = np.array([[9, 8, 6], [4, 9, 2], [2, 4, 7]])
    np.testing.assert_array_equal(choices(listed, newest), [[4, 4, 4], [2, 2, 7], [4, 7, 1]])


def test_what_is_ahead_adds_up(world: Planted, rows: SessionRows) -> None:
    """The sums would hold a shown video, or more than the session has steps left."""
    features = SessionFeatures(world.judge, world.dataset, 4, selection=True)
    states, user_id = rows.states[:6], rows.users[rows.user[:6]]
    listed = popularity(world.dataset).top_k(states, user_id, 4)
    prospect = features.prospect(states, user_id, listed)
    third, fourth = prospect.expected[:, 2], prospect.expected[:, 3]
    # Step 1 of 4, after the first video and showing the second: the third and fourth are ahead.
    found = features.ahead(prospect, np.zeros(6), listed[:, 1], listed[:, :1])
    np.testing.assert_allclose(found[:, :9], third + fourth, rtol=1e-5)
    # Step 2, showing the third: only one more.
    found = features.ahead(prospect, np.zeros(6), listed[:, 2], listed[:, :2])
    np.testing.assert_allclose(found[:, :9], fourth, rtol=1e-5)
    # Another video is shown, and none of the list before it: its best is ahead.
    other = np.setdiff1d(np.arange(60), listed[0])[:1].repeat(6)
    found = features.ahead(prospect, np.zeros(6), other, np.tile(other, (2, 1)).T)
    np.testing.assert_allclose(found[:, :9], prospect.expected[:, 0], rtol=1e-5)
    # What is expected of a list is what is expected of its pairs.
    pairs = features.pairs(states, user_id, listed[:, 2])
    alone = pairs @ features.prior(15)[: pairs.shape[1]]
    np.testing.assert_allclose(third, alone, rtol=1e-4, atol=1e-5)


def test_missing_support_is_said(
    world: Planted, rows: SessionRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A figure that rests on a handful of answers would look like any other."""
    monkeypatch.setattr(module, "LEAST_EFFECTIVE_ROWS", 1e9)
    policy = FixedPolicy("odd", np.arange(60))
    found = fitted_q([policy], world.dataset, world.judge, rows, REWARD, steps=STEPS, seed=0)
    figures = found.policies["odd"]
    assert figures.metrics == {}
    assert figures.warnings[0].startswith("no estimate for odd: it rests on the answers of")


def test_a_log_of_chosen_videos_alone_is_remarked_on(
    world: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An estimate that takes the platform's taste for the policy's would not say so."""
    monkeypatch.setattr(module, "LEAST_UNIFORM_ROWS", 10**6)
    rows = load_session_rows(world.dataset)
    assert rows.uniform_rows == 0
    features = SessionFeatures(world.judge, world.dataset, STEPS, selection=False)
    described, matched = transitions(
        popularity(world.dataset), features, world.dataset, rows, describe_logged(features, rows)
    )
    assert np.isfinite(described.features).all()
    assert 0 < matched < 1
    found = fitted_q(
        [RandomPolicy(60)], world.dataset, world.judge, rows, REWARD, steps=STEPS, seed=0
    )
    assert "is too high" in found.policies["random"].warnings[-1]


def test_impossible_numbers_are_refused(world: Planted, rows: SessionRows) -> None:
    """A session longer than a history or a catalogue would be evaluated wrongly, or fail oddly."""
    for steps, message in ((18, "need states of 17 past events"), (61, "past events")):
        with pytest.raises(UserError, match=message):
            fitted_q([], world.dataset, world.judge, rows, REWARD, steps=steps, seed=0)
    with pytest.raises(UserError, match="max rows is 1: expected at least"):
        load_session_rows(world.dataset, max_rows=1)


def test_few_rows_are_whole_users(world: Planted) -> None:
    """A user's rows would be cut, or the limit passed."""
    every = load_session_rows(world.dataset)
    some = load_session_rows(world.dataset, max_rows=len(every.videos) // 3, seed=1)
    assert 0.5 * len(every.videos) / 3 < len(some.videos) <= len(every.videos) / 3
    whole = np.bincount(every.user)[np.searchsorted(every.users, some.users)]
    np.testing.assert_array_equal(np.bincount(some.user, minlength=len(some.users)), whole)
    part = every.of_users(np.searchsorted(every.users, some.users))
    np.testing.assert_array_equal(part.states, some.states)
    np.testing.assert_array_equal(part.start_user, some.start_user)

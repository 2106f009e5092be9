"""The simulator: sampling with the right marginals, logged answers, time and next states."""

from __future__ import annotations

import numpy as np
import pytest

from noetik_rllib.data.signals import BINARY_COLUMNS, SIGNALS
from noetik_rllib.envs.logged import LoggedAnswers
from noetik_rllib.envs.response_model import AnswerDistribution
from noetik_rllib.envs.simulator import NUM_UNIFORMS, FittedUsers, Simulator, sample_signals
from noetik_rllib.envs.starts import load_starts
from noetik_rllib.errors import UserError
from noetik_rllib.state import advance
from tests.envs.planted import Planted

CLICK, WATCH, LONG = (SIGNALS.index(name) for name in ("click", "watch_ratio", "long_view"))


def test_marginals_are_the_models() -> None:
    """Simulated users would click, watch or like at another rate than the model says. Nine means of
    200,000 draws within 4.5 standard errors: error below 1e-4 (7e-6 each, two-sided).
    """
    binary = np.array([0.44, 0.31, 0.02, 0.001, 0.003, 0.001, 0.0008, 0.02])
    watch, values = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.01, 0.1, 0.5, 1.0])
    count = 200_000
    answers = AnswerDistribution(np.tile(binary, (count, 1)), np.tile(watch, (count, 1)), values)
    uniforms = np.random.default_rng(0).random((count, NUM_UNIFORMS))
    signals = sample_signals(answers, uniforms)
    expected = answers.expected[0].astype(float)
    variance = np.empty(len(SIGNALS))
    variance[list(BINARY_COLUMNS)] = binary * (1 - binary)
    variance[WATCH] = watch @ values**2 - (watch @ values) ** 2
    error = np.abs(signals.mean(0, dtype=np.float64) - expected)
    assert (error <= 4.5 * np.sqrt(variance / count) + 1e-6).all(), dict(
        zip(SIGNALS, error, strict=True)
    )


def test_click_long_view_and_watch_ratio_go_together() -> None:
    """Long views without a click, or clicks on plays shorter than unclicked ones: KuaiRand's are
    thresholds of one play time.
    """
    count = 10_000
    answers = AnswerDistribution(
        np.tile([0.5, 0.3, *[0.1] * 6], (count, 1)),
        np.tile([0.25] * 4, (count, 1)),
        np.array([0.0, 0.2, 0.6, 1.0]),
    )
    signals = sample_signals(answers, np.random.default_rng(1).random((count, NUM_UNIFORMS)))
    clicked, long = signals[:, CLICK] == 1, signals[:, LONG] == 1
    assert clicked[long].all()
    assert signals[clicked, WATCH].min() >= signals[~clicked, WATCH].max()
    # The others are independent: P(click and like) is the product, 0.05, within 4.5 errors.
    both = (clicked & (signals[:, SIGNALS.index("like")] == 1)).mean()
    assert both == pytest.approx(0.05, abs=4.5 * np.sqrt(0.05 * 0.95 / count))


def test_extreme_uniforms_stay_in_range() -> None:
    """A uniform of exactly 0, or shares that sum to a hair below 1, would index beyond the bins."""
    answers = AnswerDistribution(
        np.array([[0.0] * 8, [1.0] * 8]),
        np.full((2, 3), (1 - 1e-12) / 3),
        np.array([0.0, 0.5, 1.0]),
    )
    lowest = sample_signals(answers, np.zeros((2, NUM_UNIFORMS)))
    highest = sample_signals(answers, np.full((2, NUM_UNIFORMS), 1 - 2**-53))
    assert lowest[:, WATCH].tolist() == [1.0, 1.0]
    assert highest[:, WATCH].tolist() == [0.0, 0.0]
    for signals in (lowest, highest):
        assert signals[0, list(BINARY_COLUMNS)].sum() == 0
        assert signals[1, list(BINARY_COLUMNS)].sum() == 8


def test_logged_pairs_get_the_logged_answer_and_others_the_models(world: Planted) -> None:
    """Replay would not be replay, or would leak into pairs that the log does not hold."""
    dataset = world.dataset
    rows = dataset.load("test", ("user_id", "actions", "obs", *SIGNALS))
    _, first = np.unique(
        rows["user_id"] * dataset.manifest.num_videos + rows["actions"], return_index=True
    )
    logged = LoggedAnswers.load(dataset, ("test",))
    assert len(logged) == len(first)
    simulator = Simulator.for_dataset(dataset, world.model, logged)
    alone = Simulator.for_dataset(dataset, world.model)

    pairs = slice(0, 50)
    users, states = rows["user_id"][pairs], rows["obs"][pairs]
    for videos in (rows["actions"][pairs], np.arange(50) % world.model.num_videos):
        uniforms = np.random.default_rng(0).random((50, NUM_UNIFORMS))
        step = simulator.step(states, users, videos, uniforms)
        model = alone.step(states, users, videos, uniforms)
        assert not model.logged.any()
        for row, (user, video) in enumerate(zip(users, videos, strict=True)):
            same = (rows["user_id"] == user) & (rows["actions"] == video)
            assert step.logged[row] == same.any()
            expected = model.signals[row]
            if same.any():
                expected = [rows[name][np.flatnonzero(same)[0]] for name in SIGNALS]
            np.testing.assert_array_equal(step.signals[row], expected)


def test_the_first_answer_to_a_video_counts() -> None:
    """A second look at a video would answer for the first: the order of the rows must not count."""
    signals = np.zeros((3, 9))
    signals[:, WATCH] = [0.3, 0.1, 0.2]
    logged = LoggedAnswers(
        np.array([7, 7, 8]), np.array([4, 4, 4]), signals, np.array([30, 10, 20]), num_videos=5
    )
    found, answers = logged.find(np.array([8, 7, 9, 7]), np.array([4, 4, 4, 3]))
    assert found.tolist() == [True, True, False, False]
    np.testing.assert_allclose(answers[:, WATCH], [0.2, 0.1])


def test_a_log_without_these_users_is_empty(world: Planted) -> None:
    """An empty log would crash, or answer with another user's answers."""
    logged = LoggedAnswers.load(world.dataset, users=[10**9])
    assert len(logged) == 0
    found, answers = logged.find(np.array([0, 1]), np.array([0, 1]))
    assert not found.any()
    assert answers.shape == (0, 9)


def test_time_passes_as_watched(world: Planted) -> None:
    """The next state's ages and sessions would be wrong: a play lasts its ratio of the duration, or
    of 18 s where the duration is unknown, then one second until the next request.
    """
    starts = load_starts(world.dataset, "test")
    states, users = starts.states[:4], starts.user_id[:4]
    duration_ms = world.dataset.catalog.duration_ms.copy()
    duration_ms[0] = 0
    simulator = Simulator(FittedUsers(world.model), duration_ms)
    videos = np.array([0, 1, 0, 2])
    step = simulator.step(states, users, videos, np.full((4, NUM_UNIFORMS), 0.3))
    full = np.where(duration_ms[videos] > 0, duration_ms[videos], 18_000) / 1000
    seconds = step.signals[:, WATCH] * full + 1
    expected = advance(simulator.layout, states, videos, step.signals, seconds)
    np.testing.assert_array_equal(step.next_states, expected)


def test_a_batch_is_its_rows(world: Planted) -> None:
    """Users in one batch would influence each other."""
    starts = load_starts(world.dataset, "test")
    simulator = Simulator.for_dataset(world.dataset, world.model)
    count = 20
    states, users = starts.states[:count], starts.user_id[:count]
    videos = np.arange(count)
    uniforms = np.random.default_rng(2).random((count, NUM_UNIFORMS))
    batch = simulator.step(states, users, videos, uniforms)
    for row in range(count):
        one = slice(row, row + 1)
        single = simulator.step(states[one], users[one], videos[one], uniforms[one])
        np.testing.assert_array_equal(single.signals, batch.signals[one])
        np.testing.assert_allclose(single.next_states, batch.next_states[one], rtol=1e-6)


def test_starts_are_real_first_states(world: Planted) -> None:
    """Sessions would start in states that no user was ever in at the beginning of an episode."""
    rows = world.dataset.load("test", ("user_id", "t", "obs"))
    starts = load_starts(world.dataset, "test")
    assert len(starts.states) == (rows["t"] == 0).sum()
    user = int(starts.users[3])
    mine = (rows["user_id"] == user) & (rows["t"] == 0)
    np.testing.assert_array_equal(starts.states[starts.rows_of(user)], rows["obs"][mine])
    assert not starts.rows_of(10**9)
    with pytest.raises(UserError, match="no episode of the users"):
        load_starts(world.dataset, "test", [10**9])

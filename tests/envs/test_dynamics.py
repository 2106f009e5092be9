"""Session dynamics: patience, satiation, coming back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from noetik_rllib.envs.dynamics import Patience, Returns, Satiation, unclicked_share
from noetik_rllib.envs.starts import load_starts
from noetik_rllib.envs.vector_env import KuaiRandVectorEnv
from noetik_rllib.state import CONTEXT_NAMES, SESSION_GAP_SECONDS, StateLayout, advance
from tests.envs.planted import Planted

SESSIONS = 200


@pytest.fixture(scope="module")
def options(world: Planted, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options of an environment on the planted world with its fitted model."""
    model = tmp_path_factory.getbasetemp() / "planted" / "train"
    data = world.dataset.directory
    return {"data": data, "response_model": model, "user_model": "model"}


def play(options: dict[str, Any], steps: int = 10) -> tuple[list[Any], KuaiRandVectorEnv]:
    """Random videos for many users; what each step returned."""
    envs = KuaiRandVectorEnv(SESSIONS, options)
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    return [envs.step(rng.integers(60, size=SESSIONS)) for _ in range(steps)], envs


def test_nobody_leaves_unless_asked_for(options: dict[str, Any]) -> None:
    """Episodes would have another length than the user asked for."""
    steps, _ = play(options)
    assert not any(step[2].any() or step[4]["left"].any() for step in steps)
    assert steps[-1][3].all()


def test_sessions_are_as_long_as_asked_for() -> None:
    """Users would leave sooner or later than the logs say, or not more likely when bored."""
    patience = Patience()
    users = np.zeros(3, dtype=np.int64)
    usual = patience.leave_probability(users, np.array([0.0, 0.62, 1.0]))
    assert usual[1] == pytest.approx(1 / 78.7)
    assert usual[0] < usual[1] < usual[2]
    # The odds of a session without a click are e times those of one of clicks alone.
    odds = usual / (1 - usual)
    assert odds[2] / odds[0] == pytest.approx(np.e)


def test_who_leaves_ends_the_episode(options: dict[str, Any]) -> None:
    """Leaving would cost nothing: ``truncated`` would bootstrap a value from after the end. The
    share that leaves after the first video is the asked for, within 4.5 standard errors.
    """
    patience = {"videos_per_session": 4.0, "impatience": 0.0}
    steps, _ = play({**options, "dynamics": {"patience": patience}})
    over = np.zeros(SESSIONS, dtype=bool)
    for number, (_, _, terminated, truncated, info) in enumerate(steps):
        running = ~over
        assert (terminated == info["left"]).all()
        assert not (terminated & truncated).any()
        assert info["_left"].tolist() == running.tolist()
        if number == 0:
            assert terminated.mean() == pytest.approx(0.25, abs=4.5 * np.sqrt(0.1875 / SESSIONS))
        over = terminated | truncated


def test_who_comes_back_begins_a_session_after_a_gap(options: dict[str, Any]) -> None:
    """A return would end the episode, or the state would not show that time went by."""
    dynamics = {"patience": {"videos_per_session": 4.0}, "returns": True}
    steps, envs = play({**options, "dynamics": dynamics})
    layout = envs.dataset.layout
    gap, session = (
        layout.context.start + CONTEXT_NAMES.index(name)
        for name in ("log_gap_seconds", "log_session_events")
    )
    back = 0
    for states, _, terminated, _, info in steps:
        left = info["left"]
        assert not terminated.any()
        assert (info["elapsed_seconds"][left] >= SESSION_GAP_SECONDS).all()
        assert envs.observation_space.contains(states)
        np.testing.assert_allclose(np.expm1(states[left, gap]), info["elapsed_seconds"][left], 1e-3)
        assert (states[left, session] == 0).all()
        back += left.sum()
    assert back > 100


def test_gaps_are_those_of_the_logs() -> None:
    """Users would come back at other times than KuaiRand's: 54 % of the gaps are below 2 hours."""
    gaps = Returns().gap_seconds((np.arange(100_000) + 0.5) / 100_000)
    assert (gaps >= SESSION_GAP_SECONDS).all()
    assert (gaps < 7_200).mean() == pytest.approx(0.54, abs=0.01)
    assert gaps.mean() / 3600 == pytest.approx(4.7, abs=0.3)


def test_satiation_counts_shared_tags() -> None:
    """Users would tire of what they have not seen, or never."""
    layout, satiation = StateLayout(2), Satiation(strength=1.0, decay=0.5)
    tags = np.array([[1, 2, -1], [2, 3, -1], [4, -1, -1], [-1, -1, -1]])
    empty = np.zeros((1, layout.size), dtype=np.float32)
    nothing, second = np.zeros((1, 9)), np.ones(1)
    one = advance(layout, empty, np.array([0]), nothing, second)
    two = advance(layout, one, np.array([2]), nothing, second)

    def interest(state: np.ndarray, video: int) -> float:
        return float(satiation.interest(layout, state, np.array([video]), tags)[0])

    assert interest(empty, 0) == 1.0
    assert interest(one, 2) == 1.0
    # Weights 1 and 0.5: the newest event is 2/3 of the history, the one before it 1/3.
    assert interest(one, 1) == pytest.approx(np.exp(-2 / 3))
    assert interest(two, 1) == pytest.approx(np.exp(-1 / 3))
    assert interest(two, 2) == pytest.approx(np.exp(-2 / 3))
    third = advance(layout, one, np.array([3]), nothing, second)
    assert interest(third, 3) == 1.0, "videos without a tag share none"


def test_satiated_users_answer_less(options: dict[str, Any]) -> None:
    """The option would change nothing: with eight tags, most histories share one."""
    bored = {**options, "dynamics": {"satiation": {"strength": 3.0}}}
    rewards = [np.mean([step[1] for step in play(one)[0]]) for one in (options, bored)]
    assert rewards[1] < 0.8 * rewards[0]


def test_the_session_alone_decides_on_patience(world: Planted) -> None:
    """Clicks of last week would keep a bored user, or the last answer would not count."""
    layout = world.dataset.layout
    click, none = np.zeros((1, 9)), np.zeros((1, 9))
    click[:, 0] = 1.0
    state = load_starts(world.dataset, "test").states[:1]
    state = advance(layout, state, np.array([1]), click, np.array([SESSION_GAP_SECONDS + 1.0]))
    assert unclicked_share(layout, state, none) == [1.0]
    state = advance(layout, state, np.array([2]), none, np.ones(1))
    assert unclicked_share(layout, state, click) == [0.5]
    state = advance(layout, state, np.array([3]), click, np.ones(1))
    assert unclicked_share(layout, state, click) == pytest.approx([1 / 3])
    # Beyond the history, what it still holds counts.
    for _ in range(20):
        state = advance(layout, state, np.array([3]), click, np.ones(1))
    assert unclicked_share(layout, state, none) == pytest.approx([1 / 17])

"""The value of a policy that chooses among logged candidates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.candidates import CandidateResult, candidate_values
from noetik_rllib.evaluation.policies import FixedPolicy, ScoringPolicy
from noetik_rllib.evaluation.random_log import RandomLog
from noetik_rllib.evaluation.result import METRICS
from noetik_rllib.offline.dataset import OfflineDataset
from tests.envs.planted import Planted
from tests.evaluation.test_off_policy import Taste

#: Signals that are common enough for a figure on some hundreds of sets.
COMMON = ("reward", "click", "watch_ratio", "long_view")


class Recorder(ScoringPolicy):
    """Scores as told, and keeps what it was asked."""

    def __init__(self, scores: np.ndarray) -> None:
        super().__init__("recorder", len(scores))
        self._scores = scores
        self.states: list[np.ndarray] = []
        self.videos: list[np.ndarray] = []

    def score_all(self, states: np.ndarray, user_id: np.ndarray) -> np.ndarray:
        return np.tile(self._scores.astype(np.float32), (len(states), 1))

    def score(self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        self.states.append(states)
        self.videos.append(videos)
        return super().score(states, user_id, videos)


def sets_of(dataset: OfflineDataset, size: int) -> dict[str, np.ndarray]:
    """Form the sets one by one: "states" (S, state size), "videos" (S, K), "signals" (S, K, 9)."""
    found: dict[str, list[np.ndarray]] = {"user": [], "states": [], "videos": [], "signals": []}
    for rows in RandomLog(dataset).batches():
        for user in np.unique(rows.user_id):
            own = np.flatnonzero(rows.user_id == user)
            for first in range(0, len(own) - size + 1, size):
                members = own[first : first + size]
                found["user"].append(user)
                found["states"].append(rows.states[members[0]])
                found["videos"].append(rows.videos[members])
                found["signals"].append(rows.signals[members])
    return {name: np.stack(values) for name, values in found.items()}


def test_the_choice_is_made_before_the_first_answer(world: Planted) -> None:
    """A policy would see answers that are part of its own value, candidates of two users, or rows
    out of their order; or get another answer than that to its choice.
    """
    scores = np.random.default_rng(0).permutation(60).astype(float)
    policy, size = Recorder(scores), 4
    result = candidate_values([policy], world.dataset, candidates=size)
    sets = sets_of(world.dataset, size)
    count = len(sets["states"])
    assert (result.sets, result.candidates) == (count, size)
    assert result.users == len(np.unique(sets["user"]))
    states = np.concatenate(policy.states).reshape(count, size, -1)
    for candidate in range(size):
        np.testing.assert_array_equal(states[:, candidate], sets["states"])
    np.testing.assert_array_equal(
        np.concatenate(policy.videos).reshape(count, size), sets["videos"]
    )
    # A video may be drawn twice; its answers then share the choice, by lot.
    best = scores[sets["videos"]]
    chosen = best == best.max(axis=1, keepdims=True)
    clear = chosen.sum(axis=1) == 1
    click = sets["signals"][..., SIGNALS.index("click")]
    total = result.policies["recorder"]["click"].mean * count
    certain = click[clear][chosen[clear]].sum()
    possible = np.where(chosen, click, 0)[~clear]
    least = np.where(chosen, click, 1)[~clear].min(axis=1).sum()
    assert certain + least - 1e-6 <= total <= certain + possible.max(axis=1).sum() + 1e-6
    assert result.chance["click"].mean == pytest.approx(click.mean(dtype=np.float64))


def test_answers_are_those_that_the_truth_expects(world: Planted) -> None:
    """The value would not be that of the choices: the mean of the answers would differ from what
    the world expects of them by over 4 standard errors (error below 1e-4), or a policy that knows
    the users' tastes would not be told from chance and from one that flouts them.
    """
    taste = Taste(world)
    against = Taste(world)
    against.name = "against"
    against.score_all = lambda states, user_id: -world.taste(user_id).astype(np.float32)  # type: ignore[method-assign]
    result = candidate_values([taste, against], world.dataset, candidates=5)
    sets = sets_of(world.dataset, 5)
    scores = np.stack([world.taste(np.array([user]))[0] for user in sets["user"]])
    values = np.take_along_axis(scores, sets["videos"], axis=1).astype(np.float32)
    clear = (values == values.max(axis=1, keepdims=True)).sum(axis=1) == 1
    assert clear.mean() > 0.5
    assert result.over_chance["taste"]["reward"].low > 0
    assert result.over_chance["against"]["reward"].high < 0
    assert result.differences["against"]["click"].low > 0
    expected = world.click(sets["user"], sets["videos"][:, 0], sets["states"])
    first = sets["signals"][:, 0, SIGNALS.index("click")]
    error = np.sqrt((expected * (1 - expected)).mean() / len(first))
    assert abs(first.mean() - expected.mean()) < 4 * error


def test_ties_are_broken_by_lot(world: Planted) -> None:
    """A policy without an opinion would get another value than chance: that of the first row, which
    the state fits best.
    """
    nothing = FixedPolicy("nothing", np.zeros(60))
    result = candidate_values([nothing], world.dataset, candidates=10, seed=1)
    for metric in COMMON:
        found = result.over_chance["nothing"][metric]
        assert found.low < 0 < found.high
    again = candidate_values([nothing], world.dataset, candidates=10, seed=1)
    assert again == result
    assert candidate_values([nothing], world.dataset, candidates=10, seed=2) != result


def test_the_reward_is_the_one_asked_for(world: Planted) -> None:
    """A sweep's policy would be judged by another reward; or the result not survive its file."""
    policy = FixedPolicy("one", np.arange(60.0))
    weights = RewardWeights(click=1.0, watch_ratio=0.0, long_view=0.5)
    result = candidate_values([policy], world.dataset, candidates=3, reward=weights)
    found = result.policies["one"]
    expected = found["click"].mean + 0.5 * found["long_view"].mean
    assert found["reward"].mean == pytest.approx(expected)
    assert set(found) <= set(METRICS)
    assert CandidateResult.model_validate_json(result.model_dump_json()) == result


def test_what_cannot_be(world: Planted, tiny_dataset: Path) -> None:
    """The user would get no figure and no reason."""
    policy = FixedPolicy("one", np.arange(60.0))
    with pytest.raises(UserError, match="candidates is 1: expected at least 2 to choose from"):
        candidate_values([policy], world.dataset, candidates=1)
    with pytest.raises(UserError, match=r"has 500 uniformly exposed rows .* choose among fewer"):
        candidate_values(
            [FixedPolicy("one", np.arange(80.0))], OfflineDataset(tiny_dataset), candidates=500
        )

"""Ranking of logged candidates, and the additive baseline."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from noetik_rllib.data.signals import RewardWeights
from noetik_rllib.envs.response_quality import grouped_area_under_curve
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation import logged_rows
from noetik_rllib.evaluation.additive import AdditiveBaseline
from noetik_rllib.evaluation.policies import RandomPolicy, popularity
from noetik_rllib.evaluation.ranking import RANKING_METRICS, ranking, user_metrics
from tests.envs.planted import Planted


def metrics(relevant: list[int], scores: list[float]) -> dict[str, float]:
    """Metrics of one user for the outcome click; the other outcome never occurs."""
    both = np.column_stack([relevant, np.zeros(len(relevant))]) > 0
    values = user_metrics(np.full(len(scores), 3), both, np.array(scores))
    assert values.shape == (1, len(RANKING_METRICS))
    return dict(zip(RANKING_METRICS, values[0].tolist(), strict=True))


def test_metrics_of_a_known_order() -> None:
    """A formula would be another than the field's: by hand, places 2, 4 and 7 of 7 are clicked."""
    found = metrics([0, 1, 0, 1, 0, 0, 1], [7, 6, 5, 4, 3, 2, 1])
    assert found["gauc_click"] == pytest.approx((3 + 2 + 0) / 12)
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    assert found["ndcg@5_click"] == pytest.approx((1 / np.log2(3) + 1 / np.log2(5)) / ideal)
    assert found["recall@5_click"] == pytest.approx(2 / 3)
    # Seven candidates are no more than ten: every order has the same recall.
    assert np.isnan(found["recall@10_click"])
    assert np.isnan(found["ndcg@10_click"])
    # Nothing was viewed long: there is nothing to rank.
    assert np.isnan(found["gauc_long_view"])
    assert np.isnan(found["ndcg@5_long_view"])


def test_equal_scores_count_as_in_random_order() -> None:
    """A constant score would be paid for the order of the file: the mean over all orders."""
    relevant, scores = [1, 0, 0, 1, 0, 1], [2.0, 2.0, 2.0, 1.0, 1.0, 1.0]
    found = metrics(relevant, scores)
    orders = [a + b for a in permutations([0, 1, 2]) for b in permutations([3, 4, 5])]
    strict = [
        metrics([relevant[i] for i in order], [6, 5, 4, 3, 2, 1]) for order in map(list, orders)
    ]
    for name in ("gauc_click", "ndcg@5_click", "recall@5_click"):
        assert found[name] == pytest.approx(np.mean([each[name] for each in strict]))


def test_rows_of_users_may_come_in_any_order() -> None:
    """Users would be mixed up where a file does not hold their rows together."""
    rng = np.random.default_rng(0)
    user = rng.integers(20, size=400)
    relevant = rng.random((400, 2)) < 0.4
    scores = rng.normal(size=400).round(1)
    values = user_metrics(user, relevant, scores)
    for place, one in enumerate(np.unique(user)):
        mine = user == one
        alone = user_metrics(user[mine], relevant[mine], scores[mine])
        np.testing.assert_allclose(values[place], alone[0])
    rows = np.bincount(user)
    gauc = np.average(values[:, 0], weights=rows)
    assert gauc == pytest.approx(grouped_area_under_curve(relevant[:, 0], scores, user))


class Truth:
    """The planted users' true tastes."""

    name = "truth"

    def __init__(self, world: Planted) -> None:
        self._world = world

    def score(self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        return self._world.click(user_id, videos, states).astype(np.float32)


@pytest.mark.parametrize("candidates", ["random", "test"])
def test_who_knows_the_users_ranks_better(
    world: Planted, candidates: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table would mislead: the truth beats the additive baseline, and that beats chance, with
    intervals apart. On the random log the truth has a GAUC of some 0.8.
    """
    scorers = [
        RandomPolicy(60),
        popularity(world.dataset),
        AdditiveBaseline(world.dataset, RewardWeights()),
        Truth(world),
    ]
    shares: list[float] = []
    result = ranking(scorers, world.dataset, candidates, 0, shares.append)  # type: ignore[arg-type]
    chance, popular, additive, truth = (s.metrics for s in result.scorers.values())
    assert truth["gauc_click"].low > additive["gauc_click"].high
    assert additive["gauc_click"].low > 0.5
    assert chance["gauc_click"].low < 0.5 < chance["gauc_click"].high
    assert truth["ndcg@5_click"].mean > popular["ndcg@5_click"].mean > 0
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    groups = result.scorers["truth"].by_activity
    assert sum(group.users for group in groups.values()) == result.users
    # Only rows from the split on, and all of them.
    rows = world.dataset.load(candidates, ("user_id", "time_ms"))
    late = ~world.dataset.before_split(rows["user_id"], rows["time_ms"])
    assert result.rows == late.sum()
    # The same in small batches: memory decides nothing.
    monkeypatch.setattr(logged_rows, "BATCH", 1_000)
    fixed = scorers[1:]
    again = ranking(fixed, world.dataset, candidates, 0)  # type: ignore[arg-type]
    assert again.scorers == {name: result.scorers[name] for name in again.scorers}


def test_a_log_without_random_rows_is_named(
    world: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log with no uniform exposure would end in a traceback."""
    monkeypatch.setattr(
        world.dataset, "before_split", lambda user_id, time_ms: np.ones(len(user_id), dtype=bool)
    )
    with pytest.raises(UserError, match="no uniformly exposed row from the split on"):
        ranking([RandomPolicy(60)], world.dataset, "random", 0)


def test_the_additive_baseline_is_the_ridge_solution(world: Planted) -> None:
    """The sweeps would stop short of the minimum: against the normal equations."""
    found = AdditiveBaseline(world.dataset, RewardWeights())
    rows = world.dataset.load("train", ("user_id", "actions", "click", "watch_ratio"))
    target = 0.5 * (rows["click"].astype(np.float64) + rows["watch_ratio"])
    user = np.searchsorted(world.dataset.users.user_id, rows["user_id"])
    size = len(world.dataset.users.user_id)
    design = np.zeros((len(user), size + 61))
    design[:, -1] = 1  # the mean
    design[np.arange(len(user)), user] = 1
    design[np.arange(len(user)), size + rows["actions"]] = 1
    penalty = np.repeat([*found.shrinkage, 0], (size, 60, 1))
    biases = np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ target)
    np.testing.assert_allclose(found.user_bias, biases[:size], atol=2e-5)
    np.testing.assert_allclose(found.video_bias, biases[size:-1], atol=2e-5)
    assert found.mean == pytest.approx(biases[-1], abs=2e-5)
    held_out = world.dataset.users.held_out
    assert (found.user_bias[held_out] == 0).all()

"""What a policy shows to whom."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from noetik_rllib.envs.simulator import Simulator
from noetik_rllib.envs.starts import load_starts
from noetik_rllib.evaluation.exposure import exposure, list_figures, overlap
from noetik_rllib.evaluation.policies import RandomPolicy, popularity
from noetik_rllib.evaluation.sessions import SessionStarts, run_sessions
from tests.envs.planted import Planted

TAGS = np.array([[3, -1], [3, 9], [9, -1], [-1, -1], [-1, -1], [5, 3]])
SHOWN = np.array([10, 5, 0, 3, 2, 0])


def test_figures_of_known_lists() -> None:
    """A formula would be another than the documented one: all by hand."""
    lists = np.array([[0, 1, 2], [0, 3, 4], [0, 1, 5]])
    found = list_figures(lists, np.array([1, 2, 3]), TAGS, SHOWN, seed=0)
    assert (found.lists, found.length, found.distinct_videos) == (3, 3, 6)
    assert found.coverage == 1.0
    # Exposures 3 2 1 1 1 1: mean absolute difference over twice the mean.
    counts = np.array([3, 2, 1, 1, 1, 1])
    assert found.gini == pytest.approx(np.abs(counts[:, None] - counts).mean() / (2 * 9 / 6))
    # Users 1 and 2 share one video of three, 1 and 3 two, 2 and 3 one.
    assert found.overlap == pytest.approx((1 + 2 + 1) / 9)
    # 1 - Jaccard: {3}-{3,9}: 1/2, {3}-{9}: 1, {3,9}-{9}: 1/2; {3}-none twice: 1; {3}-{5,3}: 1/2,
    # {3,9}-{5,3}: 2/3, {3}-{3,9}: 1/2. Two videos without tags have no similarity.
    assert found.tag_diversity is not None
    assert found.tag_diversity.mean == pytest.approx((2 + 2 + 0.5 + 2 / 3 + 0.5) / 8)
    assert found.novelty.mean == pytest.approx(-np.log2((SHOWN[lists] + 1) / 26).mean())


def test_overlap_is_the_mean_over_pairs_of_users() -> None:
    """Sessions of one user, which are alike anyway, would count, or pairs would be missed."""
    rng = np.random.default_rng(0)
    lists = np.array([rng.permutation(12)[:4] for _ in range(15)])
    user = np.repeat(np.arange(5), 3)
    shares = [
        len(set(lists[a]) & set(lists[b])) / 4
        for a, b in combinations(range(15), 2)
        if user[a] != user[b]
    ]
    assert overlap(lists, user, 5, 12) == pytest.approx(np.mean(shares))
    assert overlap(lists[:3], user[:3], 1, 12) is None


def test_a_policy_that_does_not_personalise_is_seen(world: Planted) -> None:
    """Popularity would look as if it knew its users; chance shows two users 10 of 60 videos each,
    so shares a sixth of them.
    """
    starts = SessionStarts.draw(load_starts(world.dataset, "test"), 60, range(2))
    simulator = Simulator.for_dataset(world.dataset, world.judge)
    results = {}
    for policy in (popularity(world.dataset), RandomPolicy(60)):
        log = run_sessions(policy, simulator, starts, steps=10)
        results[policy.name] = exposure(policy, starts, log, world.dataset, seed=0)
    same, chance = results["popularity"], results["random"]
    assert same.top.overlap == same.sessions.overlap == 1.0
    assert same.top.distinct_videos == same.sessions.distinct_videos == 10
    assert same.top.gini == pytest.approx(1 - 10 / 60)
    assert chance.top.coverage == 1.0
    assert chance.top.overlap == pytest.approx(1 / 6, abs=0.02)
    assert chance.top.novelty.mean > same.top.novelty.high

"""Bootstrap intervals by user."""

from __future__ import annotations

import numpy as np
import pytest

from noetik_rllib.evaluation.intervals import bootstrap_by_user


def test_intervals_cover_the_truth() -> None:
    """Intervals would promise more, or less, than they hold. Click rates of 80 users that differ as
    KuaiRand's do (sd 0.185 around 0.47), 20 videos each, 1,000 times. A 95 % percentile
    interval of 80 users covers some 94.3 %; the band is 3.5 standard errors (0.7 %) around that,
    so chance fails it once in 2,000 seeds, and this seed is fixed.
    """
    rng = np.random.default_rng(0)
    repetitions, users = 1_000, 80
    rate = rng.beta(2.95, 3.33, size=(repetitions, users))
    values = rng.binomial(20, rate) / 20
    truth = 2.95 / (2.95 + 3.33)
    # One call: repetitions are columns, as the metrics of a policy are.
    intervals = bootstrap_by_user(values.T, seed=1)
    covered = (intervals.low <= truth) & (truth <= intervals.high)
    assert intervals.mean.shape == (repetitions,)
    assert 0.918 <= covered.mean() <= 0.968


def test_the_ends_are_those_of_the_normal_limit() -> None:
    """Half the width would not be 1.96 standard errors for many users: the tail or the number of
    repetitions would be wrong. 2,000 repetitions leave each end 3 % of the half width uncertain.
    """
    values = np.random.default_rng(1).normal(3, 2, size=4_000)
    intervals = bootstrap_by_user(values, seed=2)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert intervals.mean == pytest.approx(values.mean())
    assert intervals.high - intervals.mean == pytest.approx(half, rel=0.12)
    assert intervals.mean - intervals.low == pytest.approx(half, rel=0.12)


def test_differences_are_paired() -> None:
    """Two policies that differ by 0.01 on every user would not be told apart."""
    ours = np.random.default_rng(2).random(50)
    baseline = ours - 0.01
    first, second = bootstrap_by_user(ours, seed=3), bootstrap_by_user(baseline, seed=3)
    assert first.low < second.high
    difference = bootstrap_by_user(ours - baseline, seed=3)
    np.testing.assert_allclose([difference.low, difference.high], 0.01)
    # The same users are drawn for both: their ends move together.
    assert first.low - second.low == pytest.approx(0.01)


def test_seed_decides_and_chunks_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same evaluation would print other intervals, or others with another memory."""
    values = np.random.default_rng(4).random((30, 2, 3))
    first = bootstrap_by_user(values, seed=5)
    assert first.low.shape == (2, 3)
    np.testing.assert_array_equal(first.low, bootstrap_by_user(values, seed=5).low)
    assert (first.low != bootstrap_by_user(values, seed=6).low).any()
    monkeypatch.setattr("noetik_rllib.evaluation.intervals._CHUNK_NUMBERS", 700)
    np.testing.assert_allclose(first.low, bootstrap_by_user(values, seed=5).low)


def test_one_user_or_none() -> None:
    """One user has no spread to show; without any there is nothing to report."""
    intervals = bootstrap_by_user(np.array([0.3]), seed=0)
    assert intervals.low == intervals.high == pytest.approx(0.3)
    with pytest.raises(ValueError, match="at least one user"):
        bootstrap_by_user(np.empty((0, 3)), seed=0)

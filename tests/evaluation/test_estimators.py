"""Off-policy estimators as functions of arrays: by hand, by laws, in exact expectation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from noetik_rllib.evaluation.estimators import (
    Terms,
    choose_threshold,
    direct,
    doubly_robust,
    effective_size,
    embedding_weights,
    inverse_propensity,
    occurrences,
    self_normalised,
    switch_doubly_robust,
    variance_by_user,
)

ROWS = 12
positive = arrays(float, ROWS, elements=st.floats(0.05, 20))
shares = arrays(float, (ROWS, 2), elements=st.floats(0, 1))


def test_by_hand() -> None:
    """A formula would be another one. Three rows, weights 0, 2 and 4; figures worked out on paper:
    IPS (0 + 2 x 1 + 4 x 0.5) / 3 and (2 x 0 + 4 x 1) / 3; SNIPS the same over 6; DM the mean of q;
    DR adds (2 (1 - 0.6) + 4 (0.5 - 0.7)) / 3 = 0 and (2 (0 - 0.1) + 4 (1 - 0.5)) / 3 = 0.6 to DM;
    switch-DR below 3 keeps the first of each alone.
    """
    weights = np.array([0.0, 2.0, 4.0])
    signals = np.array([[1, 1], [1, 0], [0.5, 1]])
    q_logged = np.array([[0.2, 0.2], [0.6, 0.1], [0.7, 0.5]])
    q_policy = np.array([[0.3, 0.0], [0.6, 0.3], [0.6, 0.6]])
    np.testing.assert_allclose(inverse_propensity(weights, signals).value, [4 / 3, 4 / 3])
    np.testing.assert_allclose(self_normalised(weights, signals).value, [4 / 6, 4 / 6])
    np.testing.assert_allclose(direct(q_policy).value, [0.5, 0.3])
    robust = doubly_robust(weights, signals, q_logged, q_policy)
    np.testing.assert_allclose(robust.value, [0.5, 0.9])
    switched = switch_doubly_robust(weights, signals, q_logged, q_policy, threshold=3.0)
    np.testing.assert_allclose(switched.value, [0.5 + 0.8 / 3, 0.3 - 0.2 / 3])


def test_marginal_weights_by_hand() -> None:
    """MIPS would weigh a set of tags by another one's share, or count a set that differs."""
    share = np.array([0.5, 0.2, 0.3])
    weights = embedding_weights(np.array([0, 1, 2, 1]), np.array([0, 1, 1, 0]), share)
    np.testing.assert_allclose(weights, [2, 5, 0, 0])
    signals = np.array([[1.0], [0.4], [1.0], [1.0]])
    assert inverse_propensity(weights, signals).value == pytest.approx((2 * 1 + 5 * 0.4) / 4)


def test_effective_size_by_hand() -> None:
    """The warning would come too late or too early: (1 + 2 + 3)^2 / (1 + 4 + 9) = 36 / 14."""
    assert effective_size(np.array([1.0, 2.0, 3.0])) == pytest.approx(36 / 14)
    assert effective_size(np.array([0.0, 7583.0, 7583.0])) == pytest.approx(2)
    assert effective_size(np.zeros(3)) == 0


def test_occurrences_by_hand() -> None:
    """A signal that was seen on one row only, or missing on one only, would get an interval."""
    values = np.array([[1, 1, 0.5], [0, 1, 0.5], [0, 0, 0.5]], dtype=float)
    np.testing.assert_allclose(occurrences(np.full(3, 9.0), values), [1, 1, 3])


def test_variance_by_user_by_hand() -> None:
    """Switch-DR would be tuned on another variance. Ratio 6 / 4, residuals 2 - 1.5 and 4 - 4.5."""
    assert variance_by_user(np.array([2.0, 4.0]), np.array([1.0, 3.0])) == pytest.approx(0.5 / 16)


def test_the_threshold_weighs_variance_against_bias() -> None:
    """Switch-DR would keep a weight that costs more than it tells, or drop one that costs less."""
    thresholds, variances = np.array([10.0, 0.0]), np.array([0.04, 0.0])
    # Dropping all weights may be wrong by the whole spread of the rewards, 1 or 0.1.
    assert choose_threshold(thresholds, variances, np.array([0.0, 1.0]), spread=1.0) == 10
    assert choose_threshold(thresholds, variances, np.array([0.0, 1.0]), spread=0.1) == 0


@given(positive, shares, st.floats(0.1, 50), st.floats(-3, 3))
def test_self_normalisation(
    weights: np.ndarray, signals: np.ndarray, scale: float, shift: float
) -> None:
    """SNIPS would depend on the scale of the weights, leave the range of the answers, or not follow
    when a constant is added to all of them.
    """
    value = self_normalised(weights, signals).value
    np.testing.assert_allclose(self_normalised(weights * scale, signals).value, value)
    np.testing.assert_allclose(self_normalised(weights, signals + shift).value, value + shift)
    assert (value <= signals.max(0) + 1e-12).all()
    assert (value >= signals.min(0) - 1e-12).all()


@given(positive, shares, shares, shares)
def test_doubly_robust_between_its_parts(
    weights: np.ndarray, signals: np.ndarray, q_logged: np.ndarray, q_policy: np.ndarray
) -> None:
    """DR would correct a model that is exactly right, or not be IPS where the model says nothing;
    switch-DR would not run from the model alone to DR.
    """
    model = direct(q_policy).top
    np.testing.assert_allclose(doubly_robust(weights, signals, signals, q_policy).top, model)
    nothing = np.zeros_like(signals)
    np.testing.assert_allclose(
        doubly_robust(weights, signals, nothing, nothing).top,
        inverse_propensity(weights, signals).top,
    )
    for threshold, expected in (
        (0.0, model),
        (weights.max(), doubly_robust(weights, signals, q_logged, q_policy).top),
    ):
        switched = switch_doubly_robust(weights, signals, q_logged, q_policy, threshold)
        np.testing.assert_allclose(switched.top, expected)


@given(shares)
def test_a_policy_that_is_the_log(signals: np.ndarray) -> None:
    """The log's own policy, whose weights are 1, would not get the mean of the log; and neither
    would a model that knows the answers.
    """
    ones, mean = np.ones(ROWS), signals.mean(axis=0)
    np.testing.assert_allclose(inverse_propensity(ones, signals).value, mean)
    np.testing.assert_allclose(self_normalised(ones, signals).value, mean)
    np.testing.assert_allclose(direct(signals).value, mean)


@given(positive, st.floats(0.1, 50))
def test_effective_size_is_a_number_of_rows(weights: np.ndarray, scale: float) -> None:
    """It would depend on the scale of the weights, or exceed the rows."""
    size = effective_size(weights)
    assert 1 - 1e-9 <= size <= ROWS + 1e-9
    assert effective_size(weights * scale) == pytest.approx(size)


@pytest.mark.parametrize("name", ["ips", "dr", "mips"])
def test_exactly_unbiased(name: str) -> None:
    """The expected estimate would not be the policy's value. Exact, not simulated: each video is
    counted as often as the log shows it, in states with propensities, policy, answers and model
    drawn at random. For MIPS, answers depend on the video through its class alone.
    """
    rng = np.random.default_rng(0)
    states, videos, classes = 5, 6, np.array([0, 0, 1, 1, 1, 2])
    logging = rng.dirichlet(np.ones(videos), states)  # (S, N)
    policy = rng.dirichlet(np.ones(videos), states)
    truth = rng.random((states, 3))[:, classes] if name == "mips" else rng.random((states, videos))
    model = rng.random((states, videos))
    value = (policy * truth).sum(axis=1).mean()
    # (S, N) -> (S * N,): a row for each state and video
    weights = (policy / logging).reshape(-1)
    answers, q_logged = truth.reshape(-1, 1), model.reshape(-1, 1)
    q_policy = np.repeat((policy * model).sum(axis=1), videos)[:, None]
    terms: Terms
    if name == "dr":
        terms = doubly_robust(weights, answers, q_logged, q_policy)
    elif name == "mips":
        of_class = np.eye(3)[classes]  # (N, 3)
        marginal = (policy @ of_class) / (logging @ of_class)  # (S, 3)
        terms = inverse_propensity(marginal[:, classes].reshape(-1), answers)
    else:
        terms = inverse_propensity(weights, answers)
    expected = (logging.reshape(-1) * terms.top[:, 0]).sum() / states
    assert expected == pytest.approx(value)

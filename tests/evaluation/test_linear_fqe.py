"""Fitted Q evaluation in arrays, on processes whose values are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from noetik_rllib.evaluation.intervals import bootstrap_by_user
from noetik_rllib.evaluation.linear_fqe import Transitions, fit

STATES, ACTIONS, STEPS, SIGNALS = 3, 2, 4, 2


class Chain:
    """A random process of 3 states and 2 actions, the same for all steps, and a policy per step."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.move = rng.dirichlet(np.ones(STATES), size=(STATES, ACTIONS))  # (S, A, S)
        self.answer = rng.random((STATES, ACTIONS, SIGNALS))
        self.policy = rng.integers(ACTIONS, size=(STEPS, STATES))
        self.begin = rng.dirichlet(np.ones(STATES))

    def value(self) -> np.ndarray:
        """True mean of the signals per step under the policy, by dynamic programming."""
        value = np.zeros((STATES, SIGNALS))
        for step in reversed(range(STEPS)):
            action = self.policy[step]
            rows = np.arange(STATES)
            value = self.answer[rows, action] + self.move[rows, action] @ value
        return self.begin @ value / STEPS

    def log(self, users: int, rng: np.random.Generator, rows: int = 12) -> Transitions:
        """Rows of users who were shown anything, whose behaviour differs from user to user."""
        user = np.repeat(np.arange(users), rows)
        state = rng.integers(STATES, size=len(user))
        action = (rng.random(len(user)) < rng.beta(1, 1, users)[user]).astype(int)
        follows = self.move[state, action].cumsum(1)
        after = (rng.random((len(user), 1)) > follows).sum(1)
        signals = (rng.random((len(user), SIGNALS)) < self.answer[state, action]).astype(float)
        first = rng.choice(STATES, p=self.begin, size=users)
        shown = self.policy[1:, after]  # (H - 1, R)
        changes = []
        for step in range(1, STEPS - 1):
            index = np.flatnonzero(shown[step] != shown[step - 1])
            changes.append((index, pair(after[index], shown[step, index])))
        size = 1 + STATES * ACTIONS
        return Transitions(
            user=user,
            signals=signals,
            features=pair(state, action),
            ahead=np.zeros((len(user), STEPS, 1)),
            after=pair(after, shown[0]),
            changes=changes,
            ahead_after=np.zeros((len(user), STEPS - 1, 1)),
            start_user=np.arange(users),
            start=pair(first, self.policy[0, first]),
            start_ahead=np.zeros((users, 1)),
            prior=np.zeros((size + 1, SIGNALS)),
        )


def pair(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """A constant, and one feature for every pair, so that linear is no restriction."""
    features = np.zeros((len(state), 1 + STATES * ACTIONS))
    features[:, 0] = 1
    features[np.arange(len(state)), 1 + state * ACTIONS + action] = 1
    return features


def test_it_finds_the_value_of_a_known_process() -> None:
    """The recursion would stop early, forget a step's policy or miss the start: the truth lies
    within five standard errors (error below 1e-5 for both signals).
    """
    chain = Chain()
    estimate = fit(chain.log(20_000, np.random.default_rng(1)), ridge=1e-6)
    error = estimate.pseudo_values.std(axis=0) / np.sqrt(20_000)
    assert (error < 0.003).all()
    np.testing.assert_array_less(np.abs(estimate.value - chain.value()), 5 * error)
    # It is another policy's value that is not found: the check above can fail.
    other = Chain()
    other.policy = 1 - other.policy
    assert (np.abs(other.value() - chain.value()) > 5 * error).any()


def test_steps_of_their_own_enter() -> None:
    """What is ahead would be read from another step. With the true value to go as the one feature
    of each step, and no ridge, the estimate needs no other.
    """
    chain, rng = Chain(3), np.random.default_rng(4)
    rows = chain.log(5_000, rng)
    state_action = rows.features[:, 1:].argmax(1)
    after = [features[:, 1:].argmax(1) for features in (a.copy() for a in rows.after_steps())]
    value = np.zeros(STATES)
    to_go = []  # of steps H - 1 .. 0, (S * A,)
    for step in reversed(range(STEPS)):
        q = chain.answer[..., 0] + chain.move @ value  # (S, A)
        to_go.append(q.ravel())
        value = q[np.arange(STATES), chain.policy[step]]
    to_go = to_go[::-1]
    ones = np.ones((len(rows.user), 1))
    described = replace(
        rows,
        features=ones,
        after=ones,
        changes=[(np.zeros(0, int), np.zeros((0, 1)))] * (STEPS - 2),
        ahead=np.stack([to_go[t][state_action] for t in range(STEPS)], axis=1)[..., None],
        ahead_after=np.stack([to_go[t][after[t - 1]] for t in range(1, STEPS)], axis=1)[..., None],
        start=np.ones((len(rows.start), 1)),
        start_ahead=to_go[0][rows.start[:, 1:].argmax(1)][:, None],
        signals=rows.signals[:, :1],
        prior=np.array([[0.0], [1.0]]),
    )
    estimate = fit(described, ridge=1.0)
    error = estimate.pseudo_values.std(axis=0) / np.sqrt(5_000)
    assert abs(estimate.value[0] - chain.value()[0]) < 5 * error[0]
    # With a ridge that nothing overcomes, Q is the prior, which is the truth here.
    drawn = fit(described, ridge=1e12)
    assert drawn.value[0] == pytest.approx(described.start_ahead.mean() / STEPS, abs=2e-3)


def test_pseudo_values_are_the_derivative() -> None:
    """Intervals would be those of something else: against finite differences, in which a user's
    rows and starts count for a thousandth more. A fit without a user, whose residuals are used,
    differs from the whole one by some 7 features in 300 users.
    """
    users = 300
    rows = Chain(1).log(users, np.random.default_rng(2))
    whole = fit(rows, ridge=0.5)
    np.testing.assert_allclose(whole.pseudo_values.mean(axis=0), whole.value)
    plain, derivative = weighted(rows, np.ones(users), 0.5), []
    for user in range(users):
        share = np.where(np.arange(users) == user, 1.001, 1.0)
        derivative.append((weighted(rows, share, 0.5) - plain) / 0.001)
    expected = users * np.array(derivative)
    found = whole.pseudo_values - whole.value
    for mine, true in zip(found.T, (expected - expected.mean(axis=0)).T, strict=True):
        assert np.corrcoef(mine, true)[0, 1] > 0.999
        # Wider, by no more than the features that a user can bend to themselves.
        assert 1.0 < mine.std() / true.std() < 1.06


def test_one_step_is_the_jackknife() -> None:
    """Intervals would be too narrow where users are few: with one step, a user's pseudo-value is
    exactly what the estimate loses without the user's rows.
    """
    rows = Chain(1).log(12, np.random.default_rng(2))
    rows = replace(rows, ahead=rows.ahead[:, :1], ahead_after=rows.ahead_after[:, :0], changes=[])
    everybody = np.tile(rows.start.mean(axis=0), (12, 1))  # the starts do not differ
    rows = replace(rows, start=everybody)
    whole = fit(rows, ridge=0.5)
    lost = []
    for user in range(12):
        kept = rows.user != user
        lost.append(whole.value - fit_one_step(rows, kept))
    expected = 12 * np.array(lost)
    expected -= expected.mean(axis=0)
    np.testing.assert_allclose(whole.pseudo_values - whole.value, expected, atol=1e-8)


def fit_one_step(rows: Transitions, kept: np.ndarray) -> np.ndarray:
    """Value of the first step alone, from some rows."""
    features = rows.features[kept]
    penalty = np.full(features.shape[1], 0.5)
    penalty[0] = 0
    sums = features.T @ rows.signals[kept]
    return rows.start[0] @ np.linalg.solve(features.T @ features + np.diag(penalty), sums)


def weighted(rows: Transitions, share: np.ndarray, ridge: float) -> np.ndarray:
    """Refit with the users' rows weighted by ``share`` (U,)."""
    root = np.sqrt(share)[rows.user]
    gram = rows.features.T * share[rows.user] @ rows.features
    penalty = np.full(len(gram), ridge)
    penalty[0] = 0
    after = [values.copy() for values in rows.after_steps()]
    weights = np.zeros((len(gram), SIGNALS))
    for step in reversed(range(STEPS)):
        target = rows.signals.copy()
        if step + 1 < STEPS:
            target += after[step] @ weights
        scored = (rows.features * root[:, None]).T @ (target * root[:, None])
        weights = np.linalg.solve(gram + np.diag(penalty), scored)
    return (share[:, None] * (rows.start @ weights)).sum(0) / share.sum() / STEPS


def test_intervals_cover_and_policies_are_ranked() -> None:
    """Intervals would promise more than they hold. 300 logs of 100 users: 95 % intervals of a
    smooth function of 100 users cover some 94 %; the band is 3.5 standard errors (1.4 %) around
    that, so chance fails it once in 2,000 seeds, and this seed is fixed.
    """
    chain, rng = Chain(2), np.random.default_rng(5)
    truth, covered = chain.value(), []
    for _ in range(300):
        estimate = fit(chain.log(100, rng), ridge=0.1)
        ends = bootstrap_by_user(estimate.pseudo_values, seed=0, repetitions=500)
        covered.append((ends.low <= truth) & (truth <= ends.high))
    assert np.all(np.abs(np.mean(covered, axis=0) - 0.94) <= 0.048)


def test_weights_are_those_of_the_answers() -> None:
    """Effective rows would count something else: without a ridge the value is the sum of the
    answers times their weights.
    """
    rows = Chain(1).log(200, np.random.default_rng(6))
    estimate = fit(rows, ridge=1e-9)
    np.testing.assert_allclose(estimate.weights @ rows.signals, estimate.value, rtol=1e-5)
    assert 100 < estimate.support.effective_rows < len(rows.user)
    alone = estimate.weights.sum() ** 2 / (estimate.weights**2).sum()
    assert estimate.support.effective_rows == pytest.approx(alone)


def test_users_can_be_taken_out() -> None:
    """A group's estimate would hold others' rows."""
    chain = Chain(1)
    rows = chain.log(40, np.random.default_rng(7))
    own = np.array([3, 8, 21])
    part = rows.of_users(own)
    np.testing.assert_array_equal(part.signals, rows.signals[np.isin(rows.user, own)])
    np.testing.assert_array_equal(part.user, np.repeat([0, 1, 2], 12))
    np.testing.assert_array_equal(part.start, rows.start[own])
    for mine, every in zip(part.after_steps(), rows.after_steps(), strict=True):
        np.testing.assert_array_equal(mine, every[np.isin(rows.user, own)])

r"""Fitted Q evaluation with linear functions, for sessions of a fixed number of steps, in arrays.

With rows :math:`(s_i, a_i, x_i, s'_i)` and features :math:`\phi_h`, the value of a video a in s and
of the h - 1 videos of a policy :math:`\pi` after it is fitted backwards (Le, Voloshin and Yue 2019,
"Batch Policy Learning under Constraints"; with linear functions Duan, Jia and Wang 2020,
"Minimax-Optimal Off-Policy Evaluation with Linear Function Approximation"):

.. math:: w_h = A_h^{-1} \sum_i \phi_{h,i} (x_i + \phi_{h-1}(s'_i, \pi_t(s'_i))^T w_{h-1}), \quad
          A_h = \sum_i \phi_{h,i} \phi_{h,i}^T + \lambda I, \quad w_0 = 0

for all signals at once, where the ridge draws w towards coefficients of a prior instead of 0.
:math:`\pi_t` is the policy at step t = H - h + 1 of a session: it does not repeat what the session
has shown, the t newest events of the history. The value of a session is :math:`\mu^T w_H`, with
:math:`\mu` the mean of :math:`\phi_H(s, \pi_0(s))` over start states.

The estimate is a smooth function of sums over users, so its derivative with respect to a user's
weight is exact and cheap, by one recursion backwards:

.. math:: \lambda_H = \mu, \quad
          \lambda_{h-1} = \sum_i \phi_{h-1}(s'_i, \pi_t(s'_i)) \rho_{h,i}, \quad
          \rho_{h,i} = \phi_{h,i}^T A_h^{-1} \lambda_h

:math:`\sum_h \rho_{h,i}` is the weight of row i's answer in the estimate, an estimated ratio of
densities: without a ridge the value is the weighted sum of the answers. A user's rows enter the
derivative by their residuals under a fit without them. Per-user pseudo-values (the estimate plus U
times the derivative) are then bootstrapped like any mean over users: the linearised form of the
bootstrap of Hao et al. 2021, "Bootstrapping Fitted Q-Evaluation for Off-Policy Inference", without
a refit per resample.

Shapes: R rows, M signals, U users, S start states, H steps, p features that are the same for every
h, q that are not, P = p + q.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from noetik_rllib.evaluation.figures import sums_by_user


@dataclass(frozen=True)
class Transitions:
    """Features of logged rows, of what the policy would show after them, and of session starts.

    Attributes:
        user: of each row, (R,) in 0..U-1.
        signals: answers, (R, M).
        features: of the logged pairs, (R, p), the first of them 1.
        ahead: those that depend on the step, 0 to H - 1, (R, H, q).
        after: features of each next state and the policy's video there at step 1, (R, p).
        changes: for steps 2 to H - 1, the rows whose video differs from that of the step before,
            (n,), and its features, (n, p).
        ahead_after: of the next states and the policy's videos at steps 1 to H - 1, (R, H - 1, q).
        start_user: of each start state, (S,) in 0..U-1.
        start, start_ahead: of each start state and the policy's first video, (S, p) and (S, q).
        prior: coefficients that Q is drawn towards, (p + q, M).
    """

    user: np.ndarray
    signals: np.ndarray
    features: np.ndarray
    ahead: np.ndarray
    after: np.ndarray
    changes: list[tuple[np.ndarray, np.ndarray]]
    ahead_after: np.ndarray
    start_user: np.ndarray
    start: np.ndarray
    start_ahead: np.ndarray
    prior: np.ndarray

    @property
    def horizon(self) -> int:
        """Steps of a session, H."""
        return self.ahead.shape[1]

    def of_users(self, places: np.ndarray) -> Transitions:
        """Return the rows and starts of some users (u,), who become 0..u-1 in ascending order."""
        places = np.sort(places)
        rows = np.flatnonzero(np.isin(self.user, places))
        starts = np.isin(self.start_user, places)
        place = np.full(len(self.user), -1)
        place[rows] = np.arange(len(rows))
        changes = []
        for index, features in self.changes:
            own = place[index] >= 0
            changes.append((place[index[own]], features[own]))
        return replace(
            self,
            user=np.searchsorted(places, self.user[rows]),
            signals=self.signals[rows],
            features=self.features[rows],
            ahead=self.ahead[rows],
            after=self.after[rows],
            changes=changes,
            ahead_after=self.ahead_after[rows],
            start_user=np.searchsorted(places, self.start_user[starts]),
            start=self.start[starts],
            start_ahead=self.start_ahead[starts],
        )

    def after_steps(self) -> Iterator[np.ndarray]:
        """Yield ``after`` at steps 1 to H - 1, each (R, p), overwritten by the next."""
        current = self.after.copy()
        yield current
        for index, features in self.changes:
            current[index] = features
            yield current


@dataclass(frozen=True)
class Support:
    """What an estimate rests on; see ``FittedQFigures``."""

    effective_rows: float
    leverage: float
    beyond: float


@dataclass(frozen=True)
class Estimate:
    """Value of a policy per step of a session.

    ``value`` (M,). ``pseudo_values`` (U, M): one per user, whose mean is ``value`` and whose spread
    is that of the estimate. ``weights`` (R,): of the rows' answers in it, per step.
    """

    value: np.ndarray
    pseudo_values: np.ndarray
    weights: np.ndarray
    support: Support


@dataclass(frozen=True)
class _Step:
    """Sums over rows at one step.

    ``factor``: of the Gram matrix (P, P). ``forward`` (P, P): of the features times those that
    follow; None at the last step. ``answers`` (P, M): of the features times the signals, and the
    ridge's pull.
    """

    factor: tuple[np.ndarray, bool]
    forward: np.ndarray | None
    answers: np.ndarray


def fit(rows: Transitions, ridge: float) -> Estimate:
    """Estimate the value of a policy.

    Args:
        rows: of U users, each with a start state.
        ridge: lambda: as many rows with a feature of 1 and the prior's answer would weigh as much.
            The coefficient of the first feature is free.
    """
    steps = _sums(rows, ridge)
    weights = _weights(steps)  # of steps 0 .. H - 1, (P, M)
    users = int(rows.start_user.max()) + 1
    start = _start(rows, users)  # (U, P)
    values = start @ weights[0]  # (U, M)
    influence = values - values.mean(axis=0)
    rho = np.zeros((rows.horizon, len(rows.user)))
    adjoint = start.mean(axis=0)
    for t, step in enumerate(steps):
        direction = cho_solve(step.factor, adjoint)
        rho[t] = _dot(rows.features, rows.ahead[:, t], direction)
        if step.forward is not None:
            adjoint = step.forward.T @ direction
    after = rows.after_steps()
    own = _own_rows(rows.user, users)
    for t, step in enumerate(steps):
        residual = rows.signals - _dot(rows.features, rows.ahead[:, t], weights[t])
        if step.forward is not None:
            residual += _dot(next(after), rows.ahead_after[:, t], weights[t + 1])
        features = np.concatenate([rows.features, rows.ahead[:, t]], axis=1)
        residual = _as_if_left_out(residual, features, step.factor, own)
        influence += users * sums_by_user(rho[t][:, None] * residual, rows.user, users)
    # With a ridge the scores of all users add up to its pull, not to 0.
    influence -= influence.mean(axis=0)
    total = rho.sum(axis=0)
    return Estimate(
        value=values.mean(axis=0) / rows.horizon,
        pseudo_values=(values.mean(axis=0) + influence) / rows.horizon,
        weights=total / rows.horizon,
        support=_support(total, rows, steps[0]),
    )


def _sums(rows: Transitions, ridge: float) -> list[_Step]:
    """Sum over the rows, step by step; what is the same for every step is summed once."""
    base, p = rows.features, rows.features.shape[1]
    size = p + rows.ahead.shape[2]
    penalty = np.full(size, ridge)
    penalty[0] = 0.0
    gram = np.empty((size, size))
    gram[:p, :p] = base.T @ base
    after = rows.after_steps()
    result = []
    for t in range(rows.horizon):
        ahead = rows.ahead[:, t]
        gram[:p, p:] = base.T @ ahead
        gram[p:, :p] = gram[:p, p:].T
        gram[p:, p:] = ahead.T @ ahead
        forward = None
        if t + 1 < rows.horizon:
            following = np.concatenate([next(after), rows.ahead_after[:, t]], axis=1)
            forward = np.concatenate([base.T @ following, ahead.T @ following])
        answers = np.concatenate([base.T @ rows.signals, ahead.T @ rows.signals])
        answers = answers + penalty[:, None] * rows.prior
        result.append(_Step(cho_factor(gram + np.diag(penalty)), forward, answers))
    return result


def _own_rows(user: np.ndarray, users: int) -> list[np.ndarray]:
    """Rows of each user, U arrays of places."""
    order = np.argsort(user, kind="stable")
    return np.split(order, np.searchsorted(user[order], np.arange(1, users)))


def _as_if_left_out(
    residual: np.ndarray,
    features: np.ndarray,
    factor: tuple[np.ndarray, bool],
    own: list[np.ndarray],
) -> np.ndarray:
    """Residuals (R, M) of each user's rows under a fit that lacks this user.

    A fit follows the rows that it was made on, so their residuals are too small, and intervals made
    of them too narrow where users are few for the features. With H the part of the hat matrix of a
    user's rows, those of a fit without them are (I - H)^-1 e: the jackknife by clusters ("CR3" of
    Bell and McCaffrey 2002, "Bias Reduction in Standard Errors for Linear Regression with
    Multi-Stage Samples").
    """
    lower = factor if factor[1] else (factor[0].T, True)
    # (P, R): its columns' products are the hat matrix.
    whitened = solve_triangular(lower[0], features.T, lower=True)
    result = np.empty_like(residual)
    for rows in own:
        mine = whitened[:, rows]
        hat = mine.T @ mine
        result[rows] = np.linalg.solve(np.eye(len(rows)) - hat, residual[rows])
    return result


def _weights(steps: list[_Step]) -> list[np.ndarray]:
    """Fit Q backwards: coefficients (P, M) of every step, the first first."""
    weights: list[np.ndarray] = []
    for step in reversed(steps):
        target = step.answers
        if step.forward is not None:
            target = target + step.forward @ weights[-1]
        weights.append(cho_solve(step.factor, target))
    return weights[::-1]


def _dot(base: np.ndarray, ahead: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Products (R, ...) of features, in two parts, and weights (P, ...)."""
    p = base.shape[1]
    return np.asarray(base @ weights[:p] + ahead @ weights[p:])


def _start(rows: Transitions, users: int) -> np.ndarray:
    """Mean features of each user's starts, (U, P)."""
    count = np.bincount(rows.start_user, minlength=users)
    features = np.concatenate([rows.start, rows.start_ahead], axis=1)
    return sums_by_user(features, rows.start_user, users) / count[:, None]


def _support(rho: np.ndarray, rows: Transitions, step: _Step) -> Support:
    """Compare the leverage x' A^-1 x of what would be shown first with that of what was logged."""

    def leverage(base: np.ndarray, ahead: np.ndarray) -> np.ndarray:
        features = np.concatenate([base, ahead], axis=1)
        return np.asarray((features * cho_solve(step.factor, features.T).T).sum(axis=1))

    logged = leverage(rows.features, rows.ahead[:, 0])
    shown = leverage(rows.start, rows.start_ahead)
    return Support(
        effective_rows=float(rho.sum() ** 2 / (rho**2).sum()),
        leverage=float(shown.mean() / logged.mean()),
        beyond=float((shown > np.quantile(logged, 0.99)).mean()),
    )

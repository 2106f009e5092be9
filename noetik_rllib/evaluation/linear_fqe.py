r"""Fitted Q evaluation with linear functions, for sessions of a fixed number of steps, in arrays.

With rows :math:`(s_i, a_i, x_i, s'_i)` and features :math:`\phi`, the value of h more steps of a
policy :math:`\pi` after showing a in s is fitted backwards (Le, Voloshin and Yue 2019, "Batch Policy
Learning under Constraints"; with linear functions Duan, Jia and Wang 2020, "Minimax-Optimal
Off-Policy Evaluation with Linear Function Approximation"):

.. math:: w_h = A^{-1} \sum_i \phi_i (x_i + \phi(s'_i, \pi_t(s'_i))^T w_{h-1}), \quad
          A = \sum_i \phi_i \phi_i^T + \lambda I, \quad w_0 = 0

for all signals at once. :math:`\pi_t` is the policy at step t = H - h + 1 of a session: it does not
repeat what the session has shown, the t newest events of the history. The value of a session is
:math:`\mu^T w_H`, with :math:`\mu` the mean of :math:`\phi(s, \pi_0(s))` over start states.

The estimate is a smooth function of sums over users, so its derivative with respect to a user's
weight is exact and cheap, by one recursion backwards:

.. math:: \lambda_H = \mu, \quad \lambda_{h-1} = B_t^T A^{-1} \lambda_h, \quad
          \rho_{i} = \sum_h \phi_i^T A^{-1} \lambda_h

:math:`\rho_i` is the weight of row i's answer in the estimate, an estimated ratio of densities: the
value is :math:`\sum_i \rho_i x_i`. Per-user pseudo-values (the estimate plus U times the derivative)
are then bootstrapped like any mean over users: the linearised form of the bootstrap of Hao et al.
2021, "Bootstrapping Fitted Q-Evaluation for Off-Policy Inference", without a refit per resample.

Shapes: R rows, p features, M signals, U users, S start states, H steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

#: Rows that multiply at a time.
_CHUNK = 65_536


@dataclass(frozen=True)
class Transitions:
    """Features of logged rows, of what the policy would show after them, and of session starts.

    Attributes:
        user: of each row, (R,) in 0..U-1.
        features: (R, p), the first of them 1.
        signals: answers, (R, M).
        after: features of each next state and the video of step 1 there, (R, p).
        changes: for steps 2 to H - 1, the rows whose video differs from that of the step before,
            (n,), and its features, (n, p).
        start_user: of each start state, (S,) in 0..U-1.
        start: features of each start state and the policy's first video, (S, p).
    """

    user: np.ndarray
    features: np.ndarray
    signals: np.ndarray
    after: np.ndarray
    changes: list[tuple[np.ndarray, np.ndarray]]
    start_user: np.ndarray
    start: np.ndarray

    @property
    def horizon(self) -> int:
        """Steps of a session, H."""
        return len(self.changes) + 2


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


def fit(rows: Transitions, ridge: float) -> Estimate:
    """Estimate the value of a policy.

    Args:
        rows: of U users, each with a start state.
        ridge: lambda, in rows: features are scaled to a mean square of 1, the first is not drawn
            towards 0.
    """
    scale = np.sqrt(np.mean(rows.features.astype(np.float64) ** 2, axis=0))
    scale = np.where(scale > 1e-6, scale, 1.0)
    phi = rows.features / scale
    steps, size = rows.horizon, phi.shape[1]
    penalty = np.full(size, ridge)
    penalty[0] = 0.0
    gram = phi.T @ phi + np.diag(penalty)
    factor = cho_factor(gram)
    answers = phi.T @ rows.signals
    forward = _products(rows, phi, scale)  # of steps 1 .. H - 1, (p, p)
    mean_start, start = _start(rows, scale)
    weights = [np.zeros_like(answers)]  # w_0 .. w_H
    for h in range(1, steps + 1):
        target = answers if h == 1 else answers + forward[steps - h] @ weights[-1]
        weights.append(cho_solve(factor, target))
    value = mean_start @ weights[steps]
    users = len(start)
    share = start @ weights[steps] - value  # of the start states, (U, M)
    influence = share.copy()
    rho = np.zeros(len(phi))
    adjoint = mean_start
    residual_base = rows.signals.astype(np.float64)
    for h in range(steps, 0, -1):
        direction = cho_solve(factor, adjoint)
        of_row = phi @ direction  # (R,)
        rho += of_row
        residual = residual_base - phi @ weights[h]
        if h > 1:
            residual += _next_values(rows, scale, weights[h - 1], steps - h + 1)
            adjoint = forward[steps - h].T @ direction
        scores = of_row[:, None] * residual
        for column in range(scores.shape[1]):
            influence[:, column] += users * np.bincount(
                rows.user, weights=scores[:, column], minlength=users
            )
    # With a ridge the scores of all users add up to its pull, not to 0.
    influence -= influence.mean(axis=0)
    return Estimate(
        value=value / steps,
        pseudo_values=(value + influence) / steps,
        weights=rho / steps,
        support=_support(rho, phi, rows.after / scale, factor),
    )


def _support(
    rho: np.ndarray, phi: np.ndarray, after: np.ndarray, factor: tuple[np.ndarray, bool]
) -> Support:
    """Compare the leverage x' A^-1 x of what would be shown with that of what was logged."""
    logged = (phi * cho_solve(factor, phi.T).T).sum(axis=1)
    shown = (after * cho_solve(factor, after.T).T).sum(axis=1)
    return Support(
        effective_rows=float(rho.sum() ** 2 / (rho**2).sum()),
        leverage=float(shown.mean() / logged.mean()),
        beyond=float((shown > np.quantile(logged, 0.99)).mean()),
    )


def _products(rows: Transitions, phi: np.ndarray, scale: np.ndarray) -> list[np.ndarray]:
    """Sum of features times those that follow, transposed, of steps 1 to H - 1: (p, p) each."""
    product = phi.T @ (rows.after / scale)
    result = [product]
    current = None
    for index, features in rows.changes:
        if current is None and len(index):
            current = rows.after.copy()
        if len(index):
            assert current is not None
            product = product + phi[index].T @ ((features - current[index]) / scale)
            current[index] = features
        result.append(product)
    return result


def _next_values(
    rows: Transitions, scale: np.ndarray, weights: np.ndarray, step: int
) -> np.ndarray:
    """Values (R, M) of the next states under the policy at a step of the session."""
    weights = weights / scale[:, None]
    values = rows.after @ weights
    for index, features in rows.changes[: step - 1]:
        values[index] = features @ weights
    return values


def _start(rows: Transitions, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean features of the starts, (p,), each user the same, and those of each user, (U, p)."""
    users = int(rows.start_user.max()) + 1
    count = np.bincount(rows.start_user, minlength=users)
    columns = [
        np.bincount(rows.start_user, weights=column, minlength=users) for column in rows.start.T
    ]
    start = np.stack(columns, axis=1) / count[:, None] / scale
    return start.mean(axis=0), start

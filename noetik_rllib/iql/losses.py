r"""The losses of implicit Q-learning, for discrete actions: pure functions, without Ray.

Equations are those of Kostrikov, Nair and Levine, "Offline Reinforcement Learning with Implicit
Q-Learning", 2021 (arXiv 2110.06169). With a row :math:`(s, a, r, s')` of the log, twin critics
:math:`Q_1, Q_2`, their targets :math:`\hat Q_1, \hat Q_2` and :math:`\hat Q = \min(\hat Q_1, \hat
Q_2)`:

.. math::

    L_V  &= E[\,|\tau - 1(u < 0)|\, u^2\,], \quad u = \hat Q(s, a) - V(s)            &(5) \\
    L_Q  &= E[\,(r + \gamma V(s') - Q(s, a))^2\,], \quad summed over both critics    &(6) \\
    L_\pi &= -E[\,\min(e^{\beta (\hat Q(s, a) - V(s))}, w_{max}) \log \pi(a | s)\,]  &(7)

No maximum over actions occurs anywhere: the critic needs Q of the logged video and V of the state
only, so its cost does not depend on the size of the catalogue. The loss of the policy is the log
likelihood of the logged video, whose distribution is categorical here and Gaussian in the paper;
nothing else differs for discrete actions.

**Per signal.** The reward is a signed sum of S components (``reward.py``), and Q and V have one
output per component, :math:`Q = \sum_k \text{sign}_k Q_k`. Each :math:`V_k` is regressed on its own
:math:`\hat Q_k` with the expectile weight of the *total*,

.. math:: L_V = E[\,|\tau - 1(u < 0)| \sum_k (\hat Q_k(s, a) - V_k(s))^2\,]

and each :math:`Q_k` on :math:`c_k + \gamma V_k(s')`. A step on these moves every component by the
same weighted share of its error, so the signed sum moves exactly as the scalar IQL's value does
(``tests/iql/test_signal_values.py`` proves it on a table). :math:`\hat Q_k` is that of the critic
whose total is the smaller one, so that the :math:`\hat Q_k` add up to :math:`\hat Q`. With S = 1
these are the equations above.

Shapes: B rows of a batch, 2 critics, S components of the reward.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """Refuse to broadcast: (2, B) against (B,), or (B, 1) against (B,), would train silently."""
    if tuple(tensor.shape) != expected:
        raise ValueError(f"expected {name} of shape {expected}, got {tuple(tensor.shape)}")


def total(values: Tensor, signs: Tensor) -> Tensor:
    """Return the signed sum over components: of Q or V (..., S) and signs (S,), of shape (...)."""
    return values @ signs


def smaller_q(q: Tensor, signs: Tensor) -> Tensor:
    """Return, per row, the components of the critic with the smaller total: (2, B, S) to (B, S).

    The minimum counters the overestimation that a single critic feeds back into its own target
    (Fujimoto et al. 2018; the paper's section 4.3 uses it in both (5) and (7)).
    """
    totals = total(q, signs)  # (2, B)
    return torch.where((totals[0] <= totals[1])[:, None], q[0], q[1])


def expectile_weights(advantage: Tensor, expectile: float) -> Tensor:
    r"""Return :math:`|\tau - 1(u < 0)|` of equation (5) of the rows' total u (B,), of shape (B,).

    Args:
        advantage: total target Q minus total V, without gradient.
        expectile: :math:`\tau`, between 0 and 1.
    """
    return (expectile - (advantage < 0).to(advantage.dtype)).abs()


def expectile_loss(target_q: Tensor, v: Tensor, weights: Tensor) -> Tensor:
    """Return L_V of equation (5), per component, a scalar.

    The minimiser of the total V is the expectile of the total target Q over the log's actions: the
    mean at 0.5, and towards 1 the best action that the log took in that state.

    Args:
        target_q: see ``smaller_q``, (B, S), without gradient.
        v: V of the states, (B, S).
        weights: see ``expectile_weights``, (B,): the same for every component.
    """
    _check_shape("v", v, tuple(target_q.shape))
    _check_shape("weights", weights, (len(v),))
    return (weights * (target_q - v).square().sum(dim=1)).mean()


def td_target(reward: Tensor, terminated: Tensor, next_v: Tensor, gamma: float) -> Tensor:
    r"""Return :math:`c_k + \gamma\, (1 - terminated)\, V_k(s')` of equation (6), of shape (B, S).

    Only a true end stops the bootstrap. Where an episode was merely cut (``truncated``), the user
    goes on, and so does the value.

    Args:
        reward: components of the reward, (B, S).
        terminated: 1.0 where the user left after the row, else 0.0, (B,).
        next_v: V of the next states, (B, S), without gradient.
        gamma: discount per video.
    """
    _check_shape("terminated", terminated, (len(reward),))
    _check_shape("next_v", next_v, tuple(reward.shape))
    return reward + gamma * (1.0 - terminated)[:, None] * next_v


def q_loss(q: Tensor, target: Tensor) -> Tensor:
    """Return L_Q of equation (6), a scalar: mean over rows, sum over critics and components.

    Args:
        q: both critics' Q of the logged videos, (2, B, S).
        target: see ``td_target``, (B, S), without gradient.
    """
    _check_shape("q", q, (2, *target.shape))
    # (2, B, S) - (B, S) -> (2, B, S)
    return (q - target).square().mean(dim=1).sum()


def awr_weights(advantage: Tensor, beta: float, max_weight: float) -> Tensor:
    r"""Return the weights :math:`\min(e^{\beta A}, w_{max})` of equation (7), of shape (B,).

    The cap is the official code's (``actor.py:18``, 100): one row with a wild advantage must not
    outweigh the batch. Where the exponential overflows to infinity, the cap holds as well.

    Args:
        advantage: :math:`A = \hat Q(s, a) - V(s)`, (B,), without gradient.
        beta: inverse temperature; 0 is behaviour cloning.
        max_weight: :math:`w_{max}`.
    """
    return torch.exp(beta * advantage).clamp(max=max_weight)


def actor_loss(log_prob: Tensor, weights: Tensor) -> Tensor:
    """Return L_pi of equation (7), a scalar: weighted cloning of the log.

    Args:
        log_prob: log likelihood of the logged videos, (B,).
        weights: see ``awr_weights``, (B,), without gradient.
    """
    _check_shape("weights", weights, tuple(log_prob.shape))
    return -(weights * log_prob).mean()


def effective_sample_size(weights: Tensor) -> Tensor:
    """Return how many equally weighted rows the weights (B,) are worth (Kish 1965), a scalar.

    It is between 1 and B; 0 where no row is imitated. Near 1, a few rows make the whole gradient:
    lower ``beta``.
    """
    squares = weights.square().sum().clamp(min=torch.finfo(weights.dtype).tiny)
    return weights.sum().square() / squares


@torch.no_grad()
def polyak_update(target: Sequence[Tensor], online: Sequence[Tensor], rate: float) -> None:
    """Move each target parameter by ``rate`` towards the online one, in place.

    ``target <- (1 - rate) target + rate online``, after every gradient step (the paper's
    algorithm 1). Once per call of many steps instead, the target lags
    behind and values hardly grow.
    """
    torch._foreach_lerp_(list(target), list(online), rate)  # one fused pass over all tensors

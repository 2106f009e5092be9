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

Shapes: B rows of a batch, 2 critics.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """Refuse to broadcast: (2, B) against (B,), or (B, 1) against (B,), would train silently."""
    if tuple(tensor.shape) != expected:
        raise ValueError(f"expected {name} of shape {expected}, got {tuple(tensor.shape)}")


def min_q(q: Tensor) -> Tensor:
    """Return the smaller of the critics' values (2, B), of shape (B,).

    The minimum counters the overestimation that a single critic feeds back into its own target
    (Fujimoto et al. 2018; the paper's section 4.3 uses it in both (5) and (7)).
    """
    return q.min(dim=0).values


def expectile_loss(target_q: Tensor, v: Tensor, expectile: float) -> Tensor:
    r"""Return L_V of equation (5), a scalar.

    The minimiser over V is the ``expectile``-expectile of the target Q over the log's actions: the
    mean at 0.5, and towards 1 the best action that the log took in that state.

    Args:
        target_q: the target critics' minimum, (B,), without gradient.
        v: V of the states, (B,).
        expectile: :math:`\tau`, between 0 and 1.
    """
    _check_shape("v", v, tuple(target_q.shape))
    difference = target_q - v  # (B,)
    weight = (expectile - (difference < 0).to(difference.dtype)).abs()  # |tau - 1(u < 0)|
    return (weight * difference.square()).mean()


def td_target(reward: Tensor, terminated: Tensor, next_v: Tensor, gamma: float) -> Tensor:
    r"""Return :math:`r + \gamma\, (1 - terminated)\, V(s')` of equation (6), of shape (B,).

    Only a true end stops the bootstrap. Where an episode was merely cut (``truncated``), the user
    goes on, and so does the value.

    Args:
        reward: (B,).
        terminated: 1.0 where the user left after the row, else 0.0, (B,).
        next_v: V of the next states, (B,), without gradient.
        gamma: discount per video.
    """
    _check_shape("terminated", terminated, tuple(reward.shape))
    _check_shape("next_v", next_v, tuple(reward.shape))
    return reward + gamma * (1.0 - terminated) * next_v


def q_loss(q: Tensor, target: Tensor) -> Tensor:
    """Return L_Q of equation (6), a scalar: the mean over rows, the sum over the two critics.

    Args:
        q: both critics' Q of the logged videos, (2, B).
        target: see ``td_target``, (B,), without gradient.
    """
    _check_shape("q", q, (2, *target.shape))
    # (2, B) - (B,) -> (2, B)
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

    It is between 1 and B. Near 1, a few rows make the whole gradient: lower ``beta``.
    """
    return weights.sum().square() / weights.square().sum()


@torch.no_grad()
def polyak_update(target: Sequence[Tensor], online: Sequence[Tensor], rate: float) -> None:
    """Move each target parameter by ``rate`` towards the online one, in place.

    ``target <- (1 - rate) target + rate online``, after every gradient step (the paper's
    algorithm 1). Once per call of many steps instead, the target lags
    behind and values hardly grow.
    """
    torch._foreach_lerp_(list(target), list(online), rate)  # one fused pass over all tensors

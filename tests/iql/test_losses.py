"""The losses equal the paper's equations, computed again in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from noetik_rllib.iql import losses


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


#: Three components: in favour, against, and one without weight.
SIGNS = np.array([1.0, -1.0, 0.0])


def test_expectile_loss_is_equation_5(rng: np.random.Generator) -> None:
    """Fails if the asymmetry is turned round: V would then follow the worst actions.

    Or if a component is weighed by its own error's sign instead of the total's.
    """
    target_q, v = rng.normal(size=(2, 257, 3))
    u = (target_q - v) @ SIGNS
    expected = np.mean(np.abs(0.7 - (u < 0)) * ((target_q - v) ** 2).sum(axis=1))
    signs = torch.tensor(SIGNS)
    advantage = losses.total(torch.tensor(target_q) - torch.tensor(v), signs)
    weights = losses.expectile_weights(advantage, 0.7)
    got = losses.expectile_loss(torch.tensor(target_q), torch.tensor(v), weights)
    assert got.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.95])
def test_the_minimiser_is_the_expectile(expectile: float) -> None:
    """Fails if minimising over V gives anything but the expectile of a known distribution."""
    q = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    # The expectile e balances: expectile x (1 - e) x 1/3 = (1 - expectile) x e x 2/3.
    expected = expectile / (expectile + 2 * (1 - expectile))
    v = torch.tensor(expected, dtype=torch.float64, requires_grad=True)
    weights = losses.expectile_weights((q - v.detach())[:, 0], expectile)
    losses.expectile_loss(q, v.expand(3, 1), weights).backward()
    assert v.grad is not None
    assert v.grad.item() == pytest.approx(0.0, abs=1e-12)


def test_q_loss_is_equation_6(rng: np.random.Generator) -> None:
    """Fails if an end is bootstrapped over, or a critic or a component is left out of the sum."""
    reward, next_v = rng.normal(size=(2, 64, 3))
    terminated = (rng.random(64) < 0.3).astype(float)
    q = rng.normal(size=(2, 64, 3))
    y = reward + 0.99 * np.where(terminated == 1, 0, next_v.T).T
    expected = sum(np.mean(((q[critic] - y) ** 2).sum(axis=1)) for critic in (0, 1))
    target = losses.td_target(
        torch.tensor(reward), torch.tensor(terminated), torch.tensor(next_v), 0.99
    )
    assert losses.q_loss(torch.tensor(q), target).item() == pytest.approx(expected, abs=1e-5)


def test_the_smaller_critic_counts(rng: np.random.Generator) -> None:
    """Fails if the larger one does: its overestimates would feed themselves.

    Or if components of both critics are mixed: they would not add up to either's total.
    """
    q = rng.normal(size=(2, 64, 3))
    got = losses.smaller_q(torch.tensor(q), torch.tensor(SIGNS)).numpy()
    np.testing.assert_allclose(got @ SIGNS, (q @ SIGNS).min(axis=0), atol=1e-12)
    assert all((got[row] == q[0, row]).all() or (got[row] == q[1, row]).all() for row in range(64))


def test_actor_loss_is_equation_7(rng: np.random.Generator) -> None:
    """Fails if the weight is not capped, overflows, or has the wrong sign or temperature."""
    advantage = np.append(rng.normal(size=62), [5.0, 1e4])
    log_prob = -rng.random(64)
    with np.errstate(over="ignore"):
        weights = np.minimum(np.exp(3.0 * advantage), 100.0)
    got = losses.awr_weights(torch.tensor(advantage), beta=3.0, max_weight=100.0)
    np.testing.assert_allclose(got.numpy(), weights, atol=1e-5)
    loss = losses.actor_loss(torch.tensor(log_prob), got)
    assert loss.item() == pytest.approx(-np.mean(weights * log_prob), abs=1e-5)
    kish = weights.sum() ** 2 / (weights**2).sum()
    assert losses.effective_sample_size(got).item() == pytest.approx(kish, abs=1e-5)


def test_a_batch_without_a_row_to_imitate_is_worth_none() -> None:
    """Fails if a batch of random exposures alone stops a training as diverged, by 0 / 0."""
    assert losses.effective_sample_size(torch.zeros(5)).item() == 0


def test_polyak_update_is_the_moving_average(rng: np.random.Generator) -> None:
    """Fails if the target jumps to the online network, stays, or the online network moves."""
    target, online = rng.normal(size=(2, 5, 3))
    moved, fixed = torch.tensor(target), torch.tensor(online)
    losses.polyak_update([moved], [fixed], 0.005)
    np.testing.assert_allclose(moved.numpy(), 0.995 * target + 0.005 * online, atol=1e-5)
    np.testing.assert_array_equal(fixed.numpy(), online)


def test_losses_refuse_to_broadcast() -> None:
    """Fails if (B, 1) against (B,) trains silently on all B x B pairs."""
    column, row = torch.zeros(4, 1), torch.zeros(4)
    with pytest.raises(ValueError, match=r"expected v of shape \(4, 1\), got \(4,\)"):
        losses.expectile_loss(column, row, row)
    with pytest.raises(ValueError, match="weights"):
        losses.expectile_loss(column, column, column)
    with pytest.raises(ValueError, match="next_v"):
        losses.td_target(column, row, row, 0.99)
    with pytest.raises(ValueError, match="terminated"):
        losses.td_target(column, column, column, 0.99)
    with pytest.raises(ValueError, match="q of shape"):
        losses.q_loss(column, column)
    with pytest.raises(ValueError, match="weights"):
        losses.actor_loss(row, column)

"""Values per signal add up to ordinary IQL's, and probes change nothing of what is learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor

from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.iql import losses
from noetik_rllib.iql.algorithm import DiscreteIQL
from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.reward import RewardDecomposition
from noetik_rllib.iql.signal_head import SignalHead
from noetik_rllib.offline.dataset import OfflineDataset

STATES, ACTIONS, ROWS = 4, 3, 40


class Table:
    """IQL on a table, by gradient descent on the losses, per component or on the plain reward."""

    def __init__(self, rng: np.random.Generator, signs: Tensor) -> None:
        components = len(signs)
        self.signs = signs
        self.v = torch.zeros(STATES, components, dtype=torch.float64, requires_grad=True)
        start = torch.tensor(rng.normal(size=(2, STATES, ACTIONS, components)))
        self.q = start.requires_grad_()
        self.target = start.detach().clone()

    def step(self, rows: dict[str, Tensor], rewards: Tensor, expectile: float) -> None:
        """Take one gradient step of 0.05 on V and Q, then move the target by 0.1."""
        s, a, after = rows["s"], rows["a"], rows["after"]
        target_q = losses.smaller_q(self.target[:, s, a], self.signs)
        advantage = losses.total(target_q - self.v[s].detach(), self.signs)
        v_loss = losses.expectile_loss(
            target_q, self.v[s], losses.expectile_weights(advantage, expectile)
        )
        y = losses.td_target(rewards, rows["end"], self.v[after].detach(), 0.9)
        q_loss = losses.q_loss(self.q[:, s, a], y)
        (v_loss + q_loss).backward()
        with torch.no_grad():
            for table in (self.v, self.q):
                assert table.grad is not None
                table.add_(table.grad, alpha=-0.05)
                table.grad = None
        losses.polyak_update([self.target], [self.q.detach()], 0.1)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), expectile=st.floats(0.05, 0.95))
def test_learning_is_scalar_iql_s(seed: int, expectile: float) -> None:
    """Fails if the signed sum of the components' values ever leaves the path of scalar IQL.

    Both learn by gradient descent on the same rows, the one on three components of either sign,
    the other on their sum; after 100 steps V, both Qs and their target are the same to 1e-9.
    """
    rng = np.random.default_rng(seed)
    signs = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    rows = {
        "s": torch.tensor(rng.integers(STATES, size=ROWS)),
        "a": torch.tensor(rng.integers(ACTIONS, size=ROWS)),
        "after": torch.tensor(rng.integers(STATES, size=ROWS)),
        "end": torch.tensor((rng.random(ROWS) < 0.2).astype(float)),
    }
    rewards = torch.tensor(rng.normal(size=(ROWS, 3)))
    parts, scalar = Table(rng, signs), Table(rng, one)
    scalar.q.data = losses.total(parts.q.data, signs)[..., None]
    scalar.target = losses.total(parts.target, signs)[..., None]
    for _ in range(100):
        parts.step(rows, rewards, expectile)
        scalar.step(rows, losses.total(rewards, signs)[:, None], expectile)
    for left, right in ((parts.v, scalar.v), (parts.q, scalar.q), (parts.target, scalar.target)):
        torch.testing.assert_close(losses.total(left, signs), right[..., 0], atol=1e-9, rtol=0)
    assert scalar.v.abs().max() > 0.1, "nothing was learnt"


def test_components_add_up_to_the_reward(tiny_dataset: Path) -> None:
    """Fails if units, signs or means of the decomposition give another reward than the weights."""
    dataset = OfflineDataset(tiny_dataset)
    columns = dataset.load("train", SIGNALS)
    signals = np.stack([columns[name] for name in SIGNALS], axis=1)
    weights = RewardWeights(click=1.0, like=5.0, hate=-10.0, watch_ratio=0.0)
    reward = signals @ weights.as_array()
    for subtract in (False, True):
        parts = RewardDecomposition.fit(dataset.manifest.signals, weights, subtract_mean=subtract)
        total = parts.components(signals) @ np.array(parts.signs)
        expected = (reward - subtract * reward.mean()) / reward.std()
        np.testing.assert_allclose(total, expected, atol=1e-5)
        assert parts.signs == (1, 0, 0, 1, 0, 0, 0, -1, 0)


def test_a_probe_sends_no_gradient_back() -> None:
    """Fails if a signal without weight shapes the features that the others are read from."""
    torch.manual_seed(0)
    reward = RewardDecomposition(
        names=("click", "like", "hate"), weights=(2.0, 0.0, -3.0), means=(0,) * 3, units=(1,) * 3
    )
    head = SignalHead(4, 8, reward)
    x = torch.randn(5, 4, requires_grad=True)
    values = head(x)
    hidden = head.hidden(x)
    torch.testing.assert_close(values[:, [0, 2]], head.weighted(hidden))
    assert head.probe is not None
    torch.testing.assert_close(values[:, [1]], head.probe(hidden))
    values[:, 1].sum().backward()
    assert x.grad is None or not x.grad.any()
    assert head.probe.linear.weight.grad is not None
    assert head.probe.linear.weight.grad.any()


@pytest.mark.usefixtures("ray_session")
def test_probes_do_not_change_a_run(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if actor, Q or V are other networks after training because of the probes.

    The same run twice, in the second with other answers of the signals that have no weight.
    """
    tiny_config.training(grad_clip=0.5)  # a norm over probes as well would clip otherwise
    trained = []
    for far in (0.0, 1e3):
        algorithm: DiscreteIQL = tiny_config.copy(copy_frozen=False).build_algo()
        reward = algorithm.offline_data.reward
        means = [0.0 if sign else far for sign in reward.signs]
        algorithm.offline_data.reward = reward.model_copy(update={"means": tuple(means)})
        algorithm.train()
        trained.append(algorithm.learner_group.get_weights()[DEFAULT_MODULE_ID])
        algorithm.stop()
    differ = {name for name in trained[0] if not np.array_equal(trained[0][name], trained[1][name])}
    assert differ
    assert all(".probe." in name for name in differ), differ

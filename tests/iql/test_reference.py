"""One step of the learner, computed again in NumPy from what the networks said before it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.shard_iterator import REWARD_COMPONENTS

pytestmark = pytest.mark.usefixtures("ray_session")

#: A signal that counts, one that counts against, and all others without weight.
WEIGHTS = {"click": 1.0, "watch_ratio": 0.0, "like": -2.0}
EXPECTILE, BETA, GAMMA, POLYAK = 0.8, 2.0, 0.9, 0.25


def test_a_step_is_numpys(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if the learner's losses or target differ from the formulas by more than 1e-5.

    The target critics get large random last layers first, so that neither is always the smaller,
    and V a place amid their Q, so that there are advantages of both signs.
    """
    config = tiny_config.offline_data(dataset_num_iters_per_learner=1).training(
        reward_weights=WEIGHTS,
        expectile=EXPECTILE,
        beta=BETA,
        gamma=GAMMA,
        target_polyak=POLYAK,
    )
    algorithm = config.build_algo()
    try:
        module = algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
        generator = torch.Generator().manual_seed(0)
        for head in module.target_q.heads:
            torch.nn.init.normal_(head.weighted.linear.weight, generator=generator)
        (shard,) = algorithm.offline_data.sample(64)
        named = next(shard.iter_torch_batches(batch_size=64))
        batch = {name.split("/")[1]: value for name, value in named.items()}
        with torch.no_grad():
            inputs = module.inputs(batch[Columns.OBS])
            totals = module.target_q(*inputs, batch[Columns.ACTIONS]) @ module.signs  # (2, 64)
            middle = (totals.min(dim=0).values - module.v(*inputs) @ module.signs).median()
            signs_of_v = module.signs[module.weighted]
            module.v.head.weighted.linear.bias += middle * signs_of_v / len(signs_of_v)
        before = copy.deepcopy(module)
        learnt = algorithm.train()["learners"][DEFAULT_MODULE_ID]
    finally:
        algorithm.stop()

    def numbers(tensor: torch.Tensor) -> np.ndarray:
        return np.asarray(tensor.detach(), dtype=np.float64)

    inputs, after = before.inputs(batch[Columns.OBS]), before.inputs(batch[Columns.NEXT_OBS])
    actions = batch[Columns.ACTIONS]
    q, target_q = numbers(before.q(*inputs, actions)), numbers(before.target_q(*inputs, actions))
    v, next_v = numbers(before.v(*inputs)), numbers(before.v(*after))
    logits = numbers(before.actor(*inputs))
    rows = np.arange(64)
    signs = np.array([np.sign(WEIGHTS.get(name, 0.0)) for name in SIGNALS])
    assert sorted(set(signs)) == [-1, 0, 1]

    # The critic with the smaller total, of each row.
    first = target_q[0] @ signs <= target_q[1] @ signs
    assert 0 < first.mean() < 1
    target_q = np.where(first[:, None], target_q[0], target_q[1])
    advantage = (target_q - v) @ signs
    assert 0 < (advantage < 0).mean() < 1
    weight = np.abs(EXPECTILE - (advantage < 0))
    going_on = 1 - numbers(batch[Columns.TERMINATEDS])
    y = numbers(batch[REWARD_COMPONENTS]) + GAMMA * going_on[:, None] * next_v
    v_loss = np.mean(weight[:, None] * (target_q - v) ** 2, axis=0)  # of each signal
    q_loss = np.mean((q - y) ** 2, axis=1).sum(axis=0)
    log_prob = logits[rows, actions] - np.log(np.exp(logits).sum(axis=1))
    expected = {
        "v_loss": v_loss[signs != 0].sum(),
        "q_loss": q_loss[signs != 0].sum(),
        "probe_loss": (v_loss + q_loss)[signs == 0].sum(),
        "actor_loss": -np.mean(np.minimum(np.exp(BETA * advantage), 100) * log_prob),
    }
    for name, value in expected.items():
        assert float(learnt[name]) == pytest.approx(value, abs=1e-5, rel=1e-5), name

    online = dict(module.q.named_parameters())
    old = dict(before.target_q.named_parameters())
    for name, parameter in module.target_q.named_parameters():
        moved = (1 - POLYAK) * numbers(old[name]) + POLYAK * numbers(online[name])
        np.testing.assert_allclose(numbers(parameter), moved, atol=1e-5, err_msg=name)

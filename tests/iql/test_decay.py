"""The policy's step size falls to 0 along a cosine, and the critics' stay."""

from __future__ import annotations

import math

import pytest
from ray.rllib.core import DEFAULT_MODULE_ID

from noetik_rllib.iql.config import DiscreteIQLConfig


@pytest.mark.usefixtures("ray_session")
def test_the_policy_s_step_size_decays(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if ``actor_lr_decay_steps`` has no effect, or one on the critics."""
    tiny_config.training(actor_lr_decay_steps=10)  # two iterations of five
    algorithm = tiny_config.build_algo()
    learner = algorithm.learner_group._learner
    try:
        for step in (4, 9):  # the last of each iteration, counted from 0
            algorithm.train()
            rates = {
                name: optimizer.param_groups[0]["lr"]
                for name, optimizer in learner.get_optimizers_for_module(DEFAULT_MODULE_ID)
            }
            expected = 3e-4 * 0.5 * (1 + math.cos(math.pi * step / 10))
            assert rates.pop("actor") == pytest.approx(expected)
            assert set(rates.values()) == {3e-4}
    finally:
        algorithm.stop()

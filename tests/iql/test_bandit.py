"""A bandit whose best policy is known in closed form, learnt through the whole algorithm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from noetik_rllib.iql.config import DiscreteIQLConfig
from tests.iql.test_algorithm import built

pytestmark = pytest.mark.usefixtures("ray_session")


def share_of_the_best(
    bandit: Path, *, sign: float, beta: float, seed: int, steps: int, rate: float
) -> float:
    """Train on the bandit with the click's weight ``sign``; return the better video's share."""
    config = (
        DiscreteIQLConfig()
        .offline_data(input_=[str(bandit / "train")], dataset_num_iters_per_learner=steps)
        .training(
            train_batch_size_per_learner=32,
            actor_lr=rate,
            critic_lr=rate,
            value_lr=rate,
            target_polyak=10 * rate,
            beta=beta,
            reward_weights={"click": sign, "watch_ratio": 0.0},
        )
        .rl_module(model_config={"embedding_size": 8, "num_layers": 1, "num_heads": 2})
        .debugging(seed=seed)
    )
    with built(config) as algorithm:
        algorithm.train()
        module = algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
        state = torch.zeros(1, algorithm.config.observation_space.shape[0])
        logits = module.forward_inference({Columns.OBS: state})[Columns.ACTION_DIST_INPUTS]
    return float(logits.softmax(-1)[0, 1 if sign > 0 else 0])


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_bandit_is_solved(bandit_dataset: Path, sign: float, seed: int) -> None:
    """Fails if anything between a row's click and the policy has the wrong sign or row.

    Two videos, shown equally often; video 1 is clicked. A weight of +1 must make the policy show
    it, -1 must make it show the other: on every seed, in 40 steps, which leave it above 0.99.
    """
    share = share_of_the_best(bandit_dataset, sign=sign, beta=3.0, seed=seed, steps=40, rate=0.02)
    assert share >= 0.95


def test_beta_is_the_inverse_temperature(bandit_dataset: Path) -> None:
    """Fails if the policy is not the closed form of equation (7) in units of normalised reward.

    A click is worth 1 / 0.5 = 2 standard deviations, and the log shows both videos equally often,
    so the policy's log-odds of the clicked one are 2 beta.
    """
    share = share_of_the_best(bandit_dataset, sign=1.0, beta=0.5, seed=0, steps=150, rate=0.01)
    assert np.log(share / (1 - share)) == pytest.approx(2 * 0.5, abs=0.15)

"""The policy's step size falls to 0 along a cosine, and the critics' stay."""

from __future__ import annotations

import numpy as np
import pytest
from ray.rllib.core import DEFAULT_MODULE_ID

from noetik_rllib.iql.config import DiscreteIQLConfig


@pytest.mark.usefixtures("ray_session")
def test_the_policy_s_step_size_decays(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if ``actor_lr_decay_steps`` has no effect, or one on the critics.

    Adam's first step is of the step size. After five steps that size is 0, and after three of five
    it is 0.35 of what it was, by which a step of Adam can grow no more than a little.
    """
    config = tiny_config.training(actor_lr_decay_steps=5)
    algorithm = config.offline_data(dataset_num_iters_per_learner=1).build_algo()
    moved = []
    try:
        for _ in range(7):
            before = algorithm.learner_group.get_weights()[DEFAULT_MODULE_ID]
            before = {name: value.copy() for name, value in before.items()}
            algorithm.train()
            after = algorithm.learner_group.get_weights()[DEFAULT_MODULE_ID]
            moved.append(
                {
                    part: max(
                        float(np.abs(after[name] - value).max())
                        for name, value in before.items()
                        if name.startswith(f"{part}.")
                    )
                    for part in ("actor", "q", "v")
                }
            )
    finally:
        algorithm.stop()
    assert moved[0]["actor"] == pytest.approx(3e-4, rel=0.01)
    assert 0 < moved[3]["actor"] < 0.6 * moved[0]["actor"]
    assert moved[5]["actor"] == moved[6]["actor"] == 0
    assert min(moved[6]["q"], moved[6]["v"]) > 0.3 * 3e-4

"""A restored training draws the random numbers that it would have drawn."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.random_state import random_state, set_random_state
from noetik_rllib.iql.rl_module import LOG_PROBS
from noetik_rllib.iql.transformer_rl_module import TransformerIQLTorchRLModule


class NoisyModule(TransformerIQLTorchRLModule):
    """Its policy learns from other rows at every step: dropout and all generators at once."""

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        out: dict[str, Any] = super()._forward_train(batch, **kwargs)
        scale = random.random() + np.random.random()  # noqa: NPY002
        return out | {LOG_PROBS: scale * torch.nn.functional.dropout(out[LOG_PROBS])}


def draws() -> list[float]:
    """One number of each generator."""
    numbers = [random.random(), np.random.random(), torch.rand(1).item()]  # noqa: NPY002
    if torch.cuda.is_available():
        numbers.append(torch.rand(1, device="cuda").item())
    return numbers


def test_every_generator_goes_on() -> None:
    """Fails if a generator is forgotten, CUDA's among them where there is one."""
    draws()
    state = random_state()
    expected = draws()
    draws()
    set_random_state(state)
    assert draws() == expected


@pytest.mark.usefixtures("ray_session")
def test_a_restored_learner_draws_the_same_dropout(
    tiny_config: DiscreteIQLConfig, tmp_path: Path
) -> None:
    """Fails if a checkpoint lacks the random state: dropout would begin again at the seed."""
    tiny_config.rl_module(rl_module_spec=RLModuleSpec(module_class=NoisyModule))

    def losses(algorithm: Algorithm) -> list[float]:
        results = [algorithm.train()["learners"]["default_policy"] for _ in range(2)]
        return [float(result["actor_loss"]) for result in results]

    algorithm = tiny_config.build_algo()
    try:
        algorithm.train()
        path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
        expected = losses(algorithm)
    finally:
        algorithm.stop()
    restored = Algorithm.from_checkpoint(path)
    try:
        assert losses(restored) == expected
    finally:
        restored.stop()

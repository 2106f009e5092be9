"""On a GPU: training, half precision, resuming. Skipped, and says so, where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from noetik_rllib.iql.algorithm import DiscreteIQL
from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.learner import STATISTICS

pytestmark = [
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED: no GPU here"),
]


def statistics(algorithm: DiscreteIQL) -> np.ndarray:
    """Train an iteration, and return what it reports."""
    learnt = algorithm.train()["learners"][DEFAULT_MODULE_ID]
    return np.array([float(learnt[name]) for name in STATISTICS])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_learns_what_a_cpu_does(
    tiny_config: DiscreteIQLConfig, precision: str, tmp_path: Path
) -> None:
    """Fails if a tensor is on the wrong device, or training there goes another way.

    The first iterations of both, from the same seed: equal but for rounding. Then one is resumed.
    """
    cpu = tiny_config.copy(copy_frozen=False).build_algo()
    expected = statistics(cpu)
    cpu.stop()
    config = tiny_config.learners(num_learners=0, num_gpus_per_learner=1)
    algorithm: DiscreteIQL = config.training(precision=precision).build_algo()
    assert algorithm.learner_group._learner.device.type == "cuda"
    tolerance = 1e-3 if precision == "float32" else 0.1
    np.testing.assert_allclose(statistics(algorithm), expected, rtol=tolerance, atol=0.02)
    path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    after = statistics(algorithm)
    algorithm.stop()
    restored = DiscreteIQL.from_checkpoint(path)
    np.testing.assert_allclose(statistics(restored), after, rtol=tolerance, atol=0.02)
    restored.stop()

"""A run whose catalogue counts as large: what it draws is the run's, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID

from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.offline.dataset import OfflineDataset
from tests.iql.conftest import TINY_NETWORK
from tests.iql.test_algorithm import assert_same, built, learner_state, weights

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def sampled_config(tiny_config: DiscreteIQLConfig) -> DiscreteIQLConfig:
    """The tiny config, with 16 of 80 videos drawn at every step."""
    sizes = {**TINY_NETWORK, "exact_softmax_videos": 0, "num_negatives": 16}
    return tiny_config.rl_module(model_config=sizes)


def test_a_restored_run_draws_what_it_would_have_drawn(
    sampled_config: DiscreteIQLConfig, tmp_path: Path
) -> None:
    """Fails if the draws begin anew, or follow from anything that is not saved."""
    with built(sampled_config) as algorithm:
        algorithm.train()
        path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
        algorithm.train()
        unbroken = learner_state(algorithm)
        assert weights(algorithm, "actor.sampler.")["step"] == 10
    restored = Algorithm.from_checkpoint(path)
    try:
        restored.train()
        assert_same(learner_state(restored), unbroken)
    finally:
        restored.stop()


def test_training_draws_as_the_log_shows(
    sampled_config: DiscreteIQLConfig, tiny_dataset: Path
) -> None:
    """Fails if the sampler is left without the log's counts, or gets those of other rows."""
    dataset = OfflineDataset(tiny_dataset)
    actions = dataset.load("train", ("actions",))["actions"]
    counts = np.bincount(actions, minlength=dataset.manifest.num_videos)
    np.testing.assert_array_equal(dataset.times_shown("train"), counts)
    with built(sampled_config) as algorithm:
        module = algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
        np.testing.assert_array_equal(module.actor.sampler.cumulative.numpy(), counts.cumsum())


def test_learners_share_their_draws(sampled_config: DiscreteIQLConfig) -> None:
    """Fails if each of two learners estimates by draws of its own: together they are one."""
    with built(sampled_config.learners(num_learners=2)) as algorithm:
        algorithm.train()
        states = [
            result.get()
            for result in algorithm.learner_group.foreach_learner(
                lambda learner: learner.module[DEFAULT_MODULE_ID].unwrapped().get_state()
            )
        ]
    assert_same(*states)
    assert states[0]["actor.sampler.step"] == 5

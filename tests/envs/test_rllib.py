"""RLlib's own algorithms train on the environment, through its vectorised form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from noetik_rllib.envs.vector_env import KuaiRandVectorEnv
from tests.envs.planted import Planted


@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_stock_algorithms_train_on_it(
    ray_session: None, world: Planted, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    """Users of RLlib could not train online, or would step single environments in a loop."""
    from ray.rllib.algorithms.dqn import DQNConfig
    from ray.rllib.algorithms.ppo import PPOConfig

    env_config = {
        "data": str(world.dataset.directory),
        "response_model": str(tmp_path_factory.getbasetemp() / "planted" / "train"),
        "mask_seen": True,
        "dynamics": {"patience": {"videos_per_session": 6.0}},
    }
    config: Any = PPOConfig() if name == "PPO" else DQNConfig()
    config = (
        config.environment("KuaiRand-v0", env_config=env_config)
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=16,
            gym_env_vectorize_mode="vector_entry_point",
        )
        .evaluation(
            evaluation_interval=2,
            evaluation_num_env_runners=0,
            evaluation_duration=20,
            evaluation_duration_unit="episodes",
        )
        .debugging(seed=0)
    )
    if name == "PPO":
        config.training(train_batch_size_per_learner=320, minibatch_size=160, num_epochs=2)
    else:
        config.training(
            train_batch_size_per_learner=32,
            num_steps_sampled_before_learning_starts=100,
            replay_buffer_config={"type": "EpisodeReplayBuffer", "capacity": 2_000},
        )
        config.env_runners(rollout_fragment_length=4)
        config.reporting(min_sample_timesteps_per_iteration=200)
    algorithm = config.build_algo()
    try:
        assert isinstance(algorithm.env_runner.env.unwrapped, KuaiRandVectorEnv)
        for _ in range(2):
            result = algorithm.train()
        for found in (result["env_runners"], result["evaluation"]["env_runners"]):
            assert 0 < found["episode_return_mean"] < 10
            # Impatient users: episodes end before the tenth video or there, none after it.
            assert 1 <= found["episode_len_min"] <= found["episode_len_max"] <= 10
            assert found["episode_len_mean"] < 10
        losses = result["learners"]["default_policy"]
        assert np.isfinite(losses["total_loss"])
        assert losses["num_module_steps_trained_lifetime"] > 100
    finally:
        algorithm.stop()

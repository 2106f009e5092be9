"""RLlib's own algorithms train on the environment, through its vectorised form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from noetik_rllib.envs.vector_env import KuaiRandVectorEnv
from tests.envs.planted import Planted


@pytest.fixture(scope="module")
def env_config(world: Planted, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The environment with masks and impatient users, in plain values as RLlib sends them."""
    return {
        "data": str(world.dataset.directory),
        "response_model": str(tmp_path_factory.getbasetemp() / "planted" / "train"),
        "mask_seen": True,
        "dynamics": {"patience": {"videos_per_session": 6.0}},
    }


def trained(config: Any, env_config: dict[str, Any], mode: str) -> tuple[dict[str, Any], type]:
    """Result of two iterations on 16 sessions at a time, and the kind of the environment."""
    config = (
        config.environment("KuaiRand-v0", env_config=env_config)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=16, gym_env_vectorize_mode=mode)
        .evaluation(
            evaluation_interval=2,
            evaluation_num_env_runners=0,
            evaluation_duration=20,
            evaluation_duration_unit="episodes",
        )
        .debugging(seed=0)
    )
    algorithm = config.build_algo()
    try:
        kind = type(algorithm.env_runner.env.unwrapped)
        algorithm.train()
        return algorithm.train(), kind
    finally:
        algorithm.stop()


def check(result: dict[str, Any]) -> None:
    """Fail unless the algorithm has sampled, learnt and evaluated."""
    assert 0 < result["env_runners"]["episode_return_mean"] < 10
    found = result["evaluation"]["env_runners"]
    assert 0 < found["episode_return_mean"] < 10
    # Impatient users: episodes end before the tenth video or there, none after it.
    assert 1 <= found["episode_len_min"] <= found["episode_len_max"] <= 10
    assert found["episode_len_mean"] < 10
    losses = result["learners"]["default_policy"]
    assert np.isfinite(losses["total_loss"])
    assert losses["num_module_steps_trained_lifetime"] > 100


def test_ppo_trains_on_it(ray_session: None, env_config: dict[str, Any]) -> None:
    """Users of RLlib could not train online, in one of its two ways to run many sessions."""
    from ray.rllib.algorithms.ppo import PPOConfig

    for mode, expected in (("vector_entry_point", KuaiRandVectorEnv), ("sync", SyncVectorEnv)):
        config = PPOConfig().training(
            train_batch_size_per_learner=320, minibatch_size=160, num_epochs=2
        )
        result, kind = trained(config, env_config, mode)
        assert kind is expected
        check(result)


@pytest.mark.parametrize("mode", ["vector_entry_point", "sync"])
def test_runners_do_not_replay_each_other(
    ray_session: None, env_config: dict[str, Any], mode: str
) -> None:
    """More runners would bring hardly more data: RLlib seeds runner w with seed + w, and session i
    of one would be session i + 1 of the one before.
    """
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

    config = (
        PPOConfig()
        .environment("KuaiRand-v0", env_config=env_config)
        .env_runners(num_env_runners=2, num_envs_per_env_runner=8, gym_env_vectorize_mode=mode)
        .debugging(seed=0)
    )
    sessions = []
    for worker in (1, 2):
        envs = SingleAgentEnvRunner(config=config, worker_index=worker).env
        told = [envs.reset(seed=config.seed + worker)[0]]  # as the runner does
        told += [envs.step(np.full(8, video))[0] for video in range(6)]
        sessions += [session.tobytes() for session in np.stack(told, axis=1)]
    assert len(set(sessions)) == 16


def test_dqn_trains_on_it(ray_session: None, env_config: dict[str, Any]) -> None:
    """Users of RLlib could not train a value-based algorithm online."""
    from ray.rllib.algorithms.dqn import DQNConfig

    config = (
        DQNConfig()
        .training(
            train_batch_size_per_learner=32,
            num_steps_sampled_before_learning_starts=100,
            replay_buffer_config={"type": "EpisodeReplayBuffer", "capacity": 2_000},
        )
        .env_runners(rollout_fragment_length=4)
        .reporting(min_sample_timesteps_per_iteration=200)
    )
    check(trained(config, env_config, "vector_entry_point")[0])

"""A setting that has no meaning is refused in one line that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import pytest

from noetik_rllib.data.signals import RewardWeights
from noetik_rllib.errors import UserError
from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.settings import IQLSettings

Change = Callable[[DiscreteIQLConfig], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.training(expectile=1.0), "expectile is 1.0: .*less than 1"),
        (lambda c: c.training(beta=-1), "beta is -1: .*greater than or equal to 0"),
        (lambda c: c.training(max_weight=0), "max_weight is 0"),
        (lambda c: c.training(gamma=1.5), "gamma is 1.5"),
        (lambda c: c.training(target_polyak=0), "target_polyak is 0"),
        (lambda c: c.training(actor_lr=-3e-4), "actor_lr is -0.0003"),
        (lambda c: c.training(critic_lr=float("nan")), "critic_lr is nan"),
        (lambda c: c.training(grad_clip=-1), "grad_clip is -1"),
        (lambda c: c.training(reward_weights={"lke": 1}), "unknown signal 'lke'.*'like'"),
        (lambda c: c.training(train_batch_size_per_learner=0), "train_batch_size_per_learner is 0"),
        (
            lambda c: c.offline_data(dataset_num_iters_per_learner=None),
            "dataset_num_iters_per_learner is None: expected a whole number",
        ),
        (lambda c: c.rl_module(model_config={"num_head": 4}), "'num_head'.*'num_heads'"),
        (lambda c: c.rl_module(model_config={"num_heads": 5}), "not a multiple of num_heads 5"),
        (lambda c: c.offline_data(iter_batches_kwargs={"prefetch_batches": 2}), "no effect"),
    ],
)
def test_a_bad_setting_is_named(
    tiny_config: DiscreteIQLConfig, change: Change, message: str
) -> None:
    """Fails if a mistake trains on, or surfaces as something else deep inside RLlib."""
    change(tiny_config)
    with pytest.raises(ValueError, match=message) as error:
        tiny_config.validate()
    assert "\n" not in str(error.value)


def test_the_papers_temperatures_are_allowed(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if the limit of RLlib's MARWIL, beta at most 1, has come back."""
    for beta in (0.0, 3.0, 10.0):
        tiny_config.training(beta=beta).validate()


def test_defaults_are_the_documented_ones() -> None:
    """Fails if a default drifts from what docs/iql.md derives: the paper's, but beta and gamma."""
    config = DiscreteIQLConfig()
    assert (config.expectile, config.beta, config.gamma, config.target_polyak) == (
        0.7,
        1.0,
        0.9,
        0.005,
    )
    assert config.actor_lr == config.critic_lr == config.value_lr == 3e-4
    assert config.train_batch_size_per_learner == 256
    for name, field in IQLSettings.model_fields.items():
        assert getattr(config, name) == field.default, name


def test_spaces_come_from_the_dataset(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if the user must say what the dataset knows."""
    tiny_config.validate()
    assert isinstance(tiny_config.observation_space, gym.spaces.Box)
    assert tiny_config.observation_space.shape == (128,)
    assert tiny_config.action_space == gym.spaces.Discrete(80)
    assert tiny_config.reward_weights == RewardWeights()


def test_no_data_and_wrong_data_are_told_apart(tmp_path: Path) -> None:
    """Fails if a forgotten or mistyped path does not say which it is."""
    with pytest.raises(ValueError, match="no training data: call config"):
        DiscreteIQLConfig().validate()
    config = DiscreteIQLConfig().offline_data(input_=[str(tmp_path / "gone" / "train")])
    with pytest.raises(UserError, match="does not exist"):
        config.validate()


def test_a_number_as_text_is_a_number(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if a setting passes the check as text and breaks a learner later."""
    tiny_config.training(expectile="0.8").validate()
    assert tiny_config.expectile == 0.8

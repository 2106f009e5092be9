"""The RLModule for any other log: fully connected networks on a flat observation.

It makes ``DiscreteIQL`` an algorithm for whatever RLlib knows as a Box or Discrete observation with
Discrete actions, and is what the algorithm is compared with others' by (``benchmarks/``).
"""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any

import gymnasium as gym
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from noetik_rllib.iql.rl_module import (
    LOG_PROBS,
    PRECISION_KEY,
    Q_VALUES,
    REWARD_KEY,
    V_VALUES,
    DiscreteIQLTorchRLModule,
)
from noetik_rllib.iql.settings import explain


class MLPConfig(BaseModel):
    """Sizes of the networks: keys of ``model_config``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # The official code's.
    hidden_sizes: tuple[int, ...] = Field(default=(256, 256), min_length=1)

    @classmethod
    def of(cls, model_config: dict[str, Any]) -> MLPConfig:
        """Read the sizes out of an RLModule's ``model_config``.

        Raises:
            ValueError: an unknown key, or a size that does not fit.
        """
        others = (REWARD_KEY, PRECISION_KEY)
        sizes = {key: value for key, value in model_config.items() if key not in others}
        try:
            return cls.model_validate(sizes)
        except ValidationError as error:
            raise ValueError(f"model_config: {explain(error, cls.model_fields)}") from None


def _layers(sizes: list[int]) -> nn.Sequential:
    layers = [(nn.Linear(left, right), nn.ReLU()) for left, right in pairwise(sizes)]
    return nn.Sequential(*(layer for pair in layers for layer in pair))


class MLPActor(nn.Module):
    """Logits (B, actions) of flat observations (B, O)."""

    def __init__(self, observation: int, actions: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.trunk = _layers([observation, *hidden])
        self.head = nn.Linear(hidden[-1], actions)

    def forward(self, states: Tensor) -> Tensor:
        """Logits (B, actions)."""
        logits: Tensor = self.head(self.trunk(states))
        return logits


class MLPQ(nn.Module):
    """Twin Q (2, B, 1) of flat observations (B, O) and one action each (B,)."""

    def __init__(self, observation: int, actions: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(MLPActor(observation, actions, hidden) for _ in range(2))

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """Q values (2, B, 1)."""
        every = torch.stack([head(states) for head in self.heads])  # (2, B, actions)
        return every.gather(-1, actions.expand(2, -1)[..., None])


class MLPV(nn.Module):
    """V (B, 1) of flat observations (B, O)."""

    def __init__(self, observation: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.Sequential(_layers([observation, *hidden]), nn.Linear(hidden[-1], 1))

    def forward(self, states: Tensor) -> Tensor:
        """V (B, 1)."""
        values: Tensor = self.layers(states)
        return values


class MLPIQLTorchRLModule(DiscreteIQLTorchRLModule):
    """Actor, twin Q with its target, and V for Box or Discrete observations, Discrete actions.

    The networks of the official code: separate, of ``hidden_sizes`` with ReLU. ``model_config``
    holds the fields of ``MLPConfig``.
    """

    def setup(self) -> None:
        """Build the networks (RLlib calls this once, from the constructor).

        Raises:
            ValueError: spaces that it cannot read.
        """
        self.setup_reward()
        hidden = MLPConfig.of(self.model_config).hidden_sizes
        space, actions = self.observation_space, self.action_space
        if not isinstance(actions, gym.spaces.Discrete):
            raise ValueError(f"expected a Discrete action space, got {actions}")
        if isinstance(space, gym.spaces.Discrete):
            size = int(space.n)
        elif isinstance(space, gym.spaces.Box):
            size = prod(space.shape)
        else:
            raise ValueError(f"expected a Box or Discrete observation space, got {space}")
        self.actor = MLPActor(size, int(actions.n), hidden)
        self.q = MLPQ(size, int(actions.n), hidden)
        self.v = MLPV(size, hidden)

    def inputs(self, states: Tensor) -> tuple[Any, ...]:
        """Return flat float32 observations (B, O): one-hot where they are numbers of states."""
        space = self.observation_space
        if isinstance(space, gym.spaces.Discrete) and states.dim() == 1:
            return (F.one_hot(states.long(), int(space.n)).float(),)
        return (states.reshape(len(states), -1).float(),)

    def online(self, states: Tensor, actions: Tensor) -> dict[str, Tensor]:
        """Return LOG_PROBS, Q_VALUES and V_VALUES of logged actions, with gradients."""
        (flat,) = self.inputs(states)
        logits = self.actor(flat)
        return {
            LOG_PROBS: -F.cross_entropy(logits.float(), actions, reduction="none"),
            Q_VALUES: self.q(flat, actions),
            V_VALUES: self.v(flat),
        }

"""The last layers of a critic: one output per component of the reward."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from noetik_rllib.iql.reward import RewardDecomposition


class SignalHead(nn.Module):
    """A hidden layer and S outputs, of which those without weight in the reward are probes.

    A probe reads the features that the others have learnt and sends no gradient back: what is
    learnt for the reward is the same with and without it.

    Args:
        inputs: size of what it reads.
        hidden: size of the hidden layer.
        reward: what the outputs are; those without weight are probes.
    """

    order: Tensor

    def __init__(self, inputs: int, hidden: int, reward: RewardDecomposition) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU())
        weighted, probes = reward.weighted, reward.unweighted
        self.weighted = nn.Linear(hidden, len(weighted))
        self.probe = nn.Linear(hidden, len(probes)) if probes else None
        # Where output k stands among the weighted ones and the probes behind them.
        order = torch.tensor(weighted + probes).argsort()
        self.register_buffer("order", order, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Values (..., S) from features (..., inputs)."""
        hidden = self.hidden(x)
        values: Tensor = self.weighted(hidden)
        if self.probe is not None:
            values = torch.cat([values, self.probe(hidden.detach())], dim=-1)
            values = values.index_select(-1, self.order)
        return values

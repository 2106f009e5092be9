"""The last layers of a critic: one output per component of the reward."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from noetik_rllib.iql.reward import RewardDecomposition
from noetik_rllib.iql.video_bias import VideoBias


class Outputs(nn.Module):
    """Linear outputs, and what a video adds to each.

    Args:
        hidden: size of what is read.
        count: how many outputs.
        id_buckets: of the videos' hashed ids; None where the outputs are about no video.
    """

    def __init__(self, hidden: int, count: int, id_buckets: int | None) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, count)
        self.video_bias = None if id_buckets is None else VideoBias(id_buckets, count)

    def forward(self, hidden: Tensor, bucket: Tensor | None = None) -> Tensor:
        """Outputs (..., count) from (..., hidden), and the videos' buckets (...) if any."""
        values: Tensor = self.linear(hidden)
        return values if self.video_bias is None else values + self.video_bias(bucket)


class SignalHead(nn.Module):
    """A hidden layer and S outputs, of which those without weight in the reward are probes.

    A probe reads the features that the others have learnt and sends no gradient back: what is
    learnt for the reward is the same with and without it.

    Args:
        inputs: size of what it reads.
        hidden: size of the hidden layer.
        reward: what the outputs are; those without weight are probes.
        id_buckets: see ``Outputs``.
    """

    order: Tensor

    def __init__(
        self, inputs: int, hidden: int, reward: RewardDecomposition, id_buckets: int | None = None
    ) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU())
        weighted, probes = reward.weighted, reward.unweighted
        self.weighted = Outputs(hidden, len(weighted), id_buckets)
        self.probe = Outputs(hidden, len(probes), id_buckets) if probes else None
        # Where output k stands among the weighted ones and the probes behind them.
        order = torch.tensor(weighted + probes).argsort()
        self.register_buffer("order", order, persistent=False)

    def forward(self, x: Tensor, bucket: Tensor | None = None) -> Tensor:
        """Values (..., S) from features (..., inputs), and the videos' buckets (...) if any."""
        hidden = self.hidden(x)
        values: Tensor = self.weighted(hidden, bucket)
        if self.probe is not None:
            values = torch.cat([values, self.probe(hidden.detach(), bucket)], dim=-1)
            values = values.index_select(-1, self.order)
        return values

"""What a response network takes from the user alone: features of the state, and a vector of those
who were met. Shapes: B rows, P videos, D embedding size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.state import (
    CONTEXT_SIZE,
    LOG_EVENTS,
    RATE_PSEUDO_COUNT,
    RATES,
    USER_SIZE,
    StateParts,
)


class Person(nn.Module):
    """What a user's own vector adds to the hidden layer; nothing for a user without one (place 0).

    It is fitted after the rest, which is then as good as it can be for users who were not met.

    Args:
        num_users: users with a vector.
        size: of a vector, and of a video's embedding D.
        hidden: width of the hidden layer.
    """

    def __init__(self, num_users: int, size: int, hidden: int) -> None:
        super().__init__()
        self.vector = nn.Embedding(num_users + 1, size, padding_idx=0)
        self.level = nn.Linear(size, hidden, bias=False)
        self.query = nn.Linear(size, size, bias=False)
        self.taste = nn.Linear(1, hidden, bias=False)
        with torch.no_grad():
            self.vector.weight.mul_(0.01)
            nn.init.eye_(self.query.weight)

    def point_at(self, direction: Tensor) -> None:
        """Let a match with a user's vector move the hidden layer in ``direction`` (hidden,) first.

        The vectors start near 0, where a random direction would have to be unlearnt with a
        gradient of almost nothing: fitting often stopped before it began.
        """
        with torch.no_grad():
            self.taste.weight.copy_((direction / direction.norm())[:, None])

    def forward(self, users: Tensor, videos: Tensor) -> Tensor:
        """Part (B, hidden) for users at places (B,) and embeddings (B, D) of their videos."""
        vector = self.vector(users)
        match = (vector * self.query(videos)).sum(-1, keepdim=True)  # (B, 1)
        return self.level(vector) + self.taste(match)

    def column(self, user: Tensor, videos: Tensor) -> Tensor:
        """Part (hidden, P) for the user at place (1,) and ``query`` of P videos, (D, P)."""
        vector = self.vector(user)  # (1, D)
        return self.level(vector).T + self.taste.weight * (vector @ videos)


class About(nn.Module):
    """Features (B, SIZE) of a state's user and context.

    The state's rates are smoothed by 10 imagined events: of a signal met once in 400, a user
    without it falls to half the mean within 10 events, for no reason. So beside them stands the
    logarithm of the events seen over those expected, each with one more: a prior of one event,
    however rare. And of the frequent signals the logarithm of the smoothed rate over the mean.
    Logarithms of counts and seconds reach 15: a fifth.
    """

    #: Click, watch ratio and long view, which are not rare.
    FREQUENT = 3
    SIZE = USER_SIZE + CONTEXT_SIZE + len(SIGNALS) + FREQUENT

    means: Tensor

    def __init__(self) -> None:
        super().__init__()
        #: Mean of each signal in the training part, (9,): the prior of the rates.
        self.register_buffer("means", torch.ones(len(SIGNALS)))

    def forward(self, parts: StateParts[Tensor]) -> Tensor:
        """Describe the states of ``parts``, (B, SIZE)."""
        count = torch.expm1(parts.context[:, LOG_EVENTS, None])
        rates = parts.context[:, RATES]
        seen = rates * (count + RATE_PSEUDO_COUNT) - RATE_PSEUDO_COUNT * self.means
        ratio = torch.log((seen.clamp(min=0.0) + 1) / (count * self.means + 1))
        scale = torch.ones(CONTEXT_SIZE)
        scale[RATES.stop :] = 0.2
        # A log may lack a signal: its rate and mean are 0.
        rates, means = (part[..., : self.FREQUENT] + 1e-5 for part in (rates, self.means))
        smooth = 0.5 * torch.log(rates / means)
        return torch.cat([parts.user, parts.context * scale, ratio, smooth], dim=-1)

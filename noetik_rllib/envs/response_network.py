"""The network of the user response model: from a state and a video to what the user would answer.

A user's taste is read from two places. The history: several pools of the past videos, each
weighing an event by its feedback, are compared with the candidate; so a user never met in fitting
is modelled from what they watched. And, added to that, a vector of each user that was met: some
hundred answers say more than the last 16.

A log shows users what its policy thinks they like, so that being shown is a sign of liking. A
random exposure is not, and neither is what another policy shows: the network knows both kinds apart
(``uniform``). Shapes: B rows, H history slots, N videos, D embedding size, K interests, W
watch-ratio bins.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from noetik_rllib.data.signals import BINARY_SIGNALS
from noetik_rllib.iql.networks import (
    ANSWER_SIZE,
    NetworkConfig,
    VideoFeatures,
    VideoTower,
    answer_features,
)
from noetik_rllib.offline.catalog import Catalog
from noetik_rllib.state import CONTEXT_SIZE, USER_SIZE, StateLayout


class ResponseConfig(BaseModel):
    """Sizes of a response model and the values its watch ratio can take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Sizes of the dataset and of the video tower.
    tower: NetworkConfig
    #: Mean watch ratio of the training rows in each bin, ascending, (W,).
    watch_values: list[float] = Field(min_length=1)
    #: Users with a vector of their own.
    num_users: int = Field(ge=0)
    #: Pools of the history: with fewer than 4, likes and skips could not be told apart from mere
    #: exposure and recency.
    pools: int = Field(default=6, ge=1)
    #: Interests read from the user's features and context instead of the history.
    traits: int = Field(default=2, ge=1)
    #: Width of the hidden layer.
    hidden_size: int = Field(default=64, ge=1)


class Person(nn.Module):
    """What a user's own vector adds to the hidden layer; nothing for a user without one (place 0).

    It is fitted after the rest, which is then as good as it can be for users who were not met.
    """

    def __init__(self, config: ResponseConfig) -> None:
        super().__init__()
        size, hidden = config.tower.embedding_size, config.hidden_size
        self.vector = nn.Embedding(config.num_users + 1, size, padding_idx=0)
        self.level = nn.Linear(size, hidden, bias=False)
        self.query = nn.Linear(size, size, bias=False)
        self.taste = nn.Linear(1, hidden, bias=False)
        with torch.no_grad():
            self.vector.weight.mul_(0.01)

    def forward(self, users: Tensor, videos: Tensor) -> Tensor:
        """Part (B, hidden) for users at places (B,) and embeddings (B, D) of their videos."""
        vector = self.vector(users)
        match = (vector * self.query(videos)).sum(-1, keepdim=True)  # (B, 1)
        return self.level(vector) + self.taste(match)

    def matrix(self, users: Tensor, videos: Tensor) -> Tensor:
        """Part (B, N, hidden) for users at places (B,) and embeddings (N, D) of all videos."""
        vector = self.vector(users)
        match = vector @ self.query(videos).T  # (B, N)
        return self.level(vector)[:, None] + self.taste(match[..., None])


class ResponseNetwork(nn.Module):
    """Logits of the binary signals and of the watch-ratio bins: ``head`` of ``hidden``, plus what
    ``person`` adds.

    The first layer is a sum of a part of the state, a part of the video and a part of their
    match, so that scoring a whole catalogue computes the first two once per state and per video.
    """

    user_id: Tensor

    def __init__(self, config: ResponseConfig, catalog: Catalog | None = None) -> None:
        super().__init__()
        size, hidden = config.tower.embedding_size, config.hidden_size
        self.config = config
        self.layout = StateLayout(config.tower.history_length)
        self.features = VideoFeatures(config.tower, catalog)
        self.tower = VideoTower(config.tower)
        self.weigh = nn.Linear(ANSWER_SIZE, config.pools)
        self.traits = nn.Linear(USER_SIZE + CONTEXT_SIZE, config.traits * size)
        interests = config.pools + config.traits
        self.query = nn.Linear(size, interests * size, bias=False)
        self.from_state = nn.Linear(USER_SIZE + CONTEXT_SIZE + config.pools * size, hidden)
        self.from_video = nn.Linear(size, hidden, bias=False)
        self.from_exposure = nn.Linear(size, hidden)
        self.from_match = nn.Linear(interests, hidden, bias=False)
        self.output = nn.Linear(hidden, len(BINARY_SIGNALS) + len(config.watch_values))
        self.person = Person(config)
        self.register_buffer("user_id", torch.zeros(config.num_users, dtype=torch.int64))
        with torch.no_grad():
            # Without a random exposure to learn from, one means no more than any other.
            self.from_exposure.weight.zero_()
            self.from_exposure.bias.zero_()

    def places(self, user_id: Tensor) -> Tensor:
        """Place of each user id (B,) among the vectors, int64; 0 where the user has none."""
        if not len(self.user_id):
            return torch.zeros_like(user_id)
        place = torch.searchsorted(self.user_id, user_id).clamp(max=len(self.user_id) - 1)
        return torch.where(self.user_id[place] == user_id, place + 1, 0)

    def video_table(self, states: Tensor, videos: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed every video that a batch mentions, once.

        Returns:
            The embeddings (M, D) of the M distinct videos, and the places in them of the
            histories' videos (B, H) and of ``videos`` (B,).
        """
        past = self.layout.unpack(states).video_index.clamp(min=0)
        distinct, place = torch.unique(
            torch.cat([past, videos[:, None]], dim=1), return_inverse=True
        )
        return self.tower(self.features, distinct), place[:, :-1], place[:, -1]

    def interests(self, states: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Read what a user is after.

        Args:
            states: (B, state size).
            past: embeddings of the history's videos, (B, H, D).

        Returns:
            Interests (B, K, D) and the state's part of the hidden layer (B, hidden).
        """
        parts = self.layout.unpack(states)
        weight = self.weigh(answer_features(parts)) * parts.present[..., None]  # (B, H, pools)
        # Two imagined neutral events keep the taste of a user with few events near 0.
        count = parts.present.sum(1) + 2.0
        # (B, pools, H) @ (B, H, D) -> (B, pools, D)
        pools = weight.transpose(1, 2) @ past / count[:, None, None]
        about = torch.cat([parts.user, parts.context], dim=-1)
        # (B, traits * D) -> (B, traits, D)
        traits = self.traits(about).view(len(states), self.config.traits, -1)
        hidden = self.from_state(torch.cat([about, pools.flatten(1)], dim=-1))
        return torch.cat([pools, traits], dim=1), hidden

    def queries(self, videos: Tensor) -> Tensor:
        """What a video with embedding (M, D) compares each interest with, (M, K, D)."""
        size = self.config.tower.embedding_size
        # (M, K * D) -> (M, K, D)
        return self.query(videos).view(len(videos), -1, size) * size**-0.5

    def head(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the binary signals (..., 8) and bins (..., W) from (..., hidden)."""
        out = self.output(F.gelu(hidden))
        return out[..., : len(BINARY_SIGNALS)], out[..., len(BINARY_SIGNALS) :]

    def hidden(self, states: Tensor, past: Tensor, videos: Tensor, uniform: Tensor) -> Tensor:
        """The hidden layer (B, hidden) for one video per state, if the user was never met.

        Args:
            states: (B, state size).
            past: embeddings of the history's videos, (B, H, D).
            videos: embeddings of the candidates, (B, D).
            uniform: 1.0 where being shown says nothing of the user's taste, else 0.0, (B,).
        """
        interests, hidden = self.interests(states, past)
        match = (interests * self.queries(videos)).sum(-1)  # (B, K)
        hidden = hidden + self.from_video(videos) + self.from_match(match)
        return hidden + uniform[:, None] * self.from_exposure(videos)

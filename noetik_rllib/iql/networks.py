"""The networks of discrete IQL over a catalogue: actor, twin Q, V.

Plain torch, so that a trained policy is evaluated and explained without Ray. Shapes: B states,
N videos of the catalogue, D channels, S signals.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.transformer import StateEncoder, Tokens
from noetik_rllib.iql.video_tower import VideoFeatures, VideoTower
from noetik_rllib.offline.catalog import Catalog


class Actor(nn.Module):
    """Policy over the catalogue: logit = <summary of the state, embedding of the video> / sqrt D
    + the video's bias.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.tower = VideoTower(config)
        self.encoder = StateEncoder(config, self.tower)
        self.query = nn.Linear(config.embedding_size, config.embedding_size)
        self.item_bias = nn.Linear(config.embedding_size, 1)
        self.scale = config.embedding_size**-0.5

    def logits_from_tokens(self, features: VideoFeatures, tokens: Tokens) -> Tensor:
        """Logits (B, N) of every video, from tokens that may have been edited."""
        query = self.query(self.encoder.encode(tokens))
        videos = self.tower(features)  # (N, D)
        # The query is scaled, not the (B, N) product: one pass over the largest tensor here.
        return F.linear(query * self.scale, videos, self.item_bias(videos).squeeze(-1))

    def forward(self, features: VideoFeatures, states: Tensor) -> Tensor:
        """Logits (B, N) of every video in states (B, state size)."""
        return self.logits_from_tokens(features, self.encoder.embed(features, states))


class QNetwork(nn.Module):
    """Twin Q of a state and one video each."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        size = config.embedding_size
        self.tower = VideoTower(config)
        self.encoder = StateEncoder(config, self.tower)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(3 * size, 2 * size), nn.GELU(), nn.Linear(2 * size, 1))
            for _ in range(2)
        )

    def forward(self, features: VideoFeatures, states: Tensor, videos: Tensor) -> Tensor:
        """Q values (2, B) of the videos (B,) int64 in states (B, state size)."""
        state = self.encoder(features, states)
        video = self.tower(features, videos)
        joint = torch.cat([state, video, state * video], dim=-1)  # (B, 3 D)
        return torch.stack([head(joint).squeeze(-1) for head in self.heads])


class VNetwork(nn.Module):
    """V of a state."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        size = config.embedding_size
        self.encoder = StateEncoder(config, VideoTower(config))
        self.head = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, 1))

    def forward(self, features: VideoFeatures, states: Tensor) -> Tensor:
        """V (B,) of states (B, state size)."""
        return self.head(self.encoder(features, states)).squeeze(-1)


class IQLNetworks(nn.Module):
    """Actor, twin Q and V, each with an encoder of its own as in the paper's implementation."""

    def __init__(self, config: NetworkConfig, catalog: Catalog | None = None) -> None:
        super().__init__()
        self.config = config
        self.features = VideoFeatures(config, catalog)
        self.actor = Actor(config)
        self.q = QNetwork(config)
        self.v = VNetwork(config)

"""The networks of discrete IQL over a catalogue: actor, twin Q, V.

Plain torch, so that a trained policy is evaluated and explained without Ray. Shapes: B states,
N videos of the catalogue, D channels, S components of the reward.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noetik_rllib.iql import sampled_softmax
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.retrieval import CHUNK_VIDEOS, EmbeddedCatalogue, chunk_size, top_k
from noetik_rllib.iql.reward import RewardDecomposition
from noetik_rllib.iql.signal_head import SignalHead
from noetik_rllib.iql.transformer import StateEncoder, Tokens
from noetik_rllib.iql.video_tower import VideoFeatures, VideoTower
from noetik_rllib.offline.catalog import Catalog

#: What the actor's query begins with: so many times the mean of the history's tokens. With more,
#: the first logits are far from uniform (a likelihood of 1e-4 where there are 80 videos), and the
#: policy starts too sure that it should show again what it has seen.
HISTORY_START = 1.0


class Actor(nn.Module):
    """Policy over the catalogue: logit = <summary of the state, embedding of the video> / sqrt D
    + the video's bias.

    Args:
        config: sizes.
        encoder: of the state, its tower also that of the videos; of its own where not given.
    """

    def __init__(self, config: NetworkConfig, encoder: StateEncoder | None = None) -> None:
        super().__init__()
        self.encoder = encoder or StateEncoder(config, VideoTower(config))
        size = config.embedding_size
        self.query = nn.Linear(self.encoder.summary_size, size)
        with torch.no_grad():
            self.query.weight[:, size:] = HISTORY_START * torch.eye(size)
        self.item_bias = nn.Linear(size, 1)
        self.scale = size**-0.5
        #: Draws the videos that stand for the rest of a large catalogue; None for a small one.
        self.sampler = None
        if config.num_videos > config.exact_softmax_videos:
            self.sampler = sampled_softmax.Sampler(config.num_videos, config.num_negatives)

    @property
    def tower(self) -> VideoTower:
        """Embeds the videos, those of the history as those to choose from."""
        return self.encoder.tower

    def embed(self, features: VideoFeatures, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return embeddings (n, D) and biases (n,) of videos (n,), or of the whole catalogue."""
        videos = self.tower(features, index)
        return videos, self.item_bias(videos).squeeze(-1)

    def logits_from_query(self, features: VideoFeatures, query: Tensor) -> Tensor:
        """Logits (B, N) of every video, from queries (B, D)."""
        # The query is scaled, not the (B, N) product: one pass over the largest tensor here.
        return F.linear(query * self.scale, *self.embed(features))

    def log_prob(self, features: VideoFeatures, query: Tensor, videos: Tensor) -> Tensor:
        """Log-probabilities (B,) of one video each (B,), from queries (B, D), for training.

        Exact up to ``exact_softmax_videos``. Above, estimated from ``num_negatives`` others, drawn
        anew at every call in training mode; nothing else of the catalogue is embedded.
        """
        if self.sampler is None:
            logits = self.logits_from_query(features, query)
            # In single precision also under autocast: a sum over the catalogue.
            return -F.cross_entropy(logits.float(), videos, reduction="none")
        negatives = self.sampler()
        embedded, bias = self.embed(features, torch.cat([videos, negatives.videos]))  # B + M
        query, rows = query * self.scale, len(videos)
        positive = (query * embedded[:rows]).sum(dim=-1) + bias[:rows]
        negative = F.linear(query, embedded[rows:], bias[rows:])  # (B, M)
        return sampled_softmax.log_prob(positive.float(), videos, negative.float(), negatives)

    def logits_from_tokens(self, features: VideoFeatures, tokens: Tokens) -> Tensor:
        """Logits (B, N) of every video, from tokens that may have been edited."""
        return self.logits_from_query(features, self.query(self.encoder.encode(tokens)))

    def forward(self, features: VideoFeatures, states: Tensor) -> Tensor:
        """Logits (B, N) of every video in states (B, state size)."""
        return self.logits_from_tokens(features, self.encoder.embed(features, states))

    def embed_chunks(self, features: VideoFeatures, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield embeddings (C, D) and biases (C,) of the catalogue, C = ``size`` videos a time."""
        everything = torch.arange(len(features.id_bucket), device=features.id_bucket.device)
        for index in everything.split(size):
            yield self.embed(features, index)

    @torch.no_grad()
    def embed_catalogue(self, features: VideoFeatures) -> EmbeddedCatalogue:
        """Embed every video once, for many calls of ``recommend`` with the same weights."""
        chunks = self.embed_chunks(features, CHUNK_VIDEOS)
        return EmbeddedCatalogue.of(chunks, len(features.id_bucket))

    @torch.no_grad()
    def recommend(
        self,
        features: VideoFeatures,
        states: Tensor,
        k: int,
        exclude: Tensor | None = None,
        catalogue: EmbeddedCatalogue | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the k videos of highest logit in states (B, state size), by chunks.

        Args:
            features: the catalogue.
            states: (B, state size).
            k: how many.
            exclude: videos not to recommend, (B, E) int64; -1 is none.
            catalogue: of ``embed_catalogue``; without it, every call embeds all videos.

        Returns:
            See ``retrieval.top_k``: videos (B, k) int64 and logits (B, k).
        """
        query = self.query(self.encoder(features, states)) * self.scale
        size = chunk_size(len(states))
        chunks = catalogue.chunks(size) if catalogue else self.embed_chunks(features, size)
        return top_k(query, chunks, k, exclude)


class QNetwork(nn.Module):
    """Twin Q of a state and one video each, per component of the reward.

    Args:
        config: sizes.
        reward: what the outputs are.
        encoder: of the state, its tower also that of the videos; of its own where not given.
    """

    def __init__(
        self,
        config: NetworkConfig,
        reward: RewardDecomposition,
        encoder: StateEncoder | None = None,
    ) -> None:
        super().__init__()
        size = config.embedding_size
        self.encoder = encoder or StateEncoder(config, VideoTower(config))
        inputs = 2 * self.encoder.summary_size + size
        self.heads = nn.ModuleList(
            SignalHead(inputs, 2 * size, reward, config.id_buckets) for _ in range(2)
        )

    def from_summary(self, features: VideoFeatures, summary: Tensor, videos: Tensor) -> Tensor:
        """Q values (2, B, S) of the videos (B,) int64, from summaries of the states (B, 2 D)."""
        video = self.encoder.tower(features, videos)
        # Attention's part and the history's, each against the video.
        joint = torch.cat([summary, video, summary * video.repeat(1, 2)], dim=-1)  # (B, 5 D)
        bucket = features.id_bucket[videos]
        return torch.stack([head(joint, bucket) for head in self.heads])

    def forward(self, features: VideoFeatures, states: Tensor, videos: Tensor) -> Tensor:
        """Q values (2, B, S) of the videos (B,) int64 in states (B, state size)."""
        return self.from_summary(features, self.encoder(features, states), videos)


class VNetwork(nn.Module):
    """V of a state, per component of the reward; arguments as ``QNetwork``'s."""

    def __init__(
        self,
        config: NetworkConfig,
        reward: RewardDecomposition,
        encoder: StateEncoder | None = None,
    ) -> None:
        super().__init__()
        size = config.embedding_size
        self.encoder = encoder or StateEncoder(config, VideoTower(config))
        self.head = SignalHead(self.encoder.summary_size, 2 * size, reward)

    def forward(self, features: VideoFeatures, states: Tensor) -> Tensor:
        """V (B, S) of states (B, state size)."""
        values: Tensor = self.head(self.encoder(features, states))
        return values


class IQLNetworks(nn.Module):
    """Actor, twin Q and V; ``config.share`` says what they have in common.

    Args:
        config: sizes.
        catalog: features of the videos; filled from a saved state where not given.
        reward: what the critics' outputs are.
    """

    def __init__(
        self,
        config: NetworkConfig,
        catalog: Catalog | None = None,
        reward: RewardDecomposition | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.reward = reward or RewardDecomposition()
        self.features = VideoFeatures(config, catalog)
        tower = None if config.share == "nothing" else VideoTower(config)
        shared = StateEncoder(config, tower) if tower and config.share == "encoder" else None

        def encoder() -> StateEncoder:
            return shared or StateEncoder(config, tower or VideoTower(config))

        self.actor = Actor(config, encoder())
        self.q = QNetwork(config, self.reward, encoder())
        self.v = VNetwork(config, self.reward, encoder())

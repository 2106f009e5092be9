"""The networks of discrete IQL: video tower, transformer over a user's history, actor, critic.

Plain torch, so that a trained policy is evaluated and explained without Ray. Shapes: B states,
H history slots, N videos of the catalogue, D embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from noetik_rllib.data.schema import MAX_TAGS
from noetik_rllib.data.signals import BINARY_SIGNALS
from noetik_rllib.offline.catalog import NUMERIC_NAMES, Catalog
from noetik_rllib.offline.manifest import Manifest
from noetik_rllib.state import (
    AGE,
    CONTEXT_SIZE,
    USER_SIZE,
    WATCH_RATIO,
    StateLayout,
    StateParts,
)


class NetworkSizes(BaseModel):
    """Sizes of the networks that are a choice; options of ``noetik train``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # Width D of every token. 64 is the smallest width at which 4 heads keep 16 channels each.
    embedding_size: int = Field(default=64, ge=8, description="Width of the networks.")
    # Two let an event be compared with another (block 1) before the summary reads the result
    # (block 2).
    num_layers: int = Field(default=2, ge=1, description="Transformer blocks per network.")
    num_heads: int = Field(default=4, ge=1, description="Attention heads per block.")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> NetworkSizes:
        if self.embedding_size % self.num_heads:
            raise ValueError(
                f"embedding_size {self.embedding_size} is not a multiple of num_heads "
                f"{self.num_heads}"
            )
        return self


class NetworkConfig(NetworkSizes):
    """All sizes of the networks; the first five follow from the dataset."""

    num_videos: int = Field(ge=1)
    num_tags: int = Field(ge=0)
    num_video_types: int = Field(ge=0)
    num_upload_types: int = Field(ge=0)
    history_length: int = Field(ge=1)
    #: Rows of the hashed video-id embedding; collisions are told apart by the video's features.
    id_buckets: int = Field(default=16_384, ge=1)
    #: Rows of the hashed author embedding.
    author_buckets: int = Field(default=4_096, ge=1)

    @classmethod
    def for_dataset(cls, manifest: Manifest, **choices: int) -> NetworkConfig:
        """Sizes that fit a dataset, with ``choices`` for the rest.

        Twice as many id buckets as videos keep most ids apart; more rows would stay unused.
        """
        buckets = {
            "id_buckets": min(16_384, 2 * manifest.num_videos),
            "author_buckets": min(4_096, 2 * manifest.num_videos),
        }
        return cls(
            num_videos=manifest.num_videos,
            num_tags=len(manifest.vocabulary.tags),
            num_video_types=len(manifest.vocabulary.video_types),
            num_upload_types=len(manifest.vocabulary.upload_types),
            history_length=manifest.history_length,
            **(buckets | choices),
        )


def _hash(values: Tensor, buckets: int) -> Tensor:
    """Spread int64 values over ``buckets`` (multiplicative hashing, Knuth vol. 3, 6.4)."""
    mixed = (values * 2_654_435_761) & 0xFFFF_FFFF
    return (mixed >> 7) % buckets


class VideoFeatures(nn.Module):
    """The catalogue's features as buffers, so that a saved policy carries its own catalogue."""

    tag_codes: Tensor
    id_bucket: Tensor
    author_bucket: Tensor
    video_type_code: Tensor
    upload_type_code: Tensor
    numeric: Tensor

    def __init__(self, config: NetworkConfig, catalog: Catalog | None = None) -> None:
        """Take the features from ``catalog``, or leave them 0 to be filled by a saved state.

        Raises:
            ValueError: the catalogue has another number of videos than ``config``.
        """
        super().__init__()
        n = config.num_videos
        if catalog is not None and len(catalog) != n:
            raise ValueError(f"expected a catalogue of {n} videos, got {len(catalog)}")
        shapes: dict[str, tuple[int, ...]] = {
            "tag_codes": (n, MAX_TAGS),
            "id_bucket": (n,),
            "author_bucket": (n,),
            "video_type_code": (n,),
            "upload_type_code": (n,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("numeric", torch.zeros(n, len(NUMERIC_NAMES)))
        if catalog is not None:
            # torch.tensor copies: arrays out of Parquet are read-only, which torch warns about.
            self.tag_codes.copy_(torch.tensor(catalog.tag_codes))
            self.id_bucket.copy_(_hash(torch.tensor(catalog.video_id), config.id_buckets))
            author = _hash(torch.tensor(catalog.author_id), config.author_buckets)
            self.author_bucket.copy_(author)
            self.video_type_code.copy_(torch.tensor(catalog.video_type_code))
            self.upload_type_code.copy_(torch.tensor(catalog.upload_type_code))
            self.numeric.copy_(torch.tensor(catalog.numeric))


class VideoTower(nn.Module):
    """Embedding of a video from its tags, author, types, numbers and hashed id.

    Every video has one, seen in training or not: the features speak where the id is silent.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        size = config.embedding_size
        # Code 0 ('none' or 'other') keeps a zero vector for tags, and learns one elsewhere.
        self.tag = nn.Embedding(config.num_tags + 1, size, padding_idx=0)
        self.video_id = nn.Embedding(config.id_buckets, size)
        self.author = nn.Embedding(config.author_buckets, size)
        self.video_type = nn.Embedding(config.num_video_types + 1, size)
        self.upload_type = nn.Embedding(config.num_upload_types + 1, size)
        self.numeric = nn.Linear(len(NUMERIC_NAMES), size)
        self.norm = nn.LayerNorm(size)
        # Identity embeddings start small: what generalises is learnt first, exceptions later.
        for embedding in (self.video_id, self.author):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, features: VideoFeatures, index: Tensor | None = None) -> Tensor:
        """Embed the videos of ``index`` (any shape ...), or the whole catalogue.

        Returns:
            (..., D), or (N, D) for the whole catalogue.
        """
        if index is not None and index.numel() > len(features.id_bucket):
            # Fewer videos than places that ask for one: embed each once, then look it up.
            return F.embedding(index, self(features))

        def take(table: Tensor) -> Tensor:
            if index is None:
                return table
            # As table[index], which takes 30 times as long here: it starts threads for little.
            return table.index_select(0, index.reshape(-1)).view(*index.shape, *table.shape[1:])

        codes = take(features.tag_codes)  # (..., MAX_TAGS)
        count = (codes > 0).sum(-1, keepdim=True).clamp(min=1)
        return self.norm(
            self.tag(codes).sum(-2) / count
            + self.video_id(take(features.id_bucket))
            + self.author(take(features.author_bucket))
            + self.video_type(take(features.video_type_code))
            + self.upload_type(take(features.upload_type_code))
            + self.numeric(take(features.numeric))
        )


#: Numbers that describe the answer to a past video: watch ratio, binary signals, age.
ANSWER_SIZE = 2 + len(BINARY_SIGNALS)


def answer_features(parts: StateParts[Tensor]) -> Tensor:
    """Describe the user's answer to each past event, (B, H, 10)."""
    return torch.cat(
        [
            parts.events[..., WATCH_RATIO, None],
            parts.feedback,
            # Ages are logarithms of seconds, 0 to about 15: a tenth puts them beside the flags.
            0.1 * parts.events[..., AGE, None],
        ],
        dim=-1,
    )


@dataclass(frozen=True)
class Tokens:
    """A batch of states as the transformer sees them, before the first block.

    ``user`` (B, D); ``events`` (B, H, D), newest first; ``context`` (B, D); ``present`` (B, H)
    bool, False where a slot is empty. Attributions take these apart (``interpret/``).
    """

    user: Tensor
    events: Tensor
    context: Tensor
    present: Tensor


class Block(nn.Module):
    """Pre-norm transformer block (Xiong et al. 2020, figure 1b)."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(size)
        self.qkv = nn.Linear(size, 3 * size)
        self.project = nn.Linear(size, size)
        self.norm_mlp = nn.LayerNorm(size)
        self.mlp = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))

    def forward(self, x: Tensor, mask: Tensor, first_only: bool = False) -> Tensor:
        """Update tokens ``x`` (B, T, D); ``mask`` (B, 1, 1, T) is False at empty slots.

        ``first_only`` returns the first token alone, (B, 1, D), with the same values: of the last
        block nothing else is read, and 17 of 18 rows of its queries and MLP need no computing.
        """
        batch, length, size = x.shape
        normed = self.norm_attention(x)
        asking = 1 if first_only else length  # Q tokens that are updated
        x = x[:, :asking]
        weight, bias = self.qkv.weight, self.qkv.bias
        q = F.linear(normed[:, :asking], weight[:size], bias[:size])  # (B, Q, D)
        k, v = F.linear(normed, weight[size:], bias[size:]).split(size, dim=-1)  # (B, T, D) each

        def by_head(part: Tensor) -> Tensor:
            # (B, T, D) -> (B, heads, T, D / heads)
            return part.view(batch, -1, self.heads, size // self.heads).transpose(1, 2)

        attended = F.scaled_dot_product_attention(
            by_head(q), by_head(k), by_head(v), attn_mask=mask
        )
        # (B, heads, Q, D / heads) -> (B, Q, D)
        x = x + self.project(attended.transpose(1, 2).reshape(batch, asking, size))
        return x + self.mlp(self.norm_mlp(x))


class StateEncoder(nn.Module):
    """Summary of a state by a transformer over a user, a context and up to H event tokens."""

    def __init__(self, config: NetworkConfig, tower: VideoTower) -> None:
        super().__init__()
        size = config.embedding_size
        self.layout = StateLayout(config.history_length)
        self.tower = tower
        self.user = nn.Linear(USER_SIZE, size)
        self.context = nn.Linear(CONTEXT_SIZE, size)
        self.answer = nn.Linear(ANSWER_SIZE, size)
        # Which slot an event is in: its recency in events, where age is recency in time.
        self.recency = nn.Embedding(config.history_length, size)
        self.blocks = nn.ModuleList(Block(size, config.num_heads) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(size)

    def embed(self, features: VideoFeatures, states: Tensor) -> Tokens:
        """Turn states (B, state size) into tokens."""
        parts = self.layout.unpack(states)
        events = (
            self.tower(features, parts.video_index.clamp(min=0))
            + self.answer(answer_features(parts))
            + self.recency.weight
        )
        return Tokens(
            user=self.user(parts.user),
            events=events * parts.present[..., None],
            context=self.context(parts.context),
            present=parts.present,
        )

    def encode(self, tokens: Tokens) -> Tensor:
        """Summarise tokens as (B, D): the user token after the last block."""
        x = torch.cat([tokens.user[:, None], tokens.context[:, None], tokens.events], dim=1)
        always = torch.ones_like(tokens.present[:, :2])
        mask = torch.cat([always, tokens.present], dim=1)[:, None, None, :]
        for place, block in enumerate(self.blocks, start=1):
            x = block(x, mask, first_only=place == len(self.blocks))
        return self.norm(x[:, 0])

    def forward(self, features: VideoFeatures, states: Tensor) -> Tensor:
        """Summarise states (B, state size) as (B, D)."""
        return self.encode(self.embed(features, states))


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

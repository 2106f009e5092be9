"""Embedding of a video from its features, known or new; N videos of the catalogue, D channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noetik_rllib.data.schema import MAX_TAGS
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.offline.catalog import NUMERIC_NAMES, Catalog


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
            # The narrowest that an embedding looks up without converting it first: 228 MB for the
            # 4.37 million videos of KuaiRand-27K in all, numbers included, instead of 385.
            self.register_buffer(name, torch.zeros(shape, dtype=torch.int32))
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

    Every video has one, seen in training or not: the features speak where the id is silent. It is
    their plain sum, over a video's tags as well: what a user thinks of two tags adds up, which a
    mean over tags, or a norm of the whole, would hide from a product with the embedding.
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
        # Only tags start large: videos are alike by them at first. What hardly tells videos apart,
        # as their two types, or tells of one alone, as its identity, is learnt as exceptions.
        for embedding in (self.video_id, self.author, self.video_type, self.upload_type):
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

        return (
            self.tag(take(features.tag_codes)).sum(-2)  # (..., MAX_TAGS, D) -> (..., D)
            + self.video_id(take(features.id_bucket))
            + self.author(take(features.author_bucket))
            + self.video_type(take(features.video_type_code))
            + self.upload_type(take(features.upload_type_code))
            + self.numeric(take(features.numeric))
        )

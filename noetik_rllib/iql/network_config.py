"""Sizes of the networks of discrete IQL: what is a choice, and what follows from the dataset."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from noetik_rllib.offline.manifest import Manifest

#: Raised when the same sizes make other networks: older weights no longer fit.
NETWORK_VERSION = 4


class NetworkSizes(BaseModel):
    """Sizes of the networks that are a choice; options of ``noetik train``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # Width D of every token. 64 is the smallest width at which 4 heads keep 16 channels each.
    embedding_size: int = Field(default=64, ge=8, description="Width of the networks.")
    # Two let an event be compared with another (block 1) before the summary reads the result
    # (block 2).
    num_layers: int = Field(default=2, ge=1, description="Transformer blocks per network.")
    num_heads: int = Field(default=4, ge=1, description="Attention heads per block.")
    # As in the paper's code; benchmarks/sharing.py: a shared encoder loses a tenth of the reward.
    share: Literal["nothing", "tower", "encoder"] = Field(
        default="nothing",
        description="What actor, Q and V have in common: nothing, the video tower, or the whole "
        "encoder of states.",
    )
    # At KuaiRand-Pure's 7,583 videos the exact softmax makes a gradient step 13 % longer than 1,024
    # draws do, and in proportion to the catalogue: up to here certainty is worth it.
    exact_softmax_videos: int = Field(
        default=10_000,
        ge=0,
        description="Largest catalogue over which the policy's likelihood is exact.",
    )
    # With these the estimate adds at most 2 % to the variance that a batch's gradient has anyway;
    # see sampled_softmax.py.
    num_negatives: int = Field(
        default=1_024,
        ge=1,
        description="Videos drawn per step to stand for a larger catalogue.",
    )

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
    def for_dataset(cls, manifest: Manifest, **choices: Any) -> NetworkConfig:
        """Sizes that fit a dataset, with ``choices`` for the rest.

        Twice as many id buckets as videos keep most ids apart in catalogues of up to 8,192; in
        larger ones several videos share a bucket, and their features tell them apart.
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

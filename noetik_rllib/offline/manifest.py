"""``manifest.json``: what an offline dataset is, where it came from, and what was learnt on its
training part alone.
"""

from __future__ import annotations

import json
import zlib
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from noetik_rllib.data.mapping import Mapping
from noetik_rllib.data.schema import SourceFile
from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.errors import UserError
from noetik_rllib.io import write_json
from noetik_rllib.state import LAYOUT_VERSION, StateLayout

MANIFEST_NAME = "manifest.json"
#: Most videos of a uniform policy's pool: a propensity far above the smallest float32.
MAX_POOL = 10**9


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SignalMoments(_Strict):
    """Mean (9,) and covariance (9, 9) of the signals over the rows of ``train/``.

    The reward is linear in the signals, so its mean ``w.m`` and variance ``w'Cw`` are exact for
    any weights without a pass over the data.
    """

    mean: list[float]
    covariance: list[list[float]]

    def reward_mean(self, weights: RewardWeights) -> float:
        """Mean of the reward over the training rows."""
        return float(weights.as_array() @ np.array(self.mean))

    def reward_std(self, weights: RewardWeights) -> float:
        """Standard deviation of the reward over the training rows.

        Raises:
            UserError: the reward does not vary, so it cannot be normalised or learnt from.
        """
        w = weights.as_array()
        variance = float(w @ np.array(self.covariance) @ w)
        if variance <= 1e-12:
            used = ", ".join(f"{n}={x:g}" for n, x in zip(SIGNALS, w, strict=True) if x)
            raise UserError(
                f"the reward with weights {used} is the same on every training row: nothing can "
                "be learnt from it; give weight to a signal that occurs in this dataset"
            )
        return float(np.sqrt(variance))


class Vocabulary(_Strict):
    """Values of the categorical video features that occur in ``train/``; code 0 is 'other'."""

    tags: list[Annotated[int, Field(ge=0, lt=2**31)]]
    video_types: list[str]
    upload_types: list[str]


class Normaliser(_Strict):
    """Mean and standard deviation of numeric features over the training part."""

    mean: list[float]
    std: list[float]


class Part(_Strict):
    """Size of one part of the dataset."""

    rows: int
    users: int
    episodes: int


class StoredFile(_Strict):
    """A file of the dataset: its size and its CRC-32, as 8 hexadecimal digits."""

    bytes: int
    crc32: str

    @classmethod
    def of(cls, path: Path) -> StoredFile:
        """Read a file and return what the manifest holds of it."""
        checksum = 0
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                checksum = zlib.crc32(block, checksum)
        return cls(bytes=path.stat().st_size, crc32=f"{checksum:08x}")


class Manifest(_Strict):
    """Everything a reader of the dataset must know; see ``docs/data.md`` for the format."""

    layout_version: int = LAYOUT_VERSION
    history_length: int
    num_videos: int
    num_users: int
    episode_steps: int
    mapping: Mapping
    user_names: list[str]
    split: Literal["user", "time"]
    split_time_ms: int | None
    random_in_train: bool
    #: Videos that the uniform policy draws from, each with the same propensity; None where the
    #: dataset holds no row of it.
    random_pool: int | None = Field(ge=1, le=MAX_POOL)
    held_out_users: float
    seed: int = Field(ge=0, lt=2**63)
    parts: dict[str, Part]
    reward: RewardWeights
    signals: SignalMoments
    vocabulary: Vocabulary
    user_numeric: Normaliser
    video_duration: Normaliser
    sources: list[SourceFile]
    repairs: dict[str, int]
    logged_reward: dict[str, float]
    files: dict[str, StoredFile]

    @property
    def layout(self) -> StateLayout:
        """Layout of the states in this dataset."""
        return StateLayout(self.history_length)

    @property
    def split_text(self) -> str:
        """Say which rows are for testing."""
        if self.split_time_ms is None:
            return "the last 20% of each user's rows"
        moment = datetime.fromtimestamp(self.split_time_ms / 1000, tz=timezone.utc)
        return f"all rows from {moment:%Y-%m-%d %H:%M} UTC on"

    def save(self, directory: Path) -> None:
        """Write ``directory/manifest.json``."""
        write_json(directory / MANIFEST_NAME, self.model_dump(mode="json"))

    @classmethod
    def load(cls, directory: str | Path) -> Manifest:
        """Read ``directory/manifest.json``.

        Raises:
            UserError: no such file, not a manifest, or of another layout version.
        """
        path = Path(directory) / MANIFEST_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{directory} is not an offline dataset: it has no {MANIFEST_NAME}; "
                "make one with 'noetik data prepare'"
            ) from None
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise UserError(f"{path} is damaged: not JSON ({error}); prepare it again") from None
        version = content.get("layout_version") if isinstance(content, dict) else None
        if version != LAYOUT_VERSION:
            raise UserError(
                f"{path} has layout version {version}; this release reads {LAYOUT_VERSION}: "
                "prepare the dataset again"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(f"{path} is damaged: {where}: {first['msg']}") from None

"""The feedback signals of a shown video, in their one fixed order, and the reward made of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from noetik_rllib.errors import did_you_mean

#: Every signal that the dataset stores, in the order of its columns and of the manifest's moments.
SIGNALS: tuple[str, ...] = (
    "click",
    "watch_ratio",
    "long_view",
    "like",
    "follow",
    "comment",
    "forward",
    "hate",
    "profile_enter",
)
#: The signals that are 0 or 1 (all but the watch ratio), in the order of the feedback bits.
BINARY_SIGNALS: tuple[str, ...] = tuple(name for name in SIGNALS if name != "watch_ratio")
#: Positions of the binary signals within ``SIGNALS``.
BINARY_COLUMNS: tuple[int, ...] = tuple(SIGNALS.index(name) for name in BINARY_SIGNALS)

#: Watch time that counts as a whole view where the duration is unknown, in ms: the log's own
#: long-view rule treats such videos as long, and its threshold is 18 s (KuaiRand README).
UNKNOWN_DURATION_FULL_VIEW_MS = 18_000


def capped_ratio(value: np.ndarray, whole: np.ndarray, unknown: float) -> np.ndarray:
    """Return ``value / whole`` cut to [0, 1], float32; wholes of 0 or blank are ``unknown``."""
    known = np.where(whole > 0, whole, unknown)
    return np.clip(value / known, 0.0, 1.0).astype(np.float32)


def watch_ratio(play_time_ms: np.ndarray, duration_ms: np.ndarray) -> np.ndarray:
    """Return the watched share of each video, in [0, 1], as float32 of the inputs' shape.

    Replays count as 1: the reward would otherwise favour the shortest loops. A duration of 0 is
    unknown, and 18 s of watching then count as whole.
    """
    return capped_ratio(play_time_ms, duration_ms, UNKNOWN_DURATION_FULL_VIEW_MS)


class RewardWeights(BaseModel):
    """Weight of each signal in the reward: ``reward = sum over signals of weight x signal``.

    The default, 0.5 click + 0.5 watch ratio, is the product's fixed definition of engagement; it
    lies in [0, 1] because both signals do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    click: float = 0.5
    watch_ratio: float = 0.5
    long_view: float = 0.0
    like: float = 0.0
    follow: float = 0.0
    comment: float = 0.0
    forward: float = 0.0
    hate: float = 0.0
    profile_enter: float = 0.0

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, values: object) -> object:
        if isinstance(values, Mapping):
            for name in values:
                if name not in SIGNALS:
                    raise ValueError(
                        f"unknown signal '{name}'; expected one of {', '.join(SIGNALS)}."
                        f"{did_you_mean(str(name), SIGNALS)}"
                    )
        return values

    @model_validator(mode="after")
    def _some_weight(self) -> RewardWeights:
        if not any(self.as_array()):
            raise ValueError("every reward weight is 0: give at least one signal a weight")
        return self

    def as_array(self) -> np.ndarray:
        """Return the weights as float64 of shape (9,), in the order of ``SIGNALS``."""
        return np.array([getattr(self, name) for name in SIGNALS])

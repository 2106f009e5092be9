"""What is explained: many recommendations at once, one video in each of many states."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from noetik_rllib.iql.networks import IQLNetworks

#: States whose first choices are looked for at a time.
_STATES_AT_ONCE = 1_024


@dataclass(frozen=True)
class Decisions:
    """B recommendations.

    Attributes:
        states: (B, state size) float32.
        videos: dense index of the recommended video, (B,) int64.
        alternatives: of the video that a lead is over, (B,) int64; None where nobody asks for one.

    Raises:
        ValueError: there is not one video, and one alternative, per state, or no state.
    """

    states: np.ndarray
    videos: np.ndarray
    alternatives: np.ndarray | None = None

    def __post_init__(self) -> None:
        others = self.videos if self.alternatives is None else self.alternatives
        shape = self.states.shape[:1]
        if self.states.ndim != 2 or not (self.videos.shape == others.shape == shape != (0,)):
            raise ValueError(
                "expected states (B, size), videos and alternatives (B,) with B > 0, got "
                f"{self.states.shape}, {self.videos.shape} and {others.shape}"
            )

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, rows: slice | np.ndarray) -> Decisions:
        others = self.alternatives
        return Decisions(
            self.states[rows], self.videos[rows], None if others is None else others[rows]
        )

    def chunks(self, size: int) -> Iterator[slice]:
        """Yield slices of at most ``size`` decisions."""
        for first in range(0, len(self), size):
            yield slice(first, min(first + size, len(self)))

    def check(self, num_videos: int) -> None:
        """Refuse videos outside of the catalogue.

        Raises:
            ValueError: there is one.
        """
        for videos in (self.videos, self.alternatives):
            if videos is not None and ((videos < 0) | (videos >= num_videos)).any():
                raise ValueError(
                    f"video indices must be 0 to {num_videos - 1}, got {videos.min()} to "
                    f"{videos.max()}"
                )

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        """States, videos and alternatives on a device."""
        # A copy: arrays read from Parquet are read-only, which torch warns about.
        states = torch.as_tensor(np.array(self.states, dtype=np.float32), device=device)
        videos, others = (
            None if one is None else torch.as_tensor(one.astype(np.int64), device=device)
            for one in (self.videos, self.alternatives)
        )
        assert videos is not None  # it is never optional
        return states, videos, others


def first_choices(networks: IQLNetworks, states: np.ndarray, *, repeats: bool = False) -> Decisions:
    """Return what a policy recommends in states, with its second choice as the alternative.

    Args:
        networks: the policy.
        states: (B, state size).
        repeats: whether videos of the history may be recommended again.

    Raises:
        ValueError: there is no state, or a state whose candidates are fewer than two.
    """
    networks = networks.eval()
    features, actor = networks.features, networks.actor
    catalogue = actor.embed_catalogue(features)
    chosen = []
    for first in range(0, len(states), _STATES_AT_ONCE):
        rows = np.array(states[first : first + _STATES_AT_ONCE], dtype=np.float32)
        part = torch.as_tensor(rows, device=features.numeric.device)
        seen = None if repeats else actor.encoder.layout.unpack(part).video_index.long()
        videos, logits = actor.recommend(features, part, 2, seen, catalogue)
        if not torch.isfinite(logits).all():
            raise ValueError("a state has fewer than two candidates")
        chosen.append(videos.cpu().numpy())
    both = np.concatenate(chosen) if chosen else np.zeros((0, 2), dtype=np.int64)
    return Decisions(states, both[:, 0], both[:, 1])

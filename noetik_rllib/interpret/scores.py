"""What an attribution explains: a number that a network gives one video in a state.

Each score is a function of the summary of a state, so that whatever makes the summary, events faded
in or taken out, is the same for all of them. Shapes: B decisions, D embedding size, S components of
the reward.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from noetik_rllib.iql import losses
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.iql.retrieval import CHUNK_VIDEOS
from noetik_rllib.iql.transformer import StateEncoder


class Score(ABC):
    """A number per decision, from the summary of its state.

    Args:
        networks: a trained policy and its critics.
        encoder: that makes the summary.
    """

    def __init__(self, networks: IQLNetworks, encoder: StateEncoder) -> None:
        self.networks = networks
        self.encoder = encoder
        self.features = networks.features

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.features.numeric.device

    @abstractmethod
    def about(self, videos: Tensor, alternatives: Tensor | None) -> tuple[Tensor, ...]:
        """Return what is fixed of decisions, each with B rows, as ``of_summary`` takes it.

        Args:
            videos: that are scored, (B,) int64.
            alternatives: that a lead is over, (B,) int64; other scores pass over them.

        Raises:
            ValueError: the score needs alternatives and there are none.
        """

    @abstractmethod
    def of_summary(self, summary: Tensor, *about: Tensor) -> Tensor:
        """Scores (B,) of decisions, from summaries (B, 2 D)."""


class LogitScore(Score):
    """The actor's logit, ``<q, e_v> / sqrt D + b_v``.

    A logit has an arbitrary part per state: adding a constant to all N changes no probability, so
    attributing it mixes "why this video" with "why large numbers here". The others here do not.
    """

    def __init__(self, networks: IQLNetworks) -> None:
        super().__init__(networks, networks.actor.encoder)

    def about(self, videos: Tensor, alternatives: Tensor | None) -> tuple[Tensor, ...]:
        """Return the scaled embeddings (B, D) and the biases (B,); see ``Score``."""
        return self._embedded(videos)

    def of_summary(self, summary: Tensor, *about: Tensor) -> Tensor:
        """See ``Score``."""
        direction, offset = about
        return (self.networks.actor.query(summary) * direction).sum(dim=-1) + offset

    @torch.no_grad()
    def _embedded(self, videos: Tensor) -> tuple[Tensor, Tensor]:
        video, bias = self.networks.actor.embed(self.features, videos)
        return video * self.networks.actor.scale, bias


class MarginScore(LogitScore):
    """The *margin* of a video: its logit minus the mean logit over the catalogue.

    The logit is linear in the query, so the margin needs one inner product and not N::

        margin_v = <q, e_v - mean e> / sqrt D + b_v - mean b
    """

    @torch.no_grad()
    def __init__(self, networks: IQLNetworks) -> None:
        super().__init__(networks)
        actor = networks.actor
        count = networks.config.num_videos
        total, bias = torch.zeros(1, device=self.device), torch.zeros((), device=self.device)
        for videos, biases in actor.embed_chunks(self.features, CHUNK_VIDEOS):
            total, bias = total + videos.sum(dim=0), bias + biases.sum()
        self._mean_direction, self._mean_bias = total / count * actor.scale, bias / count

    def about(self, videos: Tensor, alternatives: Tensor | None) -> tuple[Tensor, ...]:
        """Return scaled contrasts with the mean video (B, D), and of biases (B,); see ``Score``."""
        direction, offset = super().about(videos, alternatives)
        return direction - self._mean_direction, offset - self._mean_bias


class LeadScore(LogitScore):
    """The *lead* of a video over another: the logarithm of the ratio of their probabilities."""

    def about(self, videos: Tensor, alternatives: Tensor | None) -> tuple[Tensor, ...]:
        """Return scaled contrasts with the alternatives (B, D), and of biases (B,)."""
        if alternatives is None:
            raise ValueError("a lead needs an alternative for each video")
        direction, offset = self._embedded(videos)
        other, other_offset = self._embedded(alternatives)
        return direction - other, offset - other_offset


class QScore(Score):
    """Q of a video as the policy learns from it: the smaller twin's total, in training units."""

    def __init__(self, networks: IQLNetworks) -> None:
        super().__init__(networks, networks.q.encoder)
        self._signs = torch.tensor(networks.reward.signs, device=self.device)

    def about(self, videos: Tensor, alternatives: Tensor | None) -> tuple[Tensor, ...]:
        """Return the videos; see ``Score``."""
        return (videos,)

    def of_summary(self, summary: Tensor, *about: Tensor) -> Tensor:
        """See ``Score``."""
        twins = self.networks.q.from_summary(self.features, summary, about[0])  # (2, B, S)
        return losses.total(losses.smaller_q(twins, self._signs), self._signs)

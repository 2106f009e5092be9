"""The transformer that summarises a state: user token, context token, one token per past event.

Shapes: B states, H history slots, T = H + 2 tokens, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noetik_rllib.data.signals import BINARY_SIGNALS
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.video_tower import VideoFeatures, VideoTower
from noetik_rllib.state import (
    AGE,
    CONTEXT_SIZE,
    USER_SIZE,
    WATCH_RATIO,
    StateLayout,
    StateParts,
)

#: Numbers that describe the answer to a past video: watch ratio, binary signals, unchosen, age.
ANSWER_SIZE = 3 + len(BINARY_SIGNALS)
_UNCHOSEN = 1 + len(BINARY_SIGNALS)

#: What a random exposure begins with in the history's mean, as the argument of a sigmoid: 0.1 of a
#: video that was chosen for the user, as it says nothing of their taste until it is answered.
_UNCHOSEN_START = -3.0
#: Imagined events without content in the history's mean, which keep the taste of a user with few
#: events near 0.
_IMAGINED_EVENTS = 2.0


def answer_features(parts: StateParts[Tensor]) -> Tensor:
    """Describe how each past event came about and was answered, (B, H, 11)."""
    return torch.cat(
        [
            parts.events[..., WATCH_RATIO, None],
            parts.feedback,
            parts.unchosen[..., None].to(parts.events.dtype),
            # Ages are logarithms of seconds, 0 to about 15: a tenth puts them beside the flags.
            0.1 * parts.events[..., AGE, None],
        ],
        dim=-1,
    )


@dataclass(frozen=True)
class Tokens:
    """A batch of states as the transformer sees them, before the first block.

    ``user`` (B, D); ``events`` (B, H, D), newest first; ``weight`` (B, H) of each event in the
    history's mean; ``context`` (B, D); ``present`` (B, H) bool, False where a slot is empty.
    Attributions take these apart (``interpret/``).
    """

    user: Tensor
    events: Tensor
    weight: Tensor
    context: Tensor
    present: Tensor

    def keeping(self, kept: Tensor) -> Tokens:
        """Return the same states with only the events that are ``kept``, (B, H) bool.

        The others' slots are then as empty ones: masked in attention, without weight in the mean.
        """
        kept = self.present & kept
        return replace(
            self,
            events=self.events * kept[..., None],
            weight=self.weight * kept,
            present=kept,
        )


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

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        first_only: bool = False,
        attention: list[Tensor] | None = None,
    ) -> Tensor:
        """Update tokens.

        Args:
            x: (B, T, D).
            mask: (B, 1, 1, T), False at empty slots; without ``attention`` it may also be numbers
                to add to the scores.
            first_only: return the first token alone, (B, 1, D), with the same values: of the last
                block nothing else is read, and 17 of 18 rows of its queries and MLP need no
                computing.
            attention: takes the attention weights (B, heads, T or 1, T), if a list is given.
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

        if attention is None:
            attended = F.scaled_dot_product_attention(
                by_head(q), by_head(k), by_head(v), attn_mask=mask
            )
        else:
            # The fused kernel keeps its weights to itself.
            scores = by_head(q) @ by_head(k).transpose(-2, -1) / (size // self.heads) ** 0.5
            attention.append(scores.masked_fill(~mask, -torch.inf).softmax(dim=-1))
            attended = attention[-1] @ by_head(v)
        # (B, heads, Q, D / heads) -> (B, Q, D)
        x = x + self.project(attended.transpose(1, 2).reshape(batch, asking, size))
        return x + self.mlp(self.norm_mlp(x))


class StateEncoder(nn.Module):
    """Summary of a state by a transformer over a user, a context and up to H event tokens.

    Beside what attention makes of a state, the summary holds a weighted mean of its events, so that
    a video like those in the history can be told by a product with its own embedding. Attention
    alone would have to learn to copy them through four layers: cloning a log of strong tastes,
    it got half as far in as many steps (docs/iql.md). A hidden layer is added to the mean, as the
    log-odds of a taste are not linear in how often it was met.
    """

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
        # How much of a taste an event tells, 0 to 2: a random exposure little, a like much.
        self.weigh = nn.Linear(ANSWER_SIZE, 1)
        widen, narrow = nn.Linear(2 * size, 4 * size), nn.Linear(4 * size, size)
        self.refine = nn.Sequential(nn.LayerNorm(2 * size), widen, nn.GELU(), narrow)
        with torch.no_grad():
            self.weigh.weight.zero_()  # every chosen event weighs 1 at first
            self.weigh.weight[0, _UNCHOSEN] = _UNCHOSEN_START
            self.weigh.bias.zero_()
            narrow.weight.mul_(0.1)  # the mean leads at first
            narrow.bias.zero_()
        #: Numbers of a summary.
        self.summary_size = 2 * size

    def embed(self, features: VideoFeatures, states: Tensor) -> Tokens:
        """Turn states (B, state size) into tokens."""
        parts = self.layout.unpack(states)
        answers = answer_features(parts)
        events = (
            self.tower(features, parts.video_index.clamp(min=0))
            + self.answer(answers)
            + self.recency.weight
        )
        return Tokens(
            user=self.user(parts.user),
            events=events * parts.present[..., None],
            weight=2 * torch.sigmoid(self.weigh(answers)[..., 0]) * parts.present,
            context=self.context(parts.context),
            present=parts.present,
        )

    def encode(self, tokens: Tokens, attention: list[Tensor] | None = None) -> Tensor:
        """Summarise tokens as (B, 2 D): see ``summary``.

        Args:
            tokens: B states.
            attention: takes the attention weights of every block, (B, heads, T, T), of the last
                one only the first row, if a list is given; costs nothing otherwise.
        """
        x = torch.cat([tokens.user[:, None], tokens.context[:, None], tokens.events], dim=1)
        # Not len(): an exported program (export.py) would be for that many states alone. Not of a
        # slice: a history may have one slot.
        always = tokens.present.new_ones(tokens.present.shape[0], 2)
        mask = torch.cat([always, tokens.present], dim=1)[:, None, None, :]
        for place, block in enumerate(self.blocks, start=1):
            x = block(x, mask, first_only=place == len(self.blocks), attention=attention)
        return self.summary(x[:, 0], tokens.events, tokens.weight)

    def summary(self, user: Tensor, events: Tensor, weight: Tensor) -> Tensor:
        """Join the user token after the last block (B, D) and the history's taste, (B, 2 D).

        Args:
            user: (B, D).
            events: tokens before the first block, (B, H, D).
            weight: what each counts in their mean, (B, H); 0 at empty slots.
        """
        # (B, 1, H) @ (B, H, D) -> (B, D)
        mean = (weight[:, None] @ events)[:, 0] / (weight.sum(1, keepdim=True) + _IMAGINED_EVENTS)
        user = self.norm(user)
        taste = mean + self.refine(torch.cat([user, mean], dim=-1))
        return torch.cat([user, taste], dim=-1)

    def forward(self, features: VideoFeatures, states: Tensor) -> Tensor:
        """Summarise states (B, state size) as (B, 2 D)."""
        return self.encode(self.embed(features, states))


def attention_rollout(attention: list[Tensor]) -> Tensor:
    """Follow attention through the blocks to the tokens that were put in (Abnar & Zuidema 2020).

    Heads are averaged, and the residual connection counts as attention to oneself: each block's
    matrix is ``0.5 A + 0.5 I``, and the rollout is their product's row of the summary token.

    Args:
        attention: of every block, as ``StateEncoder.encode`` gives it.

    Returns:
        (B, T), rows sum to 1: user, context, then the events, newest first.
    """
    last = attention[-1].mean(dim=1)[:, 0]  # (B, T)
    row = 0.5 * last
    row = torch.cat([row[:, :1] + 0.5, row[:, 1:]], dim=1)
    for weights in reversed(attention[:-1]):
        row = 0.5 * row + 0.5 * (row[:, None] @ weights.mean(dim=1))[:, 0]
    return row

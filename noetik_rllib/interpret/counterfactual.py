"""What would have to be otherwise for a policy to choose otherwise: events removed, or skipped.

Removals are found by ``removal.py``. *Skipped* is the same state, had the user skipped one video:
watched share 0 and no positive signal. Whether the platform had chosen the video and how long ago
it was stay as they are, and so do the user's counts and rates.

What is told is what the policy would choose, not what the user would do.

Shapes: H history slots, K choices, B edited states, N videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from noetik_rllib.data.mapping import LogFiles
from noetik_rllib.data.signals import BINARY_SIGNALS
from noetik_rllib.interpret import words
from noetik_rllib.interpret.removal import Choices, FoundRemoval, RemovalSearch
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.iql.retrieval import EmbeddedCatalogue, chunk_size
from noetik_rllib.state import FEEDBACK, WATCH_RATIO, StateLayout, feedback_bits

_CLICK = BINARY_SIGNALS.index("click")
#: Signals that a skip is without: all but the report of a dislike.
_POSITIVE = np.array([name != "hate" for name in BINARY_SIGNALS])


@dataclass(frozen=True)
class FoundSkip:
    """What skipping the event of ``slot`` would do; the others as in ``facts.Skipped``."""

    slot: int
    margin_change: float
    probability: float
    becomes: int | None


@dataclass(frozen=True)
class Found:
    """The counterfactuals of one choice.

    Attributes:
        removal: None where no set of events that was tried changes the choice.
        sets_tried: how many were; ``2 ** n - 1`` are all sets of n events.
        skip: None where there is nothing to skip.
    """

    removal: FoundRemoval | None
    sets_tried: int
    skip: FoundSkip | None


def watched(layout: StateLayout, state: np.ndarray, log: LogFiles) -> np.ndarray:
    """Say which events of a state (state size,) are not already a skip, (H,) bool.

    Of a log without a watched share, those that a positive signal followed.
    """
    parts = layout.unpack(state[None])
    ratio, feedback = parts.events[0, :, WATCH_RATIO], parts.feedback[0] > 0.5
    if words.has_watched_share(log):
        skipped = [
            words.is_skip(float(share), bool(clicked))
            for share, clicked in zip(ratio, feedback[:, _CLICK], strict=True)
        ]
        answered = ~np.array(skipped)
    else:
        answered = (ratio > 0) | (feedback & _POSITIVE).any(axis=1)
    return parts.present[0] & answered


def slot_to_skip(watched: np.ndarray, attribution: np.ndarray) -> int | None:
    """Return the watched event that speaks most for a video, or the newest where none does.

    Args:
        watched: which events are not already a skip, (H,) bool.
        attribution: of every event, (H,).
    """
    slots = np.flatnonzero(watched)
    if not len(slots):
        return None
    strongest = slots[np.argmax(attribution[slots])]
    return int(strongest if attribution[strongest] > 0 else slots[0])


def skipped(layout: StateLayout, state: np.ndarray, slot: int) -> np.ndarray:
    """Return a state (state size,) in which the event of ``slot`` was skipped."""
    parts = layout.unpack(np.array(state, dtype=np.float32)[None])
    events = parts.events.copy()
    events[0, slot, WATCH_RATIO] = 0.0
    dislike = parts.feedback[0, slot] * ~_POSITIVE
    events[0, slot, FEEDBACK] = feedback_bits(dislike, parts.unchosen[0, slot])
    return layout.pack(parts.user, events, parts.context)[0]


class CounterfactualFinder:
    """Finds counterfactuals of one policy's choices.

    Args:
        networks: the policy.
        catalogue: its ``actor.embed_catalogue``.
    """

    def __init__(self, networks: IQLNetworks, catalogue: EmbeddedCatalogue) -> None:
        self.networks, self.catalogue = networks, catalogue
        self._mean_video = catalogue.videos.mean(dim=0)

    @torch.no_grad()
    def find(
        self,
        state: np.ndarray,
        videos: Sequence[int],
        excluded: np.ndarray,
        skip: Sequence[int | None],
    ) -> list[Found]:
        """Find the counterfactuals of a policy's first K choices in one state.

        Args:
            state: (state size,), with at least one event.
            videos: dense indices of the choices, of rank 1 to K.
            excluded: dense indices that are no candidates.
            skip: slot of the event to skip for each choice, (K,); None for none.
        """
        actor = self.networks.actor
        hidden = torch.as_tensor(np.unique(excluded).astype(np.int64))
        choices = Choices(actor, self.catalogue, videos, hidden)
        # A copy: arrays read from Parquet are read-only, which torch warns about.
        own = torch.as_tensor(np.array(state, dtype=np.float32))[None]
        tokens = actor.encoder.embed(self.networks.features, own)
        searches = RemovalSearch(choices, tokens).run()
        skips = self._skips(choices, state, skip)
        return [
            Found(search.removal, search.tried, one)
            for search, one in zip(searches, skips, strict=True)
        ]

    def _skips(
        self, choices: Choices, state: np.ndarray, slots: Sequence[int | None]
    ) -> list[FoundSkip | None]:
        """Skip the event of a slot for each choice; one batch, the state itself its first row."""
        actor = self.networks.actor
        edits = sorted({slot for slot in slots if slot is not None})
        states = [state, *(skipped(actor.encoder.layout, state, slot) for slot in edits)]
        tokens = actor.encoder.embed(
            self.networks.features, torch.as_tensor(np.stack(states).astype(np.float32))
        )
        ranking = choices.rank(tokens)
        total = self._log_normaliser(ranking.queries, choices.hidden)
        change = ranking.queries - ranking.queries[0]
        found: list[FoundSkip | None] = []
        for rank, (video, slot) in enumerate(zip(choices.videos, slots, strict=True), start=1):
            if slot is None:
                found.append(None)
                continue
            row = 1 + edits.index(slot)
            contrast = self.catalogue.videos[video] - self._mean_video
            log_probability = choices.logits(ranking, rank)[row] - total[row]
            found.append(
                FoundSkip(
                    slot=slot,
                    margin_change=float(change[row] @ contrast),
                    probability=float(log_probability.clamp(max=0).exp()),
                    becomes=choices.newcomer(ranking, row, rank),
                )
            )
        return found

    def _log_normaliser(self, queries: Tensor, hidden: Tensor) -> Tensor:
        """Logarithm of the sum of ``exp(logit)`` over the candidates, (B,)."""
        total, first = queries.new_full((len(queries),), -torch.inf), 0
        for embedded, biases in self.catalogue.chunks(chunk_size(len(queries))):
            logits = F.linear(queries, embedded, biases)
            here = hidden[(hidden >= first) & (hidden < first + len(embedded))]
            logits[:, here - first] = -torch.inf
            total = torch.logaddexp(total, logits.logsumexp(dim=1))
            first += len(embedded)
        return total

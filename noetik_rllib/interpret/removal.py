"""The smallest set of past events without which a policy would choose otherwise.

**What is removed.** An event's slot is empty for the network: absent from every attention softmax
and from the history's mean, while the other events keep their slots (their recency) and the user's
profile, counts and rates stay as they are. A removal changes the choice of rank r where the video
is no longer among the policy's first r; the candidates are those of the real state.

**How the smallest is found.** All sets of 1 event are tried, all of 2, and so on, as long as
``TOKENS_TO_TRY`` lasts: every set of up to 12 events, those of up to 4 of 16 events, the pairs of
50. What is found there is the smallest; of several as small, the one that leaves the video
furthest behind. Beyond, events are removed one after the other, each time the one whose removal
lowers the video's lead most, down to the empty history; what has changed the choice is then thinned
out until no event of it can be put back. That set need not be the smallest: nothing is known of how
events work together, so that only trying all sets would tell. Measured on the synthetic Pure world,
the 12 newest events of 150 held-out users, of whom 50 needed the removal of two or more: begun at
single events, the search found the smallest for 48 and one event more for 2.

Shapes: n events, S sets of them, K choices, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from noetik_rllib.iql.networks import Actor
from noetik_rllib.iql.retrieval import EmbeddedCatalogue, chunk_size, top_k
from noetik_rllib.iql.transformer import Tokens

#: Sets times events that are tried in order of size: all pairs of 50 events, and not of 51.
TOKENS_TO_TRY = 65_000
#: Event tokens that go through the network at once: 32 MB of its widest layer at D = 64.
_TOKENS_AT_ONCE = 2**15
#: Rounds from the largest sets that were all tried to the empty history: each removes one event of
#: 50, and several of a longer history.
_ROUNDS = 50

#: History slots, ascending.
Slots = tuple[int, ...]


@dataclass(frozen=True)
class FoundRemoval:
    """A set of history slots whose removal brings in the video of index ``becomes``."""

    slots: Slots
    becomes: int
    is_smallest: bool


@dataclass(frozen=True)
class Ranking:
    """The first K + 1 candidates in B edited states.

    Attributes:
        queries: scaled, (B, D).
        videos: dense indices, (B, K + 1), best first; -1 where there is no further candidate.
        logits: theirs, (B, K + 1); -inf there.
    """

    queries: Tensor
    videos: Tensor
    logits: Tensor

    def __getitem__(self, rows: slice) -> Ranking:
        return Ranking(self.queries[rows], self.videos[rows], self.logits[rows])

    @classmethod
    def joined(cls, parts: Sequence[Ranking]) -> Ranking:
        """Put batches together."""
        return cls(
            torch.cat([part.queries for part in parts]),
            torch.cat([part.videos for part in parts]),
            torch.cat([part.logits for part in parts]),
        )


@dataclass(frozen=True)
class Choices:
    """A policy's first K choices in one state, and what they were chosen from.

    Attributes:
        actor: the policy.
        catalogue: its ``embed_catalogue``.
        videos: dense indices, of rank 1 to K.
        hidden: sorted dense indices that are no candidates, int64.
    """

    actor: Actor
    catalogue: EmbeddedCatalogue
    videos: Sequence[int]
    hidden: Tensor

    @property
    def candidates(self) -> int:
        """How many videos could be chosen."""
        return len(self.catalogue.biases) - len(self.hidden)

    def rank(self, tokens: Tokens) -> Ranking:
        """Rank the candidates for edited states."""
        queries = self.actor.query(self.actor.encoder.encode(tokens)) * self.actor.scale
        chunks = self.catalogue.chunks(chunk_size(len(queries)))
        hidden = self.hidden.expand(len(queries), -1)
        return Ranking(queries, *top_k(queries, chunks, len(self.videos) + 1, hidden))

    def logits(self, ranking: Ranking, rank: int) -> Tensor:
        """Logits (B,) of the choice of a rank."""
        video = self.videos[rank - 1]
        return ranking.queries @ self.catalogue.videos[video] + self.catalogue.biases[video]

    def newcomer(self, ranking: Ranking, row: int, rank: int) -> int | None:
        """Return what takes the place of the choice of a rank in a row.

        Returns:
            The best video that is now among the first ``rank`` and was not; None where the choice
            is still among them.
        """
        first = ranking.videos[row, :rank].tolist()
        if self.videos[rank - 1] in first:
            return None
        return next(video for video in first if video not in self.videos[:rank])

    def lead(self, ranking: Ranking, rank: int) -> Tensor:
        """Logits (B,) of the choice of a rank minus that of the best that would push it out."""
        video = self.videos[rank - 1]
        inside = (ranking.videos[:, :rank] == video).any(dim=1)
        rival = torch.where(inside, ranking.logits[:, rank], ranking.logits[:, rank - 1])
        lead = self.logits(ranking, rank) - rival
        # The sign is the ranking's, which decides ties by index and rounds in its own way.
        return torch.where(inside, lead.clamp(min=0), lead.clamp(max=-1e-12))


@dataclass
class Search:
    """The search for one choice: what it tried, what came nearest, what it found.

    Attributes:
        rank: of the choice.
        tried: sets of events, so far; ``2 ** n - 1`` are all.
        nearest: the set to go on from.
        removal: None where no set that was tried changes the choice.
    """

    rank: int
    tried: int = 0
    nearest: Slots = ()
    removal: FoundRemoval | None = None


class RemovalSearch:
    """Searches one state for removals, for several choices together.

    Args:
        choices: the choices.
        tokens: of the state, B = 1.
        tokens_to_try: sets times events that are tried in order of size.
    """

    def __init__(
        self, choices: Choices, tokens: Tokens, tokens_to_try: int = TOKENS_TO_TRY
    ) -> None:
        self.choices, self.tokens, self.tokens_to_try = choices, tokens, tokens_to_try
        self.slots: list[int] = torch.nonzero(tokens.present[0])[:, 0].tolist()

    @torch.no_grad()
    def run(self) -> list[Search]:
        """Return the search of each choice."""
        searches = [Search(rank) for rank in range(1, len(self.choices.videos) + 1)]
        # The last of all candidates stays among the first, whatever is removed.
        movable = [search for search in searches if search.rank < self.choices.candidates]
        size = self._by_size(movable)
        self._greedily([search for search in movable if search.removal is None], size)
        return searches

    def _by_size(self, searches: Sequence[Search]) -> int:
        """Try all sets in order of size; return the size up to which all were tried."""
        count, tokens = len(self.slots), 0
        for size in range(1, count + 1):
            searches = [search for search in searches if search.removal is None]
            tokens += comb(count, size) * count
            if not searches or (size > 1 and tokens > self.tokens_to_try):
                return size - 1
            sets = list(combinations(self.slots, size))
            ranking = self._without(sets)
            for search in searches:
                search.tried += len(sets)
                lead = self.choices.lead(ranking, search.rank)
                row = int(lead.argmin())
                search.nearest = sets[row]
                if lead[row] < 0:
                    search.removal = self._found(search.rank, sets[row], ranking, row, size)
        return count

    def _greedily(self, searches: Sequence[Search], complete: int) -> None:
        """Go on from the nearest sets of size ``complete``, removing ever more events."""
        count, size = len(self.slots), complete
        step = -(-count // _ROUNDS)
        while searches and size < count:
            # At the end one by one: the empty history itself is tried.
            step = max(1, min(step, count - size - 1))
            sets = [self._added(search.nearest) for search in searches]
            ranking = self._without([one for several in sets for one in several])
            first = 0
            for search, several in zip(searches, sets, strict=True):
                part = ranking[first : first + len(several)]
                first += len(several)
                search.tried += len(several)
                lead = self.choices.lead(part, search.rank)
                best = lead.argsort(stable=True)[:step].tolist()
                search.nearest = tuple(sorted({slot for row in best for slot in several[row]}))
                if lead[best[0]] < 0:
                    self._thin_out(search, several[best[0]], part, best[0], complete)
            searches = [search for search in searches if search.removal is None]
            size += step

    def _thin_out(
        self, search: Search, slots: Slots, ranking: Ranking, row: int, complete: int
    ) -> None:
        """Put events back as long as the choice stays changed, the least needed first."""
        while len(slots) > complete + 1:
            fewer = [tuple(one for one in slots if one != slot) for slot in slots]
            without = self._without(fewer)
            search.tried += len(fewer)
            lead = self.choices.lead(without, search.rank)
            best = int(lead.argmin())
            if lead[best] >= 0:
                break
            slots, ranking, row = fewer[best], without, best
        search.removal = self._found(search.rank, slots, ranking, row, complete + 1)

    def _found(
        self, rank: int, slots: Slots, ranking: Ranking, row: int, smallest: int
    ) -> FoundRemoval:
        """Describe a set that changes the choice; no set below ``smallest`` events does."""
        becomes = self.choices.newcomer(ranking, row, rank)
        assert becomes is not None  # its lead is below 0
        return FoundRemoval(slots, becomes, is_smallest=len(slots) <= smallest)

    def _added(self, slots: Slots) -> list[Slots]:
        """Sets with one more event."""
        return [tuple(sorted((*slots, slot))) for slot in self.slots if slot not in slots]

    def _without(self, sets: Sequence[Slots]) -> Ranking:
        """Rank the candidates without each of some sets of equally many events."""
        left = len(self.slots) - len(sets[0])
        kept = torch.tensor([[one for one in self.slots if one not in gone] for gone in sets])
        kept = kept.reshape(len(sets), left).long()
        batch = max(1, _TOKENS_AT_ONCE // (left + 2))
        return Ranking.joined([self.choices.rank(self._only(some)) for some in kept.split(batch)])

    def _only(self, kept: Tensor) -> Tokens:
        """Tokens with the events of slots (S, M) alone.

        They are taken out rather than masked, which is the same and takes less time: an event's
        slot is in its token.
        """
        batch, tokens = len(kept), self.tokens
        return Tokens(
            user=tokens.user.expand(batch, -1),
            events=tokens.events[0][kept],  # (S, M, D)
            weight=tokens.weight[0][kept],
            context=tokens.context.expand(batch, -1),
            present=torch.ones_like(kept, dtype=torch.bool),
        )

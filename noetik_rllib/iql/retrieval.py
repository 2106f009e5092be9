"""The best videos of a large catalogue, by chunks, without a logits matrix of states x videos.

Shapes: B states, N videos, D channels, k videos wanted, C videos of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

#: Logits at a time: 8 MB stay in a processor's cache between the product and its reading.
CHUNK_LOGITS = 2**21
#: Most videos at a time: their tower's intermediate results, 5 tags of D channels, are 84 MB.
CHUNK_VIDEOS = 2**16


@dataclass(frozen=True)
class EmbeddedCatalogue:
    """A catalogue as the actor sees it, to be kept while the actor does not change.

    Attributes:
        videos: embeddings, (N, D).
        biases: of the logits, (N,).
    """

    videos: Tensor
    biases: Tensor

    @classmethod
    def of(cls, chunks: Iterable[tuple[Tensor, Tensor]], num_videos: int) -> EmbeddedCatalogue:
        """Gather the embeddings and biases of chunks; ``num_videos`` are expected in all."""
        videos, biases, first = torch.empty(0), torch.empty(0), 0
        for embedded, bias in chunks:
            if not first:  # written in place: joining the chunks in the end takes twice the memory
                videos = embedded.new_empty(num_videos, embedded.shape[1])
                biases = bias.new_empty(num_videos)
            last = first + len(embedded)
            videos[first:last], biases[first:last] = embedded, bias
            first = last
        return cls(videos, biases)

    def chunks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield embeddings (C, D) and biases (C,), C = ``size`` videos at a time."""
        yield from zip(self.videos.split(size), self.biases.split(size), strict=True)


class _Excluded:
    """Videos that must not be returned, sorted, so that a chunk finds its own at once.

    Args:
        videos: (B, E) int64 for each state; -1 is none.
    """

    def __init__(self, videos: Tensor) -> None:
        rows, places = (videos >= 0).nonzero(as_tuple=True)
        self._videos, order = videos[rows, places].sort()
        self._rows = rows[order]

    def hide(self, logits: Tensor, first: int) -> None:
        """Set those among the videos of logits (B, C), from ``first`` on, to -inf."""
        edges = torch.tensor([first, first + logits.shape[1]], device=logits.device)
        begin, end = torch.searchsorted(self._videos, edges).tolist()
        logits[self._rows[begin:end], self._videos[begin:end] - first] = -torch.inf


def chunk_size(num_states: int) -> int:
    """Return how many videos of a batch's logits are computed at a time."""
    return max(1_024, min(CHUNK_VIDEOS, CHUNK_LOGITS // max(1, num_states)))


def top_of_chunk(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k highest of logits (B, C) and their places, highest first, both (B, k).

    Equal ones come in order of their places. ``torch.topk`` promises no order of equal ones, nor
    which of several equal ones it takes as the last.
    """
    k = min(k, logits.shape[1])
    more = min(k + 1, logits.shape[1])
    values, places = logits.topk(more, dim=1)
    if more > k:
        # The set is in doubt only where the first that is left out equals the last taken.
        torn = (values[:, k] == values[:, k - 1]).nonzero().squeeze(1)
        values, places = values[:, :k], places[:, :k]
        if len(torn):
            # One copy, since both are views of the k + 1.
            places = places.clone()
            edge = values[torn, -1:]  # (torn, 1)
            index = torch.arange(logits.shape[1], device=logits.device)
            equal = torch.where(logits[torn] == edge, -index, -len(index))
            first_equal = -equal.topk(k, dim=1).values  # (torn, k), in order of place
            above = values[torn] > edge
            rank = (torch.arange(k, device=logits.device) - above.sum(1, keepdim=True)).clamp(min=0)
            places[torn] = torch.where(above, places[torn], first_equal.gather(1, rank))
    places, order = places.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, order)


def top_k(
    queries: Tensor,
    chunks: Iterable[tuple[Tensor, Tensor]],
    k: int,
    exclude: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the k videos of highest logit <query, video> + bias for each query.

    After the first chunks hardly any holds something better than the k-th best so far. So of each
    chunk the highest logit of every state is taken, which is quick, and only the rows in which it
    is better are looked into.

    Args:
        queries: (B, D), scaled.
        chunks: embeddings (C, D) and biases (C,), in the order of the catalogue.
        k: how many.
        exclude: videos not to return, (B, E) int64; -1 is none.

    Returns:
        Videos (B, k) int64 and logits (B, k), highest first, equal ones in order of their index.
        Where fewer than k are left, -1 and -inf.

    Raises:
        ValueError: k is below 1, or ``exclude`` has another number of rows.
    """
    if k < 1:
        raise ValueError(f"expected to return at least 1 video, got k = {k}")
    batch = len(queries)
    if exclude is not None and (exclude.dim() != 2 or len(exclude) != batch):
        raise ValueError(
            f"expected exclude of shape ({batch}, any number), got {tuple(exclude.shape)}"
        )
    hidden = None if exclude is None else _Excluded(exclude)
    best = queries.new_full((batch, k), -torch.inf)
    videos = torch.full((batch, k), -1, dtype=torch.int64, device=queries.device)
    first = 0
    for embeddings, biases in chunks:
        logits = F.linear(queries, embeddings, biases)  # (B, C)
        if hidden is not None:
            hidden.hide(logits, first)
        # Written so that rows with NaN are looked into, and show.
        rows = (~(logits.amax(dim=1) <= best[:, -1])).nonzero().squeeze(1)
        if len(rows):
            values, places = top_of_chunk(logits[rows] if len(rows) < batch else logits, k)
            # Earlier videos first, so that a stable sort leaves equal ones in order.
            both = torch.cat([best[rows], values], dim=1)
            index = torch.cat([videos[rows], places + first], dim=1)
            both, order = both.sort(dim=1, descending=True, stable=True)
            best[rows] = both[:, :k]
            videos[rows] = index.gather(1, order)[:, :k]
        first += len(embeddings)
    return videos.masked_fill(best == -torch.inf, -1), best

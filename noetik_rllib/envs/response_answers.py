"""From a network's outputs to the distribution of an answer, with KuaiRand's own structure.

KuaiRand's click is, on most tabs, a play of at least 7 s (or the whole video), its long view one of
at least 18 s (README of KuaiRand; ``FULL_VIEW``). So the two thresholds cut the watch ratio of a
video into three segments: no click, a click without a long view, a long view. The model says

1. in which segment the play ends: P(at least a click's play), P(a long view's | a click's);
2. where in the segment, by bins of the place between its ends, 0 to 1;
3. whether the click and the long view are logged, given the segment. On tab 1 this follows the
   rule but for one row of a hundred; on two-column tabs, and in logs of other apps, it need not.

The probabilities of click and long view are sums over the segments. Shapes: B answers, W bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from noetik_rllib.data.signals import BINARY_SIGNALS, SIGNALS, UNKNOWN_DURATION_FULL_VIEW_MS

#: Plays of these lengths, or of the whole video, are a click and a long view, ms.
CLICK_MS, LONG_VIEW_MS = 7_000, 18_000
SEGMENTS = 3
#: Bins of a segment. They hold equal shares of its rows, not equal ranges: plays pile up at 0, 1 s
#: and the whole video.
BINS = (8, 5, 7)
#: Signals that are drawn beside the play time.
REACTIONS = tuple(name for name in BINARY_SIGNALS if name not in ("click", "long_view"))
#: Outputs before the bins: the two of step 1, then click and long view given that the play was too
#: short or long enough for them, then the reactions.
CLICK_PLAY, LONG_PLAY, CLICK_IF_SHORT, CLICK_IF_LONG, LONG_IF_SHORT, LONG_IF_LONG = range(6)
FLAGS = 6 + len(REACTIONS)
#: Ratios are float32 quotients: a play of exactly 7 s may lie a rounding below its threshold.
_ROUNDING = 1e-6
_CLICK, _LONG_VIEW = BINARY_SIGNALS.index("click"), BINARY_SIGNALS.index("long_view")
_REACTION_COLUMNS = [BINARY_SIGNALS.index(name) for name in REACTIONS]


def thresholds(duration_ms: np.ndarray) -> np.ndarray:
    """Watch ratios (N, 2) float32 from which a play counts as a click and as a long view.

    Args:
        duration_ms: duration of each video, (N,); 0 where unknown, when 18 s are a whole view.
    """
    whole = np.where(duration_ms > 0, duration_ms, UNKNOWN_DURATION_FULL_VIEW_MS)
    limits = np.array([CLICK_MS, LONG_VIEW_MS]) / whole[:, None]
    return np.minimum(limits, 1.0).astype(np.float32)


def segment_of(ratio: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return segment (R,) int64 and place in it (R,), 0 to 1, of watch ratios (R,).

    Args:
        ratio: watch ratios.
        limits: thresholds of each row's video, (R, 2).
    """
    segment = (ratio[:, None] >= limits - _ROUNDING).sum(axis=1)
    ends = np.concatenate(
        [np.zeros_like(limits[:, :1]), limits, np.ones_like(limits[:, :1])], axis=1
    )
    rows = np.arange(len(ratio))
    low, high = ends[rows, segment], ends[rows, segment + 1]
    place = np.where(high > low, (ratio - low) / np.where(high > low, high - low, 1.0), 1.0)
    return segment, place.clip(0.0, 1.0)


def fit_bins(segment: np.ndarray, place: np.ndarray) -> tuple[list[np.ndarray], list[list[float]]]:
    """Cut the places of training rows into bins.

    Args:
        segment: of each row, (R,).
        place: of each row, (R,).

    Returns:
        For each segment the upper edges of its bins but the last, and the mean place in each.
    """
    edges, means = [], []
    for number, bins in enumerate(BINS):
        own = place[segment == number]
        if not len(own):
            own = np.ones(1)
        cuts = np.unique(np.quantile(own, np.arange(1, bins) / bins, method="inverted_cdf"))
        # Edges are observed places and belong to the bin below them: no bin is empty.
        cuts = cuts[cuts < own.max()]
        found = np.searchsorted(cuts, own, side="left")
        counts = np.bincount(found, minlength=len(cuts) + 1)
        edges.append(cuts)
        means.append((np.bincount(found, weights=own, minlength=len(counts)) / counts).tolist())
    return edges, means


@dataclass(frozen=True)
class Answers:
    """Logged answers as the loss reads them: segment (R,), bin within it (R,), binary (R, 8)."""

    segment: Tensor
    bin: Tensor
    binary: Tensor

    @classmethod
    def of(
        cls, signals: dict[str, np.ndarray], limits: np.ndarray, edges: list[np.ndarray]
    ) -> Answers:
        """Bring logged signals, (R,) each, of videos with ``limits`` (R, 2) into bins."""
        segment, place = segment_of(signals["watch_ratio"], limits)
        bins = np.zeros(len(segment), dtype=np.int64)
        for number, cuts in enumerate(edges):
            own = segment == number
            bins[own] = np.searchsorted(cuts, place[own], side="left")
        binary = np.stack([signals[name] for name in BINARY_SIGNALS], axis=1)
        return cls(
            torch.as_tensor(segment),
            torch.as_tensor(bins),
            torch.as_tensor(binary.astype(np.float32)),
        )

    def take(self, index: Tensor) -> Answers:
        """Return the rows of ``index``."""
        return Answers(*(getattr(self, field.name)[index] for field in fields(self)))


class AnswerForm:
    """How many outputs an answer needs, their likelihood and their probabilities.

    Args:
        places: mean place in each bin, for each segment.
    """

    def __init__(self, places: list[list[float]]) -> None:
        self.bins = [len(values) for values in places]
        self.size = FLAGS + sum(self.bins)
        self.places = torch.tensor([place for values in places for place in values])
        #: Segment of each bin, (W,).
        self.segments = torch.repeat_interleave(torch.arange(SEGMENTS), torch.tensor(self.bins))

    def split(self, outputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Cut outputs (..., size) into flags (..., FLAGS) and the bins of each segment."""
        flags, bins = outputs.split([FLAGS, sum(self.bins)], dim=-1)
        return flags, list(bins.split(self.bins, dim=-1))

    def flags(self, answers: Answers, limits: Tensor) -> tuple[Tensor, Tensor]:
        """What the flags of R answers turned out to be, and whether they say anything.

        Args:
            answers: R logged answers.
            limits: thresholds of their videos, (R, 2).

        Returns:
            Two of (R, FLAGS), of 0.0 and 1.0.
        """
        click, long_view = answers.binary[:, _CLICK], answers.binary[:, _LONG_VIEW]
        clicked, long = (answers.segment >= 1).float(), (answers.segment == 2).float()
        # Of a video of up to 7 s, a click's play is the whole video.
        choice = clicked * (limits[:, 0] < 1)
        labels = torch.stack([clicked, long, click, click, long_view, long_view], dim=1)
        always = torch.ones(len(clicked), 1 + len(REACTIONS))
        conditional = torch.stack([choice, 1 - clicked, clicked, 1 - long, long], dim=1)
        return (
            torch.cat([labels, answers.binary[:, _REACTION_COLUMNS]], dim=1),
            torch.cat([always[:, :1], conditional, always[:, 1:]], dim=1),
        )

    def loss(self, outputs: Tensor, answers: Answers, limits: Tensor) -> Tensor:
        """Mean negative log-likelihood of R answers, nats.

        Args:
            outputs: (R, size).
            answers: R logged answers.
            limits: thresholds of their videos, (R, 2).
        """
        flags, bins = self.split(outputs)
        segment = answers.segment
        labels, counted = self.flags(answers, limits)
        loss = (
            F.binary_cross_entropy_with_logits(flags, labels, reduction="none") * counted
        ).sum() / len(segment)
        # The whole of a video of up to 18 s is its long view: there is nowhere else to end.
        several = (segment < 2) | (limits[:, 1] < 1)
        for number, logits in enumerate(bins):
            own = torch.nonzero((segment == number) & several).flatten()
            if len(own) and self.bins[number] > 1:
                loss = loss + F.cross_entropy(logits[own], answers.bin[own], reduction="sum") / len(
                    segment
                )
        return loss

    def probabilities(self, outputs: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of the binary signals (..., 8) and of the bins (..., W).

        Args:
            outputs: (..., size).
            limits: thresholds of the videos, (..., 2) or what broadcasts to it.
        """
        flags, bins = self.split(outputs)
        flag = torch.sigmoid(flags)
        *binary, clicked, long = _play(flag.unbind(-1), limits[..., 0] < 1)
        # BINARY_SIGNALS begins with click and long view; the reactions follow in their order.
        signals = torch.cat([torch.stack(binary, dim=-1), flag[..., 6:]], dim=-1)
        watch = [
            share[..., None] * torch.softmax(logits, dim=-1)
            for share, logits in zip(_shares(clicked, long), bins, strict=True)
        ]
        return signals, torch.cat(watch, dim=-1)

    def expected(self, outputs: Tensor, limits: Tensor) -> Tensor:
        """Expected signals (9, P), in ``SIGNALS`` order, of P answers side by side.

        What ``probabilities`` and ``values`` give, in the layout in which a catalogue is scored
        five times as fast: each operation runs over P neighbouring numbers.

        Args:
            outputs: (size, P).
            limits: thresholds of the videos, (2, P).
        """
        flags, *bins = outputs.split([FLAGS, *self.bins])
        flag = torch.sigmoid(flags)
        click, long_view, clicked, long = _play(flag.unbind(), limits[0] < 1)
        ends = (0.0, *limits, 1.0)
        watch = torch.zeros_like(click)
        for number, share in enumerate(_shares(clicked, long)):
            low, high = ends[number : number + 2]
            place = self.places[self.segments == number] @ torch.softmax(bins[number], dim=0)
            watch += share * (low + (high - low) * place)
        of = dict(zip(REACTIONS, flag[6:].unbind(), strict=True))
        of |= {"click": click, "long_view": long_view, "watch_ratio": watch}
        return torch.stack([of[name] for name in SIGNALS])

    def values(self, limits: Tensor) -> Tensor:
        """Watch ratio (N, W) that each bin means for videos with thresholds (N, 2)."""
        ends = torch.cat(
            [torch.zeros_like(limits[:, :1]), limits, torch.ones_like(limits[:, :1])], 1
        )
        low, high = ends[:, self.segments], ends[:, self.segments + 1]
        return low + self.places.to(limits) * (high - low)


def _play(flag: Sequence[Tensor], choice: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Probabilities of click, long view, a click's play and a long view's, from all flags'.

    ``choice`` is False where a click's play is the whole video, hence a long view's.
    """
    clicked = flag[CLICK_PLAY]
    long = clicked * torch.where(choice, flag[LONG_PLAY], 1.0)
    click = flag[CLICK_IF_SHORT] + clicked * (flag[CLICK_IF_LONG] - flag[CLICK_IF_SHORT])
    long_view = flag[LONG_IF_SHORT] + long * (flag[LONG_IF_LONG] - flag[LONG_IF_SHORT])
    return click, long_view, clicked, long


def _shares(clicked: Tensor, long: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities of the three segments."""
    return 1 - clicked, clicked - long, long


assert ("click", "long_view", *REACTIONS) == BINARY_SIGNALS
assert "watch_ratio" in SIGNALS

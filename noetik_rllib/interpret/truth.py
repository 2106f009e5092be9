"""Do attributions find the true causes? Only a synthetic world knows them.

In a world (docs/world.md), what a user makes of a video is, beside the video's quality, the sum of
their tastes for its tags and of their reactions to those of the last 16 events that share a tag
with it. So of a recommendation there are two kinds of causes in a history:

- *same taste*: events of the same tags. How they were answered tells the taste for those tags, and
  nothing else in a history tells it.
- *reactions*: of these, the recent ones whose habit or satiation moves the answer to the video
  itself (``SyntheticWorld.drivers`` is not 0).

*Precision at 3* is the share of causes among the three events that are named first. Shapes: B
decisions, H history slots.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict

from noetik_rllib.data.signals import BINARY_SIGNALS
from noetik_rllib.data.world import SyntheticWorld
from noetik_rllib.evaluation.figures import mean_intervals
from noetik_rllib.evaluation.result import Interval
from noetik_rllib.interpret.decisions import Decisions
from noetik_rllib.interpret.faithfulness import RANDOM
from noetik_rllib.offline.dataset import OfflineDataset

#: The order that names true causes first.
BEST = "best"
#: Events that are named: as many as an explanation's reasons.
NAMED = 3


class CauseFigures(BaseModel):
    """How well one kind of cause is found.

    Attributes:
        decisions: recommendations, one of each user, that have a cause in their history.
        precision: what orders the events -> precision at 3; ``random`` is its expectation, the
            share of causes in the history, and ``best`` what naming all causes first would get.
        above_random: ratio of the mean to random's, by order.
        difference: by order, of ``attribution`` minus it, paired by user.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    decisions: int
    precision: dict[str, Interval]
    above_random: dict[str, float]
    difference: dict[str, Interval]


class TruthResult(BaseModel):
    """Precision at 3 by kind of cause, ``same_taste`` and ``reactions``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    causes: dict[str, CauseFigures]


def true_causes(
    world: SyntheticWorld, dataset: OfflineDataset, decisions: Decisions, user_id: np.ndarray
) -> dict[str, np.ndarray]:
    """Mark the causes of recommendations by their kind, each (B, H) bool.

    Args:
        world: that the dataset was made from.
        dataset: whose catalogue and layout decisions are in.
        decisions: B recommendations.
        user_id: whose they are, (B,).
    """
    parts = dataset.layout.unpack(decisions.states)
    ids = dataset.catalog.video_id
    past = np.where(parts.present, ids[np.maximum(parts.video_index, 0).astype(np.int64)], -1)
    recommended = ids[decisions.videos]
    same = (world.tag_bits(past) & world.tag_bits(recommended)[:, None]) > 0
    clicks = parts.feedback[..., BINARY_SIGNALS.index("click")]
    reactions = world.drivers(user_id, recommended, past, clicks) != 0
    return {"same_taste": same & parts.present, "reactions": reactions & parts.present}


def precision_at(order: np.ndarray, cause: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Share of causes among the ``NAMED`` events of the highest order, (B,).

    Args:
        order: (B, H); equal ones go by slot, newest first.
        cause: (B, H) bool.
        present: which slots are taken, (B, H) bool; histories shorter than ``NAMED`` count whole.
    """
    first = np.argsort(-np.where(present, order, -np.inf), axis=1, kind="stable")[:, :NAMED]
    found = np.take_along_axis(cause & present, first, axis=1).sum(axis=1)
    return np.asarray(found / np.minimum(present.sum(axis=1), NAMED))


def truth(
    orders: Mapping[str, np.ndarray],
    causes: Mapping[str, np.ndarray],
    present: np.ndarray,
    seed: int,
) -> TruthResult:
    """Compare orders of events by how many true causes they name first.

    Args:
        orders: name -> (B, H), the higher the sooner; ``attribution`` is among them.
        causes: kind -> (B, H) bool, as ``true_causes``.
        present: (B, H) bool.
        seed: of the intervals.
    """
    figures = {}
    known: list[np.ndarray] = []
    for kind, cause in causes.items():
        rows = (cause & present).any(axis=1)
        # Kinds that are the same here, as all events are recent, are one piece of evidence.
        if not rows.any() or any(np.array_equal(cause, other) for other in known):
            continue
        known.append(cause)
        there, of_kind = present[rows], cause[rows]
        columns = {
            name: precision_at(order[rows], of_kind, there) for name, order in orders.items()
        }
        columns[RANDOM] = of_kind.sum(axis=1) / there.sum(axis=1)
        columns[BEST] = precision_at(of_kind.astype(float), of_kind, there)
        others = [name for name in columns if name not in ("attribution", BEST)]
        gains = np.column_stack([columns["attribution"] - columns[name] for name in others])
        values = np.column_stack(list(columns.values()))
        precision = dict(zip(columns, mean_intervals(values, seed), strict=True))
        figures[kind] = CauseFigures(
            decisions=int(rows.sum()),
            precision=precision,
            above_random={name: precision[name].mean / precision[RANDOM].mean for name in orders},
            difference=dict(zip(others, mean_intervals(gains, seed), strict=True)),
        )
    return TruthResult(causes=figures)

r"""Do explanations name what a decision rests on? Take the named events away, and look.

Events are put in an order, those that an explanation names first. Of :math:`f`, the margin of the
recommended video, in log-odds against the catalogue's average video:

- *deletion curve*: f after the first k events were taken out of the history, over k;
  *insertion curve*: f when only the first k are in it (Petsiuk et al. 2018).
- *comprehensiveness*: ``f(all) - f(all but the first k)``, and *sufficiency*: ``f(all) - f(only
  the first k)`` (DeYoung et al. 2020, ERASER, section 4.2), averaged over the shares ``BINS`` of a
  history. High comprehensiveness and low sufficiency are faithful. ERASER takes probabilities;
  those of one out of thousands of videos are all near 0, and log-odds are what is attributed.

Each is compared with random orders of the same events, decision by decision. An event that is taken
out leaves an empty slot, which the network knows from short histories. Shapes: B decisions, H
history slots, F shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from noetik_rllib.evaluation.figures import mean_intervals
from noetik_rllib.evaluation.result import Interval
from noetik_rllib.interpret.attribution import Attributor
from noetik_rllib.interpret.decisions import Decisions

#: Shares of a history that are taken out or put in: where curves are measured.
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
#: Those that comprehensiveness and sufficiency are averaged over: ERASER's, without its 1 %, which
#: of a history of 50 events is no event.
BINS = (0.05, 0.1, 0.2, 0.5)
#: Random orders that an order is compared with, per decision.
RANDOM_ORDERS = 5
RANDOM = "random"


class OrderFigures(BaseModel):
    """How faithful one order of events is; means over users, in log-odds.

    Attributes:
        comprehensiveness, sufficiency: as above.
        deletion, insertion: area under the curve.
        comprehensiveness_gain, sufficiency_gain, deletion_gain, insertion_gain: against random
            orders of the same decisions, with the sign that makes more than 0 more faithful; None
            for random orders themselves.
        deletion_curve, insertion_curve: at ``SHARES``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    comprehensiveness: Interval
    sufficiency: Interval
    deletion: Interval
    insertion: Interval
    comprehensiveness_gain: Interval | None = None
    sufficiency_gain: Interval | None = None
    deletion_gain: Interval | None = None
    insertion_gain: Interval | None = None
    deletion_curve: list[Interval]
    insertion_curve: list[Interval]


#: The four figures, and the sign that makes more of them more faithful.
MEASURES = {"comprehensiveness": 1, "sufficiency": -1, "deletion": -1, "insertion": 1}


class FaithfulnessResult(BaseModel):
    """Faithfulness of several orders of the same events.

    Attributes:
        decisions: recommendations, one of each user.
        events: mean number of events of their histories.
        shares: where curves are measured.
        orders: what orders the events -> figures; ``random`` is among them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    decisions: int
    events: float
    shares: list[float]
    orders: dict[str, OrderFigures]


@dataclass(frozen=True)
class Curves:
    """Scores of decisions with a growing share of their events taken out, or put in, (B, F)."""

    deletion: np.ndarray
    insertion: np.ndarray

    def measures(self) -> np.ndarray:
        """Columns of ``MEASURES`` per decision, (B, 4)."""
        at = [SHARES.index(share) for share in BINS]
        whole = self.deletion[:, 0]
        return np.column_stack(
            [
                whole - self.deletion[:, at].mean(axis=1),
                whole - self.insertion[:, at].mean(axis=1),
                _area(self.deletion),
                _area(self.insertion),
            ]
        )


def _area(curve: np.ndarray) -> np.ndarray:
    """Area under curves (B, F) over ``SHARES``, (B,), by the trapezoidal rule."""
    between = (curve[:, 1:] + curve[:, :-1]) / 2
    return np.asarray(between @ np.diff(SHARES))


def removal_curves(attributor: Attributor, decisions: Decisions, order: np.ndarray) -> Curves:
    """Measure the score while events are taken out, and put in, in an order.

    Args:
        attributor: whose score it is.
        decisions: B decisions.
        order: the higher, the sooner, (B, H); equal ones go by slot, newest first.
    """
    present = attributor.layout.unpack(decisions.states).present
    rank = np.argsort(np.argsort(-np.where(present, order, -np.inf), axis=1, kind="stable"), axis=1)
    number = present.sum(axis=1, keepdims=True)
    deletion, insertion = [], []
    for share in SHARES:
        first = rank < np.ceil(share * number - 1e-9)  # 0.1 x 50 is 5, not the next float above
        deletion.append(attributor.value(decisions, present & ~first))
        insertion.append(attributor.value(decisions, present & first))
    return Curves(np.stack(deletion, axis=1), np.stack(insertion, axis=1))


def faithfulness(
    attributor: Attributor,
    decisions: Decisions,
    orders: Mapping[str, np.ndarray],
    seed: int,
) -> FaithfulnessResult:
    """Measure how faithful orders of events are, against random ones.

    Args:
        attributor: whose score the orders explain.
        decisions: one of each user; those without events are passed over.
        orders: name -> the higher, the sooner an event is named, (B, H).
        seed: of the random orders and of the intervals.

    Raises:
        ValueError: no decision has an event.
    """
    present = attributor.layout.unpack(decisions.states).present
    with_events = np.flatnonzero(present.any(axis=1))
    if not len(with_events):
        raise ValueError("no decision has an event in its history")
    decisions, present = decisions[with_events], present[with_events]
    rng = np.random.default_rng(seed)
    drawn = [
        removal_curves(attributor, decisions, rng.random(present.shape))
        for _ in range(RANDOM_ORDERS)
    ]
    chance = Curves(
        np.mean([curves.deletion for curves in drawn], axis=0),
        np.mean([curves.insertion for curves in drawn], axis=0),
    )
    figures = {RANDOM: _figures(chance, None, seed)}
    for name, order in orders.items():
        curves = removal_curves(attributor, decisions, order[with_events])
        figures[name] = _figures(curves, chance, seed)
    return FaithfulnessResult(
        decisions=len(decisions),
        events=float(present.sum(axis=1).mean()),
        shares=list(SHARES),
        orders=figures,
    )


def _figures(curves: Curves, chance: Curves | None, seed: int) -> OrderFigures:
    measures = curves.measures()
    found = dict(zip(MEASURES, mean_intervals(measures, seed), strict=True))
    if chance is not None:
        gains = (measures - chance.measures()) * np.array(list(MEASURES.values()))
        names = [f"{name}_gain" for name in MEASURES]
        found |= dict(zip(names, mean_intervals(gains, seed), strict=True))
    return OrderFigures(
        **found,
        deletion_curve=mean_intervals(curves.deletion, seed),
        insertion_curve=mean_intervals(curves.insertion, seed),
    )

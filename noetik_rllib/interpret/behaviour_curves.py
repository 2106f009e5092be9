"""Which kinds of past events a policy reads most: curves over many recommendations.

Two measures stand side by side: the policy's attention, and the absolute attribution of the
recommendation's margin. Each is told relative to an even share, ``value / sum over the state's
events x number of them``: an event of 1 is read like the average event of its state, so that long
and short histories can be averaged. Over all events the mean is 1, whatever the policy.

A point of a curve is the mean over all events of a kind; users weigh by their events, and the
bootstrap is over users. States with fewer than two events are left out, as there is nothing to
share; so are those of whose events either measure is 0.

Shapes: B states, H history slots.
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

from noetik_rllib.data.mapping import LogFiles, kuairand
from noetik_rllib.evaluation.groups import GroupFigures, Groups, figures_by_group
from noetik_rllib.evaluation.result import Interval
from noetik_rllib.interpret.event_kinds import event_kinds
from noetik_rllib.interpret.rank_correlation import spearman_of_rows
from noetik_rllib.offline.catalog import Catalog
from noetik_rllib.state import StateLayout

MEASURES = ("attention", "attribution")


class UserCurves(BaseModel):
    """Curves of some users."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Users and states that count.
    users: int
    states: int
    #: Curve (``event_kinds``) -> kind of event, in order -> mean of each of ``MEASURES`` relative
    #: to an even share. The figures' rows are events; kinds without any are left out.
    curves: dict[str, dict[str, GroupFigures]]
    #: Mean over states of Spearman's correlation between the two measures over a state's events;
    #: None where no state has enough events that differ (``rank_correlation``).
    correlation: Interval | None


class BehaviourCurves(BaseModel):
    """What a policy reads, for all users and for groups of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    everyone: UserCurves
    #: Group -> of its users; groups without a user who counts are left out.
    groups: dict[str, UserCurves]


def behaviour_curves(
    *,
    states: np.ndarray,
    user_id: np.ndarray,
    recommended: np.ndarray,
    attention: np.ndarray,
    attribution: np.ndarray,
    layout: StateLayout,
    catalog: Catalog,
    groups: Groups,
    seed: int,
    log: LogFiles | None = None,
) -> BehaviourCurves | None:
    """Measure how much a policy reads of each kind of past event.

    Args:
        states: (B, state size), one or several of each user.
        user_id: whose states they are, (B,).
        recommended: dense index of the video that is recommended in each, (B,).
        attention: by event, (B, H), 0 or more (``attention.event_attention_of``).
        attribution: of the recommended video's margin by event, (B, H), of either sign.
        layout: of the states.
        catalog: the videos.
        groups: of the users (``evaluation.groups.activity_groups``).
        seed: of the resampling.
        log: what the log holds; KuaiRand's where not given.

    Returns:
        None where no state counts.

    Raises:
        ValueError: arrays do not fit the states, or a user is in no group.
    """
    present = layout.unpack(states).present
    for name, values in (("attention", attention), ("attribution", attribution)):
        if values.shape != present.shape:
            raise ValueError(f"expected {name} of shape {present.shape}, got {values.shape}")
    read = np.stack([attention, np.abs(attribution)], axis=2) * present[..., None]  # (B, H, 2)
    total = read.sum(axis=1, keepdims=True)  # (B, 1, 2)
    number = present.sum(axis=1)
    counts = (number > 1) & (total > 0).all(axis=(1, 2))
    if not counts.any():
        return None
    relative = read / np.where(total > 0, total, 1.0) * number[:, None, None]
    correlation = spearman_of_rows(read[..., 0], read[..., 1], present)
    kinds = event_kinds(states, recommended, layout, catalog, log or kuairand().log)
    group = groups.of(user_id)

    def curves_of(rows: np.ndarray) -> UserCurves:
        """Those of some states, (B,) bool."""
        of_state, slot = np.nonzero(present & rows[:, None])
        values, owner = relative[of_state, slot], user_id[of_state]
        figures = {
            name: figures_by_group(
                values, MEASURES, owner, some.kind[of_state, slot], some.names, seed
            )
            for name, some in kinds.items()
        }
        everything = np.zeros(rows.sum(), dtype=np.int64)
        agreement = figures_by_group(
            correlation[rows, None], ("both",), user_id[rows], everything, ("all",), seed
        )["all"]
        return UserCurves(
            users=agreement.users,
            states=agreement.rows,
            curves={
                curve: {name: figure for name, figure in found.items() if figure.rows}
                for curve, found in figures.items()
            },
            correlation=agreement.metrics.get("both"),
        )

    return BehaviourCurves(
        everyone=curves_of(counts),
        groups={
            name: curves_of(counts & (group == place))
            for place, name in enumerate(groups.names)
            if (counts & (group == place)).any()
        },
    )

"""The figures of simulated sessions by group, so that an average hides nobody."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

from noetik_rllib.evaluation.comparison import Course
from noetik_rllib.evaluation.groups import (
    GroupFigures,
    activity_groups,
    figures_by_group,
    popularity_groups,
)
from noetik_rllib.evaluation.result import METRICS
from noetik_rllib.evaluation.sessions import SessionLog
from noetik_rllib.offline.dataset import OfflineDataset


class SessionGroups(BaseModel):
    """Means per recommended video, of each group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Policy -> users by their rows before the split -> figures.
    activity: dict[str, dict[str, GroupFigures]]
    #: Policy -> shown videos by their rows in ``train`` -> figures; ``rows`` says how often each
    #: group was shown.
    popularity: dict[str, dict[str, GroupFigures]]


def session_groups(
    logs: dict[str, SessionLog], course: Course, dataset: OfflineDataset, seed: int
) -> SessionGroups:
    """Split the figures of sessions by user activity and by video popularity.

    Args:
        logs: policy -> its sessions.
        course: that they are of.
        dataset: whose ``train`` and ``judge`` say who is active and what is popular.
        seed: of the intervals.
    """
    by_activity, by_popularity = activity_groups(dataset), popularity_groups(dataset)
    activity, popularity = {}, {}
    user_id = np.repeat(course.starts.user_id, course.steps)  # of each video shown, (S * T,)
    users_group = by_activity.of(user_id)
    for name, log in logs.items():
        signals = log.signals.reshape(-1, log.signals.shape[-1])
        values = np.column_stack([signals @ course.reward.as_array(), signals])
        activity[name] = figures_by_group(
            values, METRICS, user_id, users_group, by_activity.names, seed
        )
        popularity[name] = figures_by_group(
            values,
            METRICS,
            user_id,
            by_popularity.of(log.videos.reshape(-1)),
            by_popularity.names,
            seed,
        )
    return SessionGroups(activity=activity, popularity=popularity)

"""Kinds of past events, by what a person would ask: how long ago, how much watched, how related.

Shapes: B states, H history slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from noetik_rllib.data.mapping import LogFiles
from noetik_rllib.interpret.words import SKIPPED_BELOW, WHOLE_FROM
from noetik_rllib.offline.catalog import Catalog
from noetik_rllib.state import AGE, DAY_SECONDS, WATCH_RATIO, StateLayout

#: First slot of each bin of recency: single events, then ever more together.
_RECENCY_STARTS = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500)
#: Seconds at which the bins of age begin, without the first.
_AGE_STARTS = (60, 600, 3600, DAY_SECONDS, 7 * DAY_SECONDS)
_AGES = ("under 1 min", "1 to 10 min", "10 to 60 min", "1 to 24 h", "1 to 7 days", "over 7 days")
#: Watch ratios at which the bins begin, without the first, which is nothing at all.
_WATCHED_STARTS = (float(np.finfo(np.float32).tiny), SKIPPED_BELOW, 0.5, 0.9, WHOLE_FROM)
_WATCHED = ("0%", "under 10%", "10 to 50%", "50 to 90%", "over 90%", "100%")
_RELATIONS = ("same author", "same tag", "neither")
_EXPOSURES = ("chosen", "random")


@dataclass(frozen=True)
class Kinds:
    """One way to tell events apart: ``names`` of the kinds, and the ``kind`` of every slot (B, H).

    That of an empty slot means nothing.
    """

    names: tuple[str, ...]
    kind: np.ndarray


def event_kinds(
    states: np.ndarray,
    recommended: np.ndarray,
    layout: StateLayout,
    catalog: Catalog,
    log: LogFiles,
) -> dict[str, Kinds]:
    """Sort the events of states in several ways, by name.

    - ``recency``: how many events ago, 1 is the newest;
    - ``age``: how long ago; not where the log counts steps;
    - ``watched``: how much of the video; not where the log has no watched share;
    - ``relation`` to the recommended video: by its author, or else with a tag of it, or neither;
    - ``exposure``: whether the platform had chosen the video, or it was drawn at random.

    Args:
        states: (B, state size).
        recommended: dense index of the video that is recommended in each, (B,).
        layout: of the states.
        catalog: the videos.
        log: what the log holds.
    """
    parts = layout.unpack(states)
    slots = layout.history_length
    starts = [start for start in _RECENCY_STARTS if start < slots]
    kind = np.digitize(np.arange(slots), starts[1:])
    kinds = {"recency": Kinds(_recency_names(starts, slots), np.tile(kind, (len(states), 1)))}
    if log.time.unit != "step":
        kinds["age"] = _binned(parts.events[..., AGE], np.log1p(_AGE_STARTS), _AGES)
    if "watch_ratio" in log.signals and "watch_ratio" not in log.meanings:
        kinds["watched"] = _binned(parts.events[..., WATCH_RATIO], _WATCHED_STARTS, _WATCHED)
    kinds["relation"] = Kinds(_RELATIONS, _relation(parts.video_index, recommended, catalog))
    kinds["exposure"] = Kinds(_EXPOSURES, parts.unchosen.astype(np.int64))
    return kinds


def _recency_names(starts: Sequence[int], slots: int) -> tuple[str, ...]:
    """Name the bins by places counted from 1.

    >>> _recency_names([0, 1, 3], 8)
    ('1', '2 to 3', '4 to 8')
    """
    ends = [*starts[1:], slots]
    return tuple(
        str(end) if end == start + 1 else f"{start + 1} to {end}"
        for start, end in zip(starts, ends, strict=True)
    )


def _binned(
    values: np.ndarray, starts: Sequence[float] | np.ndarray, names: tuple[str, ...]
) -> Kinds:
    # Edges are rounded as the states' numbers are: 60 s of a state is not below 60 s.
    return Kinds(names, np.digitize(values, np.asarray(starts, dtype=np.float32)))


def _relation(videos: np.ndarray, recommended: np.ndarray, catalog: Catalog) -> np.ndarray:
    """Place in ``_RELATIONS`` of past videos (B, H) to recommended ones (B,)."""
    author = catalog.author_id[videos]
    same_author = (author >= 0) & (author == catalog.author_id[recommended][:, None])
    tags, wanted = catalog.tags[videos], catalog.tags[recommended]
    # (B, H, 5, 1) and (B, 1, 1, 5): a tag of the one against every tag of the other.
    shared = (tags[..., None] == wanted[:, None, None]) & (tags[..., None] >= 0)
    return np.where(same_author, 0, np.where(shared.any(axis=(2, 3)), 1, 2))

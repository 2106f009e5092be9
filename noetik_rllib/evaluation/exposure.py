"""What a policy shows to whom: how much of the catalogue, how evenly, how varied, how alike.

A policy that does not personalise shows everybody the same list: an overlap of 1, ``k`` distinct
videos. Shapes: U users, k videos of a list, S sessions of T steps, N videos of the catalogue.
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

from noetik_rllib.data.estimators import gini
from noetik_rllib.evaluation.figures import named, sums_by_user
from noetik_rllib.evaluation.intervals import bootstrap_ratio
from noetik_rllib.evaluation.policies import Policy
from noetik_rllib.evaluation.result import Interval
from noetik_rllib.evaluation.sessions import SessionLog, SessionStarts
from noetik_rllib.offline.dataset import OfflineDataset

#: Length of the lists that are compared between users.
LIST_LENGTH = 10


class ListFigures(BaseModel):
    """What lists of videos, one per user or session, have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Lists, and videos of each.
    lists: int
    length: int
    #: Number of different videos in all lists, and their share of the catalogue.
    distinct_videos: int
    coverage: float
    #: Gini coefficient of the exposures over the whole catalogue: 0 shows every video as often, 1
    #: one video alone.
    gini: float
    #: Mean share of a list that is also in the list of another user; 1 is no personalisation at
    #: all. None where there is one user only.
    overlap: float | None
    #: Mean over pairs of a list's videos of 1 - Jaccard similarity of their tags; pairs of which
    #: neither has a tag are left out. None where there is no other pair.
    tag_diversity: Interval | None
    #: Mean of -log2 of the share of ``train``'s rows that show the video, each with one more: bits
    #: of surprise. A video seen in every row has 0.
    novelty: Interval


class ExposureResult(BaseModel):
    """Exposure under one policy, before and within sessions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: The first k of each user's list as a session begins.
    top: ListFigures
    #: What was shown in sessions.
    sessions: ListFigures


def exposure(
    policy: Policy,
    starts: SessionStarts,
    log: SessionLog,
    dataset: OfflineDataset,
    seed: int,
    k: int = LIST_LENGTH,
) -> ExposureResult:
    """Measure a policy's first k videos for every user, and what it showed in sessions.

    Args:
        policy: that was run.
        starts: where the sessions began; a user's first is the one whose list is taken.
        log: the sessions.
        dataset: whose catalogue and ``train`` say what is alike and what is popular.
        seed: of the intervals.
        k: length of the lists; the catalogue where that is smaller.
    """
    first = slice(None, None, len(starts.seeds))
    k = min(k, dataset.manifest.num_videos)
    lists = policy.top_k(starts.states[first], starts.user_id[first], k)
    shown = dataset.times_shown("train")
    tags = dataset.catalog.tags
    return ExposureResult(
        top=list_figures(lists, starts.user_id[first], tags, shown, seed),
        sessions=list_figures(log.videos, starts.user_id, tags, shown, seed),
    )


def list_figures(
    lists: np.ndarray, user_id: np.ndarray, tags: np.ndarray, shown: np.ndarray, seed: int
) -> ListFigures:
    """Measure lists of videos.

    Args:
        lists: videos, (L, k).
        user_id: whose, (L,).
        tags: of all videos, (N, tags), -1 padded.
        shown: rows of ``train`` that show each video, (N,).
        seed: of the intervals, by user.
    """
    count = np.bincount(lists.ravel(), minlength=len(shown))
    surprise = -np.log2((shown + 1) / (shown.sum() + len(shown)))
    users, user = np.unique(user_id, return_inverse=True)
    length = np.full(len(lists), float(lists.shape[1]))
    return ListFigures(
        lists=len(lists),
        length=lists.shape[1],
        distinct_videos=int((count > 0).sum()),
        coverage=float((count > 0).mean()),
        gini=gini(count),
        overlap=overlap(lists, user, len(users), len(shown)),
        tag_diversity=tag_diversity(lists, user_id, tags, seed),
        novelty=_ratio(surprise[lists].sum(axis=1), length, user_id, seed),
    )


def tag_diversity(
    lists: np.ndarray, user_id: np.ndarray, tags: np.ndarray, seed: int
) -> Interval | None:
    """Mean over pairs of a list's videos of 1 - Jaccard similarity of their tags.

    Arguments as ``list_figures``; None where no pair has a tag.
    """
    distance, pairs = _tag_distances(lists, tags)
    return _ratio(distance, pairs, user_id, seed) if pairs.any() else None


def _ratio(sums: np.ndarray, counts: np.ndarray, user_id: np.ndarray, seed: int) -> Interval:
    """Ratio of the sums of lists (L,) to their counts (L,), with its interval over users."""
    users, user = np.unique(user_id, return_inverse=True)
    found = bootstrap_ratio(
        sums_by_user(sums[:, None], user, len(users)),
        sums_by_user(counts[:, None], user, len(users)),
        seed,
    )
    return named(("ratio",), found)["ratio"]


def overlap(lists: np.ndarray, user: np.ndarray, num_users: int, num_videos: int) -> float | None:
    """Mean, over pairs of lists of different users, of the share of a list that the other holds.

    Exact, and without a pass over pairs: a video of a list is shared by as many others as it is in,
    less the user's own. A video counts once per list: one that repeats is no longer for it.

    Args:
        lists: videos, (L, k).
        user: whose, (L,) in 0..num_users-1.
        num_users: U.
        num_videos: N.
    """
    if num_users < 2:
        return None
    ordered = np.sort(lists, axis=1)
    first = np.ones(lists.shape, dtype=bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    videos = ordered[first]
    length = first.sum(axis=1)
    owner = np.repeat(user, length)
    every = np.bincount(videos, minlength=num_videos).astype(np.float64)
    _, place, own = np.unique(owner * num_videos + videos, return_inverse=True, return_counts=True)
    of_user = np.bincount(user, minlength=num_users).astype(np.float64)
    shared = ((every[videos] - own[place]) / np.repeat(length, length)).sum()
    pairs = float(len(lists)) ** 2 - (of_user**2).sum()
    return float(shared / pairs)


def _tag_distances(lists: np.ndarray, tags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of 1 - Jaccard similarity over the pairs of each list, and how many pairs have one, (L,).

    Args:
        lists: videos, (L, k).
        tags: of all videos, (N, tags), -1 padded.
    """
    known = np.unique(tags[tags >= 0])
    has = np.zeros((len(tags), len(known)), dtype=np.float32)
    row, place = np.nonzero(tags >= 0)
    has[row, np.searchsorted(known, tags[row, place])] = 1.0
    size = has.sum(axis=1)
    distance, pairs = np.zeros(len(lists)), np.zeros(len(lists))
    for i in range(lists.shape[1]):
        for j in range(i):
            one, other = lists[:, i], lists[:, j]
            both = (has[one] * has[other]).sum(axis=1)
            either = size[one] + size[other] - both
            distance += np.where(either > 0, 1 - both / np.maximum(either, 1), 0.0)
            pairs += either > 0
    return distance, pairs

"""How well scores rank the videos that users were really shown: GAUC, NDCG and recall.

Each user's logged videos are the candidates; what is relevant is what was clicked, or viewed long.
On the uniformly exposed log the candidates are a fair draw from the pool. Those of the part
``test`` were chosen by the platform's policy, so they favour whoever agrees with it.

Shapes: R rows, U users.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

from noetik_rllib.data.estimators import run_starts
from noetik_rllib.envs.response_quality import areas_by_user
from noetik_rllib.errors import NoEvidenceError
from noetik_rllib.evaluation.groups import GroupFigures, activity_groups, figures_by_group
from noetik_rllib.evaluation.logged_rows import logged_rows
from noetik_rllib.evaluation.result import Interval
from noetik_rllib.offline.dataset import OfflineDataset

#: What counts as relevant.
OUTCOMES = ("click", "long_view")
#: Lengths of the top of a list.
TOPS = (5, 10)
#: Metrics of a scorer, each per outcome: "gauc_click", "ndcg@5_click", ...
RANKING_METRICS = tuple(
    f"{metric}_{outcome}"
    for outcome in OUTCOMES
    for metric in ("gauc", *(f"{name}@{k}" for k in TOPS for name in ("ndcg", "recall")))
)
_PER_OUTCOME = 1 + 2 * len(TOPS)

#: "random": uniformly exposed rows from the split on. "test": standard rows from the split on.
Candidates = Literal["random", "test"]


class Scorer(Protocol):
    """Whoever scores pairs of state and video: a policy, a critic, a baseline."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    def score(self, states: np.ndarray, user_id: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """Score one video (B,) per state (B, state size); see ``Policy.score``."""
        ...


class ScorerFigures(BaseModel):
    """How well one scorer ranks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: ``RANKING_METRICS`` -> mean over the users that have one: of GAUC weighted by rows, of the
    #: others each user the same.
    metrics: dict[str, Interval]
    #: The same for users with few, some and many rows before the split.
    by_activity: dict[str, GroupFigures]


class RankingResult(BaseModel):
    """Scorers on the same candidates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidates: Candidates
    rows: int
    users: int
    #: Metric -> users that have it. GAUC needs both a relevant video and another, NDCG@k and
    #: recall@k a relevant one and more than k candidates (else every order has the same recall).
    counted: dict[str, int]
    scorers: dict[str, ScorerFigures]


def ranking(
    scorers: Sequence[Scorer],
    dataset: OfflineDataset,
    candidates: Candidates,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> RankingResult:
    """Rank each user's logged candidates by every scorer, each in the state that it was shown in.

    All rows are from the split on: later than all that a policy learnt of the same user, and, with
    a split by time, of anyone.

    Args:
        scorers: with different names.
        dataset: whose rows are ranked.
        candidates: which rows.
        seed: of the intervals: the same users are drawn for all scorers.
        progress: called with the share that is done, 0 to 1.

    Raises:
        UserError: there is no such row, or a row cannot be meant (``load_rows``).
    """
    users: list[np.ndarray] = []
    relevant: list[np.ndarray] = []
    scores: list[np.ndarray] = []
    for rows in logged_rows(
        dataset,
        candidates,
        ("obs", "actions", "user_id", *OUTCOMES),
        from_split=True,
        progress=progress,
    ):
        users.append(rows["user_id"])
        relevant.append(np.stack([rows[name] > 0.5 for name in OUTCOMES], axis=1))
        given = [s.score(rows["obs"], rows["user_id"], rows["actions"]) for s in scorers]
        scores.append(np.stack(given, axis=1))
    if not users:
        kind = "uniformly exposed " if candidates == "random" else ""
        raise NoEvidenceError(
            f"{dataset.directory} has no {kind}row from the split on in part '{candidates}': there "
            "is nothing to rank"
        )
    user_id = np.concatenate(users)
    values = {
        scorer.name: user_metrics(user_id, np.concatenate(relevant), column)
        for scorer, column in zip(scorers, np.concatenate(scores).T, strict=True)
    }
    distinct, rows_of = np.unique(user_id, return_counts=True)
    groups = activity_groups(dataset)
    weights = np.ones((len(distinct), len(RANKING_METRICS)))
    weights[:, ::_PER_OUTCOME] = rows_of[:, None]  # GAUC
    everyone = np.zeros(len(distinct), dtype=np.int64)

    def figures(value: np.ndarray) -> ScorerFigures:
        return ScorerFigures(
            metrics=figures_by_group(
                value, RANKING_METRICS, distinct, everyone, ("all",), seed, weights
            )["all"].metrics,
            by_activity=figures_by_group(
                value, RANKING_METRICS, distinct, groups.of(distinct), groups.names, seed, weights
            ),
        )

    counted = (~np.isnan(next(iter(values.values())))).sum(axis=0)
    return RankingResult(
        candidates=candidates,
        rows=len(user_id),
        users=len(distinct),
        counted=dict(zip(RANKING_METRICS, counted.tolist(), strict=True)),
        scorers={name: figures(value) for name, value in values.items()},
    )


def user_metrics(user_id: np.ndarray, relevant: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return ``RANKING_METRICS`` of each user, ascending, (U, 10); NaN where there is none.

    Equal scores count as in random order, in expectation: the AUC gives them half, and NDCG and
    recall give each place the mean relevance of those that share it (McSherry and Najork 2008).

    Args:
        user_id: whose rows they are, (R,).
        relevant: (R, 2) bool, as ``OUTCOMES``.
        scores: (R,), higher first.
    """
    order = np.lexsort((-scores, user_id))
    user_id, relevant, scores = user_id[order], relevant[order], scores[order]
    new_user = run_starts(user_id)
    user = np.cumsum(new_user) - 1
    first = np.flatnonzero(new_user)
    rows = np.diff(first, append=len(user_id))
    place = np.arange(len(user_id)) - first[user]
    tie = np.cumsum(run_starts(user_id, scores)) - 1
    in_tie = np.bincount(tie)
    discount = 1 / np.log2(place + 2.0)
    result = np.full((len(first), len(RANKING_METRICS)), np.nan)
    for column, positive in enumerate(relevant.T):
        of_outcome = result[:, column * _PER_OUTCOME : (column + 1) * _PER_OUTCOME]
        of_outcome[:, 0] = areas_by_user(positive, scores, user).area
        found = np.bincount(user, weights=positive)
        expected = (np.bincount(tie, weights=positive) / in_tie)[tie]
        for number, k in enumerate(TOPS):
            top = place < k
            gain = np.bincount(user, weights=expected * discount * top)
            hits = np.bincount(user, weights=expected * top)
            counts = (found > 0) & (rows > k)
            best = np.cumsum(1 / np.log2(np.arange(k) + 2.0))
            ideal = best[np.minimum(np.maximum(found, 1), k).astype(np.int64) - 1]
            of_outcome[counts, 1 + 2 * number] = (gain / ideal)[counts]
            of_outcome[counts, 2 + 2 * number] = (hits / np.maximum(found, 1))[counts]
    return result

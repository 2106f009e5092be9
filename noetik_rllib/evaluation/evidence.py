"""What the random log says about a policy, in as little memory as its estimates need.

Of most rows only the model's expectation for the policy's video counts, and of that only its sum by
user. The rows that carry a weight are kept whole: those whose video is the policy's, and those
whose video has the same tags.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.envs.response_model import ResponseModel
from noetik_rllib.evaluation import estimators
from noetik_rllib.evaluation.estimators import Terms
from noetik_rllib.evaluation.figures import sums_by_user
from noetik_rllib.evaluation.policies import Policy
from noetik_rllib.evaluation.random_log import RandomLog, RandomRows
from noetik_rllib.offline.catalog import Catalog

#: Estimators by their names in results, in the order of docs/off_policy.md.
ESTIMATORS = ("ips", "snips", "dm", "dr", "switch_dr", "mips")


@dataclass(frozen=True)
class WeightedRows:
    """Rows that carry a weight, all of its arrays (m, ...).

    Attributes:
        place: user of the row, (m,) in 0..U-1.
        weight: 1 / propensity where the row shows the policy's video, else 0, (m,).
        tag_weight: of its set of tags, (m,); 0 where that differs.
        signals, q_logged, q_policy: logged answers, and the model's expectation of the logged and
            of the policy's video, (m, 9) float32.
    """

    place: np.ndarray
    weight: np.ndarray
    tag_weight: np.ndarray
    signals: np.ndarray
    q_logged: np.ndarray
    q_policy: np.ndarray


@dataclass(frozen=True)
class Evidence:
    """What the rows of U users say about a policy.

    Attributes:
        rows: number of rows of each user, (U,).
        rest: sum of the model's expectation of the policy's video over each user's rows without a
            weight, (U, 9).
        weighted: the others.
        outside: share of the rows on which the policy shows a video that the log never draws.
    """

    rows: np.ndarray
    rest: np.ndarray
    weighted: WeightedRows
    outside: float

    def weights_of(self, estimator: str, threshold: float) -> np.ndarray | None:
        """Weights (m,) that an estimator uses; None for the one without."""
        if estimator == "dm":
            return None
        if estimator == "mips":
            return self.weighted.tag_weight
        if estimator == "switch_dr":
            return np.where(self.weighted.weight <= threshold, self.weighted.weight, 0.0)
        return self.weighted.weight

    def sums(self, estimator: str, threshold: float) -> Terms:
        """Sums by user of the terms of one of ``ESTIMATORS``: top (U, 9), bottom (U,).

        Args:
            estimator: its name.
            threshold: of switch-DR; see ``switch_threshold``.
        """
        terms = self._terms(estimator, threshold)
        users = len(self.rows)
        top = sums_by_user(terms.top, self.weighted.place, users)
        if estimator == "snips":
            # Rows without a weight add nothing to either sum.
            return Terms(top, np.bincount(self.weighted.place, terms.bottom, users))
        if estimator in ("dm", "dr", "switch_dr"):
            top += self.rest
        return Terms(top, self.rows.astype(np.float64))

    def switch_threshold(self, reward: np.ndarray) -> float:
        """Threshold of switch-DR for rewards that weigh the signals by ``reward`` (9,).

        On a uniform log one policy's weights are all the same, so it keeps all of them or none.
        """
        thresholds = np.array([self.weighted.weight.max(initial=0.0), 0.0])
        variances = np.empty(len(thresholds))
        for number, threshold in enumerate(thresholds):
            terms = self.sums("switch_dr", threshold)
            variances[number] = estimators.variance_by_user(terms.top @ reward, terms.bottom)
        spread = float(np.abs(reward).sum())
        return estimators.choose_threshold(thresholds, variances, np.array([0.0, 1.0]), spread)

    def of_users(self, chosen: np.ndarray) -> Evidence:
        """Evidence of some of the users only.

        Args:
            chosen: places of distinct users, (V,).
        """
        new_place = np.full(len(self.rows), -1)
        new_place[chosen] = np.arange(len(chosen))
        kept = new_place[self.weighted.place] >= 0
        rows = {name: values[kept] for name, values in vars(self.weighted).items()}
        weighted = WeightedRows(**rows | {"place": new_place[rows["place"]]})
        return Evidence(self.rows[chosen], self.rest[chosen], weighted, self.outside)

    def _terms(self, estimator: str, threshold: float) -> Terms:
        """Terms of the weighted rows: top (m, 9), bottom (m,)."""
        rows = self.weighted
        modelled = rows.signals, rows.q_logged, rows.q_policy
        if estimator == "ips":
            return estimators.inverse_propensity(rows.weight, rows.signals)
        if estimator == "snips":
            return estimators.self_normalised(rows.weight, rows.signals)
        if estimator == "dm":
            return estimators.direct(rows.q_policy)
        if estimator == "dr":
            return estimators.doubly_robust(rows.weight, *modelled)
        if estimator == "switch_dr":
            return estimators.switch_doubly_robust(rows.weight, *modelled, threshold)
        if estimator == "mips":
            return estimators.inverse_propensity(rows.tag_weight, rows.signals)
        raise ValueError(f"expected one of {ESTIMATORS}, got '{estimator}'")


def collect(
    policies: Sequence[Policy],
    log: RandomLog,
    model: ResponseModel,
    progress: Callable[[float], None],
) -> tuple[list[Evidence], np.ndarray]:
    """Gather the evidence about each policy, in one pass over the log.

    Returns:
        One per policy, and the sum of the logged signals by user, (U, 9): their mean is the value
        of the log's own policy, which draws uniformly.
    """
    tag_set, share = tag_sets(log.dataset.catalog, log.pool)
    gathered = [_Gathered(len(log.users)) for _ in policies]
    logged = np.zeros((len(log.users), len(SIGNALS)))
    done = 0
    for rows in log.batches():
        logged += sums_by_user(rows.signals, rows.place, len(log.users))
        for number, (policy, of_policy) in enumerate(zip(policies, gathered, strict=True)):
            nothing = np.empty((len(rows), 0), dtype=np.int64)
            chosen = policy.recommend(rows.states, rows.user_id, nothing)
            of_policy.add(rows, chosen, tag_set, share, log.pool, model)
            part = len(rows) * (number + 1) / len(policies)
            progress((done + part) / len(log))
        done += len(rows)
    return [of_policy.evidence(log.rows_of_user) for of_policy in gathered], logged


def tag_sets(catalog: Catalog, pool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the sets of tags: the set of each video, (N,), and each set's share of the pool, (E,).

    Videos without a tag make one set. The log draws uniformly from the pool, so the shares are the
    probabilities with which it shows each set.
    """
    distinct, number = np.unique(np.sort(catalog.tags, axis=1), axis=0, return_inverse=True)
    number = number.reshape(-1)  # NumPy 2.0 alone keeps an axis
    return number, np.bincount(number[pool], minlength=len(distinct)) / pool.sum()


class _Gathered:
    """Collects one policy's evidence batch by batch."""

    def __init__(self, users: int) -> None:
        self._rest = np.zeros((users, len(SIGNALS)))
        self._weighted: list[WeightedRows] = []
        self._outside = 0

    def add(
        self,
        rows: RandomRows,
        chosen: np.ndarray,
        tag_set: np.ndarray,
        share: np.ndarray,
        pool: np.ndarray,
        model: ResponseModel,
    ) -> None:
        weight = np.where(chosen == rows.videos, 1.0 / rows.propensity, 0.0)
        tag_weight = estimators.embedding_weights(tag_set[rows.videos], tag_set[chosen], share)
        # Not what the logging policy chose for the user: the model takes it as a random exposure.
        q_policy = model.predict(rows.states, chosen)
        kept = (weight > 0) | (tag_weight > 0)
        self._rest += sums_by_user(q_policy[~kept], rows.place[~kept], len(self._rest))
        self._weighted.append(
            WeightedRows(
                place=rows.place[kept],
                weight=weight[kept],
                tag_weight=tag_weight[kept],
                signals=rows.signals[kept],
                q_logged=model.predict(rows.states[kept], rows.videos[kept]),
                q_policy=q_policy[kept],
            )
        )
        self._outside += int((~pool[chosen]).sum())

    def evidence(self, rows_of_user: np.ndarray) -> Evidence:
        columns = zip(*(vars(rows).values() for rows in self._weighted), strict=True)
        weighted = WeightedRows(*(np.concatenate(column) for column in columns))
        return Evidence(rows_of_user, self._rest, weighted, self._outside / rows_of_user.sum())

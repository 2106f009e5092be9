"""Off-policy estimates on the uniformly exposed log: no simulator, real answers of real users.

docs/off_policy.md says what each estimator is for, and how far its intervals were found to hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from noetik_rllib.data.signals import RewardWeights
from noetik_rllib.envs.response_model import FitRecord, ResponseModel
from noetik_rllib.evaluation.estimators import effective_size, occurrences
from noetik_rllib.evaluation.evidence import ESTIMATORS, Evidence, collect
from noetik_rllib.evaluation.figures import named
from noetik_rllib.evaluation.intervals import percentile, resampled_means
from noetik_rllib.evaluation.policies import Policy
from noetik_rllib.evaluation.random_log import RandomLog
from noetik_rllib.evaluation.result import METRICS, Interval
from noetik_rllib.offline.dataset import OfflineDataset

#: Effective rows below which weights make no figure: intervals then no longer hold what they say.
MIN_EFFECTIVE_ROWS = 100
#: A signal that occurs on fewer effective rows makes no figure, nor does one that is missing on
#: fewer: where none was seen, the bootstrap would promise that there is none.
MIN_OCCURRENCES = 10
#: Share of recommendations of videos that the log never draws above which weights make no figure:
#: they know nothing of those, and count them as worth nothing.
MAX_OUTSIDE = 0.01
#: Standard errors by which the mean weight of a policy may miss what it must be. Of right
#: propensities, four are exceeded by one policy in 16,000.
MAX_MEAN_WEIGHT_ERRORS = 4.0
#: What the interval of an estimator does not hold, for readers of its figures.
REMARKS = {
    "dm": "holds the users drawn, not the errors of the model, which are larger",
    "mips": "takes a video for the mean of those with the same tags",
}


class Estimate(BaseModel):
    """One estimator's figures of one policy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Metric (``METRICS``) -> mean per recommended video. Empty where ``reason`` says why; without
    #: those that are too rare on the effective rows.
    metrics: dict[str, Interval]
    #: Rows with a weight, the largest weight, and (sum w)^2 / sum w^2; None without weights (dm).
    matched_rows: int | None
    largest_weight: float | None
    effective_rows: float | None
    #: Why there is no figure; None where there is one.
    reason: str | None
    #: What the interval does not hold (``REMARKS``); None where it holds what it says.
    remark: str | None


class PolicyEstimates(BaseModel):
    """All estimates of one policy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Name out of ``ESTIMATORS`` -> its figures.
    estimates: dict[str, Estimate]
    #: Share of the recommendations that the random log never draws.
    outside: float
    #: Weight above which switch-DR trusts the model instead.
    switch_threshold: float
    #: Mean of the importance weights over all rows. Where propensities are right it is 1, less
    #: ``outside``. None where no row matched, and in results of before this was checked.
    mean_weight: Interval | None = None
    #: That it is certainly something else, so that no weighted estimate is to be trusted.
    warning: str | None = None


class OffPolicyResult(BaseModel):
    """Several policies on the same rows of the random log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Name of our policy, the first.
    policy: str
    policies: dict[str, PolicyEstimates]
    #: Baseline -> estimator -> metric -> ours less the baseline's, paired; where both have one.
    differences: dict[str, dict[str, dict[str, Interval]]]
    #: Mean logged answers: the value of the log's own policy, which draws uniformly. Without
    #: metrics that are too rare.
    logged: dict[str, Interval]
    reward: RewardWeights
    #: What the model of dm, dr and switch_dr was fitted on: users held out from training, before
    #: the split.
    model: FitRecord
    rows: int
    users: int
    #: Of the resampling, and of the choice of users where there are too many rows.
    seed: int


def off_policy_estimates(
    policies: Sequence[Policy],
    dataset: OfflineDataset,
    model: ResponseModel,
    *,
    reward: RewardWeights | None = None,
    max_rows: int | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> OffPolicyResult:
    """Estimate what policies would get from real users, from the random log's answers.

    Args:
        policies: at least one, with different names; the first is ours.
        dataset: has rows of the random log from its users' split on.
        model: expectations for dm, dr and switch_dr; fitted on other rows, as the judge's is.
        reward: weights of the signals; the dataset's where not given.
        max_rows: the most rows, of whole users.
        seed: of the resampling and the choice of users.
        progress: called with the share that is done, 0 to 1.

    Raises:
        UserError: the dataset has no such rows, or their propensities are not known.
    """
    progress = progress or (lambda share: None)
    log = RandomLog(dataset, max_rows=max_rows, seed=seed)
    evidence, logged = collect(policies, log, model, progress)
    weights = reward or dataset.manifest.reward
    by_name = dict(zip([policy.name for policy in policies], evidence, strict=True))
    figures = summarise(by_name, logged, weights, seed)
    progress(1.0)
    return OffPolicyResult(
        policy=policies[0].name,
        policies=figures.policies,
        differences=figures.differences,
        logged=figures.logged,
        reward=weights,
        model=model.record,
        rows=len(log),
        users=len(log.users),
        seed=seed,
    )


@dataclass(frozen=True)
class Figures:
    """See the fields of the same names of ``OffPolicyResult``."""

    policies: dict[str, PolicyEstimates]
    differences: dict[str, dict[str, dict[str, Interval]]]
    logged: dict[str, Interval]


def summarise(
    evidence: dict[str, Evidence], logged: np.ndarray, reward: RewardWeights, seed: int
) -> Figures:
    """Turn evidence into figures with intervals; the first policy is ours.

    All policies and estimators see the same resamples of the users, so differences are paired.

    Args:
        evidence: policy -> its evidence, of the same U users.
        logged: sum of the logged signals of each user, (U, 9).
        reward: weights of the signals.
        seed: of the resampling.
    """
    rows = next(iter(evidence.values())).rows
    thresholds = {
        name: of_policy.switch_threshold(reward.as_array()) for name, of_policy in evidence.items()
    }
    # Per policy and estimator, 9 numerators and a denominator; the logged ones come last.
    columns = [np.column_stack([logged, rows])]
    for name, of_policy in evidence.items():
        for estimator in ESTIMATORS:
            terms = of_policy.sums(estimator, thresholds[name])
            columns.append(np.column_stack([terms.top, terms.bottom]))
    sums = np.stack(columns, axis=1)  # (U, 1 + P * E, 10)
    means = ratios(sums.sum(axis=0), reward)  # (1 + P * E, 10)
    resampled_sums = resampled_means(sums, seed)
    resampled = ratios(resampled_sums, reward)  # (repetitions, 1 + P * E, 10)

    share = scaled_metrics(means[:1, 1:], reward)[0]
    # Many rows: what occurs on them is no smaller a number than its sum.
    shown = [np.minimum(share, 1 - share) * rows.sum() >= MIN_OCCURRENCES]
    policies: dict[str, PolicyEstimates] = {}
    for name, of_policy in evidence.items():
        estimates: dict[str, Estimate] = {}
        for estimator in ESTIMATORS:
            place = len(shown)
            estimate, common = _checked(name, of_policy, estimator, thresholds[name], reward)
            metrics = named_intervals(means[place], resampled[:, place], common)
            estimates[estimator] = estimate.model_copy(update={"metrics": metrics})
            shown.append(common)
        # SNIPS divides by the sum of the weights; the logged rows' denominator is their number.
        snips = len(shown) - len(ESTIMATORS) + ESTIMATORS.index("snips")
        mean_weight, warning = _mean_weight(
            name,
            float(sums[:, snips, -1].sum() / rows.sum()),
            resampled_sums[:, snips, -1] / resampled_sums[:, 0, -1],
            1.0 - of_policy.outside,
        )
        policies[name] = PolicyEstimates(
            estimates=estimates,
            outside=of_policy.outside,
            switch_threshold=thresholds[name],
            mean_weight=mean_weight,
            warning=warning,
        )
    differences: dict[str, dict[str, dict[str, Interval]]] = {}
    for number, name in enumerate(evidence):
        if not number:
            continue
        differences[name] = {}
        for place, estimator in enumerate(ESTIMATORS, start=1):
            other = place + number * len(ESTIMATORS)
            differences[name][estimator] = named_intervals(
                means[place] - means[other],
                resampled[:, place] - resampled[:, other],
                shown[place] & shown[other],
            )
    return Figures(policies, differences, named_intervals(means[0], resampled[:, 0], shown[0]))


def ratios(sums: np.ndarray, reward: RewardWeights) -> np.ndarray:
    """Estimates of ``METRICS`` (..., 10) from nine numerators and a denominator, (..., 10)."""
    with np.errstate(invalid="ignore", divide="ignore"):  # without any weight: not shown
        signals = sums[..., :-1] / sums[..., -1:]
    return np.concatenate([(signals @ reward.as_array())[..., None], signals], axis=-1)


def scaled_metrics(signals: np.ndarray, reward: RewardWeights) -> np.ndarray:
    """``METRICS`` of answers (R, 9), (R, 10): the reward as a share of its range, from 0 to 1."""
    weights = reward.as_array()
    low, high = weights[weights < 0].sum(), weights[weights > 0].sum()
    return np.column_stack([(signals @ weights - low) / (high - low), signals])


def _mean_weight(
    policy: str, mean: float, resampled: np.ndarray, expected: float
) -> tuple[Interval | None, str | None]:
    """Return the mean weight with its interval, and a warning if it is not what it must be.

    Args:
        policy: its name.
        mean: over all rows.
        resampled: the same in resamples of the users, (R,).
        expected: with right propensities.
    """
    if not mean:
        return None, None
    ends = percentile(np.array([mean]), resampled[:, None])
    interval = named(("weight",), ends)["weight"]
    if abs(mean - expected) <= MAX_MEAN_WEIGHT_ERRORS * resampled.std():
        return interval, None
    return interval, (
        f"the weights of {policy} have mean {mean:.3f} [{interval.low:.3f}, {interval.high:.3f}] "
        f"and should have {expected:.3f}: the propensities do not fit the log (is the random pool "
        "the right one?), so no weighted estimate can be trusted"
    )


def _checked(
    policy: str,
    evidence: Evidence,
    estimator: str,
    threshold: float,
    reward: RewardWeights,
) -> tuple[Estimate, np.ndarray]:
    """Return an estimate without its metrics, and which of them (10,) may be shown."""
    weights = evidence.weights_of(estimator, threshold)
    if weights is None:
        blank = Estimate(
            metrics={},
            matched_rows=None,
            largest_weight=None,
            effective_rows=None,
            reason=None,
            remark=REMARKS.get(estimator),
        )
        return blank, np.ones(len(METRICS), dtype=bool)
    size, matched = effective_size(weights), int((weights > 0).sum())
    reason = None
    if not matched:
        what = "has the tags of" if estimator == "mips" else "shows"
        reason = f"no row of the random log {what} what {policy} recommends there"
    elif evidence.outside > MAX_OUTSIDE:
        reason = (
            f"{evidence.outside:.1%} of what {policy} recommends is never drawn by the random "
            "log, which cannot say what it is worth"
        )
    elif size < MIN_EFFECTIVE_ROWS:
        reason = (
            f"the weights of {policy} count as {size:.0f} rows, fewer than the "
            f"{MIN_EFFECTIVE_ROWS} that an interval needs"
        )
    found = Estimate(
        metrics={},
        matched_rows=matched,
        largest_weight=float(weights.max(initial=0.0)),
        effective_rows=size,
        reason=reason,
        remark=REMARKS.get(estimator),
    )
    if reason:
        return found, np.zeros(len(METRICS), dtype=bool)
    values = scaled_metrics(evidence.weighted.signals, reward)
    return found, occurrences(weights, values) >= MIN_OCCURRENCES


def named_intervals(
    means: np.ndarray, resampled: np.ndarray, shown: np.ndarray
) -> dict[str, Interval]:
    """Intervals of those of ``METRICS`` that are shown (10,); means (10,), resampled (R, 10)."""
    places = np.flatnonzero(shown)
    if not len(places):
        return {}
    intervals = percentile(means[places], resampled[:, places])
    ends = zip(places, intervals.mean, intervals.low, intervals.high, strict=True)
    return {
        METRICS[place]: Interval(mean=float(mean), low=float(low), high=float(high))
        for place, mean, low, high in ends
    }

"""Off-policy estimators of a policy's value from logged answers, as pure functions of arrays.

Shapes: R logged rows, K signals. ``weights`` (R,) say how much likelier the policy is to show the
logged video than the log was, ``pi(a|x) / mu(a|x)``: for a policy that shows one video per state,
``1 / mu`` where it would show the logged one and 0 elsewhere. ``signals`` (R, K) are the logged
answers; ``q_logged`` (R, K) are what a model expects of the logged video, ``q_policy`` (R, K) of
the policy's. The model must be fitted on other rows.

Every estimator is a ratio of sums over rows, so each returns the rows' ``Terms``: their sums by
user are all that a bootstrap over users needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Terms:
    """What rows add to an estimate: ``top`` (R, K) to its numerator, ``bottom`` (R,) below."""

    top: np.ndarray
    bottom: np.ndarray

    @property
    def value(self) -> np.ndarray:
        """The estimate, (K,)."""
        return np.asarray(self.top.sum(axis=0) / self.bottom.sum())


def inverse_propensity(weights: np.ndarray, signals: np.ndarray) -> Terms:
    """IPS: the mean of weighted answers; unbiased, whatever the answers depend on.

    Horvitz and Thompson 1952; Dudik, Langford and Li 2011, "Doubly Robust Policy Evaluation and
    Learning", equation 2.
    """
    return Terms(_weighted(weights, signals), np.ones(len(weights)))


def self_normalised(weights: np.ndarray, signals: np.ndarray) -> Terms:
    """SNIPS: divided by the sum of the weights, not by the number of rows.

    Biased by the order of 1 / rows, and steadier: the estimate stays within the range of the
    answers, and follows when a constant is added to them. Swaminathan and Joachims 2015, "The
    Self-Normalized Estimator for Counterfactual Learning", equation 9.
    """
    return Terms(_weighted(weights, signals), weights.astype(np.float64))


def direct(q_policy: np.ndarray) -> Terms:
    """DM: what the model expects of the policy's videos; as wrong as the model is.

    Dudik, Langford and Li 2011, equation 1.
    """
    return Terms(q_policy.astype(np.float64), np.ones(len(q_policy)))


def doubly_robust(
    weights: np.ndarray, signals: np.ndarray, q_logged: np.ndarray, q_policy: np.ndarray
) -> Terms:
    """DR: the model's expectation, corrected by the weighted errors that it made on logged rows.

    Unbiased whatever the model says, and the closer the model, the less it varies. Dudik, Langford
    and Li 2011, equation 3.
    """
    return switch_doubly_robust(weights, signals, q_logged, q_policy, np.inf)


def switch_doubly_robust(
    weights: np.ndarray,
    signals: np.ndarray,
    q_logged: np.ndarray,
    q_policy: np.ndarray,
    threshold: float,
) -> Terms:
    """Switch-DR: doubly robust, without the corrections whose weight is above ``threshold``.

    Wang, Agarwal and Dudik 2017, "Optimal and Adaptive Off-policy Evaluation in Contextual
    Bandits", section 3.2; ``choose_threshold`` is theirs too.
    """
    kept = np.where(weights <= threshold, weights, 0.0)
    error = signals.astype(np.float64) - q_logged
    return Terms(q_policy + _weighted(kept, error), np.ones(len(weights)))


def choose_threshold(
    thresholds: np.ndarray, variances: np.ndarray, dropped: np.ndarray, spread: float
) -> float:
    """Choose switch-DR's threshold: the least upper bound of the mean squared error.

    Wang, Agarwal and Dudik 2017, section 3.3: variance plus the square of the bias that could be,
    which is the spread of the rewards times the policy's probability of videos whose weight is
    above the threshold.

    Args:
        thresholds: candidates, (T,).
        variances: of the estimate under each, (T,).
        dropped: probability under the policy of videos whose weight is above each, (T,).
        spread: largest reward less the smallest one.
    """
    return float(thresholds[np.argmin(variances + (spread * dropped) ** 2)])


def embedding_weights(logged: np.ndarray, chosen: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Marginal weights (R,) of a policy that shows one video per state, for MIPS.

    Saito and Joachims 2022, "Off-Policy Evaluation for Large Action Spaces via Embeddings",
    equation 6: ``p(e|x, pi) / p(e|x, mu)``, the probabilities that the shown video is of class e.
    Used in ``inverse_propensity``, they make the MIPS estimate (equation 7), which is unbiased
    where a video matters through its class alone (their assumption 3.2).

    Args:
        logged: class of the logged video, (R,) int.
        chosen: class of the policy's video, (R,) int.
        share: probability that the log shows a video of each class, (E,).
    """
    weights = np.zeros(len(logged))
    same = logged == chosen
    weights[same] = 1.0 / share[logged[same]]
    return weights


def effective_size(weights: np.ndarray) -> float:
    """Effective number of rows of unequal weights (R,): (sum w)^2 / sum w^2; 0 without a weight.

    Kish 1965, "Survey Sampling", section 11.7.
    """
    squares = float(np.square(weights, dtype=np.float64).sum())
    return float(weights.sum(dtype=np.float64) ** 2 / squares) if squares else 0.0


def occurrences(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Effective number of weighted rows on which something occurs, or does not: the fewer, (K,).

    The effective size of ``weights`` (R,) times ``values`` (R, K) within [0, 1], and times one less
    them. It bounds how far an interval can be trusted: of what was never seen, a resample of the
    rows knows nothing.
    """
    sizes = [
        min(effective_size(weights * column), effective_size(weights * (1 - column)))
        for column in values.T
    ]
    return np.array(sizes)


def variance_by_user(top: np.ndarray, bottom: np.ndarray) -> float:
    """Variance of a ratio of sums whose rows are independent between users only.

    The linearised ratio's (Cochran 1977, "Sampling Techniques", section 6.4).

    Args:
        top: numerator of each user, (U,).
        bottom: denominator of each user, (U,).
    """
    rest = top - bottom * (top.sum() / bottom.sum())
    return float(np.square(rest).sum() / bottom.sum() ** 2)


def _weighted(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Rows (R, K) of ``values`` times their weight, float64."""
    return weights.astype(np.float64)[:, None] * values

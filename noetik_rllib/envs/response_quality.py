"""How well a response model predicts logged answers that it was not fitted on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from noetik_rllib.data.signals import BINARY_SIGNALS, SIGNALS
from noetik_rllib.envs.response_model import ResponseModel
from noetik_rllib.envs.rows import load_rows
from noetik_rllib.offline.dataset import OfflineDataset

#: Bins of the expected calibration error; each holds as many rows as any other.
CALIBRATION_BINS = 15
#: Probabilities are kept this far from 0 and 1 in the log loss, the precision of float32.
_CERTAIN = 1e-7


class ResponseQuality(BaseModel):
    """Quality of a response model on logged rows, by signal.

    ``auc``: probability that a row with the signal is scored above one without. ``gauc``: its mean
    over users, weighted by their rows. Both are None where only one of both occurs.
    ``log_loss``: mean negative log-likelihood, nats. ``calibration_error``: see
    ``expected_calibration_error``. ``calibration``: mean predicted over mean logged value; None
    where the signal does not occur.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    users: int
    auc: dict[str, float | None]
    gauc: dict[str, float | None]
    log_loss: dict[str, float]
    calibration_error: dict[str, float]
    calibration: dict[str, float | None]
    #: Mean of each signal over these rows.
    logged_mean: dict[str, float]


def area_under_curve(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """AUC of ``scores`` (R,) for ``labels`` (R,) of 0 or 1; equal scores count half.

    Returns:
        None where only one label occurs.
    """
    return grouped_area_under_curve(labels, scores, np.zeros(len(labels), dtype=np.int64))


def grouped_area_under_curve(
    labels: np.ndarray, scores: np.ndarray, users: np.ndarray
) -> float | None:
    """Mean over users of the AUC on their own rows, weighted by their number (GAUC).

    Users with one label only have no AUC and do not count (Zhou et al. 2018, "Deep Interest Network
    for Click-Through Rate Prediction", section 6.3).

    Args:
        labels: 0 or 1, (R,).
        scores: (R,); equal ones count half.
        users: whose rows they are, (R,).

    Returns:
        None where no user has both labels.
    """
    areas = areas_by_user(labels, scores, users)
    both = ~np.isnan(areas.area)
    if not both.any():
        return None
    return float(np.average(areas.area[both], weights=areas.rows[both]))


@dataclass(frozen=True)
class UserAreas:
    """AUC of U users on their own rows, ``area`` (U,), not a number where only one label occurs.

    ``users`` (U,) are the distinct users, ascending, and ``rows`` (U,) the number of their rows.
    """

    users: np.ndarray
    rows: np.ndarray
    area: np.ndarray


def areas_by_user(labels: np.ndarray, scores: np.ndarray, users: np.ndarray) -> UserAreas:
    """AUC of each user's own rows; arguments as ``grouped_area_under_curve``."""
    if not len(labels):
        return UserAreas(users[:0], np.zeros(0, dtype=np.int64), np.zeros(0))
    order = np.lexsort((scores, users))
    positive, scores, users = labels[order] > 0.5, scores[order], users[order]
    new_user = np.append(True, users[1:] != users[:-1])
    first = np.flatnonzero(new_user)
    user = np.cumsum(new_user) - 1
    rows = np.diff(np.append(first, len(users)))
    # Mean place, counted from 1 within the user, of each group of equal scores.
    tie = np.cumsum(np.append(True, new_user[1:] | (scores[1:] != scores[:-1]))) - 1
    place = np.arange(len(users)) - first[user] + 1.0
    rank = (np.bincount(tie, weights=place) / np.bincount(tie))[tie]
    positives = np.bincount(user, weights=positive)
    pairs = positives * (rows - positives)
    wins = np.bincount(user, weights=rank * positive) - positives * (positives + 1) / 2
    area = np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan)
    return UserAreas(users[first], rows, area)


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log-likelihood of ``labels`` (R,) of 0 or 1 under ``probabilities`` (R,)."""
    sure = np.clip(probabilities.astype(np.float64), _CERTAIN, 1 - _CERTAIN)
    return float(-np.where(labels > 0.5, np.log(sure), np.log1p(-sure)).mean())


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean distance of probabilities (R,) from the frequency of ``labels`` (R,) where they are met.

    Rows are put into ``CALIBRATION_BINS`` bins of equal size by their probability; the distance of
    mean probability and frequency counts by the rows of the bin (ECE, Naeini et al. 2015, with bins
    of equal mass: most probabilities of a rare signal would share one of equal width).
    """
    order = np.argsort(probabilities, kind="stable")
    labels, probabilities = (values[order].astype(np.float64) for values in (labels, probabilities))
    first = np.unique(np.arange(CALIBRATION_BINS) * len(order) // CALIBRATION_BINS)
    gap = np.add.reduceat(labels - probabilities, first)
    return float(np.abs(gap).sum() / len(order))


def measure(
    predicted: np.ndarray, logged: dict[str, np.ndarray], users: np.ndarray
) -> ResponseQuality:
    """Compare expected signals with logged ones.

    Args:
        predicted: (R, 9), in ``SIGNALS`` order.
        logged: R values of each signal.
        users: whose rows they are, (R,).
    """
    auc: dict[str, float | None] = {}
    gauc: dict[str, float | None] = {}
    loss: dict[str, float] = {}
    error: dict[str, float] = {}
    calibration: dict[str, float | None] = {}
    logged_mean: dict[str, float] = {}
    for column, name in enumerate(SIGNALS):
        values, scores = logged[name].astype(np.float64), predicted[:, column]
        mean = float(values.mean())
        logged_mean[name] = mean
        calibration[name] = float(scores.mean(dtype=np.float64)) / mean if mean else None
        if name in BINARY_SIGNALS:
            auc[name] = area_under_curve(values, scores)
            gauc[name] = grouped_area_under_curve(values, scores, users)
            loss[name] = log_loss(values, scores)
            error[name] = expected_calibration_error(values, scores)
    return ResponseQuality(
        rows=len(users),
        users=len(np.unique(users)),
        auc=auc,
        gauc=gauc,
        log_loss=loss,
        calibration_error=error,
        calibration=calibration,
        logged_mean=logged_mean,
    )


def assess(
    model: ResponseModel,
    dataset: OfflineDataset,
    part: str,
    users: np.ndarray | None = None,
    *,
    from_split: bool = False,
) -> ResponseQuality | None:
    """Compare a model with logged answers.

    Args:
        model: fitted on other rows than these.
        dataset: the dataset it was fitted on.
        part: part whose answers are predicted.
        users: only the rows of these users.
        from_split: only rows from their user's split time on.

    Returns:
        None where there are no such rows.

    Raises:
        UserError: a row cannot be meant (``load_rows``).
    """
    columns = ("user_id", "obs", "actions", "time_ms", *SIGNALS)
    rows = load_rows(dataset, part, columns, users=users)
    late = ~dataset.before_split(rows["user_id"], rows["time_ms"]) | (not from_split)
    if not late.any():
        return None
    if not late.all():
        rows = {name: values[late] for name, values in rows.items()}
    predicted = model.predict(
        rows["obs"], rows["actions"], rows["user_id"], uniform=part == "random"
    )
    return measure(predicted, rows, rows["user_id"])

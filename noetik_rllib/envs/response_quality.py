"""How well a response model predicts logged answers that it was not fitted on."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

from noetik_rllib.data.signals import BINARY_SIGNALS, SIGNALS
from noetik_rllib.envs.response_model import ResponseModel
from noetik_rllib.offline.dataset import OfflineDataset


class ResponseQuality(BaseModel):
    """Quality of a response model on logged rows.

    ``auc``: probability that a row with the signal is scored above one without; None where only
    one of both occurs. ``calibration``: mean predicted over mean logged value; None where the
    signal does not occur.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    users: int
    auc: dict[str, float | None]
    calibration: dict[str, float | None]
    #: Mean of each signal over these rows.
    logged_mean: dict[str, float]


def area_under_curve(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """AUC of ``scores`` (R,) for ``labels`` (R,) of 0 or 1; equal scores count half.

    Returns:
        None where only one label occurs.
    """
    positive = labels > 0.5
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # Mean rank, counted from 1, of each group of equal scores.
    rank = np.cumsum(counts) - (counts - 1) / 2
    wins = rank[place][positive].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * negatives))


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
    """
    columns = ("user_id", "obs", "actions", "time_ms", *SIGNALS)
    rows = dataset.load(part, columns, users=users)
    late = ~dataset.before_split(rows["user_id"], rows["time_ms"]) | (not from_split)
    if not late.any():
        return None
    if not late.all():
        rows = {name: values[late] for name, values in rows.items()}
    predicted = model.predict(
        rows["obs"], rows["actions"], rows["user_id"], uniform=part == "random"
    )
    auc: dict[str, float | None] = {}
    calibration: dict[str, float | None] = {}
    logged_mean: dict[str, float] = {}
    for column, name in enumerate(SIGNALS):
        logged = rows[name].astype(np.float64)
        mean = float(logged.mean())
        logged_mean[name] = mean
        calibration[name] = float(predicted[:, column].mean()) / mean if mean else None
        if name in BINARY_SIGNALS:
            auc[name] = area_under_curve(logged, predicted[:, column])
    return ResponseQuality(
        rows=len(rows["user_id"]),
        users=len(np.unique(rows["user_id"])),
        auc=auc,
        calibration=calibration,
        logged_mean=logged_mean,
    )

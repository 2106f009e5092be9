"""The measures of a response model, against counting."""

from __future__ import annotations

import numpy as np
import pytest

from noetik_rllib.envs.response_quality import (
    CALIBRATION_BINS,
    expected_calibration_error,
    grouped_area_under_curve,
    log_loss,
)


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    difference = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def test_gauc_is_the_users_mean_weighted_by_rows() -> None:
    """The figure would not be the literature's: users with one label only must not count."""
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(2, size=300), rng.integers(6, size=300) / 6
    users = rng.integers(40, size=300)
    labels[users == 3] = 1
    own = [users == user for user in np.unique(users)]
    counted = [rows for rows in own if 0 < labels[rows].mean() < 1]
    assert len(counted) < len(own)
    expected = np.average(
        [auc(labels[rows], scores[rows]) for rows in counted],
        weights=[rows.sum() for rows in counted],
    )
    assert grouped_area_under_curve(labels, scores, users) == pytest.approx(expected)
    assert grouped_area_under_curve(np.ones(3), scores[:3], users[:3]) is None


def test_log_loss_is_the_mean_surprise() -> None:
    """The figure would be another, or infinite where a model is sure and wrong."""
    assert log_loss(np.array([1, 0]), np.array([0.8, 0.4])) == pytest.approx(
        -(np.log(0.8) + np.log(0.6)) / 2
    )
    assert log_loss(np.array([1.0]), np.array([0.0])) < 20


def test_calibration_error_is_the_distance_from_the_frequency() -> None:
    """A model that is 0.1 too high would not show it, or a perfect one would."""
    rng = np.random.default_rng(0)
    truth = rng.random(200_000) * 0.8
    labels = (rng.random(200_000) < truth).astype(float)
    # Of 15 bins of 13,333 rows, each frequency has a standard error below 0.0044.
    assert expected_calibration_error(labels, truth) < 0.006
    assert expected_calibration_error(labels, truth + 0.1) == pytest.approx(0.1, abs=0.003)
    few = np.array([0.2, 0.6])
    assert len(few) < CALIBRATION_BINS
    assert expected_calibration_error(np.array([0.0, 1.0]), few) == pytest.approx(0.3)

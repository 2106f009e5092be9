"""The estimators and measures of ``noetik data check`` against small cases with known answers."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetik_rllib.data import measures_auc
from noetik_rllib.data.estimators import auc, gini, sessions_per_user, top_share, variance_share
from noetik_rllib.data.measures import measure
from noetik_rllib.data.measures_auc import auc_features, auc_measures
from noetik_rllib.data.published import (
    PublishedLogs,
    Rows,
    first_of_duplicates,
    read_published,
)
from noetik_rllib.data.schema import LOG_COLUMNS

MINUTE_MS = 60_000


def rows(count: int, **columns: object) -> Rows:
    """Rows with the given columns, and 0 in all others."""
    return Rows(
        {
            name: np.broadcast_to(np.asarray(columns.get(name, 0), dtype=np.int64), count).copy()
            for name in LOG_COLUMNS
        }
    )


def utc_ms(day: int, hour: int, minute: int = 0) -> int:
    """Milliseconds of a time in April 2022, UTC."""
    return int(datetime(2022, 4, day, hour, minute, tzinfo=timezone.utc).timestamp() * 1000)


# --- estimators ---------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any))
def test_gini_is_half_the_relative_mean_difference(counts: list[int]) -> None:
    """Fails if the Gini coefficient is another one than its definition."""
    values = np.array(counts)
    difference = np.abs(values[:, None] - values[None, :]).mean()
    assert gini(values) == pytest.approx(difference / (2 * values.mean()), abs=1e-12)


def test_concentration_of_nothing_is_not_a_number() -> None:
    """Fails if a log without rows gets a concentration."""
    assert np.isnan(gini(np.zeros(0, dtype=int)))
    assert np.isnan(top_share(np.zeros(3, dtype=int), 0.2))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=25))
def test_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[bool, int]]) -> None:
    """Fails if the area is another one than the share of pairs, ties counting half."""
    outcome, score = (np.array(column, dtype=int) for column in zip(*pairs, strict=True))
    won = score[outcome == 1][:, None] - score[outcome == 0][None, :]
    if won.size == 0:
        assert np.isnan(auc(outcome, score))
    else:
        assert auc(outcome, score) == pytest.approx(((won > 0) + 0.5 * (won == 0)).mean())


def test_a_session_ends_after_thirty_minutes() -> None:
    """Fails if 30 minutes away, or another user, do not begin a session, or less does."""
    user = np.array([1, 1, 1, 1, 7, 7])
    minutes = np.array([0, 29, 59, 88, 88, 200])
    assert sessions_per_user(user, minutes * MINUTE_MS).tolist() == [2, 2]


def test_variance_share_of_two_rows_by_hand() -> None:
    """Fails if the pairs are not of different rows of one group, or weighted otherwise.

    Mean 1/2, residuals +-1/2. Group 1: the pairs of +, +, - have the mean product (1 - 2)/3 / 4 =
    -1/12, weight 2. Group 2: -, - has 1/4, weight 1. Group 3, one row, has no pair.
    """
    outcome = np.array([1, 1, 0, 0, 0, 1])
    group = np.array([1, 1, 1, 2, 2, 3])
    expected = (2 * (-1 / 12) + 1 * (1 / 4)) / 3 / (1 / 4)
    assert variance_share(outcome, group) == pytest.approx(expected)


def test_variance_share_recovers_a_planted_one() -> None:
    """Fails if the noise within groups is counted, or only a part of the planted variance.

    60 samples of 400 groups with 2 to 20 rows, group means spread with a variance of .1 of p(1-p).
    The mean of 60 estimates is within 4 of its standard errors: a right estimator misses that with
    a probability of 6e-5 (the seed is fixed). The variance of the group means would give .18.
    """
    rng = np.random.default_rng(7)
    mean, share = 0.4, 0.1
    half = np.sqrt(3 * share * mean * (1 - mean))
    estimates = []
    for _ in range(60):
        group = np.repeat(np.arange(400), rng.integers(2, 21, size=400))
        chance = mean + rng.uniform(-half, half, size=400)[group]
        estimates.append(variance_share(rng.random(len(group)) < chance, group))
    error = np.std(estimates, ddof=1) / np.sqrt(len(estimates))
    assert error < 0.003
    assert abs(np.mean(estimates) - share) < 4 * error


@given(st.lists(st.tuples(*[st.integers(0, 1)] * 4), max_size=30))
def test_first_of_duplicates_is_drop_duplicates(values: list[tuple[int, ...]]) -> None:
    """Fails if a row is dropped that differs in any column, or an exact twin is kept."""
    names = ("user_id", "time_ms", "comment_stay_time", "tab")
    table = np.array(values, dtype=np.int64).reshape(-1, len(names))
    log = rows(len(table), **dict(zip(names, table.T, strict=True)))
    kept = pd.DataFrame(log.columns).drop_duplicates().index.tolist()
    assert first_of_duplicates(log).tolist() == kept


# --- measures -----------------------------------------------------------------------------------


def logs_1k(standard: Rows) -> PublishedLogs:
    """Both logs of a 1K folder; that log needs no features."""
    return PublishedLogs(Path("none"), "1k", standard, rows(3, user_id=[1, 1, 2], time_ms=5))


def test_time_stamps_are_compared_in_chinas_time() -> None:
    """Fails if the hour offset or the date is taken in UTC, or over midnight, or in all tabs."""
    standard = rows(
        6,
        # Local time is 8 hours later: 01:00, 23:55 twice (a twin), 23:55, 09:59 and 10:00.
        time_ms=[utc_ms(9, 17), *[utc_ms(10, 15, 55)] * 3, utc_ms(11, 1, 59), utc_ms(11, 2)],
        date=[20220410, 20220411, 20220411, 20220410, 20220411, 20220411],
        hourmin=[100, 0, 0, 2300, 1000, 1100],
        tab=[1, 1, 1, 1, 0, 8],
    )
    measured = measure(logs_1k(standard))
    assert measured["date_mismatch"] == pytest.approx(2 / 6)
    # Without the twin and tab 8: rows 0, 1, 3, 4, of which 1 and 4 are one hour ahead.
    assert measured["hour_ahead"] == pytest.approx(2 / 4)


def test_measures_of_a_log_by_hand() -> None:
    """Fails if a rate, a share or a count per user, request or video is taken of other rows."""
    standard = rows(
        8,
        user_id=[2, 1, 1, 1, 1, 2, 1, 1],
        video_id=[9, 9, 8, 7, 9, 9, 5, 9],
        time_ms=np.array([0, 90, 0, 0, 10, 1, 90, 50]) * MINUTE_MS + utc_ms(9, 0),
        hourmin=[2100, 400, 2100, 2100, 2100, 2100, 1200, 1200],
        is_click=[1, 1, 0, 0, 1, 1, 0, 0],
        long_view=[1, 0, 0, 0, 1, 0, 0, 0],
        is_like=[0, 0, 1, 0, 1, 0, 0, 0],
        tab=[1, 1, 0, 0, 1, 1, 6, 4],
    )
    measured = measure(logs_1k(standard))
    expected = {
        "click": 4 / 8,
        "long_view": 2 / 8,
        "like": 2 / 8,
        "long_given_click": 2 / 4,
        "click_given_long": 1.0,
        "like_given_click": 1 / 4,
        "click_given_like": 1 / 2,
        "hour_21_share": 5 / 8,
        "hour_4_share": 1 / 8,
        "tab_1_share": 4 / 8,
        "tab_0_share": 2 / 8,
        "tab_0_click": 0.0,
        "tab_6_share": 1 / 8,
        "user_rows_q50": 4.0,  # 6 and 2
        "user_rows_ln_sd": np.log(3) / 2,
        "user_rows_gini": 0.25,
        "rows_per_request": 8 / 6,  # user 1: 0, 10, 50, 90; user 2: 0, 1
        "activity_click_correlation": -1.0,
        "sessions_mean": 2.0,  # user 1: {0, 10}, {50}, {90}; user 2: {0, 1}
        "video_singletons": 3 / 4,  # videos 5, 7, 8 once and 9 five times
        "video_top_1": 5 / 8,
        "video_gini": gini(np.array([1, 1, 1, 5])),
        "random_requests_per_row": 2 / 3,
        "random_user_min": 1.0,
    }
    for name, value in expected.items():
        assert measured[name] == pytest.approx(value), name
    assert measured["tab_2_click"] == "too few rows to measure it"


# --- AUC ----------------------------------------------------------------------------------------


def same_features(logs: PublishedLogs, first: Rows, second: Rows) -> np.ndarray:
    """Which rows have the same features in both."""
    one, other = auc_features(logs, first), auc_features(logs, second)
    return ((one == other) | (np.isnan(one) & np.isnan(other))).all(axis=1)


def test_features_do_not_contain_their_own_outcome(tiny_world: Path) -> None:
    """Fails if the model is shown what it has to foretell, in training or in testing."""
    logs = read_published(tiny_world)
    outcomes = ("is_click", "long_view", "is_like")
    late = logs.standard["date"] >= 20220501
    flipped = {
        name: np.where(late, 1 - values, values)
        for name, values in logs.standard.columns.items()
        if name in outcomes
    }
    later = Rows({**logs.standard.columns, **flipped})
    assert same_features(logs, logs.standard, later).all()
    training = np.flatnonzero((logs.standard["date"] >= 20220425) & ~late)
    for row in training[:: len(training) // 10]:
        columns = {name: logs.standard[name].copy() for name in outcomes}
        for values in columns.values():
            values[row] = 1 - values[row]
        changed = Rows({**logs.standard.columns, **columns})
        same = same_features(logs, logs.standard, changed)
        assert same[row]
        assert not same.all()  # other rows do learn from it


def test_training_is_cut_to_whole_users(tiny_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a folder far larger than Pure is trained on row by row, or users are cut apart."""
    standard = read_published(tiny_world).standard
    monkeypatch.setattr(measures_auc, "_MAX_TRAINING_ROWS", 100)
    kept = measures_auc._sample_users(standard)
    assert 0 < len(kept) < len(standard) / 2
    assert len(kept) == np.isin(standard["user_id"], np.unique(kept["user_id"])).sum()


def test_what_auc_needs_is_named(tiny_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a missing package or missing dates stop the check, or are not named."""
    logs = read_published(tiny_world)
    early = logs.standard.where(logs.standard["date"] < 20220425)
    without = PublishedLogs(logs.folder, "pure", early, logs.random)
    assert auc_measures(without)["auc_like"] == ("no row of 25 to 30 April, or none of 1 to 8 May")
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    assert auc_measures(logs)["auc_click"] == "pip install 'noetik-rllib[check]'"

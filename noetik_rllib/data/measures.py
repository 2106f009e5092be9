"""Measure a folder of logs as ``targets.py`` defines each statistic.

Rates count rows as published, duplicates included, as their sources do; the two exceptions (the
click ratio of target 9, from A, and the hour offset of target 25) drop exact duplicates first.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from noetik_rllib.data.estimators import (
    gini,
    run_starts,
    sessions_per_user,
    top_share,
    variance_share,
)
from noetik_rllib.data.measures_auc import auc_measures
from noetik_rllib.data.published import (
    PublishedLogs,
    Rows,
    first_of_duplicates,
    video_durations,
)
from noetik_rllib.data.reader import Progress
from noetik_rllib.data.schema import SIGNAL_COLUMNS
from noetik_rllib.data.targets import HOURLY_ROWS

#: A measured value, or in words why there is none.
Measure = float | str

#: The dates of W, the slice of Pure that several statistics were computed from.
FIRST_LATE_DATE, LAST_LATE_DATE = 20220425, 20220508
#: The first date of the random log, and the last of the first standard file.
FIRST_RANDOM_DATE, LAST_EARLY_DATE = 20220422, 20220421
#: Tabs on which the hour offset was computed; on 8, 9, 10 and 12 most rows lag (W).
_TIMED_TABS = (0, 1, 2, 4, 6)
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
#: ``date`` and ``hourmin`` are in China's time, ``time_ms`` is UTC.
_LOCAL_MS = 8 * _HOUR_MS


def measure(logs: PublishedLogs, progress: Progress | None = None) -> dict[str, Measure]:
    """Return every measure that the targets of ``logs.variant`` need, by ``Figure.key``.

    Raises:
        UserError: a features file that is needed and does not fit the layout.
    """
    standard, random = logs.standard, logs.random
    steps: list[tuple[str, Callable[[], dict[str, Measure]]]] = [
        ("rates", lambda: {**_rates(standard), **_random(random)}),
        ("time stamps", lambda: _time_stamps(standard)),
    ]
    if logs.variant == "pure":
        steps += [
            ("pool", lambda: _pool(logs)),
            ("late rows", lambda: _late_rows(standard)),
            ("click ratio", lambda: _click_ratio(standard, random)),
            ("AUC", lambda: auc_measures(logs)),
        ]
    else:
        steps += [
            ("tabs", lambda: _tabs(standard)),
            ("requests", lambda: _requests(standard)),
            ("videos", lambda: _videos(standard)),
        ]
    measures: dict[str, Measure] = {}
    for number, (doing, step) in enumerate(steps):
        if progress:
            progress(f"measuring {doing}", number / len(steps))
        for name, value in step().items():
            missing = isinstance(value, float) and not math.isfinite(value)
            measures[name] = "too few rows to measure it" if missing else value
        if len(random) == 0:
            random_measures = [name for name in measures if name.startswith("random_")]
            measures.update(dict.fromkeys(random_measures, "the folder has no random row"))
    return measures


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _quantile(values: np.ndarray, level: float) -> float:
    return float(np.quantile(values, level)) if len(values) else math.nan


def _complete(rows: Rows) -> np.ndarray:
    """Return, for each row of known duration, whether it was played to the end."""
    known = rows["duration_ms"] > 0
    return rows["play_time_ms"][known] >= rows["duration_ms"][known]


def _rates(standard: Rows) -> dict[str, Measure]:
    """Targets 1 to 5, 10, 11 and 23: rates of the standard log and its hours."""
    measures: dict[str, Measure] = {
        name: _mean(standard[column]) for name, column in SIGNAL_COLUMNS.items()
    }
    clicked, liked = standard["is_click"] == 1, standard["is_like"] == 1
    measures["long_given_click"] = _mean(standard["long_view"][clicked])
    measures["click_given_long"] = _mean(standard["is_click"][standard["long_view"] == 1])
    measures["like_given_click"] = _mean(standard["is_like"][clicked])
    measures["click_given_like"] = _mean(standard["is_click"][liked])
    hours = np.bincount(standard["hourmin"] // 100, minlength=24)[:24] / len(standard)
    measures["hour_21_share"] = float(hours[21])
    measures["hour_4_share"] = float(hours[4])
    correlated = float(np.std(hours)) > 0
    measures["hour_correlation"] = (
        float(np.corrcoef(hours, HOURLY_ROWS)[0, 1]) if correlated else math.nan
    )
    return measures


def _random(random: Rows) -> dict[str, Measure]:
    """Targets 7, 8, 10, 14, 16, 18, 22, 24 and 26: the random log."""
    measures: dict[str, Measure] = {
        f"random_{name}": _mean(random[column]) for name, column in SIGNAL_COLUMNS.items()
    }
    measures["random_long_given_click"] = _mean(random["long_view"][random["is_click"] == 1])
    measures["random_tab_1_share"] = _mean(random["tab"] == 1)
    measures["random_play_q50"] = _quantile(random["play_time_ms"], 0.5)
    measures["random_complete"] = _mean(_complete(random))
    measures["random_no_duration"] = _mean(random["duration_ms"] == 0)
    _, per_video = np.unique(random["video_id"], return_counts=True)
    measures["random_video_gini"] = gini(per_video)
    _, per_user = np.unique(random["user_id"], return_counts=True)
    measures["random_user_q50"] = _quantile(per_user, 0.5)
    measures["random_user_q90"] = _quantile(per_user, 0.9)
    measures["random_user_min"] = _quantile(per_user, 0.0)
    order = np.lexsort((random["time_ms"], random["user_id"]))
    starts = run_starts(random["user_id"][order], random["time_ms"][order])
    measures["random_requests_per_row"] = _mean(starts)
    return measures


def _time_stamps(standard: Rows) -> dict[str, Measure]:
    """Target 25: ``hourmin`` and ``date`` against the local time of ``time_ms``.

    The hour offset is of the rows left when exact duplicates are dropped (W); the dates are of
    all rows (W, G).
    """
    local_ms = standard["time_ms"] + _LOCAL_MS
    days, day = np.unique(local_ms // _DAY_MS, return_inverse=True)
    calendar = np.array(
        [int(str(value).replace("-", "")) for value in days.astype("datetime64[D]")],
        dtype=np.int64,
    )
    mismatch = calendar[day] != standard["date"]
    ahead = (standard["hourmin"] // 100 - local_ms // _HOUR_MS) % 24 == 1
    kept = first_of_duplicates(standard)
    kept = kept[np.isin(standard["tab"][kept], _TIMED_TABS)]
    return {"hour_ahead": _mean(ahead[kept]), "date_mismatch": _mean(mismatch)}


def _pool(logs: PublishedLogs) -> dict[str, Measure]:
    """Targets 17 and 21: durations of the pool's videos, and how unevenly they are shown.

    SM counted the rows of 9 to 21 April over all 7,583 videos of the pool, shown or not.
    """
    video_id, duration = video_durations(logs.folder)
    known = duration[np.isfinite(duration) & (duration > 0)]
    early = logs.standard["video_id"][logs.standard["date"] <= LAST_EARLY_DATE]
    shown, counts = np.unique(early, return_counts=True)
    counts = np.append(counts, np.zeros(len(np.setdiff1d(video_id, shown)), dtype=counts.dtype))
    return {
        "duration_ln_mean": _mean(np.log(known)),
        "duration_ln_sd": float(np.log(known).std()) if len(known) else math.nan,
        "duration_q50": _quantile(known, 0.5),
        "pool_gini": gini(counts),
        "pool_top_20": top_share(counts, 0.2) if len(counts) else math.nan,
    }


def _late_rows(standard: Rows) -> dict[str, Measure]:
    """Targets 6, 15, 18, 26 and 27: standard rows dated 25 April to 8 May, as in W."""
    late = standard.where(
        (standard["date"] >= FIRST_LATE_DATE) & (standard["date"] <= LAST_LATE_DATE)
    )
    feed = late.where(late["tab"] == 1)
    known = feed.where(feed["duration_ms"] > 0)
    measures: dict[str, Measure] = {
        "late_profile_enter": _mean(late["is_profile_enter"]),
        "complete": _mean(_complete(late)),
        "watch_ratio_q50": _quantile(known["play_time_ms"] / known["duration_ms"], 0.5),
        "no_duration": _mean(late["duration_ms"] == 0),
        "click_variance_user": variance_share(feed["is_click"], feed["user_id"]),
        "click_variance_video": variance_share(feed["is_click"], feed["video_id"]),
    }
    for percent in (10, 25, 50, 75, 90):
        measures[f"play_q{percent}"] = _quantile(feed["play_time_ms"], percent / 100)
    return measures


def _click_ratio(standard: Rows, random: Rows) -> dict[str, Measure]:
    """Target 9: click rates from 22 April on, exact duplicates dropped (A).

    Every video of Pure is in the pool, so none is left out.
    """
    if len(random) == 0:
        return {"click_ratio": "the folder has no random row"}
    same_period = standard.where(standard["date"] >= FIRST_RANDOM_DATE)
    chosen = _mean(same_period["is_click"][first_of_duplicates(same_period)])
    drawn = _mean(random["is_click"][first_of_duplicates(random)])
    return {"click_ratio": drawn / chosen if chosen else math.nan}


def _tabs(standard: Rows) -> dict[str, Measure]:
    """Targets 12 and 13: share and click rate of the five largest tabs."""
    tabs = standard["tab"]
    rows = np.bincount(tabs, minlength=15)
    clicks = np.bincount(tabs, weights=standard["is_click"], minlength=15)
    measures: dict[str, Measure] = {}
    for tab in _TIMED_TABS:
        measures[f"tab_{tab}_share"] = float(rows[tab] / len(standard))
        measures[f"tab_{tab}_click"] = float(clicks[tab] / rows[tab]) if rows[tab] else math.nan
    return measures


def _requests(standard: Rows) -> dict[str, Measure]:
    """Targets 19, 24, 29 and 30: rows, requests and sessions of each user."""
    order = np.lexsort((standard["time_ms"], standard["user_id"]))
    user_id, time_ms = standard["user_id"][order], standard["time_ms"][order]
    first = np.flatnonzero(run_starts(user_id))
    rows = np.diff(np.append(first, len(user_id)))
    clicks = np.add.reduceat(standard["is_click"][order], first, dtype=np.int64)
    sessions = sessions_per_user(user_id, time_ms)
    ln_rows, click_rate = np.log(rows), clicks / rows
    varied = bool(np.std(ln_rows) > 0 and np.std(click_rate) > 0)
    return {
        "user_rows_q50": _quantile(rows, 0.5),
        "user_rows_ln_sd": float(ln_rows.std()),
        "user_rows_gini": gini(rows),
        "rows_per_request": float(len(user_id) / run_starts(user_id, time_ms).sum()),
        "activity_click_correlation": (
            float(np.corrcoef(ln_rows, click_rate)[0, 1]) if varied else math.nan
        ),
        "sessions_mean": _mean(sessions),
        "sessions_q50": _quantile(sessions, 0.5),
        "sessions_q90": _quantile(sessions, 0.9),
    }


def _videos(standard: Rows) -> dict[str, Measure]:
    """Target 20: how unevenly the videos that were shown share the rows."""
    _, counts = np.unique(standard["video_id"], return_counts=True)
    return {
        "video_singletons": _mean(counts == 1),
        "video_top_1": top_share(counts, 0.01),
        "video_gini": gini(counts),
    }

"""What makes a log KuaiRand-like: 30 statistics of the real logs, with sources and tolerances.

Every figure is a constant copied from published or computed statistics of the real data; nothing
is read when the program runs. ``figures.SOURCES`` says what the tags of the sources mean.
"""

from __future__ import annotations

from noetik_rllib.data.figures import (
    Target,
    absolute,
    at_least,
    between,
    relative,
    shown,
)

#: Rows of 27K's standard logs by ``hourmin`` hour, 0 to 23 (L).
# fmt: off
HOURLY_ROWS: tuple[int, ...] = (
    10_624_659, 6_462_822, 4_132_020, 2_911_135, 2_617_287, 3_692_549,
    6_873_534, 9_968_651, 11_545_430, 12_947_165, 14_427_110, 15_441_567,
    17_029_465, 17_132_315, 15_454_700, 15_767_584, 16_594_065, 17_525_682,
    18_844_519, 19_871_032, 21_315_043, 22_117_433, 21_859_219, 17_123_399,
)
# fmt: on

# 27K's .540 / .441 / .827 come from 322 million rows on 32 million videos (10.1 rows per video).
# 1K has 11,713,045 rows on the 4,369,953 videos of its features file: 2.68 per video. A features
# file lists videos that were shown (all but 32 of 27K's), so with a row or more each, at most
# 1 - 1/2.68 = .627 of the rows can be unevenly spread: 1K's Gini is at most .627. And the 31,699
# videos with 30 rows or more hold 14.63 % of the rows (T); the other 12,001 of the top 1 % hold 29
# rows at most, so 1K's top 1 % hold between 14.6 and 17.6 %.
_VIDEOS_OF_1K = (
    "1K has 2.68 rows per video where 27K has 10.1: its Gini is at most .627 and its top 1 % of "
    "videos hold 14.6 to 17.6 % of the rows, whatever the users do"
)
# 43,028 random rows over 7,388 videos are 5.8 per video. Counts drawn evenly then have the Gini of
# a Poisson variable of mean 5.8, about 1/sqrt(pi * 5.8) = .234; 27K's 156 per video give .045.
_RANDOM_VIDEOS_OF_1K = (
    "1K has 5.8 random rows per video where 27K has 156: an even draw already has a Gini of .23"
)

TARGETS: tuple[Target, ...] = (
    Target(
        1,
        "standard is_click rate",
        "±0.02 abs",
        "L/T",
        "27k,1k",
        (absolute("click", "standard click rate", 0.3787, 0.02),),
    ),
    Target(
        2,
        "pure standard is_click / long_view",
        "±0.02 abs",
        "K",
        "pure",
        (
            absolute("click", "standard click rate", 0.4597, 0.02),
            absolute("long_view", "standard long-view rate", 0.3318, 0.02),
        ),
    ),
    Target(
        3,
        "1k standard long_view",
        "±0.02 abs",
        "T",
        "1k",
        (absolute("long_view", "standard long-view rate", 0.2621, 0.02),),
    ),
    Target(
        4,
        "is_like 1k / pure",
        "±20% rel",
        "T/K",
        "1k,pure",
        (
            relative("like", "standard like rate", 0.0156, 0.2, variants=("1k", "27k")),
            relative("like", "standard like rate", 0.0185, 0.2, variants=("pure",)),
        ),
    ),
    Target(
        5,
        "comment, follow, forward, hate in pure standard",
        "±35% rel",
        "K",
        "pure",
        (
            relative("comment", "standard comment rate", 0.002546, 0.35),
            relative("follow", "standard follow rate", 0.001074, 0.35),
            relative("forward", "standard forward rate", 0.000962, 0.35),
            relative("hate", "standard hate rate", 0.000494, 0.35),
        ),
    ),
    Target(
        6,
        "is_profile_enter standard (0425-0508)",
        "±25% rel",
        "W",
        "pure",
        (relative("late_profile_enter", "profile enter, 0425-0508", 0.01853, 0.25),),
    ),
    Target(
        7,
        "random is_click / long_view",
        "±0.015 / ±0.01",
        "L/A",
        "all",
        (
            absolute("random_click", "random click rate", 0.1762, 0.015),
            absolute("random_long_view", "random long-view rate", 0.085, 0.01),
        ),
    ),
    Target(
        8,
        "random like, profile, hate",
        "±30% rel (like is bracketed 0.0047-0.0053)",
        "SM/A",
        "all",
        (
            relative("random_like", "random like rate", 0.0049, 0.3),
            relative("random_profile_enter", "random profile enter", 0.00556, 0.3),
            relative("random_hate", "random hate rate", 0.00114, 0.3),
        ),
    ),
    Target(
        9,
        "click-rate ratio random/standard, same period, pool videos",
        "±0.05",
        "A",
        "pure",
        (absolute("click_ratio", "click, random / standard", 0.3905, 0.05),),
    ),
    Target(
        10,
        "P(long|click) standard/random; P(click|long)",
        "±0.03; >=0.99",
        "K/A",
        "pure",
        (
            absolute("long_given_click", "P(long view | click)", 0.719, 0.03),
            absolute("random_long_given_click", "P(long | click), random", 0.481, 0.03),
            at_least("click_given_long", "P(click | long view)", 0.996, 0.99),
        ),
    ),
    Target(
        11,
        "P(like|click), P(click|like)",
        "±25% rel; ±0.06",
        "K",
        "pure",
        (
            relative("like_given_click", "P(like | click)", 0.03395, 0.25),
            absolute("click_given_like", "P(click | like)", 0.8446, 0.06),
        ),
    ),
    Target(
        12,
        "standard tab share 1/0/4/2/6",
        "±0.02",
        "L",
        "27k",
        (
            absolute("tab_1_share", "share of tab 1", 0.67, 0.02),
            absolute("tab_0_share", "share of tab 0", 0.198, 0.02),
            absolute("tab_4_share", "share of tab 4", 0.076, 0.02),
            absolute("tab_2_share", "share of tab 2", 0.031, 0.02),
            absolute("tab_6_share", "share of tab 6", 0.016, 0.02),
        ),
    ),
    Target(
        13,
        "click rate on tab 1/0/4/2/6",
        "±0.03",
        "L",
        "27k",
        (
            absolute("tab_1_click", "click rate on tab 1", 0.4436, 0.03),
            absolute("tab_0_click", "click rate on tab 0", 0.116, 0.03),
            absolute("tab_4_click", "click rate on tab 4", 0.5445, 0.03),
            absolute("tab_2_click", "click rate on tab 2", 0.4242, 0.03),
            absolute("tab_6_click", "click rate on tab 6", 0.1777, 0.03),
        ),
    ),
    Target(
        14,
        "random tab-1 share",
        "±0.005",
        "L",
        "all",
        (absolute("random_tab_1_share", "random share of tab 1", 0.9932, 0.005),),
    ),
    Target(
        15,
        "tab-1 play_time_ms q10/25/50/75/90 (pure)",
        "±20% rel",
        "W",
        "pure",
        (
            relative("play_q10", "play time on tab 1, q10, ms", 1223, 0.2),
            relative("play_q25", "play time on tab 1, q25, ms", 2056, 0.2),
            relative("play_q50", "play time on tab 1, q50, ms", 6257, 0.2),
            relative("play_q75", "play time on tab 1, q75, ms", 25695, 0.2),
            relative("play_q90", "play time on tab 1, q90, ms", 69478, 0.2),
        ),
    ),
    Target(
        16,
        "random play_time_ms median",
        "±25% rel",
        "L",
        "all",
        (relative("random_play_q50", "random play time, q50, ms", 2115, 0.25),),
    ),
    Target(
        17,
        "pool duration lognormal mu/sigma; median ms",
        "±0.1; ±10%",
        "F",
        "pure",
        (
            absolute("duration_ln_mean", "ln duration of videos, mean", 11.135, 0.1),
            absolute("duration_ln_sd", "ln duration of videos, sd", 1.034, 0.1),
            relative("duration_q50", "duration of videos, q50, ms", 81170, 0.1),
        ),
    ),
    Target(
        18,
        "complete rate (dur>0) standard/random; tab-1 watch_ratio median",
        "±0.02/±0.01/±0.03",
        "W/A",
        "pure",
        (
            absolute("complete", "watched whole, 0425-0508", 0.139, 0.02),
            absolute("random_complete", "watched whole, random", 0.0332, 0.01),
            absolute("watch_ratio_q50", "watch ratio on tab 1, q50", 0.125, 0.03),
        ),
    ),
    Target(
        19,
        "user exposures: median, sigma_log, gini (27k std)",
        "scale-free: sigma ±0.1, gini ±0.04",
        "L",
        "27k",
        (
            shown("user_rows_q50", "rows per user, q50", 8594),
            absolute("user_rows_ln_sd", "ln rows per user, sd", 0.959, 0.1),
            absolute("user_rows_gini", "rows per user, Gini", 0.457, 0.04),
        ),
    ),
    Target(
        20,
        "video exposures 27k std: singleton share, top1% share, gini",
        "±0.05",
        "L",
        "27k",
        tuple(
            absolute(key, label, target, 0.05, not_comparable={"1k": _VIDEOS_OF_1K})
            for key, label, target in (
                ("video_singletons", "videos shown once", 0.54),
                ("video_top_1", "share of top 1 % of videos", 0.441),
                ("video_gini", "rows per video, Gini", 0.827),
            )
        ),
    ),
    Target(
        21,
        "pure standard video gini, top20% share",
        "±0.04",
        "SM/W",
        "pure",
        (
            absolute("pool_gini", "rows per video, 0409-0421, Gini", 0.73, 0.04),
            absolute("pool_top_20", "share of top 20 % of videos", 0.765, 0.04),
        ),
    ),
    Target(
        22,
        "random video gini; users p50/p90/min",
        "±0.02; ±15%",
        "L",
        "all",
        (
            absolute(
                "random_video_gini",
                "random rows per video, Gini",
                0.081,
                0.02,
                not_comparable={"1k": _RANDOM_VIDEOS_OF_1K},
            ),
            relative("random_user_q50", "random rows per user, q50", 22, 0.15),
            relative("random_user_q90", "random rows per user, q90", 96, 0.15),
            relative("random_user_min", "random rows per user, min", 10, 0.15),
        ),
    ),
    Target(
        23,
        "hour share: peak 21h, trough 4h; daytime shape",
        "±15% rel, corr of 24 bins >=0.97",
        "L",
        "27k",
        (
            relative("hour_21_share", "share of hour 21", 0.0686, 0.15),
            relative("hour_4_share", "share of hour 4", 0.0081, 0.15),
            at_least("hour_correlation", "hours, correlation with 27K", None, 0.97),
        ),
    ),
    Target(
        24,
        "rows per (user_id,time_ms) 27k std; random uniqueness",
        "±0.6; >=0.999",
        "L",
        "27k",
        (
            absolute("rows_per_request", "rows per request", 5.1, 0.6),
            at_least("random_requests_per_row", "random requests per row", 0.99999, 0.999),
        ),
    ),
    Target(
        25,
        "P(hourmin hour = local hour+1); date != local date",
        "±0.03; 0.005-0.012",
        "W/G",
        "all",
        (
            absolute("hour_ahead", "hourmin one hour ahead", 0.171, 0.03),
            between("date_mismatch", "date of another local day", 0.009, 0.005, 0.012),
        ),
    ),
    Target(
        26,
        "duration_ms=0 share standard/random",
        "±0.005",
        "W/A",
        "pure",
        (
            absolute("no_duration", "duration 0, 0425-0508", 0.0156, 0.005),
            absolute("random_no_duration", "duration 0, random", 0.0311, 0.005),
        ),
    ),
    Target(
        27,
        "variance share of click explained by user / video (tab 1)",
        "±0.03",
        "W",
        "pure",
        (
            absolute("click_variance_user", "click variance: users, tab 1", 0.145, 0.03),
            absolute("click_variance_video", "click variance: videos, tab 1", 0.072, 0.03),
        ),
    ),
    Target(
        28,
        "AUC click/long_view/like: LightGBM all features (train 0425-0430, test 0501-0508)",
        "±0.03",
        "W",
        "pure",
        (
            absolute("auc_click", "AUC of click", 0.745, 0.03),
            absolute("auc_long_view", "AUC of long view", 0.745, 0.03),
            absolute("auc_like", "AUC of like", 0.882, 0.03),
        ),
    ),
    Target(
        29,
        "corr(log user exposures, user CTR) 27k std",
        "±0.15",
        "L",
        "27k",
        (absolute("activity_click_correlation", "corr(ln rows, click) of users", -0.5, 0.15),),
    ),
    Target(
        30,
        "sessions per user per 31 days (30-min gap) mean/p50/p90",
        "±15% rel",
        "L",
        "27k",
        (
            relative("sessions_mean", "sessions per user, mean", 150.2, 0.15),
            relative("sessions_q50", "sessions per user, q50", 149, 0.15),
            relative("sessions_q90", "sessions per user, q90", 241, 0.15),
        ),
    ),
)

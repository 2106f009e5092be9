"""The named configurations of synthetic worlds, and the real shares that they are calibrated on."""

from __future__ import annotations

from dataclasses import replace

from noetik_rllib.data.world_config import WorldConfig
from noetik_rllib.errors import UserError, did_you_mean

#: Sessions on each tab in 1K, in relative numbers: calibrated on 27K's rows, as clicks lengthen a
#: session.
FULL_TABS = (
    *(25.06, 63.43, 2.97, 0.45, 6.43, 0.149, 0.97, 0.027),
    *(0.227, 0.018, 0.006, 0.069, 0.159, 0.02, 0.005),
)
#: Demo: Pure's with less of the two-column pages, whose taps tell little.
DEMO_TABS = (
    *(30_000, 1_058_389, 48_364, 1_000, 93_165, 4_169, 21_500, 504),
    *(1_000, 444, 152, 725, 1_472, 399, 31),
)
#: Rows of both logs of each day, in thousands (real: Pure by T and L, 27K's standard log).
PURE_DAYS = (
    *(0.0, 52.7, 227.8, 278.8, 166.1, 94.7, 71.3, 58.9, 60.9, 44.0, 24.6, 20.4, 20.9, 20.0),
    *(47.1, 79.0, 62.7, 56.7, 56.9, 56.1, 54.7, 65.4, 83.9, 82.8, 105.4, 128.6, 126.1, 110.6),
    *(117.1, 117.7, 130.7),
)
FULL_DAYS = (
    *(9_864, 10_870, 10_749, 9_527, 9_346, 9_189, 9_187, 9_460, 10_703, 10_590, 9_045, 8_994),
    *(9_304, 9_464, 10_076, 11_621, 10_137, 9_775, 9_756, 9_838, 9_943, 10_843, 12_573, 12_514),
    *(12_096, 11_999, 11_603, 10_431, 10_540, 10_713, 11_514),
)
#: The hours of sessions, where these last long, that give the rows those shares: calibrated.
SESSION_HOURS = (
    *(1.67, 0.80, 0.46, 0.33, 0.37, 0.88, 2.37, 3.67, 3.97, 4.44, 5.02, 5.12),
    *(5.85, 5.73, 4.29, 4.92, 5.43, 5.79, 6.23, 6.60, 7.28, 7.63, 7.03, 4.15),
)

#: Calibrated on the real statistics.
_PURE = WorldConfig(
    users=27_285,
    videos=7_583,
    tags=46,
    standard_rows=1_414_622,
    random_rows=1_186_059,
    base=-1.92,
    user_sd=0.6,
    level_activity=-0.7,
    quality_sd=0.51,
    love=1.1,
    taste_spread=0.3,
    dislike=0.0,
    strong_tags=(5, 9),
    habit=0.8,
    satiation=0.5,
    skip_median_ms=1_990.0,
    skip_sigma=0.7,
    engaged_median_ms=16_800.0,
    engaged_sigma=0.75,
    engaged_duration_power=0.24,
    engaged_utility_gain=0.23,
    finish_level=-0.9,
    finish_duration=-0.5,
    finish_utility=0.46,
    popularity_weight=1.0,
    affinity_weight=4.75,
    affinity_noise=0.0,
    popularity_quality=1.6,
    popularity_sd=0.73,
    no_duration_popularity=-0.75,
    activity_below=1.05,
    activity_above=0.81,
    early_share=0.7943,
    day_weights=PURE_DAYS,
    sessions=45.0,
    no_duration_share=0.0315,
    blank_tag_share=0.0127,
)

PRESETS: dict[str, WorldConfig] = {
    # Fewer videos are easier to choose among: a lower weight keeps the click rate.
    "tiny": WorldConfig(60, 80, 12, 4_000, 800, affinity_weight=0.45),
    # The log follows tastes less, and a click draws more of the same: so a policy that learns from
    # the answers can do better than one that imitates what was shown.
    "demo": WorldConfig(
        users=1_000,
        videos=500,
        tags=20,
        standard_rows=100_000,
        random_rows=15_000,
        base=-1.65,
        habit=4.0,
        satiation=1.3,
        affinity_weight=0.42,
        tab_weights=DEMO_TABS,
    ),
    "pure": _PURE,
    "1k": replace(
        _PURE,
        users=1_000,
        videos=4_369_953,
        standard_rows=11_609_000,
        random_rows=43_028,
        variant="1k",
        pool_videos=7_583,
        listed_quality=0.23,
        listed_tail=1.9,
        pool_popularity=1.0,
        early_share=0.43165,
        day_weights=FULL_DAYS,
        hour_weights=SESSION_HOURS,
        tab_weights=FULL_TABS,
        sessions=139.0,
        sessions_spread=0.46,
        request_rows=5.1,
    ),
}


def preset(name: str) -> WorldConfig:
    """Return the named configuration.

    Raises:
        UserError: there is no such preset.
    """
    if name not in PRESETS:
        known = ", ".join(PRESETS)
        raise UserError(f"unknown world '{name}': expected {known}.{did_you_mean(name, PRESETS)}")
    return PRESETS[name]

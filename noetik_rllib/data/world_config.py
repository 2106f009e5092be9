"""What a synthetic world is drawn from: its parameters, its presets and the tables they share.

docs/world.md has the equations that the parameters enter. "Real" is a figure counted over
KuaiRand's published files.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from noetik_rllib.errors import UserError

#: README of KuaiRand: a play beyond 7 s (or the whole of a shorter video) is a click, one of 18 s
#: (or the whole of a shorter video) a long view. A duration of 0 is unknown and counts as long.
CLICK_LIMIT_MS = 7_000
LONG_VIEW_LIMIT_MS = 18_000
#: The real pool: shortest and longest duration, shares of videos with one, two and
#: three tags, highest code of a tag (there are holes).
DURATION_RANGE_MS = (5_000, 1_177_720)
TAG_COUNT_SHARES = (0.76, 0.23, 0.01)
MAX_TAG_CODE = 68

DAYS = 31
#: 22 April: the second standard file and the random log begin.
SECOND_FILE_DAY = 14

#: The page of the app on which the truth is told unless another is named.
MAIN_TAB = 1
#: A tap on a two-column page that starts no playback (real: 0.048).
TAP_WITHOUT_PLAY = 0.048


class Page(IntEnum):
    """How a page of the app shows videos, which decides what a click is."""

    #: One video fills the screen and plays: a click is a play beyond the threshold.
    FEED = 0
    #: Two columns of covers: a click is a tap, and nothing plays without one.
    GRID = 1
    #: Logged only once tapped: always a click.
    TAPPED = 2
    #: Plays, but never counts as clicked.
    MUTE = 3


class Tab(NamedTuple):
    """A page of the app: its kind, and what it adds to the utility there, in log-odds."""

    page: Page
    offset: float


#: Tabs 0 to 14 (their kinds read off the real rows: click against play time and threshold).
#: Offsets are calibrated on the click rates of 27K's tabs.
TABS: tuple[Tab, ...] = (
    Tab(Page.GRID, -2.14),
    Tab(Page.FEED, 0.0),
    Tab(Page.FEED, -0.1),
    Tab(Page.GRID, -3.98),
    Tab(Page.FEED, 0.49),
    Tab(Page.FEED, -0.97),
    Tab(Page.FEED, -1.46),
    Tab(Page.FEED, 0.0),
    Tab(Page.GRID, -3.32),
    Tab(Page.TAPPED, 0.0),
    Tab(Page.TAPPED, 0.0),
    Tab(Page.MUTE, 0.0),
    Tab(Page.FEED, -2.06),
    Tab(Page.FEED, -0.43),
    Tab(Page.MUTE, 0.0),
)
#: Sessions on each tab, in relative numbers: Pure's real rows, those of tab 6 halved, as nearly all
#: are logged twice.
PURE_TABS = (
    *(178_087, 1_058_389, 48_364, 4_014, 93_165, 4_169, 21_500, 504),
    *(3_909, 444, 152, 725, 1_472, 399, 31),
)
#: Random rows on each tab (real).
RANDOM_TABS = (0, 1_178_025, 764, 0, 0, 0, 0, 0, 0, 0, 0, 6_755, 0, 0, 515)

#: Share of the rows of each hour of the day, in percent (KuaiRand-27K, standard log).
HOURS = (
    *(3.30, 2.01, 1.28, 0.90, 0.81, 1.15, 2.13, 3.09, 3.58, 4.02, 4.48, 4.79),
    *(5.28, 5.32, 4.80, 4.89, 5.15, 5.44, 5.85, 6.17, 6.61, 6.86, 6.78, 5.31),
)


class Reaction(NamedTuple):
    """A rare signal: its rates where the utility is 0, and what moves its odds.

    ``gain`` is per unit of utility, ``trait`` per standard deviation of the user's readiness to
    react, ``short`` per unit by which the logarithm of the duration is below the median one.
    """

    rate_click: float
    rate_no_click: float
    gain: float
    trait: float
    short: float


#: Calibrated on the rates of both logs and given the click. Hate falls with the
#: utility: it is commoner in the random log. Append only: each draws after those before it.
REACTIONS: dict[str, Reaction] = {
    "like": Reaction(0.0061, 0.00125, 0.55, 1.8, 0.15),
    "follow": Reaction(0.00107, 0.000197, 0.36, 0.9, 0.0),
    "comment": Reaction(0.00210, 0.000150, 0.65, 0.9, 0.0),
    "forward": Reaction(0.00117, 0.000205, 0.38, 0.6, 0.0),
    "hate": Reaction(0.00070, 0.000294, -0.56, 0.3, 0.0),
    "profile_enter": Reaction(0.0264, 0.00242, 0.30, 0.6, 0.0),
}


@dataclass(frozen=True)
class WorldConfig:
    """What a world is drawn from. Utilities and tastes are in log-odds, shares in fractions of 1.

    The defaults are one calibration: clicks on 0.40 to 0.48 of the standard rows and on 0.18 to
    0.25 of the random ones (KuaiRand-Pure: 0.46 and 0.18), and a reward that depends on personal
    taste far more than in the real logs, so that a small log is enough to learn it. The presets
    ``pure`` and ``1k`` are calibrated on the real statistics instead.

    Raises:
        UserError: a number is out of its range.
    """

    #: Users and videos, with ids from 0; distinct tags, 8 to 64 (a set of tags is one word).
    users: int
    videos: int
    tags: int
    #: Events of both standard logs together, and of the random log; rows that are logged twice
    #: come on top.
    standard_rows: int
    random_rows: int
    seed: int = 0
    #: Ending of the files' names: pure or 1k.
    variant: str = "pure"
    #: The random log shows the videos 0 to ``pool_videos`` - 1; 0: all videos.
    pool_videos: int = 0

    #: Utility of an average video to an average user: engaged by 14 %.
    base: float = -1.8
    #: Spread of the users' levels (less than taste), and its correlation with the logarithm of
    #: their rows (real rows: heavy users click less).
    user_sd: float = 0.5
    level_activity: float = 0.0
    #: Spread of the videos' quality (enough that popularity beats chance), and the mean quality
    #: of the videos beyond the pool: it was the platform that chose what is listed there.
    quality_sd: float = 0.7
    listed_quality: float = 0.0
    #: Mean taste for each tag that a user loves (14 % become 69 %), for each that they dislike,
    #: the relative spread around both, and the least and most numbers of either.
    love: float = 2.6
    dislike: float = -1.5
    taste_spread: float = 0.2
    strong_tags: tuple[int, int] = (2, 4)
    #: Exponent of the tags' frequencies by rank: the real first is 4 times the tenth. A video
    #: carries one of ``tag_sets`` draws of tags (real pool: 110 distinct ones).
    tag_exponent: float = 0.6
    tag_sets: int = 400

    #: History: the last ``history_window`` events count, each ``history_decay`` times as much as
    #: the one after it. Habit is what is gained where all of them share a tag with the video and
    #: were clicked, satiation what is lost where all share a tag: weak beside a taste here.
    history_window: int = 16
    history_decay: float = 0.9
    habit: float = 1.0
    satiation: float = 0.8

    #: Skips: median in ms, spread of the logarithm (real, unclicked: 2.2 s).
    skip_median_ms: float = 2_000.0
    skip_sigma: float = 0.6
    #: Engaged watches of a video of median duration at utility 0: median in ms, spread of the
    #: logarithm; growth of the logarithm per unit of log duration (longer videos are watched
    #: longer, but less of them) and of utility.
    engaged_median_ms: float = 20_000.0
    engaged_sigma: float = 0.9
    engaged_duration_power: float = 0.5
    engaged_utility_gain: float = 0.4
    #: Share of the engaged watches that run to the end, in log-odds at utility 0 and median
    #: duration; change per unit of log duration and of utility; play over duration: median,
    #: spread of the logarithm (real: 8 % of the watch ratios lie around 1).
    finish_level: float = -2.5
    finish_duration: float = -0.8
    finish_utility: float = 0.2
    finish_median: float = 1.03
    finish_sigma: float = 0.1

    #: Standard policy: softmax of these weights times log popularity and times taste as the
    #: platform sees it, with an error per user and tag of half a loved tag. Calibrated on the
    #: click rate of the standard log.
    popularity_weight: float = 0.7
    affinity_weight: float = 0.65
    affinity_noise: float = 1.2
    #: Log popularity in the pool: its growth per unit of quality, its spread apart from that, and
    #: what the pool has more than the videos beyond it, and those of unknown duration more than
    #: others (real picture posts: less). Beyond the pool, popularity has a Pareto tail.
    popularity_quality: float = 1.0
    popularity_sd: float = 0.4
    pool_popularity: float = 0.0
    no_duration_popularity: float = 0.0
    listed_tail: float = 1.5
    listed_cap: float = 8.0

    #: Logarithm of the duration in ms: median and spread below and above it in the pool (real:
    #: skewed to the left), median and spread beyond the pool.
    duration_ln_median: float = 11.3
    duration_ln_below: float = 1.25
    duration_ln_above: float = 0.85
    listed_duration_ln_median: float = 10.2
    listed_duration_ln_sd: float = 1.3
    #: Logarithm of a user's rows: spread below and above the median (real: the low tail is longer).
    activity_below: float = 0.96
    activity_above: float = 0.96
    #: Random rows of a user: at least this many (or the mean, if lower), and the spread of the
    #: logarithm of the rest.
    random_rows_least: int = 10
    random_rows_sigma: float = 1.5
    #: Share of the standard rows before 22 April; sessions by day (none: the same every day), by
    #: hour and by tab, in relative numbers.
    early_share: float = SECOND_FILE_DAY / DAYS
    day_weights: tuple[float, ...] = ()
    hour_weights: tuple[float, ...] = HOURS
    tab_weights: tuple[float, ...] = PURE_TABS

    #: Sessions of a user in the month, mean and relative spread. Patience follows: who has more
    #: rows than sessions stays longer. Per request, the log-odds of leaving rise by ``impatience``
    #: from a session of clicks alone to one without any; at ``usual_unclicked`` they are those of
    #: the user's mean length.
    sessions: float = 10.0
    sessions_spread: float = 0.3
    impatience: float = 1.0
    usual_unclicked: float = 0.55
    #: Mean standard rows of a request, which share one time and one history (real 27K: 5.1).
    request_rows: float = 1.0
    #: Pause after the plays of a request: median in ms, spread of the logarithm; half of the gaps
    #: in a session are then under 40 s (as in the real log).
    pause_median_ms: float = 15_000.0
    pause_sigma: float = 1.3

    #: Quirks, as shares: rows of tab 6 and of other tabs that are logged twice (1.5 % in all),
    #: videos of unknown duration in the pool and beyond, videos whose tags are not written, users
    #: with blank one-hot features.
    tab_6_twice: float = 0.98
    other_twice: float = 0.001
    no_duration_share: float = 0.015
    listed_no_duration_share: float = 0.21
    blank_tag_share: float = 0.01
    blank_feature_share: float = 0.03

    def __post_init__(self) -> None:
        # JSON has no tuples.
        for name in ("strong_tags", "day_weights", "hour_weights", "tab_weights"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for names, low, high in (
            ("users videos tag_sets", 1, 10**7),
            ("history_window", 1, 16),
            ("history_decay", 1e-3, 1),
            ("tags", 8, 64),
            # Some 50 sessions at least, so that there are late ones for the random rows.
            ("standard_rows", 1_000, 10**9),
            ("sessions", 1, 1_000),
            ("request_rows", 1, 20),
            ("random_rows seed random_rows_least", 0, 10**12),
            ("pool_videos", 0, self.videos),
            ("skip_median_ms skip_sigma engaged_median_ms engaged_sigma", 1e-3, 1e9),
            ("finish_median finish_sigma listed_tail", 1e-3, 1e9),
            ("tab_6_twice other_twice no_duration_share listed_no_duration_share", 0, 1),
            ("blank_tag_share blank_feature_share early_share usual_unclicked", 0, 1),
        ):
            for name in names.split():
                if not low <= (value := getattr(self, name)) <= high:
                    raise UserError(f"world: {name} is {value}: expected {low:,} to {high:,}")
        for name, lengths in (
            ("strong_tags", (2,)),
            ("day_weights", (0, DAYS)),
            ("hour_weights", (24,)),
            ("tab_weights", (len(TABS),)),
        ):
            if len(values := getattr(self, name)) not in lengths:
                raise UserError(f"world: {name} has {len(values)} numbers: expected {lengths[-1]}")
        least, most = self.strong_tags
        if not 1 <= least <= most <= self.tags // 2:
            raise UserError(
                f"world: strong_tags is {self.strong_tags}: expected 1 to {self.tags // 2}, "
                "the least number first"
            )
        if self.variant not in ("pure", "1k"):
            raise UserError(f"world: variant is '{self.variant}': expected pure or 1k")

    @property
    def pool(self) -> int:
        """Number of videos that the random log draws from: the ids below it."""
        return self.pool_videos or self.videos

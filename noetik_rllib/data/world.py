"""A small short-video world whose truth is known: what a user would answer to any video.

A user has sparse tastes over tags; a video has one to three tags, a quality and a duration. The
utility of a video to a user, in log-odds of being engaged by it, is::

    u = base + user level + quality + sum of taste over its tags
        - satiation * (share of the last events that share a tag with it)

The play time is log-normal around 2 s (a skip) or, with probability sigmoid(u), log-normal around
a median that grows with the duration and with u (an engaged watch; above the duration: a replay).
Click and long view are KuaiRand's threshold rules of it; the other signals are rare reactions
given the click. So ``SyntheticWorld.response`` is in closed form. ``world_log`` writes the files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from scipy.special import expit, logit, ndtr

from noetik_rllib.data import world_log
from noetik_rllib.data.signals import UNKNOWN_DURATION_FULL_VIEW_MS
from noetik_rllib.errors import UserError, did_you_mean

#: README of KuaiRand: a play beyond 7 s (or the whole of a shorter video) is a click, one of 18 s
#: (or the whole of a shorter video) a long view. A duration of 0 is unknown and counts as long.
CLICK_LIMIT_MS = 7_000
LONG_VIEW_LIMIT_MS = 18_000
#: The real pool: shortest and longest duration, shares of videos with one, two and
#: three tags, highest code of a tag (there are holes).
DURATION_RANGE_MS = (5_000, 1_177_720)
TAG_COUNT_SHARES = (0.76, 0.23, 0.01)
MAX_TAG_CODE = 68

#: Independent random streams, one per part of the world. Append only: the draws of a stream
#: depend on its place here alone.
STREAMS = (
    *("videos", "users", "taste", "schedule", "standard", "random", "answers", "times", "log"),
    *("user_features", "video_features"),
)


class Reaction(NamedTuple):
    """A rare signal: its rates where the utility is 0, and what the utility does to its odds."""

    rate_click: float
    rate_no_click: float
    gain: float


#: Calibrated on the rates of both logs and given the click. Hate falls with the
#: utility: it is commoner in the random log. Append only: each draws after those before it.
REACTIONS: dict[str, Reaction] = {
    "like": Reaction(0.013, 0.0025, 0.5),
    "follow": Reaction(0.0006, 0.0001, 0.5),
    "comment": Reaction(0.0018, 0.0001, 0.5),
    "forward": Reaction(0.0007, 0.0001, 0.5),
    "hate": Reaction(0.0003, 0.0006, -0.2),
    "profile_enter": Reaction(0.014, 0.0014, 0.5),
}


@dataclass(frozen=True)
class WorldConfig:
    """What a world is drawn from. Utilities and tastes are in log-odds, shares in fractions of 1.

    The defaults are one calibration: clicks on 0.40 to 0.48 of the standard rows and on 0.18 to
    0.25 of the random ones (KuaiRand-Pure: 0.46 and 0.18), and a reward that depends on personal
    taste far more than in the real logs, so that a small log is enough to learn it. "Real" below
    is a figure counted over KuaiRand's published files.

    Raises:
        UserError: a number is out of its range.
    """

    #: Users and videos, with ids from 0; distinct tags, 8 to 64 (a set of tags is one word).
    users: int
    videos: int
    tags: int
    #: Events of both standard logs together, and of the random log. Duplicates come on top, the
    #: few events that fall beyond the last day come off. All that is random follows the seed.
    standard_rows: int
    random_rows: int
    seed: int = 0
    #: Utility of an average video to an average user: engaged by 14 %.
    base: float = -1.8
    #: Spread of the users' levels (less than taste) and of the videos' quality (enough that
    #: popularity beats chance).
    user_sd: float = 0.5
    quality_sd: float = 0.7
    #: Mean taste for each of the 2 to 4 tags that a user loves (14 % become 69 %), for each of
    #: the 2 to 4 disliked ones, and the relative spread around both.
    love: float = 2.6
    dislike: float = -1.5
    taste_spread: float = 0.2
    #: Exponent of the tags' frequencies by rank: the real first is 4 times the tenth.
    tag_exponent: float = 0.6
    #: Utility lost where all of the last ``satiation_window`` events share a tag with the video:
    #: weak beside a taste.
    satiation: float = 0.6
    satiation_window: int = 8
    #: Skips: median in ms, spread of the logarithm (real, unclicked: 2.2 s).
    skip_median_ms: float = 2_000.0
    skip_sigma: float = 0.6
    #: Engaged watches of a video of median duration at utility 0: median in ms, spread of the
    #: logarithm; growth of the logarithm per unit of log duration (longer videos are watched
    #: longer, but less of them) and of utility. 0.12 of the standard rows are complete (real: 0.14).
    engaged_median_ms: float = 20_000.0
    engaged_sigma: float = 0.9
    engaged_duration_power: float = 0.5
    engaged_utility_gain: float = 0.4
    #: Spread of a user's readiness to react: liking is a strong trait of the user.
    reactivity_sd: float = 0.8
    #: Standard policy: softmax of these weights times log popularity and times taste as the
    #: platform sees it, with an error per user and tag of half a loved tag. Calibrated on the
    #: click rate of the standard log.
    popularity_weight: float = 0.7
    affinity_weight: float = 0.65
    affinity_noise: float = 1.2
    #: Log popularity: its growth per unit of quality, and its spread apart from that.
    popularity_quality: float = 1.0
    popularity_sd: float = 0.4
    #: Logarithm of the duration in ms, mean and spread (real); of a user's rows, spread (real).
    duration_ln_mean: float = 11.135
    duration_ln_sd: float = 1.034
    activity_sigma: float = 0.96
    #: Mean standard rows of a session (real: 13.6 requests in 27K). Pause after a play: median in
    #: ms, spread of the logarithm; half of the gaps in a session are then under 40 s (as in the real log).
    session_rows: float = 10.0
    pause_median_ms: float = 15_000.0
    pause_sigma: float = 1.3
    #: Quirks, as shares: standard rows logged twice (1.3), videos of unknown duration (1.4),
    #: videos whose tags are not written (1.6), users with blank one-hot features (1.5).
    duplicate_share: float = 0.015
    no_duration_share: float = 0.015
    blank_tag_share: float = 0.01
    blank_feature_share: float = 0.03

    def __post_init__(self) -> None:
        for names, low, high in (
            ("users videos satiation_window", 1, 10**7),
            ("tags", 8, 64),
            # Some 50 sessions at least, so that there are late ones for the random rows.
            ("standard_rows", 1_000, 10**9),
            ("session_rows", 1, 20),
            ("random_rows seed", 0, 10**12),
            ("skip_median_ms skip_sigma engaged_median_ms engaged_sigma", 1e-3, 1e9),
            ("duplicate_share no_duration_share blank_tag_share blank_feature_share", 0, 1),
        ):
            for name in names.split():
                if not low <= (value := getattr(self, name)) <= high:
                    raise UserError(f"world: {name} is {value}: expected {low:,} to {high:,}")


PRESETS: dict[str, WorldConfig] = {
    # Fewer videos are easier to choose among: a lower weight keeps the click rate.
    "tiny": WorldConfig(60, 80, 12, 4_000, 800, affinity_weight=0.45),
    "demo": WorldConfig(1_000, 500, 20, 100_000, 15_000),
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


class Answers(NamedTuple):
    """The distribution of the answers to N shown videos; all arrays are (N,) float64.

    ``engaged`` is the probability of an engaged watch, ``engaged_ln_ms`` the logarithm of its
    median in ms; the log-odds of the reactions follow ``utility`` and ``reactivity``.
    """

    engaged: np.ndarray
    engaged_ln_ms: np.ndarray
    utility: np.ndarray
    reactivity: np.ndarray

    def reaction(self, name: str, clicked: np.ndarray | bool) -> np.ndarray:
        """Probability (N,) of the named reaction, given whether the video was clicked."""
        rates = REACTIONS[name]
        level = np.where(clicked, logit(rates.rate_click), logit(rates.rate_no_click))
        return expit(level + rates.gain * self.utility + self.reactivity)


class SyntheticWorld:
    """A drawn world: latent users and videos, their true responses and their logs.

    Attributes (U users, V videos, T tags):
        tag_code: what is written for each tag, (T,).
        video_tags: tags of each video, (V, 3) in 0..T-1; T fills the unused places.
        quality, log_popularity: (V,), log-odds.
        duration_ms: (V,); 0 is unknown. click_from_ms, long_view_from_ms: least play, (V,).
        level, reactivity: (U,), log-odds. activity: share of all standard rows, (U,).
        taste, seen_taste: true, and as the platform sees it, (U, T + 1); the last column is 0.
    """

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self._draw_videos(self.stream("videos"))
        self._draw_users(self.stream("users"), self.stream("taste"))

    def stream(self, name: str) -> Generator:
        """Return a fresh generator of the named part's stream."""
        children = np.random.SeedSequence(self.config.seed).spawn(len(STREAMS))
        return np.random.default_rng(children[STREAMS.index(name)])

    def _draw_videos(self, rng: Generator) -> None:
        config, count = self.config, self.config.videos
        self.tag_code = 1 + rng.permutation(MAX_TAG_CODE)[: config.tags]
        weight = np.arange(1, config.tags + 1, dtype=np.float64) ** -config.tag_exponent
        # A race of exponentials: a row's first k are k tags drawn without replacement.
        race = rng.exponential(size=(count, config.tags)) / weight
        self.video_tags = np.argsort(race, axis=1)[:, : len(TAG_COUNT_SHARES)]
        last = rng.choice(len(TAG_COUNT_SHARES), size=count, p=TAG_COUNT_SHARES)
        self.video_tags[np.arange(len(TAG_COUNT_SHARES)) > last[:, None]] = config.tags
        self.quality = rng.normal(0, config.quality_sd, count)
        noise = rng.normal(0, config.popularity_sd, count)
        self.log_popularity = config.popularity_quality * self.quality + noise

        duration = np.exp(rng.normal(config.duration_ln_mean, config.duration_ln_sd, count))
        self.duration_ms = np.clip(duration, *DURATION_RANGE_MS).astype(np.int64)
        self.duration_ms[world_log.some(rng, count, config.no_duration_share)] = 0
        effective = np.where(self.duration_ms > 0, self.duration_ms, np.iinfo(np.int64).max)
        # Play times are whole ms: beyond 7,000 means 7,001 or more.
        self.click_from_ms = np.where(effective <= CLICK_LIMIT_MS, effective, CLICK_LIMIT_MS + 1)
        self.long_view_from_ms = np.minimum(effective, LONG_VIEW_LIMIT_MS)
        # A video of unknown duration is watched like one of median duration.
        known = np.where(self.duration_ms > 0, self.duration_ms, np.exp(config.duration_ln_mean))
        growth = config.engaged_duration_power * (np.log(known) - config.duration_ln_mean)
        self._engaged_ln_ms = np.log(config.engaged_median_ms) + growth
        # One bit per tag. The extra row, which index -1 reaches, is "no video": no tag in common.
        bit = np.append(np.uint64(1) << np.arange(config.tags, dtype=np.uint64), np.uint64(0))
        self._tag_set = np.append(np.bitwise_or.reduce(bit[self.video_tags], axis=1), np.uint64(0))

    def _draw_users(self, rng: Generator, taste_rng: Generator) -> None:
        config, shape = self.config, (self.config.users, self.config.tags)
        self.level = rng.normal(0, config.user_sd, config.users)
        self.reactivity = rng.normal(0, config.reactivity_sd, config.users)
        activity = np.exp(rng.normal(0, config.activity_sigma, config.users))
        self.activity = activity / activity.sum()

        rank = np.argsort(taste_rng.random(shape), axis=1)
        loved = rank < taste_rng.integers(2, 5, size=(config.users, 1))
        disliked = rank >= config.tags - taste_rng.integers(2, 5, size=(config.users, 1))
        mean = np.where(loved, config.love, np.where(disliked, config.dislike, 0.0))
        taste = mean * (1 + config.taste_spread * taste_rng.standard_normal(shape))
        seen = taste + config.affinity_noise * taste_rng.standard_normal(shape)
        self.taste = np.pad(taste, ((0, 0), (0, 1)))
        self.seen_taste = np.pad(seen, ((0, 0), (0, 1)))

    @classmethod
    def load(cls, directory: str | Path) -> SyntheticWorld:
        """Return the world whose logs are in ``directory``, drawn again from its world.json.

        Raises:
            UserError: the file is missing, damaged, or of another version of this module.
        """
        settings = world_log.read_settings(Path(directory))
        try:
            return cls(WorldConfig(**settings))
        except TypeError as error:
            raise UserError(f"{directory}: {world_log.WORLD_FILE} is damaged: {error}") from None

    def write(
        self, directory: str | Path, progress: Callable[[float], None] | None = None
    ) -> world_log.WorldFiles:
        """Write the world's logs, features and description: same configuration, same bytes.

        ``directory`` is made if missing, files of the same names are replaced; ``progress`` is
        called with the share of the work that is done, 0 to 1.
        """
        return world_log.write_files(self, Path(directory), progress or (lambda share: None))

    def answers(
        self, user_id: np.ndarray, video_id: np.ndarray, recent_videos: np.ndarray
    ) -> Answers:
        """Return the distribution of the answers to N shown videos; arguments as ``response``."""
        top_user, top_video = self.config.users - 1, self.config.videos - 1
        given = ((user_id, 0, top_user), (video_id, 0, top_video), (recent_videos, -1, top_video))
        for ids, low, high in given:
            if ids.size and not (low <= ids.min() and ids.max() <= high):
                raise ValueError(f"expected ids {low} to {high}, got {ids.min()} to {ids.max()}")
        window = self.config.satiation_window
        common = self._tag_set[recent_videos[:, :window]] & self._tag_set[video_id][:, None]
        utility = (
            self.config.base
            + self.level[user_id]
            + self.quality[video_id]
            + self._affinity(self.taste, user_id, video_id)
            - self.config.satiation * np.count_nonzero(common, axis=1) / window
        )
        ln_ms = self._engaged_ln_ms[video_id] + self.config.engaged_utility_gain * utility
        return Answers(expit(utility), ln_ms, utility, self.reactivity[user_id])

    def _affinity(self, taste: np.ndarray, user_id: np.ndarray, video_id: np.ndarray) -> np.ndarray:
        """Sum of taste over the videos' tags; shapes broadcast.

        Unlike a matrix product's, the order of the additions does not depend on the machine.
        """
        # (..., 3) -> three of (...,)
        first, second, third = np.moveaxis(self.video_tags[video_id], -1, 0)
        return taste[user_id, first] + taste[user_id, second] + taste[user_id, third]

    def standard_policy(self, user_id: np.ndarray) -> np.ndarray:
        """Return the standard log's probability of each video, (N, V), for users (N,)."""
        config = self.config
        affinity = self._affinity(self.seen_taste, user_id[:, None], np.arange(config.videos))
        score = config.popularity_weight * self.log_popularity + config.affinity_weight * affinity
        weight = np.exp(score - score.max(axis=1, keepdims=True))
        return weight / weight.sum(axis=1, keepdims=True)

    def sample(
        self, user_id: np.ndarray, video_id: np.ndarray, recent_videos: np.ndarray, rng: Generator
    ) -> dict[str, np.ndarray]:
        """Draw an answer to each of N shown videos; arguments as ``response``.

        Returns:
            "play_time_ms" (N,) int64, and each of ``BINARY_SIGNALS`` (N,) bool.
        """
        answers = self.answers(user_id, video_id, recent_videos)
        count, config = len(user_id), self.config
        engaged = rng.random(count) < answers.engaged
        ln_median = np.where(engaged, answers.engaged_ln_ms, np.log(config.skip_median_ms))
        sigma = np.where(engaged, config.engaged_sigma, config.skip_sigma)
        play_ms = np.exp(ln_median + sigma * rng.standard_normal(count)).astype(np.int64)
        click = play_ms >= self.click_from_ms[video_id]
        result = {
            "play_time_ms": play_ms,
            "click": click,
            "long_view": play_ms >= self.long_view_from_ms[video_id],
        }
        for name in REACTIONS:
            result[name] = rng.random(count) < answers.reaction(name, click)
        return result

    def response(
        self, user_id: np.ndarray, video_id: np.ndarray, recent_videos: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return the true expected value of every signal, in closed form.

        Args:
            user_id: (N,) int64.
            video_id: the video shown, (N,) int64.
            recent_videos: the user's last videos before it, (N, k) int64, newest first (the order
                of a state's history), -1 where there is none. The first ``satiation_window``
                columns count; ones that are not given count as none.

        Returns:
            Each of ``SIGNALS``, (N,) float64: the probability of a binary signal, the mean of
            "watch_ratio" (up to 2e-4: play times are rounded down to whole ms).

        Raises:
            ValueError: an id is out of range.
        """
        answers = self.answers(user_id, video_id, recent_videos)
        duration = self.duration_ms[video_id]
        whole_ms = np.where(duration > 0, duration, UNKNOWN_DURATION_FULL_VIEW_MS)
        skip = (np.log(self.config.skip_median_ms), self.config.skip_sigma)
        watch = (answers.engaged_ln_ms, self.config.engaged_sigma)

        def mixed(value: Callable[..., np.ndarray], limit_ms: np.ndarray) -> np.ndarray:
            of_skip, of_watch = value(*skip, limit_ms), value(*watch, limit_ms)
            return of_skip + answers.engaged * (of_watch - of_skip)

        click = mixed(_reaches, self.click_from_ms[video_id])
        result = {
            "click": click,
            "watch_ratio": mixed(_mean_ratio, whole_ms),
            "long_view": mixed(_reaches, self.long_view_from_ms[video_id]),
        }
        for name in REACTIONS:
            without = answers.reaction(name, False)
            result[name] = without + click * (answers.reaction(name, True) - without)
        return result


def _reaches(ln_median: np.ndarray, sigma: float, limit_ms: np.ndarray) -> np.ndarray:
    """P(X >= limit) of a log-normal X."""
    return ndtr((ln_median - np.log(limit_ms)) / sigma)


def _mean_ratio(ln_median: np.ndarray, sigma: float, whole_ms: np.ndarray) -> np.ndarray:
    """E[min(1, X / whole)] of a log-normal X: its partial expectation below, its tail above."""
    z = (np.log(whole_ms) - ln_median) / sigma
    below = np.exp(ln_median + sigma**2 / 2) / whole_ms * ndtr(z - sigma)
    return below + ndtr(-z)

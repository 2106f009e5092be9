"""The drawn parts of a synthetic world: its videos, its users and the standard log's policy."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from scipy.special import logit, ndtri

from noetik_rllib.data.world_config import (
    CLICK_LIMIT_MS,
    DURATION_RANGE_MS,
    LONG_VIEW_LIMIT_MS,
    MAX_TAG_CODE,
    TAG_COUNT_SHARES,
    WorldConfig,
)
from noetik_rllib.data.world_policy import StandardPolicy

#: Independent random streams, one per part of the world. Append only: the draws of a stream
#: depend on its place here alone.
STREAMS = (
    *("videos", "users", "taste", "schedule", "standard", "random", "answers", "times", "log"),
    *("user_features", "video_features", "tags", "requests", "twice"),
)


def some(rng: Generator, count: int, share: float) -> np.ndarray:
    """Return distinct numbers below ``count``: that share of them, rounded up."""
    return rng.permutation(count)[: int(np.ceil(share * count))]


class Latents:
    """Users and videos as drawn from a configuration.

    Attributes (U users, V videos, T tags, G sets of tags):
        tag_code: what is written for each tag, (T,).
        set_tags: tags of each set, (G, 3) in 0..T-1; T fills the unused places.
        video_set: the set of each video, (V,).
        quality, log_popularity: (V,), log-odds.
        duration_ms: (V,); 0 is unknown. click_from_ms, long_view_from_ms: least play, (V,).
        level, reactivity: (U,), log-odds and standard deviations. activity: share of all standard
            rows, (U,). leave_level: log-odds of leaving after a session without a click, (U,).
        taste, seen_taste: true, and as the platform sees it, (U, T + 1); the last column is 0.
        policy: the standard log's.
    """

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        age = np.arange(config.history_window)
        weight = config.history_decay**age
        #: Weight of the recent events, newest first, (W,); they sum to 1.
        self.history_weight = weight / weight.sum()
        self._draw_videos(self.stream("videos"), self.stream("tags"))
        self._draw_users(self.stream("users"), self.stream("taste"))
        self.policy = StandardPolicy(
            self.video_set, config.popularity_weight * self.log_popularity, len(self.set_tags)
        )

    def stream(self, name: str, part: int | None = None) -> Generator:
        """Return a fresh generator of the named stream, or of a numbered part of it."""
        key = (STREAMS.index(name),) if part is None else (STREAMS.index(name), part)
        return np.random.default_rng(np.random.SeedSequence(self.config.seed, spawn_key=key))

    def _draw_videos(self, rng: Generator, tag_rng: Generator) -> None:
        config, count = self.config, self.config.videos
        self.tag_code = 1 + tag_rng.permutation(MAX_TAG_CODE)[: config.tags]
        weight = np.arange(1, config.tags + 1, dtype=np.float64) ** -config.tag_exponent
        # A race of exponentials: a row's first k are k tags drawn without replacement.
        race = tag_rng.exponential(size=(config.tag_sets, config.tags)) / weight
        self.set_tags = np.argsort(race, axis=1)[:, : len(TAG_COUNT_SHARES)]
        last = tag_rng.choice(len(TAG_COUNT_SHARES), size=config.tag_sets, p=TAG_COUNT_SHARES)
        self.set_tags[np.arange(len(TAG_COUNT_SHARES)) > last[:, None]] = config.tags
        bit = np.append(np.uint64(1) << np.arange(config.tags, dtype=np.uint64), np.uint64(0))
        self._set_bits = np.bitwise_or.reduce(bit[self.set_tags], axis=1)

        listed = np.arange(count) >= config.pool
        self.video_set = rng.integers(config.tag_sets, size=count, dtype=np.int32)
        normal = rng.standard_normal(count)
        spread = np.where(normal < 0, config.duration_ln_below, config.duration_ln_above)
        ln_ms = config.duration_ln_median + spread * normal
        listed_ln_ms = config.listed_duration_ln_median + config.listed_duration_ln_sd * normal
        ln_ms = np.where(listed, listed_ln_ms, ln_ms)
        self.duration_ms = np.clip(np.exp(ln_ms), *DURATION_RANGE_MS).astype(np.int64)
        self.duration_ms[some(rng, config.pool, config.no_duration_share)] = 0
        beyond = some(rng, count - config.pool, config.listed_no_duration_share)
        self.duration_ms[config.pool + beyond] = 0

        self.quality = config.quality_sd * _even_normal(rng, count)
        noise = rng.normal(0, config.popularity_sd, count)
        pool_popularity = config.pool_popularity + config.popularity_quality * self.quality + noise
        # The logarithm of a Pareto variable is exponential.
        tail = np.minimum(rng.exponential(1 / config.listed_tail, count), config.listed_cap)
        self.log_popularity = np.where(listed, tail, pool_popularity)
        self.log_popularity += config.no_duration_popularity * (self.duration_ms == 0)
        self.quality += config.listed_quality * listed

        known = self.duration_ms > 0
        effective = np.where(known, self.duration_ms, np.iinfo(np.int64).max)
        # Play times are whole ms: beyond 7,000 means 7,001 or more.
        self.click_from_ms = np.where(effective <= CLICK_LIMIT_MS, effective, CLICK_LIMIT_MS + 1)
        self.long_view_from_ms = np.minimum(effective, LONG_VIEW_LIMIT_MS)
        #: Logarithm of the duration less its median in the pool, (V,); 0 where it is unknown.
        self.relative_ln_ms = np.zeros(count)
        self.relative_ln_ms[known] = np.log(self.duration_ms[known]) - config.duration_ln_median

    def _draw_users(self, rng: Generator, taste_rng: Generator) -> None:
        config, count = self.config, self.config.users
        busy = np.clip(_even_normal(rng, count), -3.0, 2.6)
        own = config.level_activity * busy
        own += np.sqrt(1 - config.level_activity**2) * _even_normal(rng, count)
        self.level = config.user_sd * own
        self.reactivity = _even_normal(rng, count)
        rows = np.exp(np.where(busy < 0, config.activity_below, config.activity_above) * busy)
        self.activity = rows / rows.sum()

        # Half of what makes a user's rows many is more sessions, half is longer ones.
        often = 0.5 * busy + np.sqrt(0.75) * rng.standard_normal(count)
        sessions = config.sessions * np.maximum(1 + config.sessions_spread * often, 0.05)
        requests = config.standard_rows / config.request_rows * self.activity
        requests += config.random_rows / count
        length = np.maximum(requests / np.maximum(sessions, 1.0), 1.05)
        self.leave_level = logit(1 / length) + config.impatience * (1 - config.usual_unclicked)

        shape = (count, config.tags)
        rank = np.argsort(taste_rng.random(shape), axis=1)
        least, most = config.strong_tags
        loved = rank < taste_rng.integers(least, most + 1, size=(count, 1))
        disliked = rank >= config.tags - taste_rng.integers(least, most + 1, size=(count, 1))
        mean = np.where(loved, config.love, np.where(disliked, config.dislike, 0.0))
        taste = mean * (1 + config.taste_spread * taste_rng.standard_normal(shape))
        seen = taste + config.affinity_noise * taste_rng.standard_normal(shape)
        self.taste = np.pad(taste, ((0, 0), (0, 1)))
        self.seen_taste = np.pad(seen, ((0, 0), (0, 1)))

    @property
    def video_tags(self) -> np.ndarray:
        """Tags of each video, (V, 3) in 0..T-1; T fills the unused places."""
        return self.set_tags[self.video_set]

    def tag_bits(self, video_id: np.ndarray) -> np.ndarray:
        """Return the tags of videos as bits, uint64 of the shape of ``video_id``; none for -1."""
        bits = self._set_bits[self.video_set[video_id]]
        return np.where(video_id >= 0, bits, np.uint64(0))

    def affinity(self, taste: np.ndarray, user_id: np.ndarray, tag_set: np.ndarray) -> np.ndarray:
        """Sum of taste over the tags of a set; shapes broadcast.

        Unlike a matrix product's, the order of the additions does not depend on the machine.
        """
        # (..., 3) -> three of (...,)
        first, second, third = np.moveaxis(self.set_tags[tag_set], -1, 0)
        return taste[user_id, first] + taste[user_id, second] + taste[user_id, third]

    def seen_affinity(self, user_id: np.ndarray) -> np.ndarray:
        """Return the weighted affinity to each set that the platform sees in users (N,): (N, G)."""
        sets = np.arange(len(self.set_tags))
        return self.config.affinity_weight * self.affinity(self.seen_taste, user_id[:, None], sets)

    def standard_policy(self, user_id: np.ndarray) -> np.ndarray:
        """Return the standard log's probability of each video, (N, V), for users (N,).

        For small worlds: ``policy.sample`` draws from it without the matrix.
        """
        return self.policy.videos(self.seen_affinity(user_id))


def _even_normal(rng: Generator, count: int) -> np.ndarray:
    """Return evenly spaced quantiles of the standard normal distribution, in random order.

    A world of 1,000 users then has the spread of its population, whatever its seed.
    """
    return ndtri((rng.permutation(count) + 0.5) / count)

"""The month of a synthetic world: who asks when, what is shown, what is answered, row by row.

A user's log is a sequence of requests. One of the standard log shows a few videos of the standard
policy at one time and with one history; one of the random log shows a single video of the pool.
After each, the user may leave, and the next one begins another session.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from noetik_rllib.data.schema import LOG_COLUMNS, SIGNAL_COLUMNS
from noetik_rllib.data.world_config import (
    DAYS,
    RANDOM_TABS,
    SECOND_FILE_DAY,
    TABS,
    WorldConfig,
)
from noetik_rllib.data.world_kernel import Units, live, place_sessions
from noetik_rllib.errors import UserError

if TYPE_CHECKING:
    from noetik_rllib.data.world import SyntheticWorld

HOUR_MS = 3_600_000
MINUTE_MS = 60_000
DAY_MS = 24 * HOUR_MS
#: 2022-04-08 00:00 in UTC+8, the time zone of ``date`` and ``hourmin``.
START_MS = 1_649_347_200_000
#: Events of a session are at most 25 minutes apart, sessions of a user more than 30.
MAX_GAP_MS = 25 * MINUTE_MS
SESSION_GAP_MS = 31 * MINUTE_MS
#: A user's plays and pauses fill at most this share of the time.
MOST_BUSY = 0.45
#: P(``hourmin`` is an hour ahead | minute of the hour): 17 % over the hour.
HOUR_AHEAD = np.repeat([0.01, 0.19, 0.38, 0.94, 1.0], [44, 6, 2, 1, 7])
#: Users are drawn in blocks of about so many rows, which bounds the memory.
BLOCK_ROWS = 1_000_000
#: The first standard log holds the rows of its days, the second and the random log the rest.
_EARLY, _LATE = 0, 1


def shares(weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return weights divided by their sum."""
    return np.asarray(weights) / np.sum(weights)


@dataclass(frozen=True)
class Schedule:
    """Rows of each user in each log, (U,) int64, which are known before anything is shown."""

    early: np.ndarray
    late: np.ndarray
    random: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """Rows of each user, (U,)."""
        return self.early + self.late + self.random

    def blocks(self) -> list[tuple[int, int]]:
        """Split the users into blocks of about ``BLOCK_ROWS`` rows: first user, user after last."""
        block = np.cumsum(self.rows) // BLOCK_ROWS
        edges = np.flatnonzero(np.diff(block, prepend=-1, append=block[-1] + 1))
        return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def draw_schedule(world: SyntheticWorld) -> Schedule:
    """Draw how many rows each user has in each log; the totals are the configuration's."""
    config, rng = world.config, world.stream("schedule")
    early_rows = round(config.early_share * config.standard_rows)
    least = min(config.random_rows_least, config.random_rows // config.users)
    beyond = np.exp(config.random_rows_sigma * np.minimum(rng.standard_normal(config.users), 2.6))
    rest = config.random_rows - least * config.users
    return Schedule(
        early=rng.multinomial(early_rows, world.activity),
        late=rng.multinomial(config.standard_rows - early_rows, world.activity),
        random=least + rng.multinomial(rest, shares(beyond)),
    )


def draw_log(world: SyntheticWorld) -> Iterator[dict[str, np.ndarray]]:
    """Yield the events of one block of users after another, by user and in the order of showing.

    Each is the columns of ``LOG_COLUMNS`` (N,), before any row is logged twice, and "run" (N,),
    the one of a file's two runs that the row is in.
    """
    schedule = draw_schedule(world)
    run = world.stream("log").integers(2, size=(DAYS + 1) * 24)
    for part, (first, last) in enumerate(schedule.blocks()):
        yield _Block(world, schedule, part, np.arange(first, last)).columns(run)


class _Block:
    """The events of some users. Attributes: ``user``, ``unit``, ... of each row or request."""

    def __init__(
        self, world: SyntheticWorld, schedule: Schedule, part: int, users: np.ndarray
    ) -> None:
        self.world, self.part, self.users = world, part, users
        early, late = schedule.early[users], schedule.late[users]
        random = schedule.random[users]
        rng = world.stream("requests", part)
        count = len(users)
        # Standard rows, then random ones: owner is 2 x user + phase, counted within the block.
        quota = np.column_stack([early, late]).ravel()
        owner = np.repeat(np.arange(2 * count), quota)
        opens = _request_starts(owner, world.config.request_rows, rng)
        first = np.flatnonzero(opens)
        size = np.diff(first, append=len(owner))
        random_owner = np.repeat(2 * np.arange(count) + _LATE, random)
        owner = np.concatenate([owner[first], random_owner])
        size = np.concatenate([size, np.ones(len(random_owner), dtype=np.int64)])
        is_rand = np.arange(len(owner)) >= len(first)
        # Requests of a phase come in any order: all are drawn alike.
        order = np.lexsort((rng.random(len(owner)), owner))
        self.owner, self.size, self.unit_rand = owner[order], size[order], is_rand[order]
        self.unit = np.repeat(np.arange(len(order)), self.size)
        self.user = users[self.owner[self.unit] // 2]
        self.is_rand = self.unit_rand[self.unit]

    def _videos(self) -> np.ndarray:
        world = self.world
        video = np.empty(len(self.user), dtype=np.int64)
        rng = world.stream("random", self.part)
        video[self.is_rand] = rng.integers(world.config.pool, size=int(self.is_rand.sum()))
        chosen = ~self.is_rand
        video[chosen] = world.policy.sample(
            world.seen_affinity(self.users),
            self.user[chosen] - self.users[0],
            world.stream("standard", self.part),
        )
        return video

    def columns(self, run: np.ndarray) -> dict[str, np.ndarray]:
        """Draw everything; as ``draw_log`` yields it. ``run`` is the run of each hour."""
        world, config = self.world, self.world.config
        video = self._videos()
        rng = world.stream("answers", self.part)
        count = len(self.owner)
        random_tab = rng.choice(len(TABS), size=count, p=shares(RANDOM_TABS))
        units = Units(
            first_row=np.concatenate([[0], np.cumsum(self.size)]),
            phase=self.owner,
            random_tab=np.where(self.unit_rand, random_tab, -1),
            session_tab=rng.choice(len(TABS), size=count, p=shares(config.tab_weights)),
            leave_level=world.leave_level[self.users[self.owner // 2]],
            leave_draw=rng.random(count),
        )
        utility, play_ms, click, tab, session = live(
            world.watching,
            units,
            (np.array([tab.page for tab in TABS]), np.array([tab.offset for tab in TABS])),
            (world.history_weight, config.habit, config.satiation, config.impatience),
            world.video_side(video),
            world.plain_utility(self.user, video),
            world.tag_bits(video),
            rng.random(len(video)),
            rng.standard_normal(len(video)),
        )
        tab = tab[self.unit]
        history = np.zeros(len(video))
        answers = world.answers_to(self.user, video, tab, history)._replace(utility=utility)
        answer = world.react(answers, play_ms, click, rng)
        time_ms = self._times(session, play_ms)[self.unit]

        rng = world.stream("log", self.part)
        # Comments are read before nearly every comment and after some clicks.
        reads = rng.random(len(video)) < np.where(answer["comment"], 0.986, 0.09 * click)
        comment_stay = reads * np.exp(rng.normal(np.log(6_210), 0.99, len(video)))
        visits = rng.random(len(video)) < 0.004 * answer["profile_enter"]
        profile_stay = visits * np.exp(rng.normal(np.log(4_069), 1.0, len(video)))
        partition = (time_ms - START_MS) // HOUR_MS
        # All rows of a request are logged in the same hour.
        late = rng.random(count)[self.unit] < HOUR_AHEAD[time_ms // MINUTE_MS % 60]
        partition += late & (partition + 1 < DAYS * 24)
        columns = {
            "user_id": self.user,
            "video_id": video,
            "date": DATES[partition // 24],
            "hourmin": partition % 24 * 100,
            "time_ms": time_ms,
            "play_time_ms": play_ms,
            "duration_ms": world.duration_ms[video],
            "profile_stay_time": profile_stay.astype(np.int64),
            "comment_stay_time": np.minimum(comment_stay, 300_000).astype(np.int64),
            "is_rand": self.is_rand,
            "tab": tab,
            **{column: answer[name] for name, column in SIGNAL_COLUMNS.items()},
        }
        assert set(columns) == set(LOG_COLUMNS)
        columns["run"] = np.where(self.is_rand, 0, run[partition])
        return columns

    def _times(self, session: np.ndarray, play_ms: np.ndarray) -> np.ndarray:
        """Time of each request, (M,) int64 ms since the epoch.

        Within a session a request follows the plays of the one before and a pause; sessions begin
        near drawn moments, pushed apart where they would overlap.
        """
        config, rng = self.world.config, self.world.stream("times", self.part)
        count = len(self.owner)
        first_row = np.cumsum(self.size) - self.size
        pause = rng.normal(np.log(config.pause_median_ms), config.pause_sigma, count)
        gap = np.add.reduceat(play_ms, first_row) + np.exp(pause)
        gap = np.clip(gap, 1_000, MAX_GAP_MS).astype(np.int64)
        first = np.flatnonzero(np.diff(session, prepend=-1))
        owner = self.owner[first]
        # Some minutes before the end of a file's days: a partition is up to an hour ahead.
        low = np.array([0, SECOND_FILE_DAY * DAY_MS])[owner % 2]
        high = np.array([SECOND_FILE_DAY * DAY_MS, DAYS * DAY_MS - 17 * MINUTE_MS])[owner % 2]

        # Who has more plays and pauses than time watches faster, as the heaviest real users do.
        length = np.add.reduceat(gap, first)
        needed = np.bincount(owner, length, minlength=2 * len(self.users))
        free = high - low - np.bincount(owner)[owner] * SESSION_GAP_MS
        haste = np.clip(MOST_BUSY * free / needed[owner], 0.0, 1.0)
        number = np.cumsum(np.diff(session, prepend=-1) != 0) - 1
        gap = np.maximum(gap * haste[number], 1_000).astype(np.int64)
        length = np.add.reduceat(gap, first)
        if (np.bincount(owner, length)[owner] > free).any():
            raise UserError(
                "world: the rows of one user do not fit into a month: lower standard_rows or "
                "random_rows, or raise users"
            )

        wish = START_MS + low + _moments(config, owner, rng)
        wish -= (rng.random(len(wish)) * length).astype(np.int64)
        start = place_sessions(
            owner, wish, length + SESSION_GAP_MS, START_MS + low, START_MS + high
        )
        elapsed = np.cumsum(gap) - gap
        return start[number] + elapsed - elapsed[first][number]


def _request_starts(owner: np.ndarray, mean: float, rng: np.random.Generator) -> np.ndarray:
    """Mark the rows (N,) that begin a request of 1 + Poisson(mean - 1) rows of one owner."""
    opens = np.ones(len(owner), dtype=bool)
    if mean > 1:
        end = np.cumsum(1 + rng.poisson(mean - 1, size=len(owner)))
        opens[:] = False
        opens[end[end < len(owner)]] = True
        opens[:1] = True
        opens[1:] |= owner[1:] != owner[:-1]
    return opens


def _moments(config: WorldConfig, owner: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a moment for each session (S,), by day and hour, sorted by owner: ms into its phase."""
    weights = np.asarray(config.day_weights or np.ones(DAYS))
    count = len(owner)
    early = rng.choice(SECOND_FILE_DAY, size=count, p=shares(weights[:SECOND_FILE_DAY]))
    late = rng.choice(DAYS - SECOND_FILE_DAY, size=count, p=shares(weights[SECOND_FILE_DAY:]))
    day = np.where(owner % 2 == _LATE, late, early)
    hour = rng.choice(24, size=count, p=shares(config.hour_weights))
    moment = (day * 24 + hour) * HOUR_MS + rng.integers(HOUR_MS, size=count)
    return moment[np.lexsort((moment, owner))]


#: YYYYMMDD of each day of the month.
DATES = np.array(
    [int(str(day).replace("-", "")) for day in np.datetime64("2022-04-08") + np.arange(DAYS)]
)

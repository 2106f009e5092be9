"""The files of a synthetic world: a month of its logs and its features, as KuaiRand-Pure has them.

Column order, number formats and the quirks that a reader must cope with are those of the published
files; docs/data.md lists what the reader repairs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv

from noetik_rllib.data.schema import LOG_COLUMNS, SIGNAL_COLUMNS
from noetik_rllib.errors import UserError
from noetik_rllib.io import atomic_path, write_json

if TYPE_CHECKING:
    from noetik_rllib.data.world import SyntheticWorld

WORLD_FILE = "world.json"
#: Raised when the same configuration no longer draws the same world.
WORLD_VERSION = 1

HOUR_MS = 3_600_000
MINUTE_MS = 60_000
#: 2022-04-08 00:00 in UTC+8, the time zone of ``date`` and ``hourmin``.
START_MS = 1_649_347_200_000
DAYS = 31
#: 22 April: the second standard file and the random log begin.
SECOND_FILE_DAY = 14
#: Events of a session are at most 25 minutes apart, sessions of a user more than 30.
MAX_GAP_MS = 25 * MINUTE_MS
SESSION_GAP_MS = 30 * MINUTE_MS
#: Share of the rows of each hour of the day, in percent (KuaiRand-27K, standard log).
HOUR_SHARES = (
    *(3.30, 2.01, 1.28, 0.90, 0.81, 1.15, 2.13, 3.09, 3.58, 4.02, 4.48, 4.79),
    *(5.28, 5.32, 4.80, 4.89, 5.15, 5.44, 5.85, 6.17, 6.61, 6.86, 6.78, 5.31),
)
#: Rows of each tab, 0 to 14 (KuaiRand-Pure, standard and random logs).
STANDARD_TABS = (
    *(178_087, 1_058_389, 48_364, 4_014, 93_165, 4_169, 42_785, 504),
    *(3_909, 444, 152, 725, 1_472, 399, 31),
)
RANDOM_TABS = (0, 1_178_025, 764, 0, 0, 0, 0, 0, 0, 0, 0, 6_755, 0, 0, 515)
#: P(``hourmin`` is an hour ahead | minute of the hour): 17 % over the hour.
HOUR_AHEAD = np.repeat([0.01, 0.19, 0.38, 0.94, 1.0], [44, 6, 2, 1, 7])

#: Ranges of the users' numbers: the i-th label is for values up to the i-th edge.
RANGES = {
    "follow_user_num": (
        "0;(0,10];(10,50];(50,100];(100,150];(150,250];(250,500];500+",
        (0, 10, 50, 100, 150, 250, 500),
    ),
    "fans_user_num": (
        "0;[1,10);[10,100);[100,1k);[1k,5k);[5k,1w);[1w,10w);[10w,100w);[100w,1000w)",
        (0, 9, 99, 999, 4_999, 9_999, 99_999, 999_999),
    ),
    "friend_user_num": ("0;[1,5);[5,30);[30,60);[60,120);[120,250);250+", (0, 4, 29, 59, 119, 249)),
    "register_days": (
        "8-14;15-30;31-60;61-90;91-180;181-365;366-730;730+",
        (14, 30, 60, 90, 180, 365, 730),
    ),
}
#: Number of values of onehot_feat0 to 17, and the exponent of their frequencies by rank that
#: gives the real share of the commonest.
ONEHOTS = (
    *((2, 0.4), (7, 0.5), (50, 1.1), (1_471, 0.6), (15, 1.0), (34, 7.5), (3, 0.4), (118, 0.7)),
    *((454, 0.4), (7, 0.5), (5, 0.7), (5, 1.8), (2, 1.4), (2, 3.8), (2, 2.9), (2, 5.4)),
    *((2, 4.6), (2, 6.1)),
)


@dataclass(frozen=True)
class WorldFiles:
    """What ``SyntheticWorld.write`` has written; the row counts include duplicates."""

    world: Path
    standard: tuple[Path, Path]
    random: Path
    user_features: Path
    video_features: Path
    standard_rows: int
    random_rows: int


class Shown(NamedTuple):
    """The N videos that were shown, by user and in the order of showing; all arrays (N,)."""

    user: np.ndarray
    session: np.ndarray
    #: Earliest start of the event's session, ms since the epoch.
    session_start_ms: np.ndarray
    video: np.ndarray
    is_rand: np.ndarray


def some(rng: np.random.Generator, count: int, share: float) -> np.ndarray:
    """Return distinct numbers below ``count``: that share of them, rounded up."""
    return rng.permutation(count)[: int(np.ceil(share * count))]


def read_settings(directory: Path) -> dict[str, Any]:
    """Return the settings in a directory's world.json.

    Raises:
        UserError: the file is missing, unreadable, or of another version.
    """
    path = directory / WORLD_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{directory}: no {WORLD_FILE} here; only a synthetic world has a known truth"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    settings = content.get("config") if isinstance(content, dict) else None
    if not isinstance(settings, dict) or content.get("version") != WORLD_VERSION:
        raise UserError(f"{path}: not a world of version {WORLD_VERSION}; write it again")
    return settings


def write_files(
    world: SyntheticWorld, directory: Path, progress: Callable[[float], None]
) -> WorldFiles:
    """Write all files of a world; arguments as ``SyntheticWorld.write``."""
    data = directory / "data"
    files = WorldFiles(
        world=directory / WORLD_FILE,
        standard=(
            data / "log_standard_4_08_to_4_21_pure.csv",
            data / "log_standard_4_22_to_5_08_pure.csv",
        ),
        random=data / "log_random_4_22_to_5_08_pure.csv",
        user_features=data / "user_features_pure.csv",
        video_features=data / "video_features_basic_pure.csv",
        standard_rows=0,
        random_rows=0,
    )
    # Written last, and away meanwhile: where it is, the files beside it are of this world.
    files.world.unlink(missing_ok=True)
    progress(0.0)
    shown = _show(world)
    progress(0.2)
    logs = _log_rows(world, shown)
    progress(0.7)
    for path, log in zip((*files.standard, files.random), logs, strict=True):
        _write_log(path, log)
    progress(0.9)
    _write_table(files.user_features, _user_features(world))
    _write_table(files.video_features, _video_features(world))
    write_json(files.world, {"version": WORLD_VERSION, "config": asdict(world.config)})
    progress(1.0)
    first, second, random = map(len, logs)
    return replace(files, standard_rows=first + second, random_rows=random)


def _show(world: SyntheticWorld) -> Shown:
    """Draw who is shown what, in which session."""
    config, rng = world.config, world.stream("schedule")
    rows = config.standard_rows
    user = np.repeat(np.arange(config.users), rng.multinomial(rows, world.activity))
    new_session = rng.random(rows) < 1 / config.session_rows
    new_session[0] = True
    new_session[1:] |= user[1:] != user[:-1]
    session = np.cumsum(new_session) - 1
    owner = user[new_session]

    day = rng.integers(DAYS, size=len(owner))
    hour = rng.choice(24, size=len(owner), p=_shares(HOUR_SHARES))
    start = START_MS + (day * 24 + hour) * HOUR_MS + rng.integers(HOUR_MS, size=len(owner))
    # Sessions are numbered by user already, so this only orders each user's starts.
    start = start[np.lexsort((start, owner))]

    # A random exposure follows a standard row of a session of the second file's days.
    late = np.flatnonzero(start[session] >= START_MS + SECOND_FILE_DAY * 24 * HOUR_MS)
    anchor = late[rng.integers(len(late), size=config.random_rows)]
    source = np.concatenate([np.arange(rows), anchor])
    is_rand = np.arange(len(source)) >= rows
    order = np.lexsort((is_rand, source))
    source, is_rand = source[order], is_rand[order]

    video = np.empty(len(source), dtype=np.int64)
    video[is_rand] = world.stream("random").integers(config.videos, size=config.random_rows)
    video[~is_rand] = _standard_videos(world, user)
    session = session[source]
    return Shown(user[source], session, start[session], video, is_rand)


def _standard_videos(world: SyntheticWorld, user: np.ndarray) -> np.ndarray:
    """Draw from the standard policy for each row of ``user`` (N,), which is sorted."""
    draw = world.stream("standard").random(len(user))
    videos = world.config.videos
    result = np.empty(len(user), dtype=np.int64)
    # 4 million probabilities at a time: 32 MB each for scores, weights and sums.
    size = max(1, 4_000_000 // videos)
    for first in range(0, world.config.users, size):
        users = np.arange(first, min(first + size, world.config.users))
        low, high = np.searchsorted(user, [users[0], users[-1] + 1])
        row = user[low:high] - first
        # One sorted array for all users: user i's cumulative probabilities run from i to i + 1.
        cumulative = np.cumsum(world.standard_policy(users), axis=1)
        cumulative += np.arange(len(users))[:, None]
        place = np.searchsorted(cumulative.ravel(), row + draw[low:high], side="right")
        # The last cumulative sum may round to just below 1.
        result[low:high] = np.minimum(place - row * videos, videos - 1)
    return result


def _recent(user: np.ndarray, video: np.ndarray, window: int) -> np.ndarray:
    """The videos before each event of the same user, (N, window), newest first; -1 is none."""
    recent = np.full((len(user), window), -1, dtype=np.int64)
    for age in range(1, min(window, len(user) - 1) + 1):
        same = user[age:] == user[:-age]
        recent[age:, age - 1][same] = video[:-age][same]
    return recent


def _event_times(world: SyntheticWorld, shown: Shown, play_ms: np.ndarray) -> np.ndarray:
    """Time of each event, (N,) int64 ms since the epoch.

    Within a session, play follows play; a session that would begin within 30 minutes of the
    user's one before is put off.
    """
    config, rng = world.config, world.stream("times")
    pause = np.exp(rng.normal(np.log(config.pause_median_ms), config.pause_sigma, len(play_ms)))
    gap = np.clip(play_ms + pause, 1_000, MAX_GAP_MS).astype(np.int64)
    elapsed = np.cumsum(gap) - gap
    first = np.flatnonzero(np.diff(shown.session, prepend=-1))
    busy = np.add.reduceat(gap, first) + SESSION_GAP_MS
    before = np.cumsum(busy) - busy
    # start[i] = max over j <= i of wish[j] + busy[j..i-1]: with ``before`` subtracted that is a
    # running maximum. A stride per user, beyond any time, keeps the users apart.
    stride = DAYS * 24 * HOUR_MS + int(busy.sum())
    shift = shown.user[first] * stride - before
    start = np.maximum.accumulate(shown.session_start_ms[first] + shift) - shift
    session_start = np.repeat(start - elapsed[first], np.diff(first, append=len(gap)))
    return session_start + elapsed


def _log_rows(world: SyntheticWorld, shown: Shown) -> list[np.ndarray]:
    """Draw the users' answers; return the (rows, 19) int64 of the first and the second standard
    log and of the random one.
    """
    config, count = world.config, len(shown.user)
    recent = _recent(shown.user, shown.video, config.satiation_window)
    answer = world.sample(shown.user, shown.video, recent, world.stream("answers"))
    play_ms = answer["play_time_ms"]
    time_ms = _event_times(world, shown, play_ms)

    rng = world.stream("log")
    # A session stays on one page of the app; random exposures have their own shares.
    tab = rng.choice(15, size=shown.session[-1] + 1, p=_shares(STANDARD_TABS))[shown.session]
    tab = np.where(shown.is_rand, rng.choice(15, size=count, p=_shares(RANDOM_TABS)), tab)
    # Comments are read before nearly every comment and after some clicks.
    reads = rng.random(count) < np.where(answer["comment"], 0.986, 0.09 * answer["click"])
    comment_stay = reads * np.exp(rng.normal(np.log(6_210), 0.99, count))
    visits = rng.random(count) < 0.004 * answer["profile_enter"]
    profile_stay = visits * np.exp(rng.normal(np.log(4_069), 1.0, count))

    ahead = rng.random(count) < HOUR_AHEAD[time_ms // MINUTE_MS % 60]
    partition = (time_ms - START_MS) // HOUR_MS + ahead
    day, hour = partition // 24, partition % 24
    date = np.datetime64("2022-04-08") + np.arange(day.max() + 1)
    number = np.char.replace(date.astype(str), "-", "").astype(np.int64)
    columns = {
        "user_id": shown.user,
        "video_id": shown.video,
        "date": number[day],
        "hourmin": hour * 100,
        "time_ms": time_ms,
        "play_time_ms": play_ms,
        "duration_ms": world.duration_ms[shown.video],
        "profile_stay_time": profile_stay.astype(np.int64),
        "comment_stay_time": np.minimum(comment_stay, 300_000).astype(np.int64),
        "is_rand": shown.is_rand,
        "tab": tab,
        **{column: answer[name] for name, column in SIGNAL_COLUMNS.items()},
    }
    table = np.column_stack([columns[name] for name in LOG_COLUMNS])

    # The collection ends with the last day: what falls into the next is not in the logs.
    standard = np.flatnonzero(~shown.is_rand & (day < DAYS))
    twice = standard[some(rng, len(standard), config.duplicate_share)]
    standard = np.sort(np.concatenate([standard, twice]))
    # Each standard file is two sorted runs, one after the other; a run holds whole hours.
    run = rng.integers(2, size=int(partition.max()) + 1)[partition]
    standard = standard[np.argsort(run[standard], kind="stable")]
    early = day[standard] < SECOND_FILE_DAY
    random = np.flatnonzero(shown.is_rand & (day < DAYS))
    return [table[rows] for rows in (standard[early], standard[~early], random)]


def _shares(weights: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.asarray(weights) / np.sum(weights)


def _write_log(path: Path, rows: np.ndarray) -> None:
    table = pa.table({name: rows[:, place] for place, name in enumerate(LOG_COLUMNS)})
    with atomic_path(path) as part, part.open("wb") as file:
        # pyarrow would quote the names.
        file.write((",".join(LOG_COLUMNS) + "\n").encode())
        pacsv.write_csv(table, file, pacsv.WriteOptions(include_header=False))


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with atomic_path(path) as part:
        table.to_csv(part, index=False, lineterminator="\n")


def _user_features(world: SyntheticWorld) -> pd.DataFrame:
    """Draw the users' features. Only the active degree tells something: of the activity."""
    rng, count = world.stream("user_features"), world.config.users

    def heavy(median: float, sigma: float, top: int) -> np.ndarray:
        return np.minimum(np.exp(rng.normal(np.log(median), sigma, count)), top).astype(np.int64)

    # The degree follows the rank of the activity, seen with noise.
    noisy = np.log(world.activity) + rng.normal(0, 0.8, count)
    rank = np.argsort(np.argsort(-noisy)) / count
    degree = np.array(["full_active", "high_active", "middle_active", "low_active"])
    streamer = rng.random(count) < 0.226
    author = rng.random(count) < np.where(streamer, 0.992, 0.765)
    follow, fans = heavy(155, 1.5, 5_003), heavy(48, 2.0, 1_986_249)
    numbers = {
        "follow_user_num": follow,
        "fans_user_num": fans,
        "friend_user_num": (np.minimum(follow, fans) * rng.beta(1.0, 0.9, count)).astype(np.int64),
        "register_days": np.clip(rng.normal(1_204, 700, count), 14, 3_624).astype(np.int64),
    }
    columns: dict[str, Any] = {
        "user_id": np.arange(count),
        "user_active_degree": degree[np.searchsorted([0.66, 0.89, 0.97], rank)],
        "is_lowactive_period": 0,
        "is_live_streamer": np.where(streamer, 1, -124),
        "is_video_author": author.astype(np.int64),
    }
    for name, values in numbers.items():
        labels, edges = RANGES[name]
        columns[name] = values
        columns[f"{name}_range"] = np.array(labels.split(";"))[np.searchsorted(edges, values)]
    blank = world.config.blank_feature_share
    one, together = some(rng, count, blank), some(rng, count, blank)
    for number, (size, exponent) in enumerate(ONEHOTS):
        values = rng.choice(size, size=count, p=_shares(np.arange(1.0, size + 1) ** -exponent))
        if number == 4 or number >= 12:
            # Columns with blanks are written as floats.
            values = values.astype(np.float64)
            values[one if number == 4 else together] = np.nan
        columns[f"onehot_feat{number}"] = values
    return pd.DataFrame(columns)


def _video_features(world: SyntheticWorld) -> pd.DataFrame:
    """Draw the videos' features; where duration and tags are written, they are the true ones."""
    rng, count = world.stream("video_features"), world.config.videos
    kinds = np.array(["LongImport", "Web", "Kmovie", "ShortImport", "LongPicture", "PictureSet"])
    kind = rng.choice(3, size=count, p=[0.47, 0.39, 0.14])
    kind = np.where(world.duration_ms <= 18_000, 3, kind)
    unknown = world.duration_ms == 0
    kind = np.where(unknown, rng.choice([3, 4, 5], size=count, p=[0.1, 0.6, 0.3]), kind)
    # 86 authors for 100 videos, as in the real pool.
    authors = rng.integers(1, 8_000_000, size=int(np.ceil(2.5 * count)))
    # Uploads end before the log begins, so that no video is shown before it exists.
    day = rng.choice([5, 6, 7], size=count, p=[0.37, 0.45, 0.18])
    sides = np.array([(720.0, 1280.0), (1280.0, 720.0), (720.0, 720.0)])
    side = sides[rng.choice(3, size=count, p=[0.75, 0.20, 0.05])]
    music = 9_000_000_000 + rng.integers(10**8, size=count)
    music_type = rng.choice([9.0, 4.0, 8.0, 7.0], size=count, p=[0.9, 0.09, 0.007, 0.003])
    silent = rng.random(count) < 0.027
    tag = [
        ",".join(map(str, world.tag_code[tags[tags < world.config.tags]]))
        for tags in world.video_tags
    ]
    for video in some(rng, count, world.config.blank_tag_share):
        tag[video] = ""
    return pd.DataFrame(
        {
            "video_id": np.arange(count),
            "author_id": rng.choice(authors, size=count),
            "video_type": np.where(rng.random(count) < 0.01, "AD", "NORMAL"),
            "upload_dt": [f"2022-04-0{number}" for number in day],
            "upload_type": kinds[kind],
            "visible_status": 0.0,
            "video_duration": np.where(unknown, np.nan, world.duration_ms),
            "server_width": side[:, 0],
            "server_height": side[:, 1],
            "music_id": np.where(silent, 0, music),
            "music_type": np.where(silent, np.nan, music_type),
            "tag": tag,
        }
    )

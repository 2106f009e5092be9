"""The features of a synthetic world's users and videos, in KuaiRand's layout.

Column order, blanks and number formats are those of the published files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from noetik_rllib.data.world_latents import some
from noetik_rllib.data.world_log import shares

if TYPE_CHECKING:
    from noetik_rllib.data.world import SyntheticWorld

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


#: Columns of ``video_features_basic_*.csv``, in their order.
VIDEO_HEADER = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,"
    "server_width,server_height,music_id,music_type,tag"
)
#: Videos are written so many at a time, which bounds the memory.
_BLOCK = 500_000


def user_features(world: SyntheticWorld) -> pd.DataFrame:
    """Draw the users' features.

    The active degree tells of the activity, the number followed of the readiness to react.
    """
    rng, count = world.stream("user_features"), world.config.users

    def heavy(normal: np.ndarray, median: float, sigma: float, top: int) -> np.ndarray:
        return np.minimum(np.exp(np.log(median) + sigma * normal), top).astype(np.int64)

    # The degree follows the rank of the activity, seen with noise.
    noisy = np.log(world.activity) + rng.normal(0, 0.8, count)
    rank = np.argsort(np.argsort(-noisy)) / count
    degree = np.array(["full_active", "high_active", "middle_active", "low_active"])
    streamer = rng.random(count) < 0.226
    author = rng.random(count) < np.where(streamer, 0.992, 0.765)
    open_minded = 0.6 * world.reactivity + 0.8 * rng.standard_normal(count)
    follow = heavy(open_minded, 155, 1.5, 5_003)
    fans = heavy(rng.standard_normal(count), 48, 2.0, 1_986_249)
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
        values = rng.choice(size, size=count, p=shares(np.arange(1.0, size + 1) ** -exponent))
        if number == 4 or number >= 12:
            # Columns with blanks are written as floats.
            values = values.astype(np.float64)
            values[one if number == 4 else together] = np.nan
        columns[f"onehot_feat{number}"] = values
    return pd.DataFrame(columns)


def video_features(world: SyntheticWorld) -> Iterator[bytes]:
    """Yield the lines of the videos' features, block by block, without the header.

    Where duration and tags are written, they are the true ones.
    """
    rng, count = world.stream("video_features"), world.config.videos
    # 86 authors for 100 videos, as in the real pool.
    authors = rng.integers(1, 8_000_000, size=int(np.ceil(2.5 * count)))
    blank = np.zeros(count, dtype=bool)
    blank[some(rng, count, world.config.blank_tag_share)] = True
    code = world.tag_code
    words = [",".join(map(str, code[tags[tags < len(code)]])) for tags in world.set_tags]
    # Only values with a comma are quoted.
    words = [f'"{word}"' if "," in word else word for word in words]
    for first in range(0, count, _BLOCK):
        part = np.arange(first, min(first + _BLOCK, count))
        yield _lines(_video_columns(world, part, authors, pa.array(words), blank, rng))


def _video_columns(
    world: SyntheticWorld,
    part: np.ndarray,
    authors: np.ndarray,
    words: pa.Array,
    blank: np.ndarray,
    rng: np.random.Generator,
) -> list[pa.Array]:
    """Return the columns of the videos ``part`` as text."""
    count, duration = len(part), world.duration_ms[part]
    unknown = duration == 0
    kinds = ["LongImport", "Web", "Kmovie", "ShortImport", "LongPicture", "PictureSet"]
    kind = rng.choice(3, size=count, p=[0.47, 0.39, 0.14])
    kind = np.where(duration <= 18_000, 3, kind)
    kind = np.where(unknown, rng.choice([3, 4, 5], size=count, p=[0.1, 0.6, 0.3]), kind)
    # Uploads end before the log begins, so that no video is shown before it exists.
    day = rng.choice(3, size=count, p=[0.37, 0.45, 0.18])
    side = rng.choice(3, size=count, p=[0.75, 0.20, 0.05])
    music = 9_000_000_000 + rng.integers(10**8, size=count)
    music_type = rng.choice(4, size=count, p=[0.9, 0.09, 0.007, 0.003])
    silent = rng.random(count) < 0.027
    return [
        _text(part),
        _text(rng.choice(authors, size=count)),
        _word(["NORMAL", "AD"], (rng.random(count) < 0.01).astype(np.int64)),
        _word(["2022-04-05", "2022-04-06", "2022-04-07"], day),
        _word(kinds, kind),
        _word(["0.0"], np.zeros(count, dtype=np.int64)),
        _blanked(pc.binary_join_element_wise(_text(duration), ".0", ""), unknown),
        _word(["720.0", "1280.0", "720.0"], side),
        _word(["1280.0", "720.0", "720.0"], side),
        _text(np.where(silent, 0, music)),
        _blanked(_word(["9.0", "4.0", "8.0", "7.0"], music_type), silent),
        _blanked(words.take(pa.array(world.video_set[part])), blank[part]),
    ]


def _text(numbers: np.ndarray) -> pa.Array:
    return pc.cast(pa.array(numbers), pa.string())


def _word(words: list[str], number: np.ndarray) -> pa.Array:
    return pa.array(words).take(pa.array(number))


def _blanked(text: pa.Array, blank: np.ndarray) -> pa.Array:
    return pc.if_else(pa.array(blank), "", text)


def _lines(columns: list[pa.Array]) -> bytes:
    """Join text columns to lines of a CSV file."""
    lines = pc.binary_join_element_wise(*columns, ",")
    return b"".join(
        (
            pc.binary_join(pa.ListArray.from_arrays([0, len(lines)], lines), "\n")[0].as_buffer(),
            b"\n",
        )
    )

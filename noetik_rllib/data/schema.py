"""The published layout of KuaiRand's CSV files, the same for Pure, 1K and 27K."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class SourceFile(BaseModel):
    """One CSV file that was read: its name below ``data/``, its data rows and its SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    rows: int
    sha256: str


#: The most tags a video carries in any KuaiRand variant (27K: 5, on 7 of its 32 million videos).
MAX_TAGS = 5

#: Columns of every ``log_*.csv``, all integers (KuaiRand README).
LOG_COLUMNS: tuple[str, ...] = (
    "user_id",
    "video_id",
    "date",
    "hourmin",
    "time_ms",
    "is_click",
    "is_like",
    "is_follow",
    "is_comment",
    "is_forward",
    "is_hate",
    "long_view",
    "play_time_ms",
    "duration_ms",
    "profile_stay_time",
    "comment_stay_time",
    "is_profile_enter",
    "is_rand",
    "tab",
)

#: The log's column behind each binary signal.
SIGNAL_COLUMNS: dict[str, str] = {
    "click": "is_click",
    "long_view": "long_view",
    "like": "is_like",
    "follow": "is_follow",
    "comment": "is_comment",
    "forward": "is_forward",
    "hate": "is_hate",
    "profile_enter": "is_profile_enter",
}

#: Lowest and highest value of the columns that are checked row by row.
LOG_RANGES: dict[str, tuple[int, int]] = {
    # Features files are read as float64, in which ids are exact to 2^53; 2^39 lets a user and a
    # video share one int64 key. KuaiRand's ids end below 2^25.
    "user_id": (0, 2**39),
    "video_id": (0, 2**39),
    "hourmin": (0, 2359),
    # 2015 to 2100 in milliseconds: seconds or microseconds by mistake fall outside.
    "time_ms": (1_420_070_400_000, 4_102_444_800_000),
    "duration_ms": (0, 2**40),
    "tab": (0, 14),
    "is_rand": (0, 1),
    **dict.fromkeys(SIGNAL_COLUMNS.values(), (0, 1)),
}

#: Columns of ``user_features_*.csv`` that the state uses; the file has others beside them.
USER_COLUMNS: tuple[str, ...] = (
    "user_id",
    "user_active_degree",
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num",
    "fans_user_num",
    "friend_user_num",
    "register_days",
    "onehot_feat0",
    "onehot_feat1",
    *(f"onehot_feat{number}" for number in range(12, 18)),
)

#: Columns of ``video_features_basic_*.csv`` that the catalogue uses.
VIDEO_COLUMNS: tuple[str, ...] = (
    "video_id",
    "author_id",
    "video_type",
    "upload_type",
    "video_duration",
    "server_width",
    "server_height",
    "tag",
)

#: The uniformly exposed videos of KuaiRand are those with ids 0 to 7582, in every variant (its
#: README, section 2).
RANDOM_POOL_SIZE = 7_583

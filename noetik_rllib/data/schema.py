"""What KuaiRand's CSV files hold, the same for Pure, 1K and 27K; see mappings/kuairand.yaml."""

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

"""The files of a synthetic world: a month of its logs and its features, as KuaiRand has them.

Column order, number formats and the quirks that a reader must cope with are those of the published
files; docs/data.md lists what the reader repairs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv

from noetik_rllib.data.schema import LOG_COLUMNS
from noetik_rllib.data.world_config import SECOND_FILE_DAY
from noetik_rllib.data.world_features import VIDEO_HEADER, user_features, video_features
from noetik_rllib.data.world_log import DATES, draw_log, draw_schedule
from noetik_rllib.errors import UserError
from noetik_rllib.io import atomic_path, write_json

if TYPE_CHECKING:
    from noetik_rllib.data.world import SyntheticWorld

WORLD_FILE = "world.json"
#: Raised when the same configuration no longer draws the same world.
WORLD_VERSION = 2

#: Rows are turned into text so many at a time, which bounds the memory.
_BATCH_ROWS = 500_000
#: Columns are kept in as few bytes as their values need: a full log of 1K in 0.6 GB.
_KEPT_TYPES: dict[str, type] = {
    "user_id": np.int32,
    "video_id": np.int32,
    "date": np.int32,
    "hourmin": np.int16,
    "time_ms": np.int64,
    "play_time_ms": np.int64,
    "duration_ms": np.int32,
    "profile_stay_time": np.int32,
    "comment_stay_time": np.int32,
}
#: The page whose rows are nearly all logged twice (1.3).
_TAB_LOGGED_TWICE = 6


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
    data, variant = directory / "data", world.config.variant
    first, second = (
        data / f"log_standard_{days}_{variant}.csv" for days in ("4_08_to_4_21", "4_22_to_5_08")
    )
    random = data / f"log_random_4_22_to_5_08_{variant}.csv"
    # Written last, and away meanwhile: where it is, the files beside it are of this world.
    (directory / WORLD_FILE).unlink(missing_ok=True)
    progress(0.0)
    log = _collect(world, lambda share: progress(0.4 * share))
    standard = _logged_twice(world, log)
    # Each standard file is two sorted runs, one after the other; a run holds whole hours.
    standard = standard[np.argsort(log["run"][standard], kind="stable")]
    early = log["date"][standard] < DATES[SECOND_FILE_DAY]
    parts = {
        first: standard[early],
        second: standard[~early],
        random: np.flatnonzero(log["is_rand"]),
    }
    written, total = 0, sum(map(len, parts.values()))
    for path, rows in parts.items():
        _write_log(path, log, rows)
        written += len(rows)
        progress(0.4 + 0.4 * written / total)
    users, videos = (
        data / f"{name}_{variant}.csv" for name in ("user_features", "video_features_basic")
    )
    _write_table(users, user_features(world))
    _write_lines(videos, VIDEO_HEADER, video_features(world))
    write_json(directory / WORLD_FILE, {"version": WORLD_VERSION, "config": asdict(world.config)})
    progress(1.0)
    return WorldFiles(
        world=directory / WORLD_FILE,
        standard=(first, second),
        random=random,
        user_features=users,
        video_features=videos,
        standard_rows=len(standard),
        random_rows=len(parts[random]),
    )


def _collect(world: SyntheticWorld, progress: Callable[[float], None]) -> dict[str, np.ndarray]:
    """Draw the whole log: the columns of ``LOG_COLUMNS`` and "run", sorted by user and time."""
    total = int(draw_schedule(world).rows.sum())
    log: dict[str, np.ndarray] = {
        name: np.empty(total, dtype=_KEPT_TYPES.get(name, np.int8))
        for name in (*LOG_COLUMNS, "run")
    }
    filled = 0
    for block in draw_log(world):
        rows = slice(filled, filled + len(block["user_id"]))
        for name, column in log.items():
            column[rows] = block[name]
        filled = rows.stop
        progress(filled / total)
    return log


def _logged_twice(world: SyntheticWorld, log: dict[str, np.ndarray]) -> np.ndarray:
    """Return the standard rows in order, those that are logged twice with their twin."""
    config, rng = world.config, world.stream("twice")
    standard = np.flatnonzero(log["is_rand"] == 0)
    on_page = log["tab"][standard] == _TAB_LOGGED_TWICE
    share = np.where(on_page, config.tab_6_twice, config.other_twice)
    return np.repeat(standard, 1 + (rng.random(len(standard)) < share))


def _write_log(path: Path, log: dict[str, np.ndarray], rows: np.ndarray) -> None:
    with atomic_path(path) as part, part.open("wb") as file:
        # pyarrow would quote the names.
        file.write((",".join(LOG_COLUMNS) + "\n").encode())
        for first in range(0, len(rows), _BATCH_ROWS):
            batch = rows[first : first + _BATCH_ROWS]
            table = pa.table({name: log[name][batch] for name in LOG_COLUMNS})
            pacsv.write_csv(table, file, pacsv.WriteOptions(include_header=False))


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with atomic_path(path) as part:
        table.to_csv(part, index=False, lineterminator="\n")


def _write_lines(path: Path, header: str, blocks: Iterable[bytes]) -> None:
    with atomic_path(path) as part, part.open("wb") as file:
        file.write(f"{header}\n".encode())
        file.writelines(blocks)

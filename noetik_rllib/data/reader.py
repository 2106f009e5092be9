"""Reading KuaiRand's CSV files into one cleaned, sorted interaction log and two feature tables."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from noetik_rllib.data.schema import (
    LOG_COLUMNS,
    LOG_RANGES,
    MAX_TAGS,
    SIGNAL_COLUMNS,
    USER_COLUMNS,
    VIDEO_COLUMNS,
    SourceFile,
)
from noetik_rllib.data.signals import SIGNALS, watch_ratio
from noetik_rllib.errors import UserError, did_you_mean

#: Columns of the features files that hold text; all others are numbers.
_TEXT_COLUMNS = ("user_active_degree", "video_type", "upload_type", "tag")

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class InteractionLog:
    """Every exposure of a video to a user, sorted by (user, time); N rows.

    Attributes:
        user_id, video_id, time_ms, play_time_ms, duration_ms: (N,) int64. Milliseconds, UTC.
        tab: (N,) int64, page of the app.
        is_random: (N,) bool, True where the video was drawn uniformly.
        signals: (N, 9) float32 in ``SIGNALS`` order.
    """

    user_id: np.ndarray
    video_id: np.ndarray
    time_ms: np.ndarray
    play_time_ms: np.ndarray
    duration_ms: np.ndarray
    tab: np.ndarray
    is_random: np.ndarray
    signals: np.ndarray

    def __len__(self) -> int:
        return len(self.user_id)


@dataclass(frozen=True)
class KuaiRand:
    """What was read from one folder: the log, the features, the files and what was repaired."""

    log: InteractionLog
    users: pd.DataFrame
    videos: pd.DataFrame
    sources: list[SourceFile]
    repairs: dict[str, int]


def find_data_folder(source: str | Path) -> Path:
    """Return the folder with the CSV files: ``source`` itself or its ``data/``.

    Raises:
        UserError: neither holds a ``log_standard_*.csv``.
    """
    source = Path(source)
    if not source.is_dir():
        raise UserError(
            f"{source} is not a folder: expected a KuaiRand folder such as KuaiRand-Pure"
        )
    for folder in (source / "data", source):
        if any(folder.glob("log_standard_*.csv")):
            return folder
    raise UserError(
        f"{source} holds no KuaiRand log: expected log_standard_*.csv in it or in its data/ folder"
    )


def find_files(folder: Path, pattern: str, *, required: bool) -> list[Path]:
    """Return the files of ``folder`` that match ``pattern``, sorted by name.

    Raises:
        UserError: there is none and it is ``required``.
    """
    files = sorted(folder.glob(pattern))
    if required and not files:
        raise UserError(f"{folder} holds no {pattern}: every KuaiRand variant has it")
    return files


def read_csv(
    path: Path, columns: Sequence[str], types: Mapping[str, pa.DataType] | None = None
) -> pa.Table:
    """Read ``columns`` of a CSV file, int64 for logs, float64 and text for features.

    Args:
        path: the file.
        columns: those to read; ``LOG_COLUMNS`` of a log.
        types: other types than these, by column.

    Raises:
        UserError: unreadable, empty, a missing or repeated column, a value of the wrong type.
    """
    is_log = tuple(columns) == LOG_COLUMNS
    try:
        with path.open(encoding="utf-8-sig") as stream:  # some tools put a BOM first
            header = stream.readline().rstrip("\r\n").split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    for name in columns:
        if header.count(name) != 1:
            found = "is missing" if name not in header else "stands there twice"
            guess = did_you_mean(name, header) if name not in header else ""
            raise UserError(f"{path}: column '{name}' {found} in its first line.{guess}")
    usual = {
        name: pa.string() if name in _TEXT_COLUMNS else pa.int64() if is_log else pa.float64()
        for name in columns
    }
    try:
        table = pacsv.read_csv(
            path,
            convert_options=pacsv.ConvertOptions(
                include_columns=list(columns),
                column_types={**usual, **(types or {})},
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from None
    if table.num_rows == 0 and is_log and "random" not in path.name:
        raise UserError(f"{path} holds no row: expected one row per exposure below the header")
    return table


def check_log(path: Path, table: pa.Table) -> None:
    """Refuse blanks and values out of range, naming the file, the column and the line."""
    for name in LOG_COLUMNS:
        column = table[name]
        if column.null_count:
            line = pc.index(pc.is_null(column), True).as_py() + 2
            raise UserError(f"{path}:{line}: column '{name}' is blank; expected a whole number")
        low, high = LOG_RANGES.get(name, (None, None))
        if low is None or len(column) == 0:
            continue
        wrong = pc.or_(pc.less(column, low), pc.greater(column, high))
        if pc.any(wrong).as_py():
            row = pc.index(wrong, True).as_py()
            raise UserError(
                f"{path}:{row + 2}: column '{name}' is {column[row].as_py()}; "
                f"expected {low} to {high}"
            )


def _check_tags(path: Path, table: pa.Table) -> None:
    """Refuse a tag field that is not up to 5 whole numbers, such as 39 or "20,43"."""
    expected = rf"^\d{{1,9}}(,\d{{1,9}}){{0,{MAX_TAGS - 1}}}$"
    wrong = pc.fill_null(pc.invert(pc.match_substring_regex(table["tag"], expected)), False)
    if pc.any(wrong).as_py():
        row = pc.index(wrong, True).as_py()
        raise UserError(
            f"{path}:{row + 2}: tag '{table['tag'][row].as_py()}' is not up to {MAX_TAGS} whole "
            'numbers, such as 39 or "20,43"'
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_kuairand(source: str | Path, progress: Progress | None = None) -> KuaiRand:
    """Read every log and the features of a KuaiRand folder.

    Exact duplicates are dropped, negative play times become 0, rows are sorted by user and time
    (published files are two interleaved runs), rows of one request stay in file order.

    Args:
        source: the folder, with or without ``data/`` below it.
        progress: called with what is being done and the share done, 0 to 1.

    Raises:
        UserError: anything in the files that does not fit the published schema.
    """
    folder = find_data_folder(source)
    logs = find_files(folder, "log_standard_*.csv", required=True)
    logs += find_files(folder, "log_random_*.csv", required=False)
    user_files = find_files(folder, "user_features_*.csv", required=True)
    video_files = find_files(folder, "video_features_basic_*.csv", required=True)
    todo = [(path, LOG_COLUMNS) for path in logs]
    todo += [(path, USER_COLUMNS) for path in user_files]
    todo += [(path, VIDEO_COLUMNS) for path in video_files]

    tables: dict[Path, pa.Table] = {}
    sources: list[SourceFile] = []
    for number, (path, columns) in enumerate(todo):
        if progress:
            progress(f"reading {path.name}", number / len(todo))
        tables[path] = read_csv(path, columns)
        if columns == LOG_COLUMNS:
            check_log(path, tables[path])
        if columns == VIDEO_COLUMNS:
            _check_tags(path, tables[path])
        rows = tables[path].num_rows
        sources.append(SourceFile(name=path.name, rows=rows, sha256=_sha256(path)))
    if progress:
        progress("sorting", 1.0)

    log, repairs = _clean_log(pa.concat_tables([tables[path] for path in logs]))
    users = _features(user_files, tables, "user_id")
    videos = _features(video_files, tables, "video_id")
    repairs["users_without_features"] = int((~np.isin(np.unique(log.user_id), users.index)).sum())
    shown = np.unique(log.video_id)
    repairs["videos_without_features"] = int((~np.isin(shown, videos.index)).sum())
    repairs["videos_without_duration"] = int(videos["video_duration"].isna().sum())
    repairs["videos_without_tag"] = int(videos["tag"].isna().sum())
    return KuaiRand(log, users, videos, sources, repairs)


def _clean_log(table: pa.Table) -> tuple[InteractionLog, dict[str, int]]:
    """Drop duplicates, repair, sort; return the log and the number of repairs of each kind."""
    frame = table.to_pandas()
    rows = len(frame)
    frame = frame.drop_duplicates()
    repairs = {
        "duplicate_rows_dropped": rows - len(frame),
        "negative_play_time_set_to_0": int((frame["play_time_ms"] < 0).sum()),
        "unknown_duration_rows": int((frame["duration_ms"] == 0).sum()),
    }
    columns = {name: frame[name].to_numpy() for name in LOG_COLUMNS}
    columns["play_time_ms"] = np.maximum(columns["play_time_ms"], 0)
    # Stable: rows of one request keep the order of the file.
    order = np.lexsort((columns["time_ms"], columns["user_id"]))
    columns = {name: values[order] for name, values in columns.items()}
    signals = np.empty((len(order), len(SIGNALS)), dtype=np.float32)
    for position, name in enumerate(SIGNALS):
        if name == "watch_ratio":
            values = watch_ratio(columns["play_time_ms"], columns["duration_ms"])
        else:
            values = columns[SIGNAL_COLUMNS[name]]
        signals[:, position] = values
    log = InteractionLog(
        user_id=columns["user_id"],
        video_id=columns["video_id"],
        time_ms=columns["time_ms"],
        play_time_ms=columns["play_time_ms"],
        duration_ms=columns["duration_ms"],
        tab=columns["tab"],
        is_random=columns["is_rand"].astype(bool),
        signals=signals,
    )
    return log, repairs


def _features(files: list[Path], tables: dict[Path, pa.Table], key: str) -> pd.DataFrame:
    """Concatenate feature files and index them by ``key``, ascending."""
    frame = pa.concat_tables([tables[path] for path in files]).to_pandas()
    if frame[key].isna().any():
        line = int(frame[key].isna().to_numpy().argmax()) + 2
        raise UserError(f"{files[0]}:{line}: column '{key}' is blank; expected a whole number")
    frame[key] = frame[key].astype(np.int64)
    repeated = frame[key].duplicated().to_numpy()
    if repeated.any():
        value = frame[key].to_numpy()[repeated.argmax()]
        raise UserError(f"{files[0]}: {key} {value} stands there twice; expected one row each")
    return frame.set_index(key).sort_index()

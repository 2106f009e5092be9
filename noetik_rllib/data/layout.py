"""From a mapping to the files of a folder and to what each of their columns must hold."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from noetik_rllib.data.csv_table import Column
from noetik_rllib.data.forms import Category, Flag
from noetik_rllib.data.mapping import ItemFiles, LogFiles, Mapping, UserFiles
from noetik_rllib.errors import UserError
from noetik_rllib.state import TABS

#: 39 bits leave room for a key of user and time in 63. KuaiRand's ids end below 2^25.
MAX_ID = 2**39 - 1
#: 2015 to 2100 in seconds: another unit by mistake falls outside.
_FIRST_SECOND, _LAST_SECOND = 1_420_070_400, 4_102_444_800
#: Steps without a clock are laid on one that begins on Monday 2024-01-01, 00:00 in UTC+8.
_STEP_START_MS = 1_704_038_400_000


def find_folder(source: str | Path, mapping: Mapping) -> Path:
    """Return the folder with the log files: ``source`` itself or its ``data/``.

    Raises:
        UserError: neither holds one.
    """
    source = Path(source)
    patterns = " or ".join(mapping.log.standard)
    if not source.is_dir():
        raise UserError(f"{source} is not a folder: expected one that holds {patterns}")
    for folder in (source / "data", source):
        if any(any(folder.glob(pattern)) for pattern in mapping.log.standard):
            return folder
    raise UserError(
        f"{source} holds no {mapping.name} log: expected {patterns} in it or in its data/ folder"
    )


def matching(folder: Path, patterns: Iterable[str], *, required: bool) -> list[Path]:
    """Return the files of a folder that match, in the order of patterns and names.

    Raises:
        UserError: there is none though the mapping asks for it.
    """
    files = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    if required and not files:
        raise UserError(f"{folder} holds no {' or '.join(patterns)}: the mapping names it")
    return list(dict.fromkeys(files))


def log_columns(log: LogFiles) -> list[Column]:
    """Say what each column of the log must hold."""
    flags = {signal.columns[0] for signal in log.signals.values() if isinstance(signal, Flag)}
    if log.is_random is not None:
        flags.add(log.is_random)
    texts = {log.user if part == "users" else log.item for part in log.text_ids}
    milliseconds = {log.play_time_ms, log.duration_ms}
    columns = []
    for name in log.columns():
        low, high = log.ranges.get(name, (None, None))
        if name in texts:
            column = Column(name, "text")
        elif name in (log.user, log.item):
            column = Column(name, "whole", low=0, high=MAX_ID)
        elif name == log.time.column:
            column = _time_column(log)
        elif name in flags:
            column = Column(name, "whole", low=0, high=1)
        elif name == log.tab:
            column = Column(name, "whole", low=0, high=TABS - 1)
        elif name in milliseconds or log.schema_columns is not None:
            column = Column(name, "whole", low=low, high=high)
        else:
            column = Column(name, "decimal", low=low, high=high)
        columns.append(column)
    return columns


def _time_column(log: LogFiles) -> Column:
    name = log.time.column
    if log.time.unit == "step":
        return Column(name, "whole", low=0, high=10**9)
    scale = 1000 if log.time.unit == "ms" else 1
    return Column(name, "whole", low=_FIRST_SECOND * scale, high=_LAST_SECOND * scale)


def to_ms(table: pa.Table, log: LogFiles) -> pa.Table:
    """Bring the time to milliseconds since the Unix epoch."""
    if log.time.unit == "ms":
        return table
    time = table[log.time.column].to_numpy().astype(np.int64)
    if log.time.unit == "s":
        time = time * 1000
    else:
        time = _STEP_START_MS + (time * (log.time.seconds_per_step * 1000)).astype(np.int64)
    place = table.column_names.index(log.time.column)
    return table.set_column(place, log.time.column, pa.array(time))


def feature_columns(part: UserFiles | ItemFiles, *, text_key: bool) -> list[Column]:
    """Say what each column of a features file must hold."""
    key = Column(part.key, "text") if text_key else Column(part.key, "whole", low=0, high=MAX_ID)
    columns = {part.key: key}
    if isinstance(part, ItemFiles):
        for name in part.numbers:
            columns[name] = Column(name, "decimal", blank=True)
        for name in part.texts:
            columns[name] = Column(name, "text", blank=True)
        return list(columns.values())
    for feature in part.features:
        if isinstance(feature, Category):
            text = any(isinstance(value, str) for value in feature.values)
            columns[feature.column] = Column(
                feature.column, "text" if text else "decimal", blank=True
            )
        else:
            columns.setdefault(feature.column, Column(feature.column, "decimal", blank=True))
    return list(columns.values())

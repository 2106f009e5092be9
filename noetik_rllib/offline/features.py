"""User features of the state and the video catalogue, fitted on the training part alone."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noetik_rllib.data.forms import Blank, Category, Equals, LogNumber, Number, feature_names
from noetik_rllib.data.mapping import ItemFiles, UserFiles
from noetik_rllib.data.schema import MAX_TAGS
from noetik_rllib.offline.catalog import NUMERIC_NAMES, Catalog
from noetik_rllib.offline.manifest import Normaliser, Vocabulary
from noetik_rllib.state import USER_SIZE

#: Standardised features are cut here, so that one celebrity does not stretch the scale.
CLIP = 10.0


def fit_normaliser(values: np.ndarray) -> Normaliser:
    """Mean and standard deviation of the columns of (N, k), ignoring blanks.

    A column without spread, or without any value, keeps its scale (standard deviation 1).
    """
    known = ~np.isnan(values)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0.0).sum(axis=0) / count
    variance = (np.where(known, values - mean, 0.0) ** 2).sum(axis=0) / count
    std = np.sqrt(variance)
    return Normaliser(mean=mean.tolist(), std=np.where(std > 1e-6, std, 1.0).tolist())


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """A numeric column as float64, NaN where blank."""
    return pc.fill_null(table[name].cast(pa.float64()), float("nan")).to_numpy()


class UserTable:
    """The users' features file, looked up by user.

    Args:
        table: one row per user; None where there is no such file.
        mapping: how it is read; None likewise.
        user_id: the users of the dataset, ascending, (n,) int64.
        keys: the file's ids as the log counts them, (rows,) int64.
    """

    def __init__(
        self,
        table: pa.Table | None,
        mapping: UserFiles | None,
        user_id: np.ndarray,
        keys: np.ndarray,
    ) -> None:
        self.features = mapping.features if mapping else ()
        self._table = table
        n = len(user_id)
        order = np.argsort(keys, kind="stable")
        place = np.searchsorted(keys, user_id, sorter=order) if len(keys) else np.zeros(n, int)
        row = order[np.minimum(place, len(keys) - 1)] if len(keys) else np.zeros(n, np.int64)
        self.known = keys[row] == user_id if len(keys) else np.zeros(n, dtype=bool)
        self._row = row

    def _column(self, name: str) -> np.ndarray:
        """A numeric column by user, NaN where blank or without a row."""
        if not self._table:
            return np.full(len(self.known), np.nan)
        return np.where(self.known, _numbers(self._table, name)[self._row], np.nan)

    def _texts(self, name: str) -> np.ndarray:
        if not self._table:
            return np.full(len(self.known), None, dtype=object)
        column = self._table[name].combine_chunks()
        texts = np.array([*column.dictionary.to_pylist(), None], dtype=object)
        codes = pc.fill_null(column.indices, len(texts) - 1).to_numpy()
        return texts[np.where(self.known, codes[self._row], len(texts) - 1)]

    def counts(self) -> dict[str, int]:
        """Count users of the file with blanks, and with a value that stands for 'unknown'."""
        if self._table is None:
            return {}
        blank = np.zeros(len(self._table), dtype=bool)
        counts = {}
        for feature in self.features:
            column = self._table[feature.column]
            blank |= pc.is_null(column).to_numpy()
            if isinstance(feature, Equals) and feature.unknown is not None:
                unknown = _numbers(self._table, feature.column) == feature.unknown
                counts[f"users_with_unknown_{feature.name}"] = int(np.count_nonzero(unknown))
        return {"users_with_blank_features": int(np.count_nonzero(blank)), **counts}

    def numbers(self) -> np.ndarray:
        """Return the features that are standardised, (n, k) float64, NaN where unknown."""
        columns = []
        for feature in self.features:
            if isinstance(feature, LogNumber):
                columns.append(np.log1p(self._column(feature.column).clip(min=0)))
            elif isinstance(feature, Number):
                columns.append(self._column(feature.column))
        return np.stack(columns, axis=1) if columns else np.zeros((len(self.known), 0))

    def encode(self, normaliser: Normaliser) -> np.ndarray:
        """Encode users as (n, 32) float32, in the order of the mapping's ``user_names``.

        A user without a row is all zeros: the average in every standardised feature, and
        ``features_known`` 0.
        """
        out = np.zeros((len(self.known), USER_SIZE))
        names = list(feature_names(self.features))
        standard = (self.numbers() - normaliser.mean) / normaliser.std
        standard = np.nan_to_num(standard).clip(-CLIP, CLIP)
        done = 0
        for feature in self.features:
            if isinstance(feature, LogNumber | Number):
                out[:, names.index(feature.name)] = standard[:, done]
                done += 1
            elif isinstance(feature, Equals):
                out[:, names.index(feature.name)] = self._column(feature.column) == feature.equals
            elif isinstance(feature, Blank):
                blank = np.isnan(self._column(feature.column)) & self.known
                out[:, names.index(feature.name)] = blank
            elif isinstance(feature, Category):
                self._one_hot(feature, out[:, names.index(f"{feature.name}_{feature.values[0]}") :])
        out[:, USER_SIZE - 1] = self.known
        return out.astype(np.float32)

    def _one_hot(self, feature: Category, out: np.ndarray) -> None:
        text = any(isinstance(value, str) for value in feature.values)
        held = self._texts(feature.column) if text else self._column(feature.column)
        for place, value in enumerate(feature.values):
            out[:, place] = held == (str(value) if text else value)


class ItemTable:
    """The videos' features, and the ids that are known from a log alone, by dense index.

    Those of the file come first, by id; then those of the training part; then the others: so that
    no test row moves the index of a video in training.

    Args:
        table: one row per video; None where there is no such file.
        mapping: how it is read; None likewise.
        keys: the file's ids, as the log counts them, (rows,) int64.
        log_only: ids without a row, in order.
    """

    def __init__(
        self,
        table: pa.Table | None,
        mapping: ItemFiles | None,
        keys: np.ndarray,
        log_only: np.ndarray,
    ) -> None:
        self._mapping = mapping
        self._log_only = len(log_only)
        if table is not None and not (keys[1:] > keys[:-1]).all():
            order = np.argsort(keys, kind="stable")
            table, keys = table.take(pa.array(order)), keys[order]
        self._table = table
        self.video_id = np.concatenate([keys, log_only]).astype(np.int64)
        self.with_features = len(keys)

    def __len__(self) -> int:
        return len(self.video_id)

    def _number(self, name: str | None) -> np.ndarray:
        """A numeric column by index, NaN where unknown."""
        if self._table is None or name is None:
            return np.full(len(self), np.nan)
        return np.append(_numbers(self._table, name), np.full(self._log_only, np.nan))

    def _text(self, name: str | None) -> tuple[list[str], np.ndarray]:
        """The distinct texts of a column, and which each video has, (n,) int32; -1 is blank."""
        if self._table is None or name is None:
            return [], np.full(len(self), -1, dtype=np.int32)
        column = self._table[name].combine_chunks()
        codes = pc.fill_null(column.indices, -1).to_numpy()
        return column.dictionary.to_pylist(), np.append(
            codes, np.full(self._log_only, -1, dtype=np.int32)
        )

    @property
    def ln_duration(self) -> np.ndarray:
        """ln(duration in ms), (n,) float64; NaN where unknown."""
        duration = self._number(self._mapping.duration_ms if self._mapping else None)
        return np.log(np.where(duration > 0, duration, np.nan))

    def vocabulary(self, trained: np.ndarray) -> Vocabulary:
        """Tags and types of the videos that were shown in the training part, ascending.

        Args:
            trained: (n,) bool.
        """
        mapping = self._mapping
        texts, codes = self._text(mapping.tags if mapping else None)
        shown = self._shown(codes, trained)
        tags = {int(tag) for code in shown for tag in texts[code].split(",")}
        types = {}
        for kind in ("type", "upload_type"):
            texts, codes = self._text(getattr(mapping, kind) if mapping else None)
            types[kind] = sorted(texts[code] for code in self._shown(codes, trained))
        return Vocabulary(
            tags=sorted(tags), video_types=types["type"], upload_types=types["upload_type"]
        )

    @staticmethod
    def _shown(codes: np.ndarray, trained: np.ndarray) -> np.ndarray:
        shown = np.unique(codes[trained])
        return shown[shown >= 0]

    def counts(self) -> dict[str, int]:
        """Count what is blank or many-valued in the features file."""
        mapping = self._mapping
        if self._table is None or mapping is None:
            return {}
        counts = {}
        if mapping.duration_ms is not None:
            unknown = np.isnan(self.ln_duration[: self.with_features])
            counts["videos_without_duration"] = int(unknown.sum())
        if mapping.tags is not None:
            texts, codes = self._text(mapping.tags)
            several = np.array([*("," in text for text in texts), False])
            counts["videos_without_tag"] = int((codes[: self.with_features] < 0).sum())
            counts["videos_with_several_tags"] = int(several[codes].sum())
        return counts

    def catalog(self, vocabulary: Vocabulary, duration: Normaliser) -> Catalog:
        """Return the catalogue.

        Args:
            vocabulary: tags and types that have a code.
            duration: normaliser of ln(duration in ms).
        """
        mapping = self._mapping
        texts, codes = self._text(mapping.tags if mapping else None)
        tags, tag_codes = _table_of_tags(
            texts, {tag: place + 1 for place, tag in enumerate(vocabulary.tags)}
        )
        known = {"type": vocabulary.video_types, "upload_type": vocabulary.upload_types}
        type_codes = {}
        for kind, values in known.items():
            names, of_video = self._text(getattr(mapping, kind) if mapping else None)
            place = {name: number + 1 for number, name in enumerate(values)}
            lookup = np.array([*(place.get(name, 0) for name in names), 0], dtype=np.int64)
            type_codes[kind] = lookup[of_video]
        ln_duration = self.ln_duration
        unknown = np.isnan(ln_duration)
        scaled = (ln_duration - duration.mean[0]) / duration.std[0]
        numeric = np.zeros((len(self), len(NUMERIC_NAMES)), dtype=np.float32)
        numeric[:, 0] = np.nan_to_num(scaled).clip(-CLIP, CLIP)
        numeric[:, 1] = unknown
        height, width = (self._number(getattr(mapping, side, None)) for side in ("height", "width"))
        numeric[:, 2] = height > width
        numeric[self.with_features :, 3] = 1.0
        creator = self._number(mapping.creator if mapping else None)
        return Catalog(
            video_id=self.video_id,
            author_id=np.where(np.isnan(creator), -1, creator).astype(np.int64),
            duration_ms=np.where(unknown, 0, np.exp(np.nan_to_num(ln_duration)).round()).astype(
                np.int64
            ),
            tags=tags[codes],
            tag_codes=tag_codes[codes],
            video_type_code=type_codes["type"],
            upload_type_code=type_codes["upload_type"],
            numeric=numeric,
        )


def _table_of_tags(texts: list[str], codes: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Tags and their codes for each distinct text, (k + 1, 5) int64 each; the last row is blank."""
    tags = np.full((len(texts) + 1, MAX_TAGS), -1, dtype=np.int64)
    for row, text in enumerate(texts):
        numbers = [int(tag) for tag in text.split(",")]
        tags[row, : len(numbers)] = numbers
    known = [codes.get(tag, 0) for tag in tags.reshape(-1).tolist()]
    return tags, np.array(known, dtype=np.int64).reshape(tags.shape)

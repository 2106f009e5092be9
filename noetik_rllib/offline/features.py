"""User features of the state and the video catalogue, fitted on the training part alone."""

from __future__ import annotations

import numpy as np
import pandas as pd

from noetik_rllib.data.schema import MAX_TAGS
from noetik_rllib.offline.catalog import NUMERIC_NAMES, Catalog
from noetik_rllib.offline.manifest import Normaliser, Vocabulary
from noetik_rllib.state import ACTIVE_DEGREES, ANONYMOUS_FLAGS, USER_NAMES, USER_SIZE

_COUNTS = {
    "log_follows": "follow_user_num",
    "log_fans": "fans_user_num",
    "log_friends": "friend_user_num",
    "log_register_days": "register_days",
}
#: Standardised features are cut here, so that one celebrity does not stretch the scale.
_CLIP = 10.0


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


def user_counts(users: pd.DataFrame, user_id: np.ndarray) -> np.ndarray:
    """Logarithms of the four counts of each user, (n, 4); NaN where unknown."""
    rows = users.reindex(user_id)
    return np.log1p(rows[list(_COUNTS.values())].to_numpy(dtype=np.float64).clip(min=0))


def user_features(users: pd.DataFrame, user_id: np.ndarray, normaliser: Normaliser) -> np.ndarray:
    """Encode users as (n, 32) float32, in ``USER_NAMES`` order.

    A user without a row in the features file is all zeros: the average in every standardised
    feature, and ``features_known`` 0.
    """
    rows = users.reindex(user_id)
    column = {name: place for place, name in enumerate(USER_NAMES)}
    out = np.zeros((len(user_id), USER_SIZE))
    counts = (user_counts(users, user_id) - normaliser.mean) / normaliser.std
    out[:, : len(_COUNTS)] = np.nan_to_num(counts).clip(-_CLIP, _CLIP)
    degree = rows["user_active_degree"].to_numpy(dtype=object)
    for name in ACTIVE_DEGREES:
        out[:, column[f"active_degree_{name}"]] = degree == name
    # -124 stands for 'no or unknown' in is_live_streamer and is never mixed with 0.
    out[:, column["live_streamer"]] = rows["is_live_streamer"] == 1
    out[:, column["video_author"]] = rows["is_video_author"] == 1
    out[:, column["low_active_period"]] = rows["is_lowactive_period"] == 1
    for name in (*ANONYMOUS_FLAGS, "onehot_feat0"):
        out[:, column[name]] = rows[name] == 1
    known = np.isin(user_id, users.index)
    out[:, column["onehot_feat12_17_missing"]] = rows[ANONYMOUS_FLAGS[0]].isna() & known
    for value in range(7):
        out[:, column[f"onehot_feat1_{value}"]] = rows["onehot_feat1"] == value
    out[:, column["features_known"]] = known
    return out.astype(np.float32)


def fit_vocabulary(videos: pd.DataFrame, trained: np.ndarray) -> Vocabulary:
    """Tags and types of the videos that were shown in the training part, ascending."""
    rows = videos.reindex(np.intersect1d(trained, videos.index))
    tags = {int(tag) for text in rows["tag"].dropna() for tag in str(text).split(",")}
    return Vocabulary(
        tags=sorted(tags),
        video_types=sorted(rows["video_type"].dropna().unique()),
        upload_types=sorted(rows["upload_type"].dropna().unique()),
    )


def fit_duration(videos: pd.DataFrame, trained: np.ndarray) -> Normaliser:
    """Mean and standard deviation of ln(duration in ms) over the videos of the training part."""
    rows = videos.reindex(np.intersect1d(trained, videos.index))
    return fit_normaliser(np.log(rows[["video_duration"]].to_numpy(dtype=np.float64)))


def _tag_lists(videos: pd.DataFrame) -> np.ndarray:
    """Tag numbers of each video, (n, 5) int64, -1 padded."""
    tags = np.full((len(videos), MAX_TAGS), -1, dtype=np.int64)
    for place, text in enumerate(videos["tag"]):
        if isinstance(text, str):
            numbers = [int(tag) for tag in text.split(",")]
            tags[place, : len(numbers)] = numbers
    return tags


def _codes(values: np.ndarray, vocabulary: list[int] | list[str]) -> np.ndarray:
    """Position in the vocabulary + 1, or 0 where it is not in it; int64 of the input's shape."""
    code = {value: place + 1 for place, value in enumerate(vocabulary)}
    flat = [code.get(value, 0) for value in values.reshape(-1).tolist()]
    return np.array(flat, dtype=np.int64).reshape(values.shape)


def build_catalog(
    videos: pd.DataFrame,
    log_only: np.ndarray,
    vocabulary: Vocabulary,
    duration: Normaliser,
) -> Catalog:
    """Give every video a dense index: those with features by id, then the others.

    Args:
        videos: features by ``video_id``, ascending.
        log_only: ids of videos that have rows in a log but no features, in order.
        vocabulary: tags and types that have a code.
        duration: normaliser of ln(duration in ms).
    """
    rows = videos.reindex(np.concatenate([videos.index.to_numpy(), log_only]))
    tags = _tag_lists(rows)
    duration_ms = rows["video_duration"].to_numpy(dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_duration = (np.log(duration_ms) - duration.mean[0]) / duration.std[0]
    known = np.isfinite(log_duration)
    numeric = np.zeros((len(rows), len(NUMERIC_NAMES)), dtype=np.float32)
    numeric[:, 0] = np.where(known, log_duration, 0.0).clip(-_CLIP, _CLIP)
    numeric[:, 1] = ~known
    numeric[:, 2] = rows["server_height"] > rows["server_width"]
    numeric[len(videos) :, 3] = 1.0
    return Catalog(
        video_id=rows.index.to_numpy(dtype=np.int64),
        author_id=rows["author_id"].fillna(-1).to_numpy(dtype=np.int64),
        duration_ms=np.where(known, duration_ms, 0).astype(np.int64),
        upload_type=rows["upload_type"].fillna("UNKNOWN").to_numpy(dtype=object),
        tags=tags,
        tag_codes=_codes(tags, vocabulary.tags),
        video_type_code=_codes(rows["video_type"].to_numpy(dtype=object), vocabulary.video_types),
        upload_type_code=_codes(
            rows["upload_type"].to_numpy(dtype=object), vocabulary.upload_types
        ),
        numeric=numeric,
    )

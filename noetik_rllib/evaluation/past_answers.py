"""What users and videos were like before the split: by-user and by-video means of their answers.

A state holds 16 events; a user's whole past tells their tastes better. A policy does not know it,
but whoever evaluates one may: the better users are known, the less it matters that the logging
policy knew them too.

Shapes: B users, L videos of each, N videos, T tags.
"""

from __future__ import annotations

import numpy as np

from noetik_rllib.evaluation.logged_rows import logged_rows
from noetik_rllib.offline.dataset import OfflineDataset

#: Rows of the overall mean that are mixed into a video's mean, and rows of no effect into a user's
#: and a user's of a tag: about the ratio of the rows' variance to that between each.
_VIDEO_ROWS, _USER_ROWS, _TAG_ROWS = 20.0, 10.0, 4.0


class PastAnswers:
    """Shrunk means of engagement, half click and half watch ratio, over all rows before the split.

    Args:
        dataset: whose rows of ``train``, ``judge`` and, before the split, ``random`` are read.

    Attributes:
        NAMES: of the numbers of a pair.
    """

    NAMES = ("video, chosen", "video, uniform", "user", "user and tags", "tags known")

    def __init__(self, dataset: OfflineDataset) -> None:
        self._users = dataset.users.user_id
        self._tags, known = _places(dataset.catalog.tags)
        users, videos = len(self._users), dataset.manifest.num_videos
        self._user_rows, self._user_sum = np.zeros(users), np.zeros(users)
        self._tag_rows = np.zeros((users, known + 1), dtype=np.float32)
        self._tag_sum = np.zeros((users, known + 1), dtype=np.float32)
        self._video = np.zeros((videos, 2), dtype=np.float32)
        every = self._rows(dataset)
        for column, kind in enumerate((every[-1], ~every[-1])):
            user, video, answer = (values[kind] for values in every[:-1])
            if not len(user):
                self._video[:, column] = self._video[:, 0]
                continue
            rows = np.bincount(video, minlength=videos)
            total = np.bincount(video, weights=answer, minlength=videos)
            mean = (total + _VIDEO_ROWS * answer.mean()) / (rows + _VIDEO_ROWS)
            self._video[:, column] = mean
            beyond = answer - mean[video]
            self._user_rows += np.bincount(user, minlength=users)
            self._user_sum += np.bincount(user, weights=beyond, minlength=users)
            for place in self._tags.T:
                cell = user * (known + 1) + place[video]
                self._tag_rows += _table(cell, None, self._tag_rows.shape)
                self._tag_sum += _table(cell, beyond, self._tag_rows.shape)

    def of(
        self,
        user_id: np.ndarray,
        videos: np.ndarray,
        own: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Return ``NAMES`` of pairs, (B, L, 5) float32.

        Args:
            user_id: users, (B,).
            videos: (B, L).
            own: where the pairs are rows that were read here, with L = 1: the answer of each, half
                click and half watch ratio, and whether the logging policy chose the video, (B,).
                What is known of the user leaves the row itself out, which would tell its answer.
        """
        user = np.searchsorted(self._users, user_id)
        tags = self._tags[videos]  # (B, L, tags)
        there = tags < self._tag_rows.shape[1] - 1
        rows, beyond = np.zeros(len(user)), np.zeros(len(user))
        if own is not None:
            answer, chosen = own
            rows += 1
            beyond = answer - self._video[videos[:, 0], np.where(chosen, 0, 1)]
        level = (self._user_sum[user] - beyond) / (self._user_rows[user] - rows + _USER_ROWS)
        count = self._tag_rows[user[:, None, None], tags] - rows[:, None, None]
        # A tag's rows also carry the user's level, which is told apart.
        total = self._tag_sum[user[:, None, None], tags] - beyond[:, None, None]
        taste = (total - count * level[:, None, None]) / (count + _TAG_ROWS) * there
        known = count / (count + _TAG_ROWS) * there
        return np.stack(
            [
                self._video[videos, 0],
                self._video[videos, 1],
                np.broadcast_to(level[:, None], videos.shape),
                taste.sum(-1),
                known.sum(-1) / np.maximum(there.sum(-1), 1),
            ],
            axis=-1,
        ).astype(np.float32)

    def _rows(
        self, dataset: OfflineDataset
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Users' places, videos, engagement and whether the video was chosen, (R,) each, of the
        rows before the split.
        """
        columns = ("user_id", "time_ms", "actions", "propensity", "click", "watch_ratio")
        found: list[tuple[np.ndarray, ...]] = []
        for part in ("train", "judge", "random"):
            if not dataset.manifest.parts[part].rows:
                continue
            for rows in logged_rows(dataset, part, columns):
                early = dataset.before_split(rows["user_id"], rows["time_ms"])
                answer = 0.5 * (rows["click"] + rows["watch_ratio"])
                user = np.searchsorted(self._users, rows["user_id"])
                video, chosen = rows["actions"].astype(np.int64), np.isnan(rows["propensity"])
                found.append((user[early], video[early], answer[early], chosen[early]))
        user, video, answer, chosen = (
            np.concatenate(values) for values in zip(*found, strict=True)
        )
        return user, video, answer, chosen


def _places(tags: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the tags (N, tags) from 0, with the number of them in place of -1; and that number."""
    known = np.unique(tags[tags >= 0])
    return np.where(tags >= 0, np.searchsorted(known, tags), len(known)), len(known)


def _table(cell: np.ndarray, weights: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape))
    return np.bincount(cell, weights=weights, minlength=size).reshape(shape).astype(np.float32)

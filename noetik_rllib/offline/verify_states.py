"""Whether the states of a part's rows are those that the rows of all parts make."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from noetik_rllib.data.spans import beginnings
from noetik_rllib.offline.history import HistoryIndex, Requests, local_seconds
from noetik_rllib.offline.split import PARTS
from noetik_rllib.offline.verify_history import History, NoHistoryError, histories
from noetik_rllib.offline.verify_rows import Batch, Expected
from noetik_rllib.state import (
    AGE,
    CONTEXT_NAMES,
    DAY_SECONDS,
    EVENT_SIZE,
    USER_SIZE,
    encode_time,
)

#: Units in the last place by which another machine's logarithms and sums may differ.
_ULPS = 4
#: A time feature is the float32 nearest to its value in float64, whose own error this allows for:
#: an angle of 1 ms, 7e-8, is no more than a unit in the last place, and is to be seen.
_HALF_ULP = 0.5 * (1 + 1e-6)
_EVENT_NAMES = ("video", "watch ratio", "feedback", "age")
_RADIANS_PER_SECOND = 2 * np.pi / DAY_SECONDS


class Fault(NamedTuple):
    """A row whose state, or end, is not what the rows make; the first of a batch in a column."""

    row: int
    column: str
    found: str
    expected: str


class RebuiltStates:
    """Rebuilds the states of one part; ``compare`` takes its batches in order.

    Every ``obs``, and ``new_obs`` where no row of the session follows, is built from the user's
    features and rows again. The tab is taken from ``obs`` itself, and the
    time that was watched before a last ``new_obs`` from its gap: the dataset holds neither beside.

    Args:
        part: one of ``PARTS``.
        expected: the manifest, the layout and the users.
        directory: of the dataset.
        files: of each part, its Parquet files in order.
    """

    def __init__(
        self, part: str, expected: Expected, directory: Path, files: dict[str, list[str]]
    ) -> None:
        self._random = part == "random"
        self._layout = expected.layout
        self._users = expected.users
        self._user_names = expected.manifest.mapping.user_names
        self._signal_means = np.array(expected.manifest.signals.mean)
        # Users of train and of judge are not the same.
        apart = {"train": "judge", "judge": "train"}.get(part)
        parts = [name for name in PARTS if name != apart]
        self._number = parts.index(part)
        self._histories = histories(directory, [files[name] for name in parts])
        self._index: HistoryIndex | None = None
        self._place = np.zeros(0, dtype=np.int64)
        self._done = 0
        self._context = self._layout.context.start
        self._tabs = slice(
            self._context + CONTEXT_NAMES.index("tab_0"),
            self._context + CONTEXT_NAMES.index("click_rate"),
        )
        self._gap = self._context + CONTEXT_NAMES.index("log_gap_seconds")
        self._times = slice(self._context, self._context + 4)

    def compare(self, batch: Batch) -> list[Fault] | None:
        """Return the faults of some rows; None where the rows cannot be put together."""
        faults: dict[str, Fault] = {}
        start = 0
        while start < len(batch):
            try:
                while self._done == len(self._place):
                    self._load(next(self._histories))
            except (NoHistoryError, StopIteration):
                return None
            stop = min(len(batch), start + len(self._place) - self._done)
            for fault in self._compare(batch, slice(start, stop)):
                faults.setdefault(fault.column, fault)
            start = stop
        return list(faults.values())

    def _load(self, history: History) -> None:
        users = self._users
        row = np.searchsorted(users.user_id, history.log.user_id)
        if (users.user_id[np.minimum(row, len(users.user_id) - 1)] != history.log.user_id).any():
            raise NoHistoryError
        self._index = HistoryIndex(
            layout=self._layout,
            log=history.log,
            user_row=row,
            user_features=users.features,
            video_index=history.actions,
            signal_means=self._signal_means,
        )
        self._place = history.place[self._number]
        self._done = 0

    def _compare(self, batch: Batch, rows: slice) -> list[Fault]:
        """Compare rows of the batch whose users' history is loaded."""
        index = self._index
        assert index is not None  # loaded before
        columns = {name: values[rows] for name, values in batch.columns.items()}
        place = self._place[self._done : self._done + rows.stop - rows.start]
        # The history holds whole users, so the row after the last one is there, or another user's.
        after = self._place[self._done + 1 : self._done + 1 + len(place)]
        self._done += len(place)
        obs, new_obs = columns["obs"], columns["new_obs"]
        index.log.tab[place] = obs[:, self._tabs].argmax(axis=1)
        faults = []

        same_user = np.zeros(len(place), dtype=bool)
        same_user[: len(after)] = index.user_row[after] == index.user_row[place[: len(after)]]
        continues = np.zeros(len(place), dtype=bool)
        if not self._random:
            start = index.session_start
            continues[: len(after)] = start[after] == start[place[: len(after)]]
        left = same_user & ~continues
        wrong = np.flatnonzero(columns["terminateds"] != left)
        if len(wrong):
            row = int(wrong[0])
            was = "was away" if left[row] else "was not away"
            faults.append(
                Fault(
                    rows.start + row,
                    "terminateds",
                    str(columns["terminateds"][row]),
                    f"{left[row]}: by their rows, the user {was}",
                )
            )

        # Rows of one request on one page share a state.
        first = beginnings(index.request_start[place], index.log.tab[place])
        states = index.states(index.before(place[first]))
        if not first.all():
            states = states[np.cumsum(first) - 1]
        faults += self._states(
            "obs", rows.start + np.arange(len(place)), obs, states, index.log.time_ms[place]
        )

        last = np.flatnonzero(~continues)
        if not len(last):  # a user of more rows than a batch has
            return faults
        found, place = new_obs[last], place[last]
        seconds = np.expm1(np.clip(np.nan_to_num(found[:, self._gap].astype(np.float64)), 0, 30))
        watched = np.round(1000 * seconds).astype(np.int64)
        # The gap is stored as a logarithm: of a long one, not to the millisecond.
        unsure = (1 + seconds) * np.spacing(found[:, self._gap]).astype(np.float64)
        time_ms = index.log.time_ms[place] + watched
        states = index.states(Requests(place, index.request_end[place], time_ms))
        return faults + self._states(
            "new_obs", rows.start + last, found, states, time_ms, np.where(unsure > 5e-4, unsure, 0)
        )

    def _states(
        self,
        column: str,
        rows: np.ndarray,
        found: np.ndarray,
        states: np.ndarray,
        time_ms: np.ndarray,
        unsure_seconds: np.ndarray | None = None,
    ) -> list[Fault]:
        """Compare states found with those expected; only where bits differ, with tolerances."""
        other = np.flatnonzero(~(found == states).all(axis=1))
        if not len(other):
            return []
        exact = states[other].astype(np.float64)
        exact[:, self._times] = encode_time(local_seconds(time_ms[other]))
        near = found[other]
        allowed = np.zeros_like(exact)
        events = allowed[:, self._layout.history].reshape(len(other), -1, EVENT_SIZE)
        events[..., AGE] = 1
        allowed[:, self._layout.history] = events.reshape(len(other), -1)
        allowed[:, self._context :] = 1
        allowed *= _ULPS * np.spacing(np.maximum(np.abs(states[other]), 1))
        allowed[:, self._tabs] = 0
        allowed[:, self._times] = _HALF_ULP * np.spacing(np.abs(near[:, self._times]))
        if unsure_seconds is not None:
            slack = _RADIANS_PER_SECOND * unsure_seconds[other, None]
            allowed[:, self._times] += slack
        ok = np.abs(near - exact) <= allowed  # not a number is not near either
        wrong = np.flatnonzero(~ok.all(axis=1))
        if not len(wrong):
            return []
        row = int(wrong[0])
        position = int((~ok[row]).argmax())
        return [
            Fault(
                int(rows[other[row]]),
                column,
                f"{near[row, position]:.9g} at position {position}",
                f"{exact[row, position]:.9g} {self._basis(position)}",
            )
        ]

    def _basis(self, position: int) -> str:
        """Name what stands at a position, and say what gives it."""
        if position < USER_SIZE:
            return f"({self._user_names[position]}) by users.parquet"
        if position >= self._context:
            name = CONTEXT_NAMES[position - self._context]
        else:
            event, field = divmod(position - USER_SIZE, EVENT_SIZE)
            name = f"{_EVENT_NAMES[field]} of event {event}"
        return f"({name}) by the user's rows in all parts"

"""Whether the rows of a part are what they should be, batch by batch, in the order of the files.

Rows are counted from 0 within their file, as PyArrow and pandas count them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from noetik_rllib.data.signals import BINARY_SIGNALS, SIGNALS
from noetik_rllib.offline.catalog import IdIndex
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.findings import Findings
from noetik_rllib.offline.rows import EPISODE_ROW_BITS
from noetik_rllib.offline.split import PARTS
from noetik_rllib.state import AGE, FEEDBACK, VIDEO, WATCH_RATIO, feedback_bits

#: Differences that come from summing in another order.
TOLERANCE = 1e-6
#: Of an event's age, a logarithm up to 30 in single precision.
_AGE_TOLERANCE = 1e-5
#: Columns that are compared from row to row.
_SEQUENCE = ("eps_id", "t", "obs", "user_id", "time_ms")


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of one file.

    Attributes:
        file: path below the dataset.
        first_row: number of the first row within the file.
        columns: name -> (N,) or, for states, (N, size).
    """

    file: str
    first_row: int
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.columns["t"])

    def followers(self, after: Batch | None) -> dict[str, np.ndarray]:
        """Return what stands in the row after each, given the batch that comes next.

        The last row of a part is followed by itself.
        """
        end = self if after is None else after
        place = slice(-1, None) if after is None else slice(0, 1)
        return {
            name: np.concatenate([values[1:], end.columns[name][place]])
            for name, values in self.columns.items()
            if name in _SEQUENCE
        }


class Expected:
    """What the rows of every part are held to: bounds, users, videos.

    Args:
        dataset: whose manifest, catalogue and users can be read.
    """

    def __init__(self, dataset: OfflineDataset) -> None:
        self.manifest = dataset.manifest
        self.layout = dataset.layout
        self.users = dataset.users
        self.num_videos = len(dataset.catalog)
        self.low, self.high = dataset.layout.bounds(self.num_videos)
        self.video_index = IdIndex(dataset.catalog.video_id)
        self.weights = dataset.manifest.reward.as_array()


class PartCheck:
    """Checks one part; ``add`` takes its batches in order, ``close`` ends it.

    Attributes:
        rows, users, episodes: counted so far.
        reward_sum: of ``rewards``, so far.
        signal_sum, signal_products: sums of the signals (9,) and of their products (9, 9).
    """

    def __init__(self, part: str, expected: Expected, findings: Findings) -> None:
        self.part = part
        self.rows = self.users = self.episodes = 0
        self.reward_sum = 0.0
        self.signal_sum = np.zeros(len(SIGNALS))
        self.signal_products = np.zeros((len(SIGNALS), len(SIGNALS)))
        self._expected = expected
        self._findings = findings
        # Held back until the row after its last one is known.
        self._waiting: Batch | None = None

    def add(self, batch: Batch) -> None:
        """Check some rows by themselves, and those before them by what follows."""
        signals = np.stack([batch.columns[name] for name in SIGNALS], axis=1).astype(np.float64)
        self._states(batch)
        self._values(batch, signals)
        self._propensity(batch)
        self._origin(batch)
        self.rows += len(batch)
        self.episodes += int(np.count_nonzero(batch.columns["t"] == 0))
        self.reward_sum += float(batch.columns["rewards"].sum(dtype=np.float64))
        self.signal_sum += signals.sum(axis=0)
        self.signal_products += signals.T @ signals
        if self._waiting is None:
            self._find("steps", batch, "t", np.append(batch.columns["t"][0] == 0, True), "0")
        else:
            self._sequence(self._waiting, batch)
        self._waiting = batch

    def close(self) -> None:
        """Check the last rows: with them the part ends."""
        if self._waiting is not None:
            self._sequence(self._waiting, None)
            self._waiting = None

    def _find(
        self,
        check: str,
        batch: Batch,
        column: str,
        ok: np.ndarray,
        expected: str | np.ndarray | Callable[[int], str],
        *,
        found: str | np.ndarray | None = None,
    ) -> None:
        """Report the first of the rows that is not ok.

        Args:
            check: its name in the table of counts.
            batch: the rows.
            column: where the fault lies.
            ok: (N,) bool.
            expected: what should stand there: a text, a value a row, or a function of the row.
            found: what does; the column's own value where not given.
        """
        self._findings.count(check, len(batch))
        if ok.all():
            return
        row = int((~ok).argmax())
        found = batch.columns[column] if found is None else found
        wanted = expected(row) if callable(expected) else _text(expected, row)
        self._findings.add(
            f"{check} {column}",
            batch.file,
            f"{batch.file}: row {batch.first_row + row}: column '{column}' is "
            f"{_text(found, row)}; expected {wanted}",
        )

    def _states(self, batch: Batch) -> None:
        low, high = self._expected.low, self._expected.high
        for name in ("obs", "new_obs"):
            states = batch.columns[name]
            inside = (states >= low) & (states <= high)  # not a number is not inside either
            place = (~inside).argmax(axis=1)
            bounds = [f"{low[p]:g} to {high[p]:g} at position {p}" for p in np.unique(place)]
            self._find(
                "state bounds",
                batch,
                name,
                np.all(inside, axis=1),
                np.array(bounds)[np.unique(place, return_inverse=True)[1]],
                found=states[np.arange(len(states)), place],
            )

    def _values(self, batch: Batch, signals: np.ndarray) -> None:
        c, expected = batch.columns, self._expected
        for name in BINARY_SIGNALS:
            self._find("signals", batch, name, (c[name] == 0) | (c[name] == 1), "0 or 1")
        ratio = c["watch_ratio"]
        self._find("signals", batch, "watch_ratio", (ratio >= 0) & (ratio <= 1), "0 to 1")
        reward = signals @ expected.weights
        self._find("rewards", batch, "rewards", np.abs(c["rewards"] - reward) <= TOLERANCE, reward)
        steps = expected.manifest.episode_steps
        self._find("steps", batch, "t", (c["t"] >= 0) & (c["t"] < steps), f"0 to {steps - 1}")
        index = expected.video_index.of(c["video_id"])
        self._find("videos", batch, "video_id", index >= 0, "a video of catalog.parquet")
        self._find(
            "actions",
            batch,
            "actions",
            (c["actions"] == index) | (index < 0),
            lambda row: f"{index[row]}, the catalogue's index of video {c['video_id'][row]}",
        )

    def _propensity(self, batch: Batch) -> None:
        value = batch.columns["propensity"]
        uniform, unknown = (value > 0) & (value <= 1), np.isnan(value)
        if self.part == "random":
            ok, text = uniform, "above 0 and at most 1 for a uniformly exposed row"
        elif self.part == "train" and self._expected.manifest.random_in_train:
            ok, text = uniform | unknown, "above 0 and at most 1, or nan for a standard row"
        else:
            ok, text = unknown, "nan: nobody knows a standard row's"
        self._find("propensities", batch, "propensity", ok, text)

    def _origin(self, batch: Batch) -> None:
        """Check whose rows these are, and on which side of the split they lie."""
        c, users = batch.columns, self._expected.users
        user = np.minimum(np.searchsorted(users.user_id, c["user_id"]), len(users.user_id) - 1)
        known = users.user_id[user] == c["user_id"]
        self._find("users", batch, "user_id", known, "a user of users.parquet")
        held_out, split = users.held_out[user], users.split_ms[user]
        early = c["time_ms"] < split
        if self.part == "train":
            self._find("held-out users", batch, "user_id", ~held_out, "no held-out user")
        elif self.part == "judge":
            self._find("held-out users", batch, "user_id", held_out, "a held-out user")
        if self.part in ("train", "judge"):
            self._find("split", batch, "time_ms", early, lambda row: f"less than {split[row]}")
        elif self.part == "test" or self._expected.manifest.random_in_train:
            # Where random rows were added to train, those of held-out users stay here.
            ok = ~early | held_out if self.part == "random" else ~early
            self._find("split", batch, "time_ms", ok, lambda row: f"{split[row]} or more")
        owner = c["user_id"] * len(PARTS) + PARTS.index(self.part)
        self._find(
            "episode numbers",
            batch,
            "eps_id",
            c["eps_id"] >> EPISODE_ROW_BITS == owner,
            lambda row: f"{owner[row]} x 2^{EPISODE_ROW_BITS} and less than 2^{EPISODE_ROW_BITS}",
        )
        for name in ("obs", "new_obs"):
            features = c[name][:, self._expected.layout.user]
            same = (features == users.features[user]).all(axis=1)
            text = "that of the row's user in users.parquet"
            self._find("user features", batch, name, same, text, found="another user's")

    def _sequence(self, batch: Batch, after: Batch | None) -> None:
        """Check how each row goes on to the one after it."""
        c, then = batch.columns, batch.followers(after)
        exists = np.ones(len(batch), dtype=bool)
        exists[-1] = after is not None
        same_user = exists & (then["user_id"] == c["user_id"])
        goes_on = exists & (then["eps_id"] == c["eps_id"])
        self.users += int(np.count_nonzero(~same_user))
        user_rises = ~exists | (then["user_id"] >= c["user_id"])
        self._find("order", batch, "user_id", user_rises, "no more than in the row after")
        time_rises = ~same_user | (then["time_ms"] >= c["time_ms"])
        self._find("order", batch, "time_ms", time_rises, "no more than in the row after")
        number_rises = ~exists | (then["eps_id"] >= c["eps_id"])
        self._find("order", batch, "eps_id", number_rises, "no more than in the row after")
        step = np.where(goes_on, c["t"] + 1, 0)
        self._find(
            "steps",
            batch,
            "t",
            ~exists | (then["t"] == step),
            lambda row: f"to be followed by {step[row]}, not by {then['t'][row]}",
        )
        # The user's next row, in this episode or after a cut, goes on where this one led.
        continues = same_user & (c["new_obs"] == then["obs"]).all(axis=1)
        self._find(
            "new_obs is the next obs",
            batch,
            "new_obs",
            continues | ~goes_on,
            "the obs of the row after",
            found="another state",
        )
        self._ends(batch, same_user, goes_on, continues)
        self._events(batch, then["time_ms"], continues)

    def _ends(
        self, batch: Batch, same_user: np.ndarray, goes_on: np.ndarray, continues: np.ndarray
    ) -> None:
        """An episode ends once, at its last row: it is cut, or its user has left.

        A user has left if another row of theirs comes later, in a state that is not the next one.
        """
        c = batch.columns
        last_step = c["t"] == self._expected.manifest.episode_steps - 1
        left = ~goes_on & same_user & ~(last_step & continues)
        for name, expected in (("terminateds", left), ("truncateds", ~goes_on & ~left)):
            self._find("ends of episodes", batch, name, c[name] == expected, expected)

    def _events(self, batch: Batch, next_time_ms: np.ndarray, continues: np.ndarray) -> None:
        """Check that the answer to a row is an event of the state after it, with its age.

        Rows of the same request do not see each other; and of more later events than a state
        holds, it holds only those.
        """
        c = batch.columns
        rows = np.flatnonzero(~continues | (next_time_ms > c["time_ms"]))
        events = self._expected.layout.unpack(c["new_obs"][rows]).events
        own = np.empty((len(rows), 1, events.shape[-1]), dtype=np.float32)
        own[:, 0, VIDEO] = c["actions"][rows] + 1
        own[:, 0, WATCH_RATIO] = c["watch_ratio"][rows]
        flags = np.stack([c[name][rows] for name in BINARY_SIGNALS], axis=1)
        own[:, 0, FEEDBACK] = feedback_bits(flags)
        # Where nothing follows, the state is that after watching: its newest events are these.
        gap = np.maximum(next_time_ms - c["time_ms"], 0)[rows]
        own[:, 0, AGE] = np.where(continues[rows], np.log1p(gap / 1000.0), events[:, 0, AGE])
        apart = np.abs(events - own)
        same = (apart[..., :AGE] == 0).all(axis=2) & (apart[..., AGE] <= _AGE_TOLERANCE)
        oldest = events[:, -1]
        full = (oldest[:, VIDEO] > 0) & (oldest[:, AGE] <= own[:, 0, AGE] + _AGE_TOLERANCE)
        ok = np.ones(len(batch), dtype=bool)
        ok[rows] = same.any(axis=1) | full
        self._find(
            "answers in the next state",
            batch,
            "new_obs",
            ok,
            lambda row: f"a state with the row's answer to video index {c['actions'][row]}",
            found="a state without it",
        )


def _text(value: str | np.ndarray, row: int) -> str:
    if isinstance(value, str):
        return value
    return f"{value[row]:.9g}" if value.dtype.kind == "f" else str(value[row])

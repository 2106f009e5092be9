"""Whether the rows of a part are what they should be, batch by batch, in the order of the files.

What their states hold is the matter of ``verify_states``.

Rows are counted from 0 within their file, as PyArrow and pandas count them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from noetik_rllib.data.signals import BINARY_SIGNALS, SIGNALS
from noetik_rllib.offline.catalog import IdIndex
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.findings import TOLERANCE, Findings
from noetik_rllib.offline.rows import EPISODE_ROW_BITS
from noetik_rllib.offline.split import PARTS

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
        self.video_index = IdIndex(dataset.catalog.video_id)
        self.weights = dataset.manifest.reward.as_array()
        pool = dataset.manifest.random_pool
        #: As it is stored; not a number where the manifest names no pool, or one of nothing.
        self.propensity = np.float32(1.0 / pool if pool and pool > 0 else np.nan)


class PartCheck:
    """Checks one part; ``add`` takes its batches in order, ``close`` ends it.

    Attributes:
        rows, users, episodes: counted so far.
        reward_sum: of ``rewards``, so far.
        signal_sum, signal_products: sums of the signals (9,) and of their products (9, 9).
        shown, shown_at_random: which videos rows and uniformly exposed rows show, (videos,) bool.
    """

    def __init__(self, part: str, expected: Expected, findings: Findings) -> None:
        self.part = part
        self.rows = self.users = self.episodes = 0
        self.reward_sum = 0.0
        self.signal_sum = np.zeros(len(SIGNALS))
        self.signal_products = np.zeros((len(SIGNALS), len(SIGNALS)))
        self.shown = np.zeros(expected.num_videos, dtype=bool)
        self.shown_at_random = np.zeros(expected.num_videos, dtype=bool)
        self._expected = expected
        self._findings = findings
        # Held back until the row after its last one is known.
        self._waiting: Batch | None = None

    def add(self, batch: Batch) -> None:
        """Check some rows by themselves, and those before them by what follows."""
        signals = np.stack([batch.columns[name] for name in SIGNALS], axis=1).astype(np.float64)
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
        value, manifest = batch.columns["propensity"], self._expected.manifest
        uniform, unknown = value == self._expected.propensity, np.isnan(value)
        text = f"{self._expected.propensity:.9g}, 1 / the manifest's random_pool"
        if self.part == "random":
            ok, text = uniform, f"{text}, for a uniformly exposed row"
        elif self.part == "train" and manifest.random_in_train:
            ok, text = uniform | unknown, f"{text}, or nan for a standard row"
        else:
            ok, text = unknown, "nan: nobody knows a standard row's"
        self._find("propensities", batch, "propensity", ok, text)
        inside = (batch.columns["actions"] >= 0) & (batch.columns["actions"] < len(self.shown))
        self.shown[batch.columns["actions"][inside]] = True
        self.shown_at_random[batch.columns["actions"][inside & ~unknown]] = True

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


def _text(value: str | np.ndarray, row: int) -> str:
    if isinstance(value, str):
        return value
    return f"{value[row]:.9g}" if value.dtype.kind == "f" else str(value[row])

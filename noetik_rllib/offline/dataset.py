"""Reading an offline dataset: its manifest, catalogue, users and the columns of its parts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noetik_rllib.data.layout import MAX_ID
from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.errors import UserError, did_you_mean
from noetik_rllib.offline.catalog import CATALOG_NAME, Catalog
from noetik_rllib.offline.columns import column_to_numpy, fixed_lists
from noetik_rllib.offline.manifest import MANIFEST_NAME, Manifest
from noetik_rllib.offline.split import PARTS

#: Columns that an RLlib reader expects, then one per signal, then the row's origin.
RLLIB_COLUMNS = (
    "eps_id",
    "agent_id",
    "module_id",
    "t",
    "obs",
    "actions",
    "rewards",
    "new_obs",
    "terminateds",
    "truncateds",
)
ORIGIN_COLUMNS = ("user_id", "video_id", "time_ms", "propensity")
COLUMNS = RLLIB_COLUMNS + SIGNALS + ORIGIN_COLUMNS

USERS_NAME = "users.parquet"
#: What ids stand for where a log's ids are texts: of "users" and "items", id -> text.
KEYS_NAME = "keys.json"
#: Names that a dataset's files may have, the manifest apart.
DATASET_FILES = re.compile(
    rf"{re.escape(CATALOG_NAME)}|{re.escape(USERS_NAME)}|{re.escape(KEYS_NAME)}"
    rf"|({'|'.join(PARTS)})/part-\d+\.parquet|json/({'|'.join(PARTS)})/part-\d+\.json"
)


@dataclass(frozen=True)
class Users:
    """Users by row, ascending.

    Attributes:
        user_id: (n,) int64.
        features: (n, 32) float32, in the order of the manifest's ``user_names``.
        held_out: (n,) bool, kept from training.
        split_ms: (n,) int64, time from which on the user's rows are test.
    """

    user_id: np.ndarray
    features: np.ndarray
    held_out: np.ndarray
    split_ms: np.ndarray

    def save(self, directory: Path) -> None:
        """Write ``directory/users.parquet``."""
        columns = {
            name: fixed_lists(values) if values.ndim == 2 else pa.array(values)
            for name, values in vars(self).items()
        }
        table = pa.table(columns)
        pq.write_table(table, directory / USERS_NAME, compression="zstd")

    @classmethod
    def load(cls, directory: Path) -> Users:
        """Read ``directory/users.parquet``."""
        table = pq.read_table(directory / USERS_NAME)
        return cls(**{name: column_to_numpy(table[name]) for name in cls.__dataclass_fields__})


def is_dataset(directory: Path) -> bool:
    """Say whether a folder holds a dataset, of whatever version and condition."""
    try:
        content = json.loads((directory / MANIFEST_NAME).read_text(encoding="utf-8"))
    except ValueError:
        # Damaged; what else is there says whose it was.
        return (directory / CATALOG_NAME).is_file() and (directory / USERS_NAME).is_file()
    except OSError:
        return False
    return isinstance(content, dict) and "layout_version" in content


def foreign_file(directory: Path) -> Path | None:
    """Return the first file below a dataset's folder that is no part of one; None if there is none.

    Files go by their names, so that a damaged dataset, or one of another version, is known too.
    """
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if name != MANIFEST_NAME and not DATASET_FILES.fullmatch(name):
            return path
    return None


class OfflineDataset:
    """An offline dataset on disk, opened for reading.

    Args:
        directory: folder written by ``noetik data prepare``.

    Raises:
        UserError: not a dataset, damaged, or of another layout version.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.manifest = Manifest.load(self.directory)
        self.layout = self.manifest.layout
        for name in (CATALOG_NAME, USERS_NAME):
            if not (self.directory / name).is_file():
                raise UserError(f"{self.directory} is damaged: {name} is missing; prepare it again")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest, which holds the checksums of the dataset's sources in turn."""
        return hashlib.sha256((self.directory / MANIFEST_NAME).read_bytes()).hexdigest()

    @cached_property
    def catalog(self) -> Catalog:
        """The video catalogue."""
        with self._whole(CATALOG_NAME):
            return Catalog.load(self.directory)

    @cached_property
    def users(self) -> Users:
        """The users and their features."""
        with self._whole(USERS_NAME):
            return Users.load(self.directory)

    @cached_property
    def keys(self) -> dict[str, dict[int, str]]:
        """Texts that the ids of "users" and "items" stand for, id -> text; {} for numbers."""
        path = self.directory / KEYS_NAME
        if not self.manifest.mapping.log.text_ids:
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return {
                name: {int(number): str(text) for number, text in content[name].items()}
                for name in self.manifest.mapping.log.text_ids
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged: {error}; prepare the dataset again") from None

    def user_of(self, text: str) -> int:
        """Return the id of the user whom the log calls ``text``.

        Raises:
            UserError: the log's ids are texts and this is none, or they are numbers and it is not.
        """
        known = self.keys.get("users")
        if known is None:
            if not (text.isascii() and text.isdecimal()) or int(text) > MAX_ID:
                raise UserError(f"user '{text}': expected a whole number from 0 to {MAX_ID}")
            return int(text)
        found = [number for number, own in known.items() if own == text]
        if not found:
            names = list(known.values())
            raise UserError(f"user '{text}' is not in {self.directory}.{did_you_mean(text, names)}")
        return found[0]

    @contextmanager
    def _whole(self, name: str) -> Iterator[None]:
        """Turn a failure to read a file of the dataset into one clear line."""
        try:
            yield
        except (pa.ArrowException, OSError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{self.directory / name} is damaged: {reason}; prepare the dataset again"
            ) from None

    def files(self, part: str) -> list[Path]:
        """Parquet files of a part, in order."""
        if part not in PARTS:
            raise UserError(
                f"unknown part '{part}': expected one of {', '.join(PARTS)}."
                f"{did_you_mean(part, PARTS)}"
            )
        files = sorted((self.directory / part).glob("*.parquet"))
        if not files:
            raise UserError(f"{self.directory / part} holds no Parquet file; prepare it again")
        return files

    def load(
        self,
        part: str,
        columns: Iterable[str],
        users: Iterable[int] | None = None,
    ) -> dict[str, np.ndarray]:
        """Read columns of a part into memory.

        Args:
            part: one of ``PARTS``.
            columns: names out of ``COLUMNS``.
            users: keep the rows of these user ids only.

        Returns:
            Arrays of N rows: (N,) for scalars, (N, state size) for ``obs`` and ``new_obs``.
        """
        names = list(columns)
        filters = None if users is None else [("user_id", "in", [int(user) for user in users])]
        files = self.files(part)
        with self._whole(part):
            tables = [pq.read_table(file, columns=names, filters=filters) for file in files]
        table = pa.concat_tables(tables)
        return {name: column_to_numpy(table[name]) for name in names}

    def times_shown(self, part: str) -> np.ndarray:
        """Count how many rows of a part show each video, (N,) int64, a file at a time."""
        shown = np.zeros(self.manifest.num_videos, dtype=np.int64)
        for file in self.files(part):
            with self._whole(part):
                actions = pq.read_table(file, columns=["actions"])["actions"]
            shown += np.bincount(column_to_numpy(actions), minlength=len(shown))
        return shown

    def before_split(self, user_id: np.ndarray, time_ms: np.ndarray) -> np.ndarray:
        """Say of N rows whether they lie before their user's split, (N,) bool."""
        row = np.searchsorted(self.users.user_id, user_id)
        return np.asarray(time_ms < self.users.split_ms[row])

    def latest_state(self, user_id: int) -> np.ndarray:
        """Return the state (state size,) after the user's last event in any part.

        Raises:
            UserError: the dataset has no event of this user.
        """
        newest: tuple[int, np.ndarray] | None = None
        for part in PARTS:
            rows = self.load(part, ("time_ms", "new_obs"), users=[user_id])
            if len(rows["time_ms"]):
                last = int(np.flatnonzero(rows["time_ms"] == rows["time_ms"].max())[-1])
                if newest is None or rows["time_ms"][last] > newest[0]:
                    newest = (int(rows["time_ms"][last]), rows["new_obs"][last])
        if newest is None:
            known = self.users.user_id
            raise UserError(
                f"user {user_id} has no event in {self.directory}: user ids there run from "
                f"{known.min()} to {known.max()}"
            )
        return newest[1]

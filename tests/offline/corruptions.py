"""Ways to corrupt a dataset, most with its checksums put right again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noetik_rllib.offline.columns import column_to_numpy
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.history import local_seconds
from noetik_rllib.offline.manifest import StoredFile
from noetik_rllib.state import CONTEXT_NAMES, encode_time

TRAIN = "train/part-00000.parquet"
JUDGE = "judge/part-00000.parquet"
TEST = "test/part-00000.parquet"
RANDOM = "random/part-00000.parquet"
LINES = "json/train/part-00000.json"

Rows = dict[str, np.ndarray]


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def seal(folder: Path, name: str) -> None:
    """Give the manifest the checksum of a changed file, so that only a deeper check can find it."""
    stored = StoredFile.of(folder / name).model_dump()
    edit_manifest(folder, lambda content: content["files"].update({name: stored}))


def edit_rows(folder: Path, name: str, change: Callable[[Rows], Rows | None]) -> None:
    """Change a Parquet file's columns, as NumPy arrays, and seal it."""
    table = pq.read_table(folder / name)
    rows = {column: column_to_numpy(table[column]).copy() for column in table.column_names}
    rows = change(rows) or rows
    arrays = []
    for field in table.schema:
        values = rows[field.name]
        if values.ndim == 2:
            flat = pa.array(values.reshape(-1))
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=field.type))
        else:
            arrays.append(pa.array(values, type=field.type))
    pq.write_table(pa.Table.from_arrays(arrays, schema=table.schema), folder / name)
    seal(folder, name)


def edit_table(folder: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(folder / name)), folder / name)
    seal(folder, name)


def edit_bytes(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


def edit_lines(folder: Path, change: Callable[[list[str]], list[str]]) -> None:
    path = folder / LINES
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    seal(folder, LINES)


def put(column: str, row: int | Callable[[Rows], int], value: Any) -> Callable[[Rows], None]:
    """Return a change that puts a value, or what a function of the old one gives, into a row."""

    def change(rows: Rows) -> None:
        place = row(rows) if callable(row) else row
        rows[column][place] = value(rows[column][place]) if callable(value) else value

    return change


def inside(rows: Rows) -> int:
    """A row in the middle of an episode, whose next row is of a later request."""
    same = rows["eps_id"][1:] == rows["eps_id"][:-1]
    later = rows["time_ms"][1:] > rows["time_ms"][:-1]
    return int(np.flatnonzero(same[1:] & same[:-1] & later[1:])[0]) + 1


def left(rows: Rows) -> int:
    """A row after which the user left."""
    return int(np.flatnonzero(rows["terminateds"])[3])


def step_1(rows: Rows) -> int:
    return int(np.flatnonzero(rows["t"] == 1)[0])


def swap(first: int) -> Callable[[Rows], Rows]:
    def change(rows: Rows) -> Rows:
        order = np.arange(len(rows["user_id"]))
        order[[first, first + 1]] = first + 1, first
        return {name: values[order] for name, values in rows.items()}

    return change


def drop(place: Callable[[Rows], int]) -> Callable[[Rows], Rows]:
    return lambda rows: {name: np.delete(v, place(rows), axis=0) for name, v in rows.items()}


def flip(state: np.ndarray) -> np.ndarray:
    """Change the least bit of a state's user feature, history or context: the newest age."""
    state[35] = np.nextafter(state[35], np.float32(100))
    return state


def context(name: str) -> int:
    """Position of a context feature in a state of 128."""
    return 96 + CONTEXT_NAMES.index(name)


def put_state(place: int, value: Callable[[Any], Any]) -> Callable[[Rows], None]:
    """Return a change of a number of a row's obs, and of the new_obs before it, which is equal."""

    def change(rows: Rows) -> None:
        row = inside(rows)
        rows["obs"][row, place] = value(rows["obs"][row, place])
        rows["new_obs"][row - 1] = rows["obs"][row]

    return change


def a_millisecond_later(rows: Rows) -> None:
    """Move a row's time, and what its state tells of the hour and the day of the week."""
    row = inside(rows)
    rows["time_ms"][row] += 1
    rows["obs"][row, 96:100] = encode_time(local_seconds(rows["time_ms"][row : row + 1]))
    rows["new_obs"][row - 1] = rows["obs"][row]


def leave_at_a_cut(rows: Rows) -> None:
    """Tell a cut after which the user went on as the user's leaving, in a state of its own."""
    goes_on = rows["user_id"][1:] == rows["user_id"][:-1]
    cut = int(np.flatnonzero(rows["truncateds"][:-1] & goes_on)[0])
    rows["terminateds"][cut], rows["truncateds"][cut] = True, False
    rows["new_obs"][cut, 35] += 1e-3


def catalog_number(column: int, value: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change a numeric feature of a video whose duration is known."""

    def change(rows: Rows) -> None:
        row = with_duration(rows)
        rows["numeric"][row, column] = value(rows["numeric"][row, column])

    return in_rows("catalog.parquet", change)


def with_duration(rows: Rows) -> int:
    """A video whose duration is known."""
    return int(np.flatnonzero(rows["duration_ms"] > 0)[5])


def a_file_of_no_part(folder: Path) -> None:
    """Name a file of no part, and bring it."""
    (folder / "notes.txt").write_text("x")
    seal(folder, "notes.txt")


def end_otherwise(rows: Rows) -> None:
    row = left(rows)
    rows["terminateds"][row], rows["truncateds"][row] = False, True


def other_user(rows: Rows) -> None:
    """Put another user's features into both states of an episode of one row."""
    row = int(np.flatnonzero((rows["t"] == 0) & rows["terminateds"])[0])
    for name in ("obs", "new_obs"):
        rows[name][row, 0] += 1


def move_user(folder: Path) -> None:
    """Give the first user of train the features, and all, of one who is held out."""
    users = OfflineDataset(folder).users
    held_out = int(np.flatnonzero(users.held_out)[0])

    def change(rows: Rows) -> None:
        mine = rows["user_id"] == rows["user_id"][0]
        rows["user_id"][mine] = users.user_id[held_out]
        rows["obs"][mine, :32] = rows["new_obs"][mine, :32] = users.features[held_out]

    edit_rows(folder, TRAIN, change)


def late(folder: Path) -> None:
    """Move all times of a user of train past the split."""

    def change(rows: Rows) -> None:
        rows["time_ms"][rows["user_id"] == rows["user_id"][0]] += 10**10

    edit_rows(folder, TRAIN, change)


def early(folder: Path) -> None:
    def change(rows: Rows) -> None:
        rows["time_ms"][rows["user_id"] == rows["user_id"][0]] -= 10**10

    edit_rows(folder, TEST, change)


def repeat_episode_numbers(folder: Path) -> None:
    """Give the episodes of test the numbers of train."""
    edit_rows(folder, TEST, lambda rows: rows | {"eps_id": rows["eps_id"] - (2 << 30)})


def other_line(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def corrupt(folder: Path) -> None:
        def lines(old: list[str]) -> list[str]:
            content = json.loads(old[4])
            change(content)
            return [*old[:4], json.dumps(content) + "\n", *old[5:]]

        edit_lines(folder, lines)

    return corrupt


def in_rows(name: str, change: Callable[[Rows], Rows | None]) -> Callable[[Path], None]:
    return lambda folder: edit_rows(folder, name, change)


def in_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda folder: edit_manifest(folder, change)


def cut_in_half(folder: Path) -> None:
    edit_bytes(folder, JUDGE, lambda data: data[: len(data) // 2])
    seal(folder, JUDGE)


def flip_bit(data: bytes) -> bytes:
    place = len(data) // 3
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def flip_sealed_bit(folder: Path) -> None:
    """A bit in a page: only the page's own checksum can tell."""
    edit_bytes(folder, TRAIN, flip_bit)
    seal(folder, TRAIN)

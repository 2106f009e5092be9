"""What is written is whole or not there, whatever happens in between."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from noetik_rllib.errors import UserError
from noetik_rllib.io import atomic_directory, atomic_path, replace_directory


def fill(folder: Path, text: str) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(20):
        (folder / f"{number}.txt").write_text(text)


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    """Fails if an error in the middle of writing damages the old file or folder."""
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("old")
    fill(folder, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(file) as part:
        part.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), atomic_directory(folder) as part:
        fill(part, "half")
        raise ZeroDivisionError
    assert file.read_text() == "old"
    assert {path.read_text() for path in folder.iterdir()} == {"old"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def _replace_for_ever(folder: Path) -> None:
    for turn in range(10**9):
        with atomic_directory(folder) as part:
            fill(part, str(turn))


def test_a_killed_writer_leaves_the_old_folder_or_the_new_one(tmp_path: Path) -> None:
    """Fails if a folder can be missing or mixed after a kill -9 at any moment."""
    folder = tmp_path / "folder"
    fill(folder, "old")
    context = multiprocessing.get_context("fork")
    for attempt in range(20):
        writer = context.Process(target=_replace_for_ever, args=(folder,))
        writer.start()
        writer.join(0.01 + 0.003 * attempt)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        texts = [path.read_text() for path in folder.iterdir()]
        assert len(texts) == 20
        assert len(set(texts)) == 1


def test_the_replaced_folder_is_removed(tmp_path: Path) -> None:
    """Fails if old checkpoints pile up."""
    fill(tmp_path / "old", "old")
    fill(tmp_path / "new", "new")
    replace_directory(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "3.txt").read_text() == "new"


@pytest.mark.parametrize("place", ["file/below", "/proc/noetik/x"])
def test_an_impossible_place_is_named(place: str, tmp_path: Path) -> None:
    """Fails if a folder that cannot be written ends in a traceback."""
    (tmp_path / "file").write_text("")
    path = tmp_path / place
    for context in (atomic_path(path / "x"), atomic_directory(path / "x")):
        with pytest.raises(UserError, match="cannot be written"), context:
            pass

"""Broken folders, mappings, places and datasets, full disks and kills: one line, nothing more."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from noetik_rllib.data import mapping
from noetik_rllib.errors import UserError
from noetik_rllib.offline.dataset import OfflineDataset
from tests.data.broken import (
    LOG,
    USERS,
    VIDEOS,
    Change,
    complaint,
    prepare_words,
)

KUAIRAND = Path(mapping.__file__).with_name("mappings") / "kuairand.yaml"


def no_folder(world: Path) -> None:
    shutil.rmtree(world / "data")


def file_for_folder(world: Path) -> None:
    no_folder(world)
    (world / "world.json").unlink()
    world.rmdir()
    world.write_text("not a folder")


def directory_for_log(world: Path) -> None:
    (world / "data" / LOG).unlink()
    (world / "data" / LOG).mkdir()


def video_in_both_parts(world: Path) -> None:
    """27K's features come in parts: a video of the second stands in the first too."""
    path = world / "data" / VIDEOS
    first, *rest = path.read_text().splitlines(keepends=True)
    (path.parent / "video_features_basic_27k_part1.csv").write_text(first + "".join(rest))
    (path.parent / "video_features_basic_27k_part2.csv").write_text(first + rest[3])
    path.unlink()


#: Case -> (what happens to the folder, what the line must say).
FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "world is not a folder"),
    "a file instead": (file_for_folder, "world is not a folder"),
    "no logs": (no_folder, "world holds no kuairand log: expected log_standard_*.csv"),
    "no users": (lambda w: (w / "data" / USERS).unlink(), "holds no user_features_*.csv"),
    "no videos": (lambda w: (w / "data" / VIDEOS).unlink(), "holds no video_features_basic_*.csv"),
    "a folder of the log's name": (directory_for_log, f"{LOG} cannot be read: Is a directory"),
    "a link to nowhere": (
        lambda w: (w / "data" / "log_standard_0.csv").symlink_to("nowhere"),
        "log_standard_0.csv cannot be read: No such file",
    ),
    "video twice over two files": (
        video_in_both_parts,
        "part2.csv:2: column 'video_id' is 3, which stands there twice",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_broken_folders_are_named(
    case: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if a wrong path ends in a traceback or a vague message."""
    damage, message = FOLDERS[case]
    damage(world)
    out = tmp_path / "set"
    assert message in complaint(["data", "prepare", "--source", world, "--out", out], capsys)
    assert not list(tmp_path.glob("*set*")) + list(tmp_path.glob(".*"))


def edit_mapping(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        content = yaml.safe_load(KUAIRAND.read_text())
        change(content)
        path.write_text(yaml.safe_dump(content))

    return write


#: Case -> (what writes the mapping, what the line must say).
MAPPINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no mapping": (lambda path: None, "cannot be read: No such file"),
    "not YAML": (lambda path: path.write_text("log: [1, 2"), "is not YAML: "),
    "not text": (lambda path: path.write_bytes(b"\xff\xfe\0"), "is not YAML: "),
    "a list": (lambda path: path.write_text("- 1"), "expected keys name, log, users, items"),
    "unknown key": (edit_mapping(lambda m: m.update(user={})), "user: unknown key"),
    "unknown key below": (
        edit_mapping(lambda m: m["log"]["time"].update(zone="UTC")),
        "log.time.zone: unknown key",
    ),
    "unknown signal": (
        edit_mapping(lambda m: m["log"]["signals"].update(lik="is_like")),
        "unknown signal 'lik'",
    ),
    "unknown signal guessed": (
        edit_mapping(lambda m: m["log"]["signals"].update(long_veiw="long_view")),
        "Did you mean 'long_view'?",
    ),
    "column not in schema": (
        edit_mapping(lambda m: m["log"]["signals"].update(like="is_liked")),
        "column 'is_liked' is not among schema_columns. Did you mean 'is_like'?",
    ),
    "graded like": (
        edit_mapping(
            lambda m: m["log"]["signals"].update(like={"column": "tab", "low": 0, "high": 9})
        ),
        "signal 'like' is 0 or 1",
    ),
    "unknown unit": (edit_mapping(lambda m: m["log"]["time"].update(unit="us")), "log.time.unit: "),
    "no user": (edit_mapping(lambda m: m["log"].pop("user")), "log.user: Field required"),
}


@pytest.mark.parametrize("case", MAPPINGS)
def test_broken_mappings_are_named(
    case: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if a mapping that means nothing is used, or its fault has to be searched for."""
    write, message = MAPPINGS[case]
    path = world / "mapping.yaml"
    write(path)
    said = complaint(prepare_words(world, mapping=path), capsys)
    assert message in said
    assert "mapping.yaml" in said
    assert not (world / "set").exists()


OUT: dict[str, tuple[str, str]] = {
    "a folder in the way": ("thesis", "thesis exists already: choose another --out"),
    "a file in the way": ("thesis/notes.txt", "notes.txt exists already: choose another --out"),
    "below a file": ("thesis/notes.txt/set", "notes.txt cannot be written: "),
    "where nobody may write": ("/proc/noetik/set", "cannot be written: "),
}


@pytest.mark.parametrize("case", OUT)
def test_a_place_in_the_way_is_left_alone(
    case: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if preparing a dataset can harm what is not one, or ends in a traceback."""
    place, message = OUT[case]
    (tmp_path / "thesis").mkdir()
    notes = tmp_path / "thesis" / "notes.txt"
    notes.write_text("42")
    out = tmp_path / place
    words: list[object] = ["data", "prepare", "--source", world, "--out", out, "--overwrite"]
    assert message in complaint(words, capsys)
    assert notes.read_text() == "42"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis", "world"]


def load_train(folder: Path) -> object:
    return OfflineDataset(folder).load("train", ["obs"])


def catalog(folder: Path) -> object:
    return OfflineDataset(folder).catalog


def users(folder: Path) -> object:
    return OfflineDataset(folder).users


#: Case -> (file, what happens to it, what reads it, what the line must say).
DAMAGED: dict[str, tuple[str, Change, Callable[[Path], object], str]] = {
    "half a part": (
        "train/part-00000.parquet",
        lambda data: data[: len(data) // 2],
        load_train,
        "train is damaged",
    ),
    "no part": ("train/part-00000.parquet", lambda data: b"", load_train, "train is damaged"),
    "half the users": (
        "users.parquet",
        lambda data: data[: len(data) // 2],
        users,
        "users.parquet is damaged",
    ),
    "half the catalogue": (
        "catalog.parquet",
        lambda data: data[:50],
        catalog,
        "catalog.parquet is damaged",
    ),
    "half the manifest": (
        "manifest.json",
        lambda data: data[: len(data) // 2],
        OfflineDataset,
        "manifest.json is damaged: not JSON",
    ),
    "a manifest that is not text": (
        "manifest.json",
        lambda data: b"\xff" + data,
        OfflineDataset,
        "manifest.json is damaged: not JSON",
    ),
    "a manifest of a list": (
        "manifest.json",
        lambda data: b"[]",
        OfflineDataset,
        "manifest.json has layout version None",
    ),
    "a manifest of another version": (
        "manifest.json",
        lambda data: data.replace(b'"layout_version": ', b'"layout_version": 9'),
        OfflineDataset,
        "manifest.json has layout version 9",
    ),
    "a manifest with a key more": (
        "manifest.json",
        lambda data: data.replace(b'"seed"', b'"seeds": 1, "seed"'),
        OfflineDataset,
        "manifest.json is damaged: seeds: ",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_datasets_are_named(case: str, tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if a dataset that was cut, or is of another release, is read as if whole."""
    name, change, read, message = DAMAGED[case]
    folder = Path(shutil.copytree(tiny_dataset, tmp_path / "copy"))
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(change(data))
    with pytest.raises(UserError) as caught:
        read(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def prepare_process(world: Path, *words: str, limit: int | None = None) -> subprocess.Popen[str]:
    """Start a real ``noetik data prepare``, whose files may be no longer than ``limit``."""
    limiting = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
    start = "from noetik_rllib.cli.main import main; main()"
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            start if limit is None else limiting + start,
            *map(str, prepare_words(world)),
            *words,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("limit", "file_format"), [(1_000, "parquet"), (50_000, "parquet"), (50_000, "json")]
)
def test_a_full_disk_is_named_and_leaves_nothing(limit: int, file_format: str, world: Path) -> None:
    """Fails if half a dataset stays where the disk is full, or the reason is a traceback."""
    process = prepare_process(world, "--format", file_format, limit=limit)
    out, err = process.communicate()
    assert process.returncode == 2, err
    assert not out
    assert err.splitlines()[-1] == f"Error: {world / 'set'} cannot be written: File too large"
    assert "Traceback" not in err
    assert "Exception" not in err
    assert sorted(entry.name for entry in world.iterdir()) == ["data", "world.json"]


def test_after_a_kill_the_next_one_works_and_clears_up(world: Path) -> None:
    """Fails if a killed command leaves half a dataset, or its leavings for ever."""
    log = world / "data" / LOG
    rows = log.read_bytes()
    log.unlink()
    os.mkfifo(log)
    process = prepare_process(world)
    with log.open("wb"):  # returns once the other process opens it: it is in the middle of its work
        [part] = world.glob(".set.*.part")
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (world / "set").exists()
    assert part.is_dir()
    log.unlink()
    log.write_bytes(rows)
    # What is not, or may not be, a dead process's stays: a running one's, another name's, ours.
    host = part.name.split(".")[2]
    kept = [f".set.{host}.{os.getpid()}.00000000.part", f".sets.{host}.{process.pid}.00000000.part"]
    kept += [".set.elsewhere.1.00000000.part", ".set.part"]
    for name in kept:
        (world / name).mkdir()
    process = prepare_process(world)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert OfflineDataset(world / "set").load("train", ["t"])["t"].size
    names = {entry.name for entry in world.iterdir()}
    assert names == {"data", "world.json", "set", *kept}


def test_sigterm_leaves_nothing(world: Path) -> None:
    """Fails if a supervisor that stops a command has to clear up after it."""
    log = world / "data" / LOG
    log.unlink()
    os.mkfifo(log)
    process = prepare_process(world)
    with log.open("wb"):  # returns once the other process opens it: it is in the middle of its work
        process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert sorted(entry.name for entry in world.iterdir()) == ["data", "world.json"]

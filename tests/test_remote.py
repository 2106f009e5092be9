"""Datasets and runs by URI, on a file system and on an S3 server on this machine."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from noetik_rllib.cli.train import train as train_command
from noetik_rllib.errors import UserError
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.remote import RunStorage, cached_dataset, copy_dataset
from noetik_rllib.runs import Run, TrainConfig, iterations_done, train, unfinished
from tests.conftest import put

SMALL = (
    "--steps-per-iteration=2 --batch-size=32 --embedding-size=16 --num-layers=1 --num-heads=2 "
    "--checkpoint-seconds=0"
)


def test_a_dataset_is_copied_once_and_whole(place: str, tiny_dataset: Path) -> None:
    """Fails if a copy lacks a file, is taken for another dataset, or is made again."""
    put(tiny_dataset, f"{place}/data")
    copy = cached_dataset(f"{place}/data")
    assert copy.name == OfflineDataset(tiny_dataset).fingerprint
    names = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    assert names == {
        path.relative_to(tiny_dataset).as_posix()
        for path in tiny_dataset.rglob("*")
        if path.is_file()
    }
    for name in names:
        assert (copy / name).read_bytes() == (tiny_dataset / name).read_bytes(), name
    before = (copy / "manifest.json").stat().st_ino
    assert cached_dataset(f"{place}/data") == copy
    assert (copy / "manifest.json").stat().st_ino == before


def test_processes_that_copy_at_once_make_one_copy(tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if learners of one host, which all begin at once, copy over each other."""
    target = tmp_path / OfflineDataset(tiny_dataset).fingerprint
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=copy_dataset, args=(f"file://{tiny_dataset}", target))
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert OfflineDataset(target).fingerprint == target.name
    assert {path.name for path in tmp_path.iterdir()} == {target.name, f"{target.name}.lock"}


def test_a_dataset_prepared_again_is_refused(
    place: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    """Fails if a learner could train on other rows than the run began with."""
    put(tiny_dataset, f"{place}/data")
    other = tmp_path / "other"
    shutil.copytree(tiny_dataset, other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest))  # the same, written otherwise
    wanted = tmp_path / "copies" / OfflineDataset(other).fingerprint
    with pytest.raises(UserError, match="was prepared again meanwhile"):
        copy_dataset(f"{place}/data", wanted)
    assert not wanted.exists()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("file:///nowhere/at/all", "file:///nowhere/at/all/manifest.json: "),
        ("nonsense://bucket/data", "nonsense://bucket/data: "),
    ],
)
def test_a_wrong_uri_is_one_line(uri: str, message: str) -> None:
    """Fails if a mistyped URI ends in a traceback, or does not say which it was."""
    with pytest.raises(UserError, match=message) as caught:
        cached_dataset(uri)
    assert "\n" not in str(caught.value)


# On a file system, the cluster test does it.
@pytest.mark.parametrize("place", ["s3"], indirect=True)
@pytest.mark.usefixtures("ray_session")
def test_a_run_is_kept_and_goes_on_where_its_disk_is_lost(
    place: str, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a run whose machine is gone cannot be resumed from its storage, or ends otherwise.

    The run is stopped in its middle by a request to stop, and its folder removed. The machine that
    goes on with it keeps its copies of datasets elsewhere.
    """
    put(tiny_dataset, f"{place}/data")
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> str:
        result = CliRunner().invoke(train_command, [*arguments])
        assert result.exception is None, (result.output, result.exception)
        return result.output

    begin = [*SMALL.split(), "--iterations", "4", "--data", f"{place}/data"]
    command(*begin, "--storage", f"{place}/runs/whole")
    storage = RunStorage(f"{place}/runs/broken", ".unfinished")

    def stop_after_three(row: dict[str, float]) -> None:
        if row["iteration"] == 3:
            raise KeyboardInterrupt

    settings = TrainConfig.load(Path("runs/whole")).model_dump()
    settings |= {"out": Path("runs/broken"), "storage": f"{place}/runs/broken"}
    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig.parse(settings), stop_after_three)
    assert storage.iterations() == [2, 3]
    old = tmp_path / "old"
    shutil.copytree(unfinished(Path("runs/broken")), old)
    shutil.rmtree(unfinished(Path("runs/broken")))

    with pytest.raises(UserError, match="holds an unfinished run"):
        storage.check_free()
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setenv("NOETIK_CACHE", str(tmp_path / "another-cache"))
    command("--resume", f"{place}/runs/broken")
    assert not (tmp_path / "cache").exists()
    whole, run = Run.open("runs/whole"), Run.open("runs/broken")
    for left, right in zip(whole.progress(), run.progress(), strict=True):
        assert left["q_loss"] == right["q_loss"]
    assert storage.iterations() == []
    assert {"config.yaml", "policy/weights.safetensors"} <= storage.folder.names().keys()
    with pytest.raises(UserError, match="holds a finished run"):
        storage.check_free()

    # A finished run that is replaced leaves nothing, nor do checkpoints of more iterations.
    storage.folder.upload(tmp_path / "runs/broken/config.yaml", "snapshots/99/config.json")
    storage.keep(old, 9)
    with pytest.raises(UserError, match="has 9 iterations, more than the 3 here"):
        storage.wait()
        storage.check_newest(3)
    begin[begin.index("--iterations") + 1] = "3"
    command(*begin, "--storage", f"{place}/runs/broken", "--overwrite")
    assert storage.iterations() == []
    assert "snapshots/99/config.json" not in storage.folder.names()


def test_a_damaged_checkpoint_is_one_line(place: str, tmp_path: Path) -> None:
    """Fails if what is no archive is taken for a run, or leaves half of one."""
    storage = RunStorage(f"{place}/runs/a", ".unfinished")
    with pytest.raises(UserError, match="holds no checkpoint"):
        storage.fetch(tmp_path / "a.unfinished")
    noise = tmp_path / "noise"
    noise.write_bytes(b"noise" * 1000)
    storage.unfinished.upload(noise, "iteration-7.tar")
    with pytest.raises(UserError, match=r"iteration-7\.tar is damaged"):
        storage.fetch(tmp_path / "a.unfinished")
    assert not (tmp_path / "a.unfinished").exists()
    assert iterations_done(tmp_path / "a.unfinished") == 0

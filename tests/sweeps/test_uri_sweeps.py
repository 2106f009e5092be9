"""A sweep that is kept at a URI ends as on a disk, and goes on where its machine is lost."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from noetik_rllib.cli.main import cli
from noetik_rllib.errors import UserError
from noetik_rllib.places import below
from noetik_rllib.progress import CLOCKS
from noetik_rllib.remote import Folder, RunStorage
from noetik_rllib.runs import UNFINISHED_SUFFIX, Run, TrainConfig, unfinished
from noetik_rllib.sweeps.config import SweepConfig
from noetik_rllib.sweeps.folder import SweepFolder, read_outcome
from noetik_rllib.sweeps.results import SweepResult
from noetik_rllib.sweeps.storage import create_sweep, fetch_sweep, open_sweep
from noetik_rllib.sweeps.sweep import run_sweep
from noetik_rllib.sweeps.trial_place import trial_place
from tests.conftest import put
from tests.sweeps.conftest import Swept, population_config, sweep_config
from tests.sweeps.test_killed_sweeps import assert_undisturbed, drive

ON_S3 = pytest.mark.parametrize("place", ["s3"], indirect=True)
ON_DISK = pytest.mark.parametrize("place", ["file"], indirect=True)


def noetik(*words: str) -> str:
    done = CliRunner().invoke(cli, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


class MachineLostError(Exception):
    """Ends a driver in the middle of what it does."""


def for_workers(place: str, endpoint: str) -> str:
    """Name the server and its key in a URI: the tests' Ray was started without them."""
    override = quote(endpoint.removeprefix("http://"), safe="")
    uri = place.replace("s3://", "s3://test:test@")
    return f"{uri}?scheme=http&region=us-east-1&endpoint_override={override}"


def kept_config(
    make: Callable[..., SweepConfig], dataset: Path, place: str, endpoint: str
) -> SweepConfig:
    """Return a sweep with the dataset, which is put there, and its storage at a URI."""
    put(dataset, f"{place}/data")
    store = for_workers(place, endpoint)
    return make(below(store, "data"), storage=below(store, "sweeps"))


@ON_S3
def test_a_sweep_goes_on_where_its_machine_is_lost(
    place: str, tiny_dataset: Path, swept: Swept, s3_server: str, tmp_path: Path
) -> None:
    """Fails if a sweep in a bucket loses what its driver's disk had, or comes to something else.

    The driver ends when the third trial, which begins after one is judged, has come to its second
    iteration; its folder, with all that trials have written there, is removed, and so is its copy
    of the dataset.
    """
    config = kept_config(sweep_config, tiny_dataset, place, s3_server)
    uri = str(config.uri)
    first = tmp_path / "first"

    def until_the_last_is_under_way(doing: str, share: float) -> None:
        if "trial 0002 at iteration 2" in doing:
            raise MachineLostError

    with pytest.raises(Exception, match="MachineLostError"):
        run_sweep(config, first, until_the_last_is_under_way)
    shown = SweepResult.model_validate_json(noetik("tune", "--show", uri, "--json"))
    assert "finished" in [trial.status for trial in shown.trials]
    assert (shown.trials[2].status, shown.trials[2].iterations in (1, 2)) == ("unfinished", True)
    shutil.rmtree(first)
    shutil.rmtree(tmp_path / "cache")

    second = tmp_path / "second"
    shown = noetik("tune", "--resume", uri, "--out", str(second), "--json")
    result = SweepResult.model_validate_json(shown)
    assert_undisturbed(second, swept)
    assert (result.hypervolume, result.importance) == (
        swept.result.hypervolume,
        swept.result.importance,
    )
    events = SweepFolder.open(second).events()
    assert [e for e in events if e.what == "start" and e.trial == 2][-1].iteration in (1, 2)

    # Everything is in the bucket, nothing more, and can be looked into here by its name.
    kept = Folder.at(uri)
    assert json.loads(kept.read("results.json")) == result.model_dump(mode="json")
    names = kept.names()
    assert {"sweep.yaml", "results.parquet", "report.html", "journal.jsonl"} <= names.keys()
    assert not [name for name in names if ".process" in name or UNFINISHED_SUFFIX in name]
    for number in range(3):
        run = Run.open(second / "trials" / f"{number:04d}")
        assert run.config.out == run.directory
        assert run.dataset().fingerprint == run.config.data.name
        local = {p.relative_to(second).as_posix() for p in run.directory.rglob("*") if p.is_file()}
        assert local == {name for name in names if name.startswith(f"trials/{number:04d}/")}
        before = Run.open(swept.folder / "trials" / f"{number:04d}")
        for row, other in zip(run.progress(), before.progress(), strict=True):
            assert {k: v for k, v in row.items() if k not in CLOCKS} == {
                k: v for k, v in other.items() if k not in CLOCKS
            }

    # Where nothing is left to do, a machine gets it all: a run finds its dataset there.
    shutil.rmtree(tmp_path / "cache")
    third = tmp_path / "third"
    again = noetik("tune", "--resume", uri, "--out", str(third), "--json")
    assert SweepResult.model_validate_json(again) == result
    assert Run.open(third / "trials/0001").dataset().directory.is_dir()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("make", "undisturbed", "kill"),
    [
        (sweep_config, "swept", ("driver", 5)),
        (population_config, "evolved", ("driver", 1, "iteration 3 of")),
    ],
    ids=["trials", "population"],
)
@ON_S3
def test_every_result_is_there_once_whoever_is_killed(
    place: str,
    make: Callable[..., SweepConfig],
    undisturbed: str,
    kill: tuple[str | int, ...],
    tiny_dataset: Path,
    s3_server: str,
    tmp_path: Path,
    ray_address: str,
    fork_server: ForkServerContext,
    request: pytest.FixtureRequest,
) -> None:
    """Fails if a kill loses a trial, runs a finished one again, or changes what one comes to.

    The first driver is killed, of a population as the copy has just begun to train, and its folder
    removed while its trials may still run; of the second one, elsewhere, a trial is killed.
    """
    expected: Swept = request.getfixturevalue(undisturbed)
    config = kept_config(make, tiny_dataset, place, s3_server)
    first, second = tmp_path / "first", tmp_path / "second"

    def run_to(out: Path, *kill: str | int) -> int | None:
        process = fork_server.Process(target=drive, args=(ray_address, config, out, *kill))
        process.start()
        process.join()
        return process.exitcode

    assert run_to(first, *kill) == -signal.SIGKILL
    shutil.rmtree(first, ignore_errors=True)
    fetch_sweep(str(config.uri), second)
    assert run_to(second, "trial", 1) == 0
    assert_undisturbed(second, expected)


@pytest.fixture
def kept_trial(place: str, swept: Swept, tmp_path: Path) -> TrainConfig:
    """Settings of a trial of the small sweep, as if it were kept at a URI; nothing is there yet."""
    change = {"out": tmp_path / "here/trials/0000", "storage": f"{place}/sweep/trials/0000"}
    return TrainConfig.load(swept.folder / "trials/0000").model_copy(update=change)


def test_a_host_begins_with_what_is_kept(
    kept_trial: TrainConfig, swept: Swept, tmp_path: Path
) -> None:
    """Fails if a trial goes on from what its host happens to have, or its run is lost on the way.

    The host has a run of another sweep. First nothing is kept, then a checkpoint, then the finished
    run, then what it came to.
    """
    run = tmp_path / "run"
    shutil.copytree(swept.folder / "trials/0000", run)
    (run / "outcomes.json").unlink()
    out, work = kept_trial.out, unfinished(kept_trial.out)
    place = trial_place(kept_trial)
    storage = RunStorage(str(kept_trial.storage), UNFINISHED_SUFFIX)

    def bring_to_a_used_host() -> None:
        for folder in (out, work):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(swept.folder / "trials/0001", folder)
        place.bring()

    bring_to_a_used_host()
    assert (out.exists(), work.exists(), place.iterations()) == (False, False, 0)

    storage.keep(run, 2)
    storage.wait()
    bring_to_a_used_host()
    assert (out.exists(), place.iterations()) == (False, 2)
    assert TrainConfig.load(work) == kept_trial

    storage.finish(run)
    bring_to_a_used_host()
    assert (work.exists(), place.iterations(), place.outcome()) == (False, 3, None)
    assert Run.open(out).config == kept_trial

    outcome = read_outcome(swept.folder / "trials/0000")
    assert outcome is not None
    with place.taken():
        place.keep(outcome)
    assert trial_place(kept_trial).outcome() == outcome

    # Another machine gets the run; what is done with it there stays.
    there = trial_place(kept_trial.model_copy(update={"out": tmp_path / "there/trials/0000"}))
    said: list[str] = []
    there.fetch(said.append)
    assert Run.open(there.config.out).config == there.config
    there.config.out.joinpath("chosen.json").write_text("{}")
    there.fetch(said.append)
    assert there.config.out.joinpath("chosen.json").is_file()
    assert len(said) == 1


def test_the_last_process_that_begins_has_a_trial(
    kept_trial: TrainConfig, swept: Swept, tmp_path: Path
) -> None:
    """Fails if a host that was cut off goes on beside the one that took its place."""
    outcome = read_outcome(swept.folder / "trials/0000")
    assert outcome is not None
    other = kept_trial.model_copy(update={"out": tmp_path / "there/trials/0000"})
    before, after = trial_place(kept_trial), trial_place(other)
    with before.taken():
        before.check()
        shutil.copytree(swept.folder / "trials/0000", kept_trial.out)
        with after.taken():
            after.check()
            for late in (before.check, lambda: before.keep(outcome)):
                with pytest.raises(UserError, match="0000: another process has taken this trial"):
                    late()
    assert after.outcome() is None
    after.check()


@pytest.fixture
def begun(place: str, tiny_dataset: Path, tmp_path: Path) -> SweepFolder:
    """The folder of a sweep that was begun at a URI, ``PLACE/test``."""
    return create_sweep(tmp_path / "first", sweep_config(tiny_dataset, storage=place))


def test_the_last_driver_that_begins_has_a_sweep(
    begun: SweepFolder, place: str, tmp_path: Path
) -> None:
    """Fails if two drivers on two machines write one journal, or the older one stays."""
    fetch_sweep(f"{place}/test", tmp_path / "second")
    older, newer = begun, open_sweep(tmp_path / "second")
    with older.claimed():
        older.note(0, "start", iteration=0)
        older.check()
        with newer.claimed():
            newer.note(1, "start", iteration=0)
            newer.check()
            older.note(2, "start", iteration=0)
            with pytest.raises(UserError, match="another driver has taken this sweep over"):
                older.check()
            newer.check()
    assert [event.trial for event in open_sweep(tmp_path / "first").events()] == [0, 1]


@ON_DISK
def test_a_journal_that_cannot_be_kept_is_kept_later(
    begun: SweepFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails if a store that is away for a moment ends a sweep, or makes it forget what happened."""
    kept, away = tmp_path / "store", tmp_path / "away"
    with begun.claimed():
        kept.rename(away)
        kept.write_text("no folder")
        begun.note(0, "start", iteration=0)
        assert "The journal is kept with its next line" in caplog.text
        kept.unlink()
        away.rename(kept)
        begun.note(1, "start", iteration=0)
        begun.check()
    assert [event.trial for event in open_sweep(begun.path).events()] == [0, 1]


@ON_S3
def test_a_wrong_uri_is_one_line(
    begun: SweepFolder, place: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    """Fails if a mistake in a URI starts something, leaves a folder, or ends in a traceback."""
    file, out = tmp_path / "sweep.yaml", str(tmp_path / "out")
    sweep_config(tiny_dataset).save(file)
    used = create_sweep(tmp_path / "used", sweep_config(tiny_dataset, name="other", storage=place))
    for words, message in (
        ([str(file), "--storage", "s3://no-such-bucket/x", "--out", out], "NO_SUCH_BUCKET"),
        ([str(file), "--data", f"{place}/nothing", "--out", out], "nothing/manifest.json: "),
        ([str(file), "--storage", place, "--out", out], f"{place}/test holds a sweep already"),
        (["--resume", f"{place}/nothing", "--out", out], f"{place}/nothing holds no sweep"),
        (["--show", f"{place}/nothing"], f"{place}/nothing holds no sweep"),
        (["--resume", f"{place}/test", "--out", str(used.path)], f"is not the folder of {place}"),
        (["--resume", f"{place}/test", "--data", "x"], "one that was begun keeps its own"),
    ):
        done = CliRunner().invoke(cli, ["tune", *words])
        assert isinstance(done.exception, UserError) or done.exit_code == 2, done.exception
        said = str(done.exception) if isinstance(done.exception, UserError) else done.output
        assert message in said
        assert isinstance(done.exception, SystemExit) or "\n" not in said
        assert not Path(out).exists()


def test_a_sweep_that_was_moved_is_kept_where_it_is_now(
    begun: SweepFolder, place: str, tmp_path: Path
) -> None:
    """Fails if a sweep that goes on from a copy writes to where it was copied from."""
    moved = Folder.at(f"{place}/moved/there")
    for name in ("sweep.yaml", "started_on.json"):
        moved.upload(begun.path / name, name)
    fetch_sweep(f"{place}/moved/there/", tmp_path / "second")
    config = SweepFolder.open(tmp_path / "second").config()
    assert config.uri == f"{place}/moved/there"

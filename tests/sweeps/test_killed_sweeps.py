"""A sweep whose driver or trials are killed at any moment ends as if they never had been."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import Counter
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest

from noetik_rllib.errors import UserError
from noetik_rllib.runs import Run
from noetik_rllib.sweeps.config import SweepConfig
from noetik_rllib.sweeps.folder import SweepFolder, trial_configs
from noetik_rllib.sweeps.sweep import resume_sweep, run_sweep, show_sweep
from noetik_rllib.sweeps.trial_lock import lock_of
from tests.sweeps.conftest import Swept, halving_config, population_config, sweep_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEED = 0
#: Reports that a driver hears if it is not disturbed: three iterations and the end of each trial.
REPORTS = 12


def drive(
    address: str,
    config: SweepConfig,
    out: Path,
    victim: str,
    moment: int,
    words: str = "trials done",
) -> None:
    """Begin or resume a sweep, and kill a process at the driver's ``moment``-th report.

    By SIGKILL: nothing is cleared up, as when a machine is lost. Reports with ``words`` count.
    """
    os.environ["RAY_ADDRESS"] = address
    # This process' own locks are then removed with it, not noted as leaked by its parent.
    multiprocessing.set_start_method("fork", force=True)
    heard = Counter[str]()

    def hear(doing: str, share: float) -> None:
        heard["report"] += words in doing
        if heard["report"] != moment or words not in doing:
            return
        number = int(doing.rpartition("trial ")[2][:4])
        lock = lock_of(trial_configs(config, out)[number].out)
        with contextlib.suppress(ProcessLookupError):
            os.kill(os.getpid() if victim == "driver" else int(lock.read_text().split()[0]), 9)

    if out.exists():
        resume_sweep(out, hear)
    else:
        run_sweep(config, out, hear)


def test_every_result_is_there_once_whoever_is_killed(
    tiny_dataset: Path,
    tmp_path: Path,
    swept: Swept,
    ray_address: str,
    fork_server: ForkServerContext,
) -> None:
    """Fails if a kill loses a trial, runs a finished one again, or changes what one comes to.

    The first driver's moment is drawn from a fixed seed. The second is left alone, but one of its
    trials is killed as it trains and has to go on from its checkpoint.
    ``benchmarks/sweep_kills.py`` kills more.
    """
    out = tmp_path / "sweep"
    rng = np.random.default_rng(SEED)
    for victim, moment in (("driver", int(rng.integers(1, REPORTS))), ("trial", 1)):
        arguments = (ray_address, sweep_config(tiny_dataset), out, victim, moment)
        process = fork_server.Process(target=drive, args=arguments)
        process.start()
        process.join()
        assert process.exitcode == (-signal.SIGKILL if victim == "driver" else 0)

    events = SweepFolder.open(out).events()
    assert len([event for event in events if event.what == "start"]) > 3
    assert_undisturbed(out, swept)


def assert_undisturbed(out: Path, expected: Swept) -> None:
    """Every trial was brought to its end once, and came to what it is expected to come to."""
    ended: set[int] = set()
    for event in SweepFolder.open(out).events():
        assert event.trial not in ended, f"trial {event.trial} was run again"
        if event.what == "finish":
            ended.add(event.trial)
    for trial, other in zip(show_sweep(out).trials, expected.result.trials, strict=True):
        changes = {"training_seconds": other.training_seconds}
        assert trial.model_copy(update=changes) == other
        assert len(Run.open(out / "trials" / trial.name).progress()) == trial.iterations


def test_who_was_stopped_is_judged_whoever_is_killed(
    tiny_dataset: Path,
    tmp_path: Path,
    halved: Swept,
    ray_address: str,
    fork_server: ForkServerContext,
) -> None:
    """Fails if a driver that dies as a trial is stopped, or before it is judged, changes what any
    trial comes to: one that was stopped goes on, is not judged, or is forgotten by ASHA.
    """
    out = tmp_path / "sweep"
    said = [doing for doing, _ in halved.said if "trials done" in doing]
    stop = next(place for place, doing in enumerate(said) if "has ended" in doing)
    for moment in (stop + 1, 1, len(said) + 1):
        arguments = (ray_address, halving_config(tiny_dataset), out, "driver", moment)
        process = fork_server.Process(target=drive, args=arguments)
        process.start()
        process.join()
        assert process.exitcode == (0 if moment > len(said) else -signal.SIGKILL)
    assert_undisturbed(out, halved)


def test_a_population_decides_alike_whoever_is_killed(
    tiny_dataset: Path,
    tmp_path: Path,
    evolved: Swept,
    ray_address: str,
    fork_server: ForkServerContext,
) -> None:
    """Fails if a kill changes who copies whom, or what a copy goes on with, or loses a trial.

    The first driver dies at a moment that is drawn from a fixed seed, the second as the copy has
    just begun to train; the third is left alone, but one of its trials is killed.
    """
    out = tmp_path / "sweep"
    said = [doing for doing, _ in evolved.said if "trials done" in doing]
    begun = "iteration 3 of"
    copies = next(place for place, doing in enumerate(said) if begun in doing)
    moment = int(np.random.default_rng(SEED).integers(1, copies))
    kills = (("driver", moment, "trials done"), ("driver", 1, begun), ("trial", 1, "trials done"))
    for kill in kills:
        arguments = (ray_address, population_config(tiny_dataset), out, *kill)
        process = fork_server.Process(target=drive, args=arguments)
        process.start()
        process.join()
        assert process.exitcode == (-signal.SIGKILL if kill[0] == "driver" else 0)
    assert_undisturbed(out, evolved)


def test_a_process_that_dies_between_two_trials_costs_none(
    tiny_dataset: Path,
    tmp_path: Path,
    swept: Swept,
    ray_address: str,
    fork_server: ForkServerContext,
) -> None:
    """Fails if a trial is given up because the process that was to take it on is gone.

    Tune gives the third trial to the process of the first one that is done, which is killed then.
    """
    out = tmp_path / "sweep"
    arguments = (ray_address, sweep_config(tiny_dataset), out, "trial", 1, "1 of 3 trials done")
    process = fork_server.Process(target=drive, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert "lost" in {event.what for event in SweepFolder.open(out).events()}
    assert_undisturbed(out, swept)


def test_two_drivers_do_not_run_one_sweep(swept: Swept) -> None:
    """Fails if a second driver would train the same trials into the same folders."""
    with (
        SweepFolder.open(swept.folder).claimed(),
        pytest.raises(UserError, match="another process is running this sweep"),
    ):
        resume_sweep(swept.folder)


def test_a_journal_that_was_cut_off_is_read_and_written_on(tmp_path: Path) -> None:
    """Fails if the last words of a killed driver hide what comes before or after them."""
    folder = SweepFolder(tmp_path)
    folder.note(0, "start", iteration=0)
    folder.note(0, "finish", iteration=3)
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    folder.note(1, "start", iteration=0)
    folder.note(1, "fail", error="no more memory")
    found = [(event.trial, event.what) for event in folder.events()]
    assert found == [(0, "start"), (1, "start"), (1, "fail")]


def test_a_sweep_whose_dataset_changed_is_not_resumed(
    mixed_dataset: Path, swept: Swept, tmp_path: Path
) -> None:
    """Fails if trials of one sweep are trained on different rows."""
    folder = SweepFolder.open(swept.folder)
    config = folder.config().model_copy(update={"data": mixed_dataset})
    with pytest.raises(UserError, match="is not the dataset that"):
        folder.dataset(config)

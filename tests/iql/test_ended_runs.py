"""Runs that end before the end that they were begun for, and runs that begin where others ended."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from noetik_rllib.errors import UserError
from noetik_rllib.report.run_sections import train_command
from noetik_rllib.run_folder import begin_copy, read_lineage, settings_to_resume
from noetik_rllib.runs import Run, train, unfinished
from tests.iql.test_runs import assert_same, config, copy_of, stop_after, weights


@pytest.fixture(scope="module")
def whole(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Run:
    """A run of three iterations, trained to its end."""
    return train(config(tiny_dataset, tmp_path_factory.mktemp("runs") / "whole"))


@pytest.mark.usefixtures("ray_session")
def test_a_run_that_is_stopped_early_is_a_run(
    whole: Run, tiny_dataset: Path, tmp_path: Path
) -> None:
    """Fails if a run that was ended early is not what it was on its way, or cannot be gone on with.

    Its policy's step size falls over all three iterations, as that of the whole run.
    """
    out = tmp_path / "run"
    stopped = train(config(tiny_dataset, out, stopped_at=2))
    assert (len(stopped.progress()), stopped.snapshots()) == (2, [1, 2])
    on_its_way = whole.networks(2).state_dict()
    for name, value in weights(stopped).items():
        assert torch.equal(value, on_its_way[name]), name
    command = train_command(stopped.config)
    assert " --iterations 3 --stopped-at 2 " in command
    # To end a run that has come as far, nothing is trained.
    (tmp_path / "again").mkdir()
    again = copy_of(stopped, tmp_path / "again")
    shutil.rmtree(again / "policy")
    again.rename(unfinished(again))
    settings = stopped.config.model_copy(update={"out": again})
    assert_same(train(settings, stop_after(1), resume=True), stopped)
    longer = train(settings_to_resume(out), resume=True)
    assert longer.config == whole.config.model_copy(update={"out": out})
    assert longer.snapshots() == whole.snapshots()
    assert_same(longer, whole)
    with pytest.raises(UserError, match="stopped_at is 4: expected at most the 3 iterations"):
        config(tiny_dataset, out, stopped_at=4)


@pytest.mark.usefixtures("ray_session")
def test_a_run_begins_as_a_copy_with_its_own_settings(tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if a copy goes on with the settings of the run that it was copied from, whose step
    sizes are in the optimizers' states, or forgets that it is one.
    """
    donor = train(config(tiny_dataset, tmp_path / "donor", stopped_at=2, actor_lr_decay=False))
    ends = {}
    for name, changes in {
        "still": {"actor_lr": 0.0, "critic_lr": 0.0, "value_lr": 0.0},
        "same": {},
        "beta": {"beta": 3.0},
        "gamma": {"gamma": 0.1},
    }.items():
        settings = config(tiny_dataset, tmp_path / name, actor_lr_decay=False, **changes)
        begin_copy(donor.directory, settings, [{"trial": "donor"}])
        assert not settings.out.exists()
        copy = train(settings, resume=True)
        assert copy.config == settings.model_copy(update={"data": copy.config.data})
        assert read_lineage(copy.directory) == [{"trial": "donor"}]
        assert copy.snapshots() == [1, 2, 3]
        assert copy.progress()[:2] == donor.progress()
        ends[name] = weights(copy)
    before = weights(donor)
    assert all(torch.equal(value, before[name]) for name, value in ends["still"].items())
    for name, changed in (("beta", "actor."), ("gamma", "q.")):
        assert any(
            not torch.equal(value, ends["same"][key])
            for key, value in ends[name].items()
            if key.startswith(changed)
        )
    assert_same(
        Run.open(tmp_path / "same"), train(settings_to_resume(donor.directory), resume=True)
    )

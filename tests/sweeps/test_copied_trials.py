"""Population based training, end to end: runs that go on from copies, and say so."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from noetik_rllib.run_folder import read_lineage
from noetik_rllib.runs import Run
from noetik_rllib.sweeps.folder import SweepFolder
from noetik_rllib.sweeps.outcomes import OUTCOMES
from noetik_rllib.sweeps.results import TABLE_NAME
from noetik_rllib.sweeps.sweep import resume_sweep, run_sweep
from tests.sweeps.conftest import Swept, population_config
from tests.sweeps.test_sweep import noetik


def test_every_trial_ends_with_outcomes(evolved: Swept) -> None:
    """Fails if a population loses a trial, runs one twice, or its progress runs backwards."""
    for trial in evolved.result.trials:
        assert (trial.status, trial.iterations) == ("finished", 3)
        assert list(trial.outcomes) == list(OUTCOMES)
    events = SweepFolder.open(evolved.folder).events()
    for number in range(4):
        happened = [(event.what, event.iteration) for event in events if event.trial == number]
        assert happened == [
            ("start", 0),
            ("score", 2),
            ("start", 2),
            ("finish", 3),
        ]
    shares = [share for _, share in evolved.said]
    assert shares == sorted(shares)
    assert evolved.said[-1] == ("4 of 4 trials done; " + evolved.said[-1][0].split("; ")[1], 1.0)
    assert resume_sweep(evolved.folder) == evolved.result


def test_a_copy_has_the_policy_and_says_so(evolved: Swept) -> None:
    """Fails if who copies goes on from another policy than it says, or with other settings."""
    trials = evolved.result.trials
    assert [len(trial.lineage) for trial in trials].count(1) == 1
    for trial in trials:
        run = Run.open(evolved.folder / "trials" / trial.name)
        assert len(run.progress()) == 3
        assert run.snapshots() == [1, 2, 3]
        lineage = [copy.model_dump(mode="json") for copy in trial.lineage]
        assert read_lineage(run.directory) == lineage
        for name, value in trial.parameters.items():
            assert getattr(run.config, name) == value
        for copy in trial.lineage:
            assert (copy.iteration, len(copy.changed) > 0) == (2, True)
            donor = Run.open(evolved.folder / "trials" / copy.trial)
            for iteration in (1, 2):
                theirs = donor.networks(iteration).state_dict()
                for name, value in run.networks(iteration).state_dict().items():
                    assert torch.equal(value, theirs[name])
    assert len({trial.outcomes["click"].mean for trial in trials}) > 1


def test_copies_are_shown(evolved: Swept) -> None:
    """Fails if a table passes the last settings of a copied policy for all that it had."""
    rows = pq.read_table(evolved.folder / TABLE_NAME).to_pylist()
    shown = noetik("tune", "--show", str(evolved.folder))
    for row, trial in zip(rows, evolved.result.trials, strict=True):
        assert json.loads(row["lineage"]) == [
            copy.model_dump(mode="json") for copy in trial.lineage
        ]
        assert row["parameter.beta"] == trial.parameters["beta"]
    copies = sum(len(trial.lineage) for trial in evolved.result.trials)
    assert copies > 0
    assert shown.count("a copy of") == copies
    assert not evolved.result.importance
    trial = next(trial for trial in evolved.result.trials if trial.lineage)
    report = noetik("report", str(evolved.folder / "trials" / trial.name)).strip().splitlines()[-1]
    page = Path(report).read_text(encoding="utf-8")
    assert "This run went on from copies of other trials" in page
    assert "noetik train" not in page


@pytest.mark.usefixtures("ray_session")
@pytest.mark.slow
def test_a_trial_that_diverges_goes_on_as_a_copy(tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if a trial that cannot go on is lost, holds up the others, or goes on as it was.

    With this seed, the copy's step size is its donor's.
    """
    config = population_config(
        tiny_dataset, search={"critic_lr": {"grid": [1e-3, 1e30]}}, num_samples=1, seed=2
    )
    out = tmp_path / "sweep"
    result = run_sweep(config, out)
    happened = [event.what for event in SweepFolder.open(out).events() if event.trial == 1]
    assert happened == ["start", "fail", "start", "finish"]
    assert [trial.status for trial in result.trials] == ["finished", "finished"]
    assert [copy.trial for copy in result.trials[1].lineage] == ["0000"]
    assert result.trials[1].parameters == {"critic_lr": 1e-3}
    assert len(Run.open(out / "trials" / "0001").progress()) == 3

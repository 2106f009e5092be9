"""A trial that ASHA stops is a run of as many iterations as it had, judged like the others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from noetik_rllib.evaluation.result import METRICS
from noetik_rllib.interpret.explanation import default_users
from noetik_rllib.runs import Run, train
from noetik_rllib.sweeps.folder import SweepFolder
from noetik_rllib.sweeps.outcomes import OUTCOMES
from noetik_rllib.sweeps.results import TABLE_NAME, Trial
from noetik_rllib.sweeps.sweep import resume_sweep
from tests.sweeps.conftest import Swept
from tests.sweeps.test_sweep import noetik


def stopped_trials(swept: Swept) -> list[Trial]:
    return [trial for trial in swept.result.trials if trial.status == "stopped"]


def test_one_that_lags_behind_is_stopped(halved: Swept) -> None:
    """Fails if ASHA lets a trial go on that it should stop, or stops one that it should not."""
    events = SweepFolder.open(halved.folder).events()
    first = {event.trial: event.score for event in reversed(events) if event.score is not None}
    before: list[float] = []
    for trial in halved.result.trials:
        score = first[int(trial.name)]
        assert score is not None
        lags = bool(before) and score < np.percentile(before, 99)
        assert (trial.status, trial.iterations) == (("stopped", 1) if lags else ("finished", 3))
        before.append(score)
    assert 0 < len(stopped_trials(halved)) < len(halved.result.trials)
    shares = [share for _, share in halved.said]
    assert shares == sorted(shares)
    assert halved.said[-1][0].startswith("4 of 4 trials done")


def test_tune_is_told_the_whole_vector(halved: Swept) -> None:
    """Fails if loggers hear of the one metric alone that decides who is stopped."""
    scored = 0
    for trial in halved.result.trials:
        lines = (halved.folder / "tune" / trial.name / "result.json").read_text().splitlines()
        for told in map(json.loads, lines):
            if "score" in told:
                scored += 1
                assert all(f"validation/{name}" in told for name in METRICS)
                assert told["score"] == told["validation/reward"]
    assert scored >= len(halved.result.trials) - len(stopped_trials(halved))


def test_a_stopped_trial_is_judged(halved: Swept) -> None:
    """Fails if what a sweep says of a trial hangs on whether it was stopped."""
    rows = pq.read_table(halved.folder / TABLE_NAME).to_pylist()
    for trial in stopped_trials(halved):
        assert list(trial.outcomes) == list(OUTCOMES)
        row = rows[int(trial.name)]
        assert (row["status"], row["iterations"]) == ("stopped", 1)
        assert row["click"] == trial.outcomes["click"].mean
        events = SweepFolder.open(halved.folder).events()
        happened = [event.what for event in events if event.trial == int(trial.name)]
        assert happened == ["start", "stop", "start", "finish"]
    best = max(halved.result.trials, key=lambda trial: trial.outcomes["click"].mean)
    assert best.pareto or len({trial.outcomes["click"].mean for trial in halved.result.trials}) < 4
    assert resume_sweep(halved.folder) == halved.result
    shown = noetik("tune", "--show", str(halved.folder))
    assert shown.count("stopped at iteration 1") == len(stopped_trials(halved))


def test_a_stopped_trial_is_a_run(halved: Swept, tmp_path: Path) -> None:
    """Fails if a stopped trial cannot be looked into, or its run does not say how it was trained.

    Trained again from its settings it is the same, to the bit, with as many threads; and it can go
    on to the end that it was begun for.
    """
    name = stopped_trials(halved)[0].name
    place = halved.folder / "trials" / name
    run = Run.open(place)
    assert (run.config.iterations, run.config.stopped_at) == (3, 1)
    assert len(run.progress()) == 1
    (user, *_) = default_users(run.dataset())
    assert json.loads(noetik("explain", str(place), "--user", str(user), "--json"))
    assert Path(noetik("report", str(place)).strip().splitlines()[-1]).is_file()
    noetik("evaluate", str(place), "--users", "10", "--seeds", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(halved.result.config.cpus_per_trial)
    again = train(run.config.model_copy(update={"out": tmp_path / "again"}))
    torch.set_num_threads(threads)
    weights = run.networks().state_dict()
    for key, value in again.networks().state_dict().items():
        assert torch.equal(value, weights[key]), key
    longer = tmp_path / "again"
    noetik("train", "--resume", str(longer))
    assert len(Run.open(longer).progress()) == 3
    assert Run.open(longer).config.stopped_at is None

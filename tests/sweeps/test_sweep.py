"""A small sweep, end to end: Tune runs it, each trial is a run, the result says what is best."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from noetik_rllib.cli.main import cli
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.evaluation_result import EvaluationResult
from noetik_rllib.interpret.explanation import default_users
from noetik_rllib.runs import Run
from noetik_rllib.sweeps.folder import Event, SweepFolder
from noetik_rllib.sweeps.outcomes import OUTCOMES
from noetik_rllib.sweeps.results import RESULTS_NAME, TABLE_NAME, SweepResult
from noetik_rllib.sweeps.sweep import resume_sweep, run_sweep
from tests.sweeps.conftest import TRAIN, Swept, sweep_config


def noetik(*words: str) -> str:
    done = CliRunner().invoke(cli, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def times(events: list[Event], trial: int) -> dict[str, float]:
    return {event.what: event.time for event in events if event.trial == trial}


def test_every_trial_is_a_run_with_its_own_reward(swept: Swept) -> None:
    """Fails if a trial trains on another reward than it reports, or leaves no usable run."""
    for trial in swept.result.trials:
        run = Run.open(swept.folder / "trials" / trial.name)
        assert run.config.reward.model_dump() == trial.parameters["reward"]
        assert run.config.reward.watch_ratio == 0
        assert run.networks().config.embedding_size == 8
        assert trial.status == "finished"
        assert trial.iterations == len(run.progress()) == 3
        assert list(trial.outcomes) == list(OUTCOMES)
        for interval in trial.outcomes.values():
            assert interval.low <= interval.mean <= interval.high
    # The best one in click is beaten by none, or by one with as many clicks.
    best = max(swept.result.trials, key=lambda trial: trial.outcomes["click"].mean)
    assert best.pareto or len({trial.outcomes["click"].mean for trial in swept.result.trials}) < 3
    shares = [share for _, share in swept.said]
    assert shares == sorted(shares)
    assert swept.said[-1] == ("3 of 3 trials done; " + swept.said[-1][0].split("; ")[1], 1.0)


def test_trials_that_fill_the_machine_run_side_by_side(swept: Swept) -> None:
    """Fails if a trial needs anything outside its placement group, or trials wait for each other.

    Two of two CPUs each leave none of the four: stock RLlib's data actors would hang here for ever.
    """
    events = SweepFolder.open(swept.folder).events()
    one, other = times(events, 0), times(events, 1)
    assert max(one["start"], other["start"]) < min(one["finish"], other["finish"])


def test_the_rows_were_read_once(swept: Swept) -> None:
    """Fails if a trial reads the training rows again: they were destroyed when the first had begun.

    The third trial began after that; so did whatever the others do after their first iteration.
    """
    events = SweepFolder.open(swept.folder).events()
    first = next(share for doing, share in swept.said if "iteration 1 of" in doing)
    assert first < 1 / 3
    assert min(times(events, n)["finish"] for n in (0, 1)) <= times(events, 2)["start"]
    assert swept.result.trials[2].status == "finished"


def test_the_result_is_written_for_people_and_programs(swept: Swept) -> None:
    """Fails if a file differs from the result, or an interval is lost on the way."""
    assert SweepResult.load(swept.folder) == swept.result
    assert json.loads((swept.folder / RESULTS_NAME).read_text())["trials"][0]["name"] == "0000"
    table = pq.read_table(swept.folder / TABLE_NAME).to_pylist()
    for row, trial in zip(table, swept.result.trials, strict=True):
        assert (row["trial"], row["status"], row["pareto"]) == (
            trial.name,
            "finished",
            trial.pareto,
        )
        assert row["parameter.reward.click"] == trial.parameters["reward"]["click"]
        for name, interval in trial.outcomes.items():
            assert (row[name], row[f"{name}.low"], row[f"{name}.high"]) == (
                interval.mean,
                interval.low,
                interval.high,
            )


def test_tensorboard_sees_what_was_drawn(swept: Swept) -> None:
    """Fails if a dashboard shows trials without their parameters or their outcomes."""
    for number, trial in enumerate(swept.result.trials):
        folder = swept.folder / "tune" / trial.name
        assert list(folder.glob("events.out.tfevents.*"))
        drawn = json.loads((folder / "params.json").read_text())
        assert drawn == {"trial": number, **trial.parameters}
        last = json.loads((folder / "result.json").read_text().splitlines()[-1])
        assert np.isclose(last["click"], trial.outcomes["click"].mean)


def test_a_trial_can_be_evaluated_explained_and_reported_by_its_path(swept: Swept) -> None:
    """Fails if what a sweep found cannot be looked into."""
    trial = str(swept.folder / "trials" / "0001")
    shown = noetik("tune", "--show", str(swept.folder))
    assert "0001" in shown
    assert "Hypervolume" in shown
    as_json = json.loads(noetik("tune", "--show", str(swept.folder), "--json"))
    assert as_json == swept.result.model_dump(mode="json")
    (user, *_) = default_users(Run.open(trial).dataset())
    assert json.loads(noetik("explain", trial, "--user", str(user), "--json"))
    assert Path(noetik("report", trial).strip().splitlines()[-1]).is_file()
    page = Path(noetik("report", str(swept.folder)).strip())
    assert page == swept.folder / "report.html"
    # Of its sessions alone there is an evaluation already; that of all there is replaces it.
    assert EvaluationResult.load(trial).ranking_test is None
    assert "fitted Q" in noetik("evaluate", trial, "--users", "10", "--seeds", "1")
    assert EvaluationResult.load(trial).ranking_test is not None


def test_nothing_is_left_to_resume(swept: Swept) -> None:
    """Fails if a finished trial runs again, or the result changes."""
    before = (swept.folder / "journal.jsonl").read_bytes()
    assert resume_sweep(swept.folder) == swept.result
    assert (swept.folder / "journal.jsonl").read_bytes() == before
    with pytest.raises(UserError, match="exists already"):
        run_sweep(sweep_config(Path("anywhere")), swept.folder)


@pytest.mark.usefixtures("ray_session")
def test_a_failing_trial_is_named(tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if a sweep whose trials cannot train ends with an empty result or a traceback."""
    constant = {"follow": 1e-9, "click": 0, "watch_ratio": 0}
    config = sweep_config(
        tiny_dataset, reward=None, search={"reward": {"grid": [constant]}}, num_samples=1
    )
    out = tmp_path / "sweep"
    with pytest.raises(UserError, match=r"every trial failed; 0000: .*same on every training row"):
        run_sweep(config, out)
    events = SweepFolder.open(out).events()
    assert [event.what for event in events] == ["start", "fail"]  # and not tried four times
    shown = CliRunner().invoke(cli, ["tune", "--show", str(out)])
    assert "failed at 0" in shown.output
    assert "tries them again" in shown.output


def test_wrong_settings_stop_a_sweep_before_it_starts(tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if a bad value is found only in the middle of a sweep, or leaves a folder."""
    out = tmp_path / "sweep"
    # Each is allowed, and an embedding of 8 has no three equal parts.
    wrong = sweep_config(tiny_dataset, train={**TRAIN, "num_heads": 3})
    with pytest.raises(UserError, match="num_heads"):
        run_sweep(wrong, out)
    with pytest.raises(UserError, match="not an offline dataset"):
        run_sweep(sweep_config(tmp_path), out)
    late = sweep_config(tiny_dataset, scheduler={"type": "asha", "grace_period": 3})
    with pytest.raises(UserError, match="grace_period is 3, but trials have 3 iterations"):
        run_sweep(late, out)
    train = {**TRAIN, "snapshots": 1}
    unseen = sweep_config(tiny_dataset, train=train, scheduler={"type": "asha"})
    with pytest.raises(UserError, match="after no iterations, and grace_period is 1: raise snap"):
        run_sweep(unseen, out)
    assert not list(tmp_path.iterdir())


def test_a_cluster_that_does_not_answer_is_named(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a wrong address is found after minutes, or leaves a folder that is in the way."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=f"no Ray cluster answers at {address} .*refused"):
        run_sweep(sweep_config(tiny_dataset), tmp_path / "sweep")
    assert not list(tmp_path.iterdir())


def test_wrong_usage_is_one_line(tmp_path: Path) -> None:
    """Fails if a mistake on the command line starts something, or is answered by a traceback."""
    for words, message in (
        ([], "one of FILE, --resume DIR and --show DIR"),
        (["x.yaml", "--resume", "y"], "one of FILE, --resume DIR and --show DIR"),
        (["--resume", "y", "--num-samples", "3"], "one that was begun keeps its own"),
        (["x.yaml", "--address", "ray://head:10001"], "Ray Client is not supported"),
        (["x.yaml", "--num-samples", "0"], "expected at least 1"),
        (["--show", str(tmp_path)], "holds no sweep"),
        (["--resume", str(tmp_path / "none")], "does not exist"),
    ):
        done = CliRunner().invoke(cli, ["tune", *words])
        assert done.exit_code != 0
        assert message in (done.output + str(done.exception))

"""``noetik evaluate``, from a run's folder to ``metrics.json``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from noetik_rllib.cli.errors import run as run_command
from noetik_rllib.cli.evaluate import evaluate as evaluate_command
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.evaluate import cloning_effort, evaluate
from noetik_rllib.evaluation.evaluation_result import METRICS_NAME, EvaluationResult
from noetik_rllib.evaluation.result import METRICS
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.runs import POLICY_NAME, Run, TrainConfig, save_policy


@pytest.fixture
def run(tiny_dataset: Path, tmp_path: Path) -> Run:
    """A finished run with untrained networks: what training would write, without its minutes."""
    dataset = OfflineDataset(tiny_dataset)
    config = TrainConfig(
        data=tiny_dataset, out=tmp_path / "run", iterations=2, steps_per_iteration=3, batch_size=32
    )
    sizes = NetworkConfig.for_dataset(dataset.manifest, embedding_size=16, num_layers=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = IQLNetworks(sizes, dataset.catalog)
    config.out.mkdir()
    config.save(config.out)
    save_policy(config.out / POLICY_NAME, networks, tiny_dataset)
    return Run.open(config.out)


def call(*arguments: object) -> int:
    """Run the command as the shell does; returns the exit code."""
    with pytest.raises(SystemExit) as exit_:
        run_command(evaluate_command, [str(argument) for argument in arguments])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def test_command_compares_and_writes(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """``noetik evaluate RUN --json`` would not print what it writes, or print anything else."""
    assert call(run.directory, "--users", 5, "--seeds", 1, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((run.directory / METRICS_NAME).read_text())
    result = EvaluationResult.load(run.directory).sessions
    assert list(result.policies) == ["iql", "behaviour_cloning", "popularity", "random"]
    assert all(tuple(metrics) == METRICS for metrics in result.policies.values())
    assert list(result.differences) == ["behaviour_cloning", "popularity", "random"]
    assert result.users == 5
    assert result.judge.fitted_on.part == "judge"
    assert result.distinct_videos["popularity"] == 10

    # The same again, now from the cached clone, and as a table that fits a terminal.
    assert call(run.directory, "--users", 5, "--seeds", 1) == 0
    assert json.loads((run.directory / METRICS_NAME).read_text()) == printed
    table = capsys.readouterr().out
    for name in ("IQL (this run)", "behaviour cloning", "popularity", "random", "logged"):
        assert name in table
    assert f"{result.policies['iql']['reward'].mean:.3f} ±" in table
    assert "…" not in table
    assert max(len(line) for line in table.splitlines()) <= 80


def test_other_seed_other_result_same_seed_same(run: Run) -> None:
    """A result could not be reproduced, or a seed would mean nothing."""
    first = evaluate(run, users=6, seeds=1, seed=1)
    assert evaluate(run, users=6, seeds=1, seed=1) == first
    assert evaluate(run, users=6, seeds=1, seed=2).sessions.policies != first.sessions.policies


def test_progress_names_the_stages(run: Run) -> None:
    """Minutes would pass without a word, or the bar would run backwards."""
    seen: list[tuple[str, float]] = []
    evaluate(run, users=3, seeds=1, progress=lambda *update: seen.append(update))
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert list(dict.fromkeys(doing for doing, _ in seen)) == [
        "fitting the judge's user model",
        "training behaviour cloning",
        *(f"sessions of {name}" for name in ("iql", "behaviour_cloning", "popularity", "random")),
    ]


def test_clone_gets_the_runs_own_effort(run: Run) -> None:
    """Behaviour cloning would be weaker, or stronger, than the run it is compared with."""
    effort = cloning_effort(run)
    assert (effort.steps, effort.batch_size, effort.seed) == (6, 32, 0)
    assert effort.learning_rate == run.config.actor_lr
    shared = run.config.model_copy(update={"num_learners": 2})
    assert cloning_effort(Run(run.directory, shared)).batch_size == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--users", "0"], "users is 0: expected at least 1"),
        (["--seeds", "0"], "seeds is 0: expected at least 1"),
        (["--users", "many"], "'many' is not a valid integer"),
    ],
)
def test_mistakes_are_one_line(
    run: Run, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    """A mistake would end in a traceback, or in a half-written file."""
    assert call(run.directory, *options) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert not (run.directory / METRICS_NAME).exists()


def test_a_missing_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong path would end in a traceback."""
    assert call(tmp_path / "nowhere") == 2
    error = capsys.readouterr().err
    assert "nowhere does not exist" in error
    assert error.count("\n") == 1


def test_damaged_metrics_are_named(run: Run) -> None:
    """A report would show half a result."""
    with pytest.raises(UserError, match=r"has no metrics\.json: run 'noetik evaluate"):
        EvaluationResult.load(run.directory)
    file = run.directory / METRICS_NAME
    for content, message in (
        ("{", "not JSON"),
        ("[]", "format version None"),
        ('{"format_version": 1}', "format version 1; this release reads 3"),
        ('{"format_version": 3}', "is damaged: policy: Field required"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            EvaluationResult.load(run.directory)

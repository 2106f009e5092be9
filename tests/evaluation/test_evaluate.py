"""``noetik evaluate``, from a run's folder to ``metrics.json``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from noetik_rllib.cli.errors import run as run_command
from noetik_rllib.cli.evaluate import evaluate as evaluate_command
from noetik_rllib.envs.response_fit import fit_response_model
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.evaluate import evaluate
from noetik_rllib.evaluation.evaluation_result import METRICS_NAME, EvaluationResult
from noetik_rllib.evaluation.lineup import cloning_effort
from noetik_rllib.evaluation.off_policy import off_policy_estimates
from noetik_rllib.evaluation.policies import ActorPolicy, popularity
from noetik_rllib.evaluation.result import METRICS
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.report.evaluation_plots import PLOTS_NAME
from noetik_rllib.runs import POLICY_NAME, SNAPSHOTS_NAME, Run, TrainConfig, save_policy


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
    result = EvaluationResult.load(run.directory)
    sessions = result.sessions
    assert list(sessions.policies) == [
        "iql",
        "iql_ranked",
        "behaviour_cloning",
        "popularity",
        "random",
    ]
    assert all(tuple(metrics) == METRICS for metrics in sessions.policies.values())
    assert list(sessions.differences) == list(sessions.policies)[1:]
    assert (sessions.users, sessions.seeds) == (5, [0])
    assert result.judge.fitted_on.part == "judge"
    assert sessions.distinct_videos["popularity"] == 10
    # One policy was kept, so there was nothing to choose.
    assert result.validation is None
    assert {file.name for file in (run.directory / PLOTS_NAME).iterdir()} == {
        "reward.png",
        "quit_windows.png",
        "groups.png",
        # Five users are too few for curves of what is read.
        "faithfulness.png",
    }
    assert result.interpretability is not None
    assert result.interpretability.decisions == 5

    # The same again, now from the cached clone, and as tables that fit a terminal.
    assert call(run.directory, "--users", 5, "--seeds", 1) == 0
    again = json.loads((run.directory / METRICS_NAME).read_text())
    # Peak memory is that of the process, and no figure.
    assert again | {"provenance": None} == printed | {"provenance": None}
    table = capsys.readouterr().out
    for name in ("IQL (this run)", "behaviour cloning", "popularity", "random", "logged"):
        assert name in table
    assert f"{sessions.policies['iql']['reward'].mean:.3f} ±" in table
    assert "…" not in table
    assert max(len(line) for line in table.splitlines()) <= 80


def test_every_section_has_its_evidence_or_says_what_lacks(run: Run, tmp_path: Path) -> None:
    """A figure would be missing without a word, or come from something else than it says."""
    result = evaluate(run, users=4, seeds=1)
    found = {
        name: getattr(result, name)
        for name in ("off_policy", "candidates", "fitted_q", "ranking_random", "ranking_test")
    }
    assert {name for name, section in found.items() if section is None} == set(result.missing)
    assert result.ranking_test is not None
    assert set(result.ranking_test.scorers) == {*result.sessions.policies, "Q", "user + video"}
    assert result.q_correlation is not None
    assert result.exposure is not None
    assert result.exposure["popularity"].top.overlap == 1
    assert result.groups is not None
    assert set(result.groups.activity) == set(result.sessions.policies)


def test_without_a_random_log_the_rest_stands(
    run: Run, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log without random exposures could not be evaluated at all, or its figures would be made
    up from others.
    """
    copy = tmp_path / "dataset"
    shutil.copytree(tiny_dataset, copy)
    for file in (copy / "random").glob("*.parquet"):
        pq.write_table(pq.read_table(file).slice(0, 0), file)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["parts"]["random"]["rows"] = 0
    (copy / "manifest.json").write_text(json.dumps(manifest))
    config = run.config.model_copy(update={"data": copy, "out": tmp_path / "other"})
    config.out.mkdir()
    config.save(config.out)
    save_policy(config.out / POLICY_NAME, run.networks(), copy)
    assert call(config.out, "--users", 4, "--seeds", 1) == 0
    result = EvaluationResult.load(config.out)
    assert result.off_policy is None
    assert result.candidates is None
    assert "no uniformly exposed rows" in result.missing["off_policy"]
    assert result.ranking_test is not None
    assert "No off-policy estimates:" in capsys.readouterr().out


def test_few_rows_of_the_random_log_are_no_crash(run: Run) -> None:
    """A log of which no row shows what a policy would, nor its tags, would end in a traceback."""
    dataset = run.dataset()
    judge = fit_response_model(dataset, "judge")
    policies = [ActorPolicy.of(run.networks()), popularity(dataset)]
    found = off_policy_estimates(policies, dataset, judge, max_rows=8)
    reasons = [
        estimate.reason
        for policy in found.policies.values()
        for estimate in policy.estimates.values()
    ]
    assert any(reason and "no row of the random log" in reason for reason in reasons)


def test_all_baselines_and_the_truth(run: Run, tiny_world: Path) -> None:
    """A baseline that ours is judged by would be missing, or the true users would
    answer as the simulated ones do.
    """
    result = evaluate(run, users=10, seeds=2, baselines=True, world=tiny_world)
    assert list(result.sessions.policies) == [
        "iql",
        "iql_ranked",
        "behaviour_cloning",
        "popularity",
        "random",
        "greedy",
        "best_cycle",
        "best_rewarded",
        "rllib_bc",
        "rllib_marwil",
        "rllib_cql",
        "logging",
        "oracle",
    ]
    truth = result.true_sessions
    assert truth is not None
    best = max(truth.policies, key=lambda name: truth.policies[name]["reward"].mean)
    assert best == "oracle"
    assert truth.policies["oracle"] != result.sessions.policies["oracle"]
    assert result.sessions.distinct_videos["best_cycle"] == 6
    with pytest.raises(UserError, match=r"is not a synthetic world|world\.json"):
        evaluate(run, users=4, seeds=1, world=run.directory)


def test_validation_chooses_the_better_policy(run: Run) -> None:
    """The last policy would be the run's though an earlier one is better; or what is explained
    would be another than what is evaluated.
    """
    last = run.networks()
    config = run.config.model_copy(update={"iterations": 2})
    earlier = run.directory / SNAPSHOTS_NAME / "1"
    save_policy(earlier, last, config.data)
    dataset = run.dataset()
    assert run.snapshots() == [1, 2]
    # The last policy shows the videos that were clicked least, the earlier one those most.
    rows = dataset.load("train", ("actions", "click"))
    clicks = np.bincount(rows["actions"], rows["click"], dataset.manifest.num_videos)
    rates = clicks / np.maximum(np.bincount(rows["actions"], minlength=len(clicks)), 1)
    for folder, sign in ((earlier, 1.0), (run.directory / POLICY_NAME, -1.0)):
        networks = run.networks(2)
        prefer(networks, sign * torch.tensor(rates, dtype=torch.float32))
        save_policy(folder, networks, config.data)
    result = evaluate(run, users=4, seeds=1)
    assert result.validation is not None
    assert result.validation.iteration == 1
    assert result.validation.rewards[1].mean > result.validation.rewards[2].mean
    assert run.chosen_iteration() == 1
    chosen = run.networks().actor.item_bias.weight
    assert torch.equal(chosen, run.networks(1).actor.item_bias.weight)


def prefer(networks: IQLNetworks, value: torch.Tensor) -> None:
    """Make an actor that shows the same videos to all, the most valuable first."""
    with torch.no_grad():
        networks.actor.query.weight.zero_()
        networks.actor.query.bias.zero_()
        videos = networks.actor.tower(networks.features)  # (N, D)
        weight = torch.linalg.lstsq(videos, (value - value.mean())[:, None]).solution
        networks.actor.item_bias.weight.copy_(weight.T)


def figures(result: EvaluationResult) -> EvaluationResult:
    """A result without the memory of the process."""
    return result.model_copy(update={"provenance": None})


def test_other_seed_other_result_same_seed_same(run: Run) -> None:
    """A result could not be reproduced, or a seed would mean nothing."""
    first = evaluate(run, users=6, seeds=1, seed=1)
    assert figures(evaluate(run, users=6, seeds=1, seed=1)) == figures(first)
    assert evaluate(run, users=6, seeds=1, seed=2).sessions.policies != first.sessions.policies


def test_progress_names_the_stages(run: Run) -> None:
    """Minutes would pass without a word, or the bar would run backwards."""
    seen: list[tuple[str, float]] = []
    evaluate(run, users=3, seeds=1, progress=lambda *update: seen.append(update))
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    stages = list(dict.fromkeys(doing for doing, _ in seen))
    assert stages[:3] == [
        "training behaviour cloning",
        "fitting the judge's user model",
        "simulated sessions",
    ]
    assert "off-policy estimates" in stages


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
        (["--max-rows", "0"], "max rows is 0: expected at least"),
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
    # Found before anything was trained or chosen.
    assert not (run.directory / "baselines").exists()
    assert not (run.directory / "chosen.json").exists()


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
        ('{"format_version": 1}', "format version 1; this release reads 4"),
        ('{"format_version": 4}', "is damaged: policy: Field required"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            EvaluationResult.load(run.directory)

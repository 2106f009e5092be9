"""A run's directory: whole or not there, resumable, readable without Ray, honest about damage."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from noetik_rllib.data.signals import RewardWeights
from noetik_rllib.errors import UserError
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.prepare_config import PrepareConfig
from noetik_rllib.offline.writer import prepare
from noetik_rllib.progress import CLOCKS
from noetik_rllib.run_folder import settings_to_resume
from noetik_rllib.runs import Run, TrainConfig, train, unfinished


def config(data: Path, out: Path, **changes: Any) -> TrainConfig:
    """A run of three iterations of two small steps."""
    values = {
        "data": data,
        "out": out,
        "iterations": 3,
        "steps_per_iteration": 2,
        "batch_size": 32,
        "embedding_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "reward": {"click": 1.0, "watch_ratio": 0.0, "like": 2.0},
    }
    return TrainConfig.parse(values | changes)


@pytest.fixture(scope="module")
def run(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Run:
    """A finished run, for tests that only read it."""
    return train(config(tiny_dataset, tmp_path_factory.mktemp("runs") / "finished"))


def assert_same(left: Run, right: Run) -> None:
    """Both have the same weights and went the same way, to the bit."""
    weights_left = weights(left)
    for name, value in weights(right).items():
        assert torch.equal(value, weights_left[name]), name
    for one, other in zip(left.progress(), right.progress(), strict=True):
        assert {k: v for k, v in one.items() if k not in CLOCKS} == {
            k: v for k, v in other.items() if k not in CLOCKS
        }


def weights(run: Run) -> dict[str, torch.Tensor]:
    return run.networks().state_dict()


def stop_after(iterations: int) -> Any:
    """A callback that breaks the training off, like a lost machine."""

    def stop(row: dict[str, float]) -> None:
        if row["iteration"] == iterations:
            raise ConnectionResetError

    return stop


def test_a_finished_run_has_everything(run: Run, tiny_dataset: Path) -> None:
    """Fails if a file is missing or wrong that evaluation, reports or TensorBoard read."""
    assert not unfinished(run.directory).exists()
    assert Run.open(run.directory) == run
    assert run.config.reward == RewardWeights(click=1.0, watch_ratio=0.0, like=2.0)
    assert (run.directory / "checkpoint" / "rllib_checkpoint.json").is_file()
    assert list(run.directory.glob("events.out.tfevents.*"))
    rows = run.progress()
    assert [row["iteration"] for row in rows] == [1, 2, 3]
    assert [row["gradient_steps"] for row in rows] == [2, 4, 6]
    needed = {"seconds", "q_loss", "v_loss", "actor_loss", "q_mean", "v_mean", "advantage_mean"}
    assert needed | {"capped_weight_share", "effective_sample_size"} <= rows[0].keys()
    assert run.dataset().manifest == OfflineDataset(tiny_dataset).manifest


def test_the_policy_is_the_trained_one(run: Run, tiny_dataset: Path) -> None:
    """Fails if what is evaluated is not what was trained, or lacks the catalogue."""
    from noetik_rllib.iql.algorithm import DiscreteIQL

    networks = run.networks()
    assert not networks.training
    algorithm = DiscreteIQL.from_checkpoint(str(run.directory / "checkpoint"))
    try:
        module = algorithm.learner_group._learner.module["default_policy"]
        states = torch.tensor(OfflineDataset(tiny_dataset).load("test", ("obs",))["obs"][:5])
        expected = module.forward_inference({"obs": states})["action_dist_inputs"]
    finally:
        algorithm.stop()
    with torch.no_grad():
        torch.testing.assert_close(networks.actor(networks.features, states), expected)
    numeric = OfflineDataset(tiny_dataset).catalog.numeric
    np.testing.assert_array_equal(networks.features.numeric.numpy(), numeric)


def test_a_run_is_not_resumed_on_another_dataset(tiny_world: Path, tmp_path: Path) -> None:
    """Fails if a resumed run trains on users that the new dataset holds out to judge it on."""
    data = tmp_path / "data"
    prepare(tiny_world, data)
    settings = config(data, tmp_path / "run", checkpoint_seconds=0)
    with pytest.raises(ConnectionResetError):
        train(settings, stop_after(2))
    prepare(tiny_world, data, PrepareConfig(seed=5), overwrite=True)
    with pytest.raises(UserError, match="prepared again meanwhile"):
        train(settings, resume=True)
    assert not settings.out.exists()


def test_a_stopped_run_is_resumed_as_if_unbroken(
    run: Run, tiny_dataset: Path, tmp_path: Path
) -> None:
    """Fails if a resumed run differs from one that was never stopped, or cannot be recognised."""
    same = config(tiny_dataset, tmp_path / "run", checkpoint_seconds=0)
    with pytest.raises(ConnectionResetError):
        train(same, stop_after(2))
    assert not same.out.exists()
    with pytest.raises(UserError, match=r"is unfinished \(2 iterations"):
        Run.open(same.out)
    with pytest.raises(UserError, match=r"unfinished run \(2 iterations.*--resume .*run"):
        train(same)
    other = same.model_copy(update={"beta": 3.0})
    with pytest.raises(UserError, match=r"keeps its settings: beta 1.0 -> 3.0"):
        train(other, resume=True)

    resumed = train(same, resume=True)
    assert not unfinished(same.out).exists()
    assert_same(run, resumed)
    times = [row["seconds"] for row in resumed.progress()]
    assert times == sorted(times), "the clock starts again"


@pytest.mark.usefixtures("ray_session")
def test_schedules_go_on(tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if a restored run takes its first iteration with another step size."""
    settings = config(
        tiny_dataset,
        tmp_path / "run",
        checkpoint_seconds=0,
        actor_lr=[(0, 1e-3), (150, 1e-5)],
        critic_lr=[(0, 1e-4), (150, 1e-2)],
        actor_lr_decay=False,
    )
    copy = settings.model_copy(update={"out": tmp_path / "copy"})

    def keep(row: dict[str, float]) -> None:
        if row["iteration"] == 1:
            shutil.copytree(unfinished(settings.out), unfinished(copy.out))

    assert_same(train(settings, keep), train(copy, resume=True))


@pytest.mark.usefixtures("ray_session")
def test_a_run_can_be_lengthened(tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if more iterations differ from a run that had them at once, or a kill loses both."""
    short = config(tiny_dataset, tmp_path / "run", iterations=2, actor_lr_decay=False)
    long = short.model_copy(update={"iterations": 4, "checkpoint_seconds": 0})
    first = train(short)
    (short.out / "metrics.json").write_text("the shorter run's")
    with pytest.raises(UserError, match="is finished: it has its 2 iterations; resume with more"):
        train(short, resume=True)
    with pytest.raises(ConnectionResetError):
        train(long, stop_after(3), resume=True)
    assert Run.open(short.out) == first, "the run is gone before the longer one is whole"
    # The same, but the finished run is not the one that is being lengthened.
    other = long.model_copy(update={"out": tmp_path / "other"})
    shutil.copytree(unfinished(long.out), unfinished(other.out))
    short.model_copy(update={"seed": 1}).save(Path(shutil.copytree(short.out, other.out)))
    with pytest.raises(UserError, match=r"holds a finished run that .* would replace"):
        train(other, resume=True)
    longer = train(long, resume=True)
    assert not (long.out / "metrics.json").exists()
    assert_same(longer, train(long.model_copy(update={"out": tmp_path / "at once"})))


def test_a_decaying_run_cannot_be_lengthened(run: Run, tmp_path: Path) -> None:
    """Fails if a run goes on with a policy whose step size has come to 0."""
    longer = run.config.model_copy(update={"out": run.directory, "iterations": 5})
    with pytest.raises(UserError) as error:
        train(longer, resume=True)
    assert "iterations 3 -> 5: the policy's step size falls to 0 over the 3" in str(error.value)
    assert "\n" not in str(error.value)
    assert not unfinished(run.directory).exists()


@pytest.mark.usefixtures("ray_session")
def test_a_failed_run_leaves_nothing(tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if a training that came to nothing leaves a folder that looks like something."""
    out = tmp_path / "run"
    with pytest.raises(ConnectionResetError):  # before the first checkpoint
        train(config(tiny_dataset, out), stop_after(1))
    with pytest.raises(UserError, match="training diverged"):
        train(config(tiny_dataset, out, critic_lr=1e30))
    with pytest.raises(UserError, match="training rows are fewer"):
        train(config(tiny_dataset, out, batch_size=100_000))
    with pytest.raises(UserError, match="is not an offline dataset"):
        train(config(tmp_path / "gone", out))
    with pytest.raises(UserError, match="nothing to resume"):
        train(config(tiny_dataset, out), resume=True)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_unasked(run: Run, tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if a finished run, or someone's folder, is lost to a second training."""
    before = weights(run)
    with pytest.raises(UserError, match=r"holds a finished run: .*--overwrite"):
        train(config(tiny_dataset, run.directory))
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="exists and is no run"):
        train(config(tiny_dataset, tmp_path), overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert all(torch.equal(value, before[name]) for name, value in weights(run).items())

    out = tmp_path / "run"
    short = config(tiny_dataset, out, iterations=1)
    train(short)
    assert train(short.model_copy(update={"seed": 1}), overwrite=True).config.seed == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "thesis.txt"]


def copy_of(run: Run, folder: Path) -> Path:
    return Path(shutil.copytree(run.directory, folder / "copy"))


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Fails if a mistyped path ends in a traceback."""
    with pytest.raises(UserError, match="nothing does not exist: train one with"):
        Run.open(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no run"):
        Run.open(tmp_path)


def test_damage_is_named(run: Run, tmp_path: Path) -> None:
    """Fails if a damaged file is read as far as it goes, or its traceback reaches the user."""
    folder = copy_of(run, tmp_path)
    damage(folder / "policy" / "weights.safetensors")
    with pytest.raises(UserError, match=r"weights\.safetensors is damaged"):
        Run.open(folder).networks()
    (folder / "progress.csv").write_text("iteration,q_loss\n1,zero\n")
    with pytest.raises(UserError, match=r"progress\.csv is damaged"):
        Run.open(folder).progress()
    policy = folder / "policy" / "config.json"
    content = json.loads(policy.read_text())
    policy.write_text(json.dumps(content | {"layout_version": 0}))
    with pytest.raises(UserError, match="state layout 0; this release uses"):
        Run.open(folder)
    policy.write_text(json.dumps(content | {"network_version": 1}))
    with pytest.raises(UserError, match="networks of version 1; this release uses"):
        Run.open(folder).networks()
    damage(policy)
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        Run.open(folder)
    (folder / "config.yaml").write_text("expectile: 2\n")
    with pytest.raises(UserError, match=r"config\.yaml is damaged: expectile is 2"):
        Run.open(folder)


def test_policies_are_kept_along_the_run(run: Run, tmp_path: Path) -> None:
    """Fails if validation has nothing to choose from, chooses among copies of one policy, or if
    what it chose is not what the run's policy is from then on.
    """
    folder = copy_of(run, tmp_path)
    opened = Run.open(folder)
    assert opened.snapshots() == opened.config.snapshot_iterations
    first, last = opened.snapshots()[0], opened.snapshots()[-1]
    assert last == opened.config.iterations
    assert opened.chosen_iteration() == last

    def bias(iteration: int | None) -> torch.Tensor:
        return opened.networks(iteration).actor.item_bias.weight.detach()

    assert torch.equal(bias(None), bias(last))
    assert not torch.equal(bias(first), bias(last))
    opened.choose(first)
    assert torch.equal(bias(None), bias(first))
    (folder / "chosen.json").write_text('{"iteration": 99}')
    with pytest.raises(UserError, match="names iteration 99, of which the run has no policy"):
        opened.networks()
    (folder / "chosen.json").write_text("{")
    with pytest.raises(UserError, match=r"chosen\.json is damaged"):
        opened.networks()


def test_a_cut_checkpoint_is_named(run: Run, tmp_path: Path) -> None:
    """Fails if resuming from a checkpoint that was cut short ends in a traceback of pickle's."""
    folder = copy_of(run, tmp_path)
    work = folder.rename(unfinished(folder))
    (state,) = (work / "checkpoint" / "learner_group" / "learner").glob("state.*")
    damage(state)
    with pytest.raises(UserError, match=r"checkpoint is damaged .*--overwrite"):
        train(settings_to_resume(folder), resume=True)


def test_another_dataset_is_refused(run: Run, bandit_dataset: Path, tmp_path: Path) -> None:
    """Fails if a policy is judged on a dataset in which its video numbers mean other videos."""
    with pytest.raises(UserError, match="is not the dataset that"):
        run.dataset(bandit_dataset)
    folder = copy_of(run, tmp_path)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace(str(run.config.data), "/gone/data"))
    moved = Run.open(folder)
    with pytest.raises(UserError, match="/gone/data, which does not exist any more"):
        moved.dataset()
    assert moved.dataset(run.config.data).manifest == run.dataset().manifest


def test_reading_a_run_does_not_import_ray() -> None:
    """Fails if 'noetik explain' waits the seconds that importing Ray takes."""
    code = "import sys, noetik_rllib.runs; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"num_heads": 3}, "embedding_size 16 is not a multiple of num_heads 3"),
        ({"expectil": 0.7}, "unknown setting 'expectil'. Did you mean 'expectile'?"),
        ({"reward": {"clik": 1}}, "unknown signal 'clik'"),
        ({"batch_size": None}, "batch_size is None"),
        ({"actor_lr": [(0, 1e-3), (9, 1e-4)]}, "actor_lr is a schedule already"),
    ],
)
def test_a_bad_setting_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Fails if a mistake in a sweep's file or on the command line takes two readings to find."""
    with pytest.raises(UserError) as error:
        config(tmp_path, tmp_path / "run", **changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)

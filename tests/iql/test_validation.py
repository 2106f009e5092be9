"""What a run tells of its policies' worth on its way, and that telling changes nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from noetik_rllib.cli.train import validated
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.baseline_cache import USER_MODEL, cache_path
from noetik_rllib.evaluation.baselines import user_model
from noetik_rllib.evaluation.evaluate import evaluate
from noetik_rllib.evaluation.policies import ActorPolicy
from noetik_rllib.evaluation.result import METRICS
from noetik_rllib.evaluation.validation import validate, validation_course
from noetik_rllib.iql.telling import tensorboard_tag
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.progress import VALIDATION_NAME
from noetik_rllib.runs import Run, train, unfinished
from tests.iql.test_runs import assert_same, config, stop_after

USERS = 12


@pytest.fixture(scope="module")
def told() -> list[dict[str, float]]:
    """What the run said while it trained."""
    return []


@pytest.fixture(scope="module")
def run(
    tiny_dataset: Path,
    tmp_path_factory: pytest.TempPathFactory,
    ray_session: None,
    told: list[dict[str, float]],
) -> Run:
    """A finished run that validated its policies, of a seed that no default has."""
    settings = config(tiny_dataset, tmp_path_factory.mktemp("validated") / "run", seed=3)
    return train(settings.model_copy(update={"validation_users": USERS}), told.append)


def worth(run: Run, iteration: int) -> dict[str, float]:
    """What the kept policy of an iteration is worth, by the run's own user model."""
    dataset = run.dataset()
    model = user_model(dataset, run.directory, run.config.seed)
    course = validation_course(dataset, model, users=USERS, seed=run.config.seed)
    trained_on = dataset.users.user_id[~dataset.users.held_out]
    assert np.isin(course.starts.user_id, trained_on).all(), "the judge's users are asked"
    assert course.starts.num_users == USERS
    return validate(ActorPolicy.of(run.networks(iteration)), course)


def test_the_figures_are_those_of_the_kept_policies(run: Run, told: list[dict[str, float]]) -> None:
    """Fails if another policy is told of than the one that is kept, or by other users."""
    rows = run.validations()
    assert [row["iteration"] for row in rows] == run.snapshots() == [1, 2, 3]
    for row in rows:
        found = worth(run, int(row["iteration"]))
        assert tuple(found) == METRICS
        assert row == {"iteration": row["iteration"], **found}
    assert len({row["reward"] for row in rows}) > 1, "every policy is worth the same"
    for row, line, progress in zip(rows, told, run.progress(), strict=True):
        assert line == progress | {f"validation/{name}": row[name] for name in METRICS}
    text = validated(told[-1])
    assert text.startswith("train: validation after iteration 3: reward 0.")
    assert ", watch ratio 0." in text
    assert ", hate " in text


def test_training_is_the_same_without(run: Run, tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if asking what a policy is worth changes what is learnt, to the bit."""
    without = train(config(tiny_dataset, tmp_path / "without", seed=3))
    assert_same(run, without)
    assert without.validations() == []
    assert not (without.directory / "baselines").exists()


def test_validation_goes_on_where_a_run_was_stopped(
    run: Run, tiny_dataset: Path, tmp_path: Path
) -> None:
    """Fails if a resumed or a lengthened run tells something else than an unbroken one."""
    same = run.config.model_copy(update={"out": tmp_path / "same", "checkpoint_seconds": 0})
    kept = tmp_path / "kept"

    def stop(row: dict[str, float]) -> None:
        if row["iteration"] == 2:
            # Of the third iteration, which is lost, there is no checkpoint.
            shutil.copytree(unfinished(same.out) / "checkpoint", kept)
        stop_after(3)(row)

    with pytest.raises(ConnectionResetError):
        train(same, stop)
    shutil.rmtree(unfinished(same.out) / "checkpoint")
    kept.rename(unfinished(same.out) / "checkpoint")
    resumed = train(same, resume=True)
    expected = (run.directory / VALIDATION_NAME).read_bytes()
    assert (resumed.directory / VALIDATION_NAME).read_bytes() == expected
    assert_same(run, resumed)

    short = config(
        tiny_dataset, tmp_path / "run", iterations=2, actor_lr_decay=False, validation_users=USERS
    )
    model = cache_path(train(short).directory, USER_MODEL)
    fitted = model.stat().st_mtime_ns
    longer = train(short.model_copy(update={"iterations": 4}), resume=True)
    assert model.stat().st_mtime_ns == fitted, "the users are fitted again"
    assert [row["iteration"] for row in longer.validations()] == [1, 2, 3, 4]


def test_evaluation_takes_the_user_model_over(run: Run, tmp_path: Path) -> None:
    """Fails if the minute that training spent on the user model is spent again, with any seed."""
    copy = Run.open(Path(shutil.copytree(run.directory, tmp_path / "copy")))
    model = cache_path(copy.directory, USER_MODEL)
    fitted = model.read_bytes(), model.stat().st_mtime_ns
    result = evaluate(copy, users=5, seeds=1, seed=1)
    assert result.validation is not None
    assert (model.read_bytes(), model.stat().st_mtime_ns) == fitted


@pytest.mark.usefixtures("ray_session")
def test_the_driver_validates_for_remote_learners(tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if the weights that are validated are not the remote learner's."""
    settings = config(
        tiny_dataset, tmp_path / "run", iterations=2, num_learners=1, validation_users=USERS
    )
    run = train(settings)
    assert [row["iteration"] for row in run.validations()] == [1, 2]
    for row in run.validations():
        assert row == {"iteration": row["iteration"], **worth(run, int(row["iteration"]))}


def test_older_runs_and_damage(run: Run, tmp_path: Path) -> None:
    """Fails if a run from before there was validation cannot be read, or damage is not named."""
    folder = Path(shutil.copytree(run.directory, tmp_path / "old"))
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    del settings["validation_users"]
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / VALIDATION_NAME).write_text("iteration,reward\n1,0.")
    old = Run.open(folder)
    assert old.config.validation_users == 0
    with pytest.raises(UserError, match=r"validation\.csv is damaged: its last line is cut off"):
        old.validations()
    (folder / VALIDATION_NAME).unlink()
    assert old.validations() == []


def test_a_catalogue_too_small_is_refused_before_training(run: Run, bandit_dataset: Path) -> None:
    """Fails if a run trains for hours before it finds that no session can be played."""
    model = user_model(run.dataset(), run.directory, run.config.seed)
    with pytest.raises(UserError, match="the catalogue has 2 videos: a session of 10 steps"):
        validation_course(OfflineDataset(bandit_dataset), model, users=1, seed=0)


def test_charts_are_in_groups(run: Run) -> None:
    """Fails if TensorBoard shows each chart alone, under a heading of its own."""
    groups: dict[str, list[str]] = {}
    for name in (*run.progress()[0], "validation/click"):
        group, _, _ = tensorboard_tag(name).partition("/")
        groups.setdefault(group, []).append(name)
    assert {"q_loss", "v_loss", "actor_loss", "probe_loss"} == set(groups["losses"])
    assert {"effective_sample_size", "capped_weight_share", "log_prob_mean"} == set(
        groups["policy"]
    )
    assert groups["validation"] == ["validation/click"]
    assert all(name.count("_") >= 2 for name in groups["values_by_signal"])
    assert set(groups) == {
        "losses",
        "policy",
        "progress",
        "updates",
        "validation",
        "values",
        "values_by_signal",
    }

"""The response model: what it learns from a world whose truth is known, and its files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.envs.response_fit import fit_response_model
from noetik_rllib.envs.response_model import MODEL_NAME, WEIGHTS_NAME, ResponseModel
from noetik_rllib.envs.response_quality import area_under_curve, assess
from noetik_rllib.envs.starts import load_starts
from noetik_rllib.errors import UserError
from noetik_rllib.offline.dataset import OfflineDataset
from tests.envs.planted import Planted


def held_out(dataset: OfflineDataset) -> np.ndarray:
    return dataset.users.user_id[dataset.users.held_out]


def test_taste_is_read_from_the_history_of_a_stranger(world: Planted) -> None:
    """The model would answer alike for all: it was fitted on other users than these, so only the
    history tells their tastes. Without any, a user's loved videos would score above the disliked
    ones for half of the 85 users: 80 % of them is 5.5 standard errors away (error below 1e-6).
    """
    starts = load_starts(world.dataset, "test", held_out(world.dataset))
    states, users = starts.states[starts.first[1:] - 1], starts.users  # the last of each user
    clicks = world.model.reward_matrix(states, RewardWeights(click=1, watch_ratio=0), users)
    # What everybody likes is taken out: a popular video says nothing of a user's taste.
    personal = clicks - clicks.mean(axis=0)
    taste = world.taste(users)
    loved, disliked = taste > 1, taste < -1
    gap = (personal * loved).sum(1) / loved.sum(1) - (personal * disliked).sum(1) / disliked.sum(1)
    assert len(users) == 85
    assert (gap > 0).mean() >= 0.8


def test_own_earlier_answers_say_more_than_the_history_alone(world: Planted) -> None:
    """The judge would not know its users: their vectors must bring its clicks nearer to the truth.
    The correlation is 0.78 with and 0.67 without them; over 935 rows its standard error is 0.02.
    """
    rows = world.dataset.load("test", ("user_id", "obs", "actions"), users=held_out(world.dataset))
    truth = world.click(rows["user_id"], rows["actions"], rows["obs"])
    known = world.judge.predict(rows["obs"], rows["actions"], rows["user_id"])[:, 0]
    strange = world.judge.predict(rows["obs"], rows["actions"])[:, 0]
    assert np.corrcoef(known, truth)[0, 1] > np.corrcoef(strange, truth)[0, 1] + 0.04


def test_click_rate_is_right_on_later_days(world: Planted) -> None:
    """Simulated sessions would have another click rate than real ones. 935 rows of 85 users: 10 %
    is above 3 standard errors, users' clustering included.
    """
    quality = assess(world.judge, world.dataset, "test", held_out(world.dataset))
    assert quality is not None
    assert quality.calibration["click"] == pytest.approx(1, abs=0.1)
    assert quality.calibration["watch_ratio"] == pytest.approx(1, abs=0.1)
    assert (quality.auc["click"] or 0) > 0.7


def test_random_exposures_are_not_taken_for_chosen_ones(world: Planted) -> None:
    """A policy that strays from the log would be overrated: the log shows what users like, so a
    model of the log alone predicts clicks on random exposures far too often.
    """
    columns = ("user_id", "obs", "actions", "time_ms", "click")
    rows = world.dataset.load("random", columns, users=held_out(world.dataset))
    late = ~world.dataset.before_split(rows["user_id"], rows["time_ms"])
    real = rows["click"][late].mean()

    def predicted(uniform: bool) -> float:
        signals = world.judge.predict(
            rows["obs"][late], rows["actions"][late], rows["user_id"][late], uniform=uniform
        )
        return float(signals[:, 0].mean())

    assert world.judge.record.uniform_rows > 500
    assert predicted(uniform=True) / real == pytest.approx(1, abs=0.25)
    assert predicted(uniform=False) / real > 1.25


def test_nothing_after_the_split_is_read(world: Planted, tmp_path: Path) -> None:
    """The test part would be no test: other answers after the split must give the same weights."""
    copy = tmp_path / "dataset"
    shutil.copytree(world.dataset.directory, copy)
    for part in ("test", "random"):
        for file in (copy / part).glob("*.parquet"):
            table = pq.read_table(file)
            late = ~world.dataset.before_split(
                table["user_id"].to_numpy(), table["time_ms"].to_numpy()
            )
            for name in SIGNALS:
                values = table[name].to_numpy().copy()
                values[late] = 1 - values[late]
                position = table.column_names.index(name)
                table = table.set_column(position, table.field(name), [values])
            pq.write_table(table, file)
    poisoned = fit_response_model(OfflineDataset(copy), "judge")
    for name, tensor in world.judge.network.state_dict().items():
        assert tensor.equal(poisoned.network.state_dict()[name]), name


def test_parts_after_the_split_are_refused(world: Planted) -> None:
    """A model could be fitted on what it is tested with."""
    for part in ("test", "random", "nonsense"):
        with pytest.raises(UserError, match=f"'{part}'.*train or judge"):
            fit_response_model(world.dataset, part)


def test_whole_catalogue_scores_as_its_pairs_do(world: Planted) -> None:
    """A policy greedy on the model would choose by other numbers than the model answers with."""
    starts = load_starts(world.dataset, "test")
    states, users = starts.states[:5], starts.user_id[:5]
    weights = RewardWeights(like=3.0)
    matrix = world.model.reward_matrix(states, weights, users)
    count = matrix.shape[1]
    pairs = world.model.predict(
        np.repeat(states, count, axis=0), np.tile(np.arange(count), 5), np.repeat(users, count)
    )
    expected = (pairs @ weights.as_array()).reshape(5, count)
    np.testing.assert_allclose(matrix, expected, atol=1e-5)


def test_expected_signals_are_those_of_the_distribution(world: Planted) -> None:
    """Sampling and expectation would disagree, or a probability lie outside [0, 1]."""
    starts = load_starts(world.dataset, "test")
    videos = np.arange(len(starts.states)) % world.model.num_videos
    answers = world.model.distribution(starts.states, videos, starts.user_id)
    np.testing.assert_allclose(answers.watch.sum(1), 1, atol=1e-9)
    assert (answers.binary >= 0).all()
    assert (answers.binary <= 1).all()
    # A segment of no width, such as a click without a long view of a video of 5 s, is one value.
    assert (np.diff(answers.watch_values) >= 0).all()
    ratio = answers.expected[:, SIGNALS.index("watch_ratio")]
    mean = (answers.watch * answers.watch_values).sum(1)
    np.testing.assert_allclose(ratio, mean, rtol=1e-6)


def test_saved_model_answers_the_same(world: Planted, tmp_path: Path) -> None:
    """A saved model would be another one."""
    world.model.save(tmp_path / "model")
    again = ResponseModel.load(tmp_path / "model")
    starts = load_starts(world.dataset, "test")
    videos = np.arange(len(starts.states)) % world.model.num_videos
    first = world.model.predict(starts.states, videos, starts.user_id)
    assert np.array_equal(first, again.predict(starts.states, videos, starts.user_id))
    assert again.record == world.model.record


@pytest.mark.parametrize("name", [WEIGHTS_NAME, MODEL_NAME])
def test_damaged_model_is_refused(world: Planted, tmp_path: Path, name: str) -> None:
    """Half a file, or one with a changed byte, would end in a traceback or in wrong answers."""
    world.model.save(tmp_path / "model")
    file = tmp_path / "model" / name
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{name} is damaged"):
        ResponseModel.load(tmp_path / "model")
    if name == WEIGHTS_NAME:
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(UserError, match=f"{name} is damaged"):
            ResponseModel.load(tmp_path / "model")
    file.unlink()
    with pytest.raises(UserError, match=name):
        ResponseModel.load(tmp_path / "model")


def test_model_of_another_layout_or_dataset_is_refused(
    world: Planted, tiny_dataset: Path, tmp_path: Path
) -> None:
    """Numbers would be read as what they are not."""
    with pytest.raises(UserError, match="fitted on another dataset"):
        world.model.check_dataset(OfflineDataset(tiny_dataset))
    world.model.save(tmp_path / "model")
    file = tmp_path / "model" / MODEL_NAME
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"layout_version": 0}))
    with pytest.raises(UserError, match="layout_version 0"):
        ResponseModel.load(tmp_path / "model")


def test_videos_out_of_range_are_refused(world: Planted) -> None:
    """Index -1 would silently mean the last video."""
    states = load_starts(world.dataset, "test").states[:2]
    for wrong in (-1, world.model.num_videos):
        with pytest.raises(ValueError, match=f"got 0 to {wrong}|got {wrong} to 0"):
            world.model.predict(states, np.array([0, wrong]))
    with pytest.raises(ValueError, match="one video per state"):
        world.model.predict(states, np.array([0]))


def test_auc_counts_pairs() -> None:
    """The quality reported would not be the AUC: compared with counting every pair."""
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(2, size=60), rng.integers(5, size=60)
    higher = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    expected = (higher > 0).mean() + (higher == 0).mean() / 2
    assert area_under_curve(labels, scores) == pytest.approx(expected)
    assert area_under_curve(np.ones(3), scores[:3]) is None

"""The two families: which is fitted on whom, from what, and what their files may hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from noetik_rllib.cli.main import cli
from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.envs.response_fit import fit_response_model
from noetik_rllib.envs.response_model import MODEL_NAME, WEIGHTS_NAME, ResponseModel
from noetik_rllib.envs.response_network import FAMILIES, Family
from noetik_rllib.envs.response_quality import assess
from noetik_rllib.envs.starts import load_starts
from noetik_rllib.errors import UserError
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.prepare_config import PrepareConfig
from noetik_rllib.offline.writer import prepare
from tests.envs.planted import Planted
from tests.envs.test_damage import change
from tests.offline.test_no_leakage import poison


def test_judge_and_trainer_share_neither_users_nor_family(world: Planted) -> None:
    """A policy would be judged by the simulator that it could exploit."""
    assert world.model.config.family != world.judge.config.family
    met = [model.network.user_id.numpy() for model in (world.model, world.judge)]
    assert all(len(users) for users in met)
    assert not np.intersect1d(*met).size


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_the_later_clicks(world: Planted, family: Family) -> None:
    """A family would be fitted to noise: of 935 later rows of 85 users, an AUC of 0.7 is 9 standard
    errors above chance. And its whole catalogue must score as its pairs do.
    """
    held_out = world.dataset.users.user_id[world.dataset.users.held_out]
    model = fit_response_model(world.dataset, "judge", family=family)
    quality = assess(model, world.dataset, "test", held_out)
    assert quality is not None
    assert (quality.auc["click"] or 0) > 0.7
    starts = load_starts(world.dataset, "test")
    states, users, weights = starts.states[:3], starts.user_id[:3], RewardWeights(like=3.0)
    matrix = model.reward_matrix(states, weights, users)
    count = matrix.shape[1]
    pairs = model.predict(
        np.repeat(states, count, axis=0), np.tile(np.arange(count), 3), np.repeat(users, count)
    )
    np.testing.assert_allclose(matrix, (pairs @ weights.as_array()).reshape(3, count), atol=1e-5)


def test_poisoned_outcomes_after_the_split_move_no_weight(tiny_world: Path, tmp_path: Path) -> None:
    """The test part would be no test. From the CSV files on: every outcome after the split is
    overwritten, and both models must come out byte by byte as before.
    """
    poisoned = tmp_path / "poisoned-world"
    shutil.copytree(tiny_world, poisoned)
    prepare(tiny_world, tmp_path / "clean", PrepareConfig())
    users = OfflineDataset(tmp_path / "clean").users
    poison(poisoned, dict(zip(users.user_id.tolist(), users.split_ms.tolist(), strict=True)))
    prepare(poisoned, tmp_path / "poisoned", PrepareConfig())
    for part in ("train", "judge"):
        for name in ("clean", "poisoned"):
            model = fit_response_model(OfflineDataset(tmp_path / name), part)
            model.save(tmp_path / f"{name}-{part}")
        clean, other = (
            (tmp_path / f"{name}-{part}" / WEIGHTS_NAME).read_bytes()
            for name in ("clean", "poisoned")
        )
        assert clean == other, part
    # The poison did arrive.
    arrived = OfflineDataset(tmp_path / "poisoned").load("test", SIGNALS)
    assert all(values.all() for values in arrived.values())


@pytest.mark.parametrize("part", ["train", "judge"])
def test_weights_that_are_no_numbers_are_refused(world: Planted, tmp_path: Path, part: str) -> None:
    """Every simulated answer would silently be "no"."""
    model = world.model if part == "train" else world.judge
    model.save(tmp_path / "model")
    weights = load_file(tmp_path / "model" / WEIGHTS_NAME)
    weights["output.bias"][3] = torch.nan
    save_file(weights, tmp_path / "model" / WEIGHTS_NAME)
    change(tmp_path / "model", lambda content: None, sign=True)
    with pytest.raises(UserError, match="holds weights that are not numbers"):
        ResponseModel.load(tmp_path / "model")


def test_a_file_of_another_family_is_refused(world: Planted, tmp_path: Path) -> None:
    """A network would be filled with another's weights, or a name end in a traceback."""
    world.model.save(tmp_path / "model")
    for family, message in (("forest", f"{MODEL_NAME} is damaged"), ("pooled", "does not fit")):
        change(
            tmp_path / "model",
            lambda content, family=family: content["config"].update(family=family),
            sign=True,
        )
        with pytest.raises(UserError, match=message):
            ResponseModel.load(tmp_path / "model")


def test_the_command_fits_saves_and_measures(tiny_dataset: Path, tmp_path: Path) -> None:
    """``noetik user-model fit`` would print figures of another model than it saves."""
    out = tmp_path / "model"
    words = ["user-model", "fit", str(tiny_dataset), "--out", str(out), "--part", "train"]
    done = CliRunner().invoke(cli, [*words, "--family", "pooled", "--seed", "3", "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    model, dataset = ResponseModel.load(out), OfflineDataset(tiny_dataset)
    assert model.config.family == "pooled"
    assert model.record.seed == 3
    users = dataset.users.user_id[~dataset.users.held_out]
    again = assess(model, dataset, "test", users)
    assert again is not None
    assert result["quality"]["test"] == again.model_dump(mode="json")
    assert set(result["quality"]) == {"test", "random"}
    table = CliRunner().invoke(cli, words)
    assert table.exit_code == 0, table.output
    assert "GAUC" in table.stdout
    # The judge's users have too few random exposures in this small world: that must be said.
    assert "Warning: there are fewer than 500 uniformly exposed rows" in table.stderr
    assert "--split time --split-at" in table.stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    refused = CliRunner().invoke(cli, [*words[:3], "--out", str(tmp_path / "full")])
    assert isinstance(refused.exception, UserError)
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_refused_before_the_fit(tmp_path: Path) -> None:
    """Minutes of fitting would be thrown away: here the dataset is not even looked for."""
    (tmp_path / "file").write_text("")
    words = ["user-model", "fit", str(tmp_path / "no-data"), "--out", str(tmp_path / "file" / "m")]
    refused = CliRunner().invoke(cli, words)
    assert isinstance(refused.exception, UserError)
    assert "cannot be written" in str(refused.exception)

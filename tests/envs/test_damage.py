"""Damaged rows and model files: each is refused by its place, none becomes a silent user."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from noetik_rllib.envs import response_training
from noetik_rllib.envs.logged import LoggedAnswers
from noetik_rllib.envs.response_fit import fit_response_model
from noetik_rllib.envs.response_model import MODEL_NAME, WEIGHTS_NAME, ResponseModel, _checksum
from noetik_rllib.envs.starts import load_starts
from noetik_rllib.errors import UserError
from noetik_rllib.offline.columns import column_to_numpy, fixed_lists
from noetik_rllib.offline.dataset import OfflineDataset
from tests.envs.planted import Planted


def damaged(dataset: Path, folder: Path, part: str, column: str, value: float) -> OfflineDataset:
    """A copy of a dataset with ``value`` in row 0 of a part's column (at place 5 of a state)."""
    shutil.copytree(dataset, folder)
    file = min((folder / part).glob("*.parquet"))
    table = pq.read_table(file)
    values = column_to_numpy(table[column]).copy()
    values[(0, 5) if values.ndim == 2 else 0] = value
    content = fixed_lists(values) if values.ndim == 2 else [values]
    pq.write_table(table.set_column(table.column_names.index(column), column, content), file)
    return OfflineDataset(folder)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("obs", np.nan),
        ("obs", np.inf),
        ("watch_ratio", np.nan),
        ("like", 2),
        ("actions", 10**6),
        ("actions", -1),
    ],
)
def test_a_damaged_row_is_refused_by_the_fit(
    tiny_dataset: Path, tmp_path: Path, column: str, value: float
) -> None:
    """One NaN among the rows would give a model of which every answer is "no", saved and used
    without a word; a video out of range a traceback.
    """
    dataset = damaged(tiny_dataset, tmp_path / "data", "train", column, value)
    with pytest.raises(
        UserError, match=rf"part-\d+\.parquet is damaged: column '{column}' of row 0"
    ):
        fit_response_model(dataset, "train")


def test_a_damaged_row_is_not_replayed_nor_started_from(tiny_dataset: Path, tmp_path: Path) -> None:
    """Sessions would begin in NaN, which every later state keeps, or pay NaN."""
    assert OfflineDataset(tiny_dataset).load("test", ("t",))["t"][0] == 0
    starts = damaged(tiny_dataset, tmp_path / "starts", "test", "obs", np.nan)
    with pytest.raises(UserError, match="column 'obs' of row 0 is not finite"):
        load_starts(starts, "test")
    answers = damaged(tiny_dataset, tmp_path / "answers", "test", "watch_ratio", np.nan)
    with pytest.raises(UserError, match="column 'watch_ratio' of row 0 is not within 0 to 1"):
        LoggedAnswers.load(answers)


def test_a_fit_that_diverges_is_refused(
    tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights from before the first step would be kept as if they were the best."""
    monkeypatch.setattr(response_training, "LEARNING_RATE", 1e30)
    with pytest.raises(UserError, match="diverged"):
        fit_response_model(OfflineDataset(tiny_dataset), "train")


def change(folder: Path, edit: Callable[[dict[str, Any]], None], *, sign: bool) -> None:
    """Edit a saved model's description; ``sign``: as one who recomputes the checksum."""
    content = json.loads((folder / MODEL_NAME).read_text())
    edit(content)
    if sign:
        described = {name: content[name] for name in ("fitted_on", "config")}
        content["sha256"] = _checksum(described, (folder / WEIGHTS_NAME).read_bytes())
    (folder / MODEL_NAME).write_text(json.dumps(content))


def set_places(value: float) -> Callable[[dict[str, Any]], None]:
    def edit(content: dict[str, Any]) -> None:
        places = content["config"]["places"]
        content["config"]["places"] = [[value] * len(own) for own in places]

    return edit


def set_history(content: dict[str, Any]) -> None:
    content["config"]["tower"]["history_length"] = 8


def set_part(content: dict[str, Any]) -> None:
    content["fitted_on"]["part"] = "judge"


def no_places(content: dict[str, Any]) -> None:
    content["config"]["places"] = [[], [], []]


@pytest.mark.parametrize(
    ("edit", "sign", "message"),
    [
        (set_places(float("nan")), True, f"{MODEL_NAME} is damaged.*within 0 to 1"),
        (set_places(50.0), True, f"{MODEL_NAME} is damaged.*within 0 to 1"),
        (no_places, True, f"{MODEL_NAME} is damaged.*expected 1 to"),
        (set_places(0.5), False, "checksum is not the one"),
        (set_history, False, "checksum is not the one"),
        (set_part, False, "checksum is not the one"),
    ],
)
def test_a_changed_description_is_refused(
    world: Planted, tmp_path: Path, edit: Callable[..., None], sign: bool, message: str
) -> None:
    """Users would watch 50 times a video's length, or half of the history be read as something
    else: the checksum of the weights alone does not notice.
    """
    world.model.save(tmp_path / "model")
    change(tmp_path / "model", edit, sign=sign)
    with pytest.raises(UserError, match=message) as caught:
        ResponseModel.load(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_a_model_of_other_sizes_does_not_fit_the_dataset(world: Planted, tmp_path: Path) -> None:
    """A description that was changed and signed again would read states as what they are not."""
    world.model.save(tmp_path / "model")
    change(tmp_path / "model", set_history, sign=True)
    with pytest.raises(UserError, match="states of 8 past events and knows 60 videos"):
        ResponseModel.load(tmp_path / "model").check_dataset(world.dataset)

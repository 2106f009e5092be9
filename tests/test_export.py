"""An exported policy recommends what the run recommends, where there is nothing but torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from noetik_rllib.errors import UserError
from noetik_rllib.export import DESCRIPTION_NAME, PROGRAM_NAME, VIDEOS_NAME, export
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.runs import Run, TrainConfig, train

#: What a server does: numpy and torch are all that it may import.
SERVER = """
import sys
for name in ("noetik_rllib", "ray", "gymnasium"):
    sys.modules[name] = None  # importing it fails
import numpy, torch
program = torch.export.load(sys.argv[1]).module()
numpy.save(sys.argv[3], program(torch.from_numpy(numpy.load(sys.argv[2]))).detach().numpy())
"""


@pytest.fixture(scope="module")
def run(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Run:
    """A short run with two blocks, of which the last one sees one token only."""
    out = tmp_path_factory.mktemp("exported") / "run"
    values = {"iterations": 1, "steps_per_iteration": 2, "batch_size": 32, "embedding_size": 16}
    more = {"num_layers": 2, "num_heads": 2, "data": tiny_dataset, "out": out}
    return train(TrainConfig.parse({**values, **more}))


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export."""
    return export(run, tmp_path_factory.mktemp("export") / "policy")


def test_it_recommends_the_same_without_noetik(run: Run, exported: Path, tmp_path: Path) -> None:
    """Fails if a server would show other videos than those that were evaluated.

    More states than the catalogue has videos: the run embeds a batch of another size another way.
    """
    dataset = run.dataset()
    states = dataset.load("train", ["obs"])["obs"][:400].copy()
    states[0, dataset.layout.history] = 0  # a user without history
    assert len(states) > len(dataset.catalog)
    np.save(tmp_path / "states.npy", states)
    paths = [exported / PROGRAM_NAME, tmp_path / "states.npy", tmp_path / "logits.npy"]
    command = [sys.executable, "-c", SERVER, *map(str, paths)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    networks = run.networks()
    with torch.no_grad():
        expected = networks.actor(networks.features, torch.from_numpy(states)).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-4)


def test_what_goes_in_and_comes_out_is_said(run: Run, exported: Path) -> None:
    """Fails if a server could not tell which video a logit is of, or what to put into a state."""
    dataset = run.dataset()
    videos = pq.read_table(exported / VIDEOS_NAME)["video_id"].to_numpy()
    np.testing.assert_array_equal(videos, dataset.catalog.video_id)
    about = json.loads((exported / DESCRIPTION_NAME).read_text())
    state = about["state"]
    assert state["history"]["from"] == len(state["user"]["names"])
    places = len(state["history"]["each"]) * state["history"]["events"]
    assert state["context"]["from"] == state["history"]["from"] + places
    size = state["context"]["from"] + len(state["context"]["names"])
    assert about["input"] == f"states, float32, (batch, {size})"
    assert about["trained_on"]["dataset_sha256"] == dataset.fingerprint


def test_nothing_is_replaced_unasked(run: Run, exported: Path, tmp_path: Path) -> None:
    """Fails if an export overwrites an export, or, asked to, what is none."""
    with pytest.raises(UserError, match="exists already: choose another --out, or use --overwrite"):
        export(run, exported)
    export(run, exported, overwrite=True)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"exists already: choose another --out$"):
        export(run, tmp_path, overwrite=True)


def test_another_dataset_is_refused(run: Run, mixed_dataset: Path, tmp_path: Path) -> None:
    """Fails if a policy is exported with the videos of a dataset that it was not trained on."""
    copy = tmp_path / "run"
    shutil.copytree(run.directory, copy)
    config = run.config.model_copy(update={"data": OfflineDataset(mixed_dataset).directory})
    config.save(copy)
    with pytest.raises(UserError, match="is not the dataset that"):
        export(Run.open(copy), tmp_path / "policy")
    assert not (tmp_path / "policy").exists()

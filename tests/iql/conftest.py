"""Fixtures of the algorithm's tests: small configs, and a dataset whose best policy is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.offline.catalog import Catalog
from noetik_rllib.offline.dataset import Users
from noetik_rllib.offline.manifest import Manifest, Part, SignalMoments

#: Sizes at which a gradient step takes milliseconds.
TINY_NETWORK = {"embedding_size": 16, "num_layers": 1, "num_heads": 2}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Torch's threads wait for each other in a loop: ruinous where other tests run beside them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_config(tiny_dataset: Path) -> DiscreteIQLConfig:
    """Config of a tiny network on the tiny dataset: 5 gradient steps of 64 rows an iteration."""
    return (
        DiscreteIQLConfig()
        .offline_data(input_=[str(tiny_dataset / "train")], dataset_num_iters_per_learner=5)
        .training(train_batch_size_per_learner=64)
        .rl_module(model_config=TINY_NETWORK)
        .debugging(seed=0)
    )


@pytest.fixture(scope="session")
def bandit_dataset(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of one state and two videos, shown equally often: video 1 is clicked, 0 is not.

    Every row ends its episode.
    """
    folder = tmp_path_factory.mktemp("bandit")
    rows, videos = 512, 2
    full = Catalog.load(tiny_dataset)
    names = Catalog.__dataclass_fields__
    Catalog(**{name: getattr(full, name)[:videos] for name in names}).save(folder)
    Users.load(tiny_dataset).save(folder)
    actions = np.arange(rows) % videos
    signals = np.zeros((rows, len(SIGNALS)), dtype=np.float32)
    signals[:, SIGNALS.index("click")] = actions == 1
    manifest = Manifest.load(tiny_dataset)
    manifest = manifest.model_copy(
        update={
            "num_videos": videos,
            "parts": {"train": Part(rows=rows, users=1, episodes=rows)},
            "signals": SignalMoments(
                mean=signals.mean(axis=0).tolist(),
                covariance=np.cov(signals, rowvar=False, bias=True).tolist(),
            ),
        }
    )
    states = pa.FixedSizeListArray.from_arrays(
        pa.array(np.zeros(rows * manifest.layout.size, dtype=np.float32)), manifest.layout.size
    )
    columns = {
        "obs": states,
        "new_obs": states,
        "actions": actions,
        "terminateds": np.ones(rows, dtype=bool),
        **{name: signals[:, place].copy() for place, name in enumerate(SIGNALS)},
    }
    (folder / "train").mkdir()
    pq.write_table(pa.table(columns), folder / "train" / "part-00000.parquet")
    manifest.save(folder)
    return folder

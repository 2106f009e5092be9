"""A small sweep, run once for all tests that look at one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from noetik_rllib.sweeps.config import SweepConfig
from noetik_rllib.sweeps.results import SweepResult
from noetik_rllib.sweeps.sweep import run_sweep

TRAIN = {
    "iterations": 3,
    "steps_per_iteration": 2,
    "batch_size": 32,
    "embedding_size": 8,
    "num_heads": 2,
    "num_layers": 1,
    "checkpoint_seconds": 0,
    "validation_users": 10,
}


def sweep_config(data: Path | str, **changes: Any) -> SweepConfig:
    """Three trials; of the tests' four CPUs, each takes two."""
    content = {
        "name": "test",
        "data": data,
        "num_samples": 3,
        "train": TRAIN,
        "reward": {"simplex": ["click", "hate"]},
        "objectives": ["click", "hate"],
        "evaluation_users": 10,
        "cpus_per_trial": 2,
    }
    return SweepConfig.model_validate(content | changes)


def halving_config(data: Path, **changes: Any) -> SweepConfig:
    """Four trials of which ASHA stops some: two hardly learn.

    One comes after the other, so each is held against the best hundredth of those before.
    """
    content = {
        "reward": None,
        "num_samples": 1,
        "search": {"actor_lr": {"grid": [3e-3, 1e-9]}, "seed": {"grid": [0, 1]}},
        "train": TRAIN | {"snapshots": 3},
        "scheduler": {"type": "asha", "grace_period": 1, "reduction_factor": 100},
        "cpus_per_trial": 4,
    }
    return sweep_config(data, **content | changes)


def population_config(data: Path | str, **changes: Any) -> SweepConfig:
    """Four trials, two at a time, the worst of which goes on with a copy of the best."""
    content = {
        "reward": None,
        "num_samples": 4,
        "search": {
            "actor_lr": {"low": 1e-4, "high": 1e-2, "scale": "log"},
            "beta": {"choice": [0.5, 1.0, 2.0]},
        },
        "scheduler": {"type": "pbt", "perturbation_interval": 2},
    }
    return sweep_config(data, **content | changes)


@dataclass
class Swept:
    """A finished sweep, and what it said on the way."""

    folder: Path
    result: SweepResult
    said: list[tuple[str, float]] = field(default_factory=list)


def destroy_rows(part: Path) -> None:
    """Overwrite the rows of Parquet files; what says how many there are stays."""
    for path in part.glob("*.parquet"):
        content = bytearray(path.read_bytes())
        footer = int.from_bytes(content[-8:-4], "little") + 8
        content[4:-footer] = bytes(len(content) - footer - 4)
        path.write_bytes(content)
        with pq.ParquetFile(path) as file:
            assert file.metadata.num_rows


@pytest.fixture(scope="session")
def swept(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Swept:
    """A sweep of three trials whose training rows are destroyed when the first one trains."""
    folder = tmp_path_factory.mktemp("swept")
    data = folder / "data"
    shutil.copytree(tiny_dataset, data)
    kept = {path.name: path.read_bytes() for path in (data / "train").glob("*.parquet")}
    said: list[tuple[str, float]] = []

    def progress(doing: str, share: float) -> None:
        said.append((doing, share))
        if "iteration 1 of" in doing and kept:
            destroy_rows(data / "train")

    result = run_sweep(sweep_config(data), folder / "sweep", progress)
    for name, content in kept.items():
        (data / "train" / name).write_bytes(content)
    return Swept(folder / "sweep", result, said)


def heard(config: SweepConfig, out: Path) -> Swept:
    """Run a sweep, and listen."""
    said: list[tuple[str, float]] = []
    return Swept(out, run_sweep(config, out, lambda *words: said.append(words)), said)


@pytest.fixture(scope="session")
def halved(
    tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> Swept:
    """A sweep that ASHA has stopped trials of."""
    return heard(halving_config(tiny_dataset), tmp_path_factory.mktemp("halved") / "sweep")


@pytest.fixture(scope="session")
def evolved(
    tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> Swept:
    """A sweep with population based training."""
    return heard(population_config(tiny_dataset), tmp_path_factory.mktemp("evolved") / "sweep")

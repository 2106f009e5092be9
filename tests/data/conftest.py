"""Fixtures of the data tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from noetik_rllib.data.world import SyntheticWorld, preset
from tests.data.mirror import Mirror, serve
from tests.data.written import Written


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The world 'demo' and its files."""
    world = SyntheticWorld(preset("demo"))
    files = world.write(tmp_path_factory.mktemp("demo"))
    paths = (*files.standard, files.random, files.user_features, files.video_features)
    return Written(world, files, *(pd.read_csv(path) for path in paths))


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    """A local server of the tiny archive, for every test of downloading."""
    with serve(Mirror()) as served:
        yield served


@pytest.fixture
def world(tiny_world: Path, tmp_path: Path) -> Path:
    """A copy of the tiny world that a test may break."""
    return Path(shutil.copytree(tiny_world, tmp_path / "world"))

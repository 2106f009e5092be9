"""The world that tests of data/ break."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def world(tiny_world: Path, tmp_path: Path) -> Path:
    """A copy of the tiny world that a test may break."""
    return Path(shutil.copytree(tiny_world, tmp_path / "world"))

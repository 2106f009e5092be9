"""Fixtures of this folder."""

from __future__ import annotations

import pytest

from tests.envs.planted import Planted, planted


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A world with strong tastes and known truth, with fitted response models."""
    return planted(tmp_path_factory.getbasetemp() / "planted")

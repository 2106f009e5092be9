"""A mirror of the tiny archive, for every test of downloading."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.data.mirror import Mirror, serve


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve(Mirror()) as served:
        yield served

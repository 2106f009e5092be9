"""The cluster that all tests here share: bringing it up takes longer than some of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import why_not
from tests.cluster.ray_cluster import RayCluster, running


@pytest.fixture(scope="session")
def cluster(tiny_dataset: Path) -> Iterator[RayCluster]:
    """Three hosts and a client with the tiny dataset; skipped, loudly, where there can be none."""
    if reason := why_not():
        pytest.skip(f"CLUSTER NOT TESTED: {reason}")
    with running(tiny_dataset) as found:
        yield found

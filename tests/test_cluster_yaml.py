"""cluster.yaml passes the checks that `ray up` itself makes before it talks to a cloud."""

from __future__ import annotations

import copy
import importlib.metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def cluster() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return content


def test_ray_accepts_the_cluster_file(cluster: dict[str, Any]) -> None:
    """Fails if `ray up cluster.yaml` would refuse the file."""
    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert types[prepared["head_node_type"]]["resources"]["CPU"] > 0
    assert any(kind["resources"].get("GPU") for kind in types.values())


def test_the_check_can_fail(cluster: dict[str, Any]) -> None:
    """Fails if Ray's validation accepts anything, so that the test above would prove nothing."""
    cluster["available_node_typos"] = {}
    with pytest.raises(jsonschema.ValidationError, match="available_node_typos"):
        validate_config(prepare_config(cluster))


def test_the_nodes_run_the_tested_ray(cluster: dict[str, Any]) -> None:
    """Fails if the image's Ray is not the one that the constraints file pins and tests ran on."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split(" ;")[0].split("==") for line in lines if not line.startswith("#"))
    assert f"ray:{pinned['ray']}-" in cluster["docker"]["image"]
    assert importlib.metadata.version("ray") == pinned["ray"]
    assert "constraints.txt" in cluster["setup_commands"][0]


def test_the_dashboard_is_not_open_to_the_world(cluster: dict[str, Any]) -> None:
    """Fails if anybody who reaches the head could submit jobs to it."""
    start = cluster["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in start

"""Every cluster file passes the checks that Ray itself makes before it talks to a cloud."""

from __future__ import annotations

import copy
import importlib.metadata
import re
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
import yaml
from botocore.exceptions import ParamValidationError
from moto import mock_aws
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[1]
LAUNCHED = ("cluster.yaml", "docs/cluster_local.yaml")
KUBERNETES = "docs/cluster_kubernetes.yaml"
#: Fields of a RayJob's spec that this file uses, by the names in KubeRay's rayjob_types.go.
RAYJOB_FIELDS = {
    "backoffLimit",
    "shutdownAfterJobFinishes",
    "ttlSecondsAfterFinished",
    "entrypoint",
    "rayClusterSpec",
}


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return content


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split(" ;")[0].split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_accepts_the_file(name: str) -> None:
    """Fails if `ray up` would refuse the file."""
    prepared = prepare_config(copy.deepcopy(load(name)))
    validate_config(prepared)
    for path in prepared["file_mounts"].values():
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_check_can_fail(name: str) -> None:
    """Fails if Ray's validation accepts anything, so that the test above would prove nothing."""
    content = load(name)
    content["available_node_typos"] = {}
    with pytest.raises(jsonschema.ValidationError, match="available_node_typos"):
        validate_config(prepare_config(content))


def run_on_aws(content: dict[str, Any]) -> dict[str, str]:
    """Do what `ray up` and the autoscaler do on AWS, against moto: one node of every type.

    Returns:
        Node type -> instance type that was started.
    """
    region = content["provider"]["region"]
    prepared = prepare_config(copy.deepcopy(content))
    client = boto3.client("ec2", region_name=region)
    # moto knows no alias of an image; the request is otherwise the file's.
    image = client.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    iam = boto3.client("iam", region_name=region)
    iam.create_instance_profile(InstanceProfileName="noetik")
    started = {}
    for name, kind in bootstrap_aws(prepared)["available_node_types"].items():
        request = dict(kind["node_config"]) | {"ImageId": image, "MinCount": 1, "MaxCount": 1}
        request["SubnetId"] = request.pop("SubnetIds")[0]
        (instance,) = client.run_instances(**request)["Instances"]
        started[name] = instance["InstanceType"]
    return started


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # the new key is written to ~/.ssh
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")


@pytest.mark.usefixtures("aws")
def test_aws_starts_the_nodes() -> None:
    """Fails if a node's settings are none of EC2's, which Ray's own schema does not look at."""
    with mock_aws():
        assert run_on_aws(load("cluster.yaml")) == {
            "head": "m5.xlarge",
            "gpu_worker": "g5.2xlarge",
        }


@pytest.mark.usefixtures("aws")
def test_aws_refuses_a_wrong_setting() -> None:
    """Fails if moto takes any setting, so that the test above would prove nothing."""
    content = load("cluster.yaml")
    content["available_node_types"]["head"]["node_config"]["InstanceTypo"] = "m5.xlarge"
    with mock_aws(), pytest.raises(ParamValidationError, match="InstanceTypo"):
        run_on_aws(content)


def test_kuberay_accepts_the_job() -> None:
    """Fails if the autoscaler in the head's pod could not work with the cluster of the RayJob."""
    job = load(KUBERNETES)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) <= RAYJOB_FIELDS
    cluster = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "noetik", "namespace": "default"},
        "spec": job["spec"]["rayClusterSpec"],
    }
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    validate_config(config)
    worker = config["available_node_types"]["gpu-worker"]
    assert worker["resources"]["GPU"] == 1
    assert (worker["min_workers"], worker["max_workers"]) == (0, 8)
    del cluster["spec"]["workerGroupSpecs"][0]["maxReplicas"]
    with pytest.raises(KeyError, match="maxReplicas"):
        _derive_autoscaling_config_from_ray_cr(cluster)


def test_the_nodes_run_the_tested_packages() -> None:
    """Fails if a cluster's Ray is not the one that the constraints file pins and tests ran on."""
    version = pinned()["ray"]
    assert importlib.metadata.version("ray") == version
    assert load("cluster.yaml")["docker"]["image"].startswith(f"rayproject/ray:{version}-py311-")
    assert load(KUBERNETES)["spec"]["rayClusterSpec"]["rayVersion"] == version
    for name in LAUNCHED:
        install = load(name)["setup_commands"][-1]
        assert "--constraint ~/noetik/constraints.txt ~/noetik" in install


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_dashboard_is_not_open_to_the_world(name: str) -> None:
    """Fails if anybody who reaches the head could submit jobs to it."""
    assert "--dashboard-host=127.0.0.1" in load(name)["head_start_ray_commands"][-1]


@pytest.mark.parametrize("name", [*LAUNCHED, KUBERNETES])
def test_a_lost_host_is_known_within_a_minute(name: str) -> None:
    """Fails if Ray would wait longer for a host that does not answer than docs/cluster.md says."""
    text = (ROOT / name).read_text()
    found = dict(re.findall(r"RAY_health_check_(\w+?)[=,](?: value: \")?(\d+)", text))
    values = {key: int(value) for key, value in found.items()}
    each = values["period_ms"] + values["timeout_ms"]
    total = values["initial_delay_ms"] + values["failure_threshold"] * each
    assert total <= 35_000

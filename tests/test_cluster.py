"""What a run finds out about its cluster, and what it refuses at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from noetik_rllib.cluster import Cluster
from noetik_rllib.errors import UserError
from noetik_rllib.runs import TrainConfig, train

HEAD = {"CPU": 4.0}
GPU_HOST = {"CPU": 8.0, "GPU": 1.0}
ON_A_GPU = {"GPU": 1.0}


def test_learners_are_counted_by_host() -> None:
    """Fails if a learner could be spread over two hosts, or a fraction of a GPU does not fit."""
    cluster = Cluster([HEAD, GPU_HOST, GPU_HOST], [])
    assert cluster.places(ON_A_GPU) == 2
    assert cluster.places({"CPU": 3.0}) == 1 + 2 + 2
    assert cluster.places({"CPU": 5.0}) == 2
    assert cluster.places({"GPU": 1 / 3}) == 6


@pytest.mark.parametrize(
    ("coming", "learners", "room"),
    [([], 3, 2), ([(GPU_HOST, 6)], 9, 8), ([(HEAD, 100)], 3, 2)],
)
def test_more_than_there_can_be_is_refused(coming: Any, learners: int, room: int) -> None:
    """Fails if a run waits for what no autoscaler can bring."""
    cluster = Cluster([HEAD, GPU_HOST, GPU_HOST], coming)
    cluster.check_room(room, ON_A_GPU)
    with pytest.raises(UserError, match=f"{learners} learners of 1 GPU each: .* room for {room};"):
        cluster.check_room(learners, ON_A_GPU)


def test_an_autoscaler_without_known_limits_is_waited_for() -> None:
    """Fails if a run on Kubernetes is refused because its pods are still to come."""
    Cluster([HEAD], None).check_room(8, ON_A_GPU)


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that `ray up` leaves on the head; this process takes itself for the head."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "ray_bootstrap_config.yaml"


@pytest.mark.usefixtures("ray_session")
def test_the_limits_are_those_of_the_cluster_file(bootstrap: Path) -> None:
    """Fails if the hosts that may still come are counted otherwise than the autoscaler does."""
    assert Cluster.look().coming == []
    root = Path(__file__).resolve().parents[1]
    content = yaml.safe_load((root / "cluster.yaml").read_text())
    bootstrap.write_text(yaml.safe_dump(content))
    cluster = Cluster.look()
    assert cluster.coming == [({"CPU": 8, "GPU": 1}, 8)]
    assert str(cluster) == "1 host, 4 CPUs, 0 GPUs, and 8 more hosts on demand"
    cluster.check_room(8, ON_A_GPU)
    with pytest.raises(UserError, match="room for 8;"):
        cluster.check_room(9, ON_A_GPU)

    content = yaml.safe_load((root / "docs/cluster_local.yaml").read_text())
    bootstrap.write_text(yaml.safe_dump(content))
    assert Cluster.look().coming is None  # two of its hosts have not joined yet
    content["provider"]["worker_ips"] = []
    bootstrap.write_text(yaml.safe_dump(content))
    assert Cluster.look().coming == []


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_learners": 5}, r"5 learners of 1 CPU each: this cluster \(1 host, 4 CPUs, 0 GPUs\)"),
        ({"num_learners": 1, "gpus_per_learner": 1}, "1 learners of 1 GPU each: .* room for 0"),
    ],
)
def test_a_run_that_asks_for_too_much_ends_at_once(
    tiny_dataset: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Fails if such a run hangs, or leaves something behind."""
    settings = {"data": tiny_dataset, "out": tmp_path / "run"} | changes
    with pytest.raises(UserError, match=message):
        train(TrainConfig.parse(settings))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("ray_session")
def test_room_that_others_hold_is_waited_for_and_no_longer(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    """Fails if a run waits for ever for CPUs that somebody else has."""
    held = ray.util.placement_group([{"CPU": 3}])
    assert held.wait(30)
    settings = {"data": tiny_dataset, "out": tmp_path / "run", "num_learners": 2}
    settings |= {"host_wait_minutes": 0.01, "batch_size": 32}
    with pytest.raises(UserError, match=r"no room for 2 learners of 1 CPU each within 0\.01 min"):
        train(TrainConfig.parse(settings))
    ray.util.remove_placement_group(held)
    assert list(tmp_path.iterdir()) == []

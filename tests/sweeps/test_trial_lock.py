"""A trial has one process, and is not kept waiting by one on a host that Ray has given up."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from noetik_rllib.errors import UserError
from noetik_rllib.runs import TrainConfig
from noetik_rllib.sweeps import trial_lock
from noetik_rllib.sweeps.trial_lock import lock_of, only_process
from noetik_rllib.sweeps.trial_place import TrialPlace


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A Ray of two hosts, on this machine, in the place of the one that other tests share."""
    before = ray.get_runtime_context().gcs_address if ray.is_initialized() else None
    ray.shutdown()
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    ray.init(made.address, log_to_driver=False, configure_logging=False)
    yield made
    ray.shutdown()
    made.shutdown()
    if before is not None:
        ray.init(before, log_to_driver=False, configure_logging=False)


def held_by(path: Path, node: str) -> object:
    """Lock a trial as a process on another host has; the file that has to stay open for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(f"1 of elsewhere\n{node}")
    file.flush()
    return file


def test_a_lock_of_a_lost_host_is_taken_over(cluster: Cluster, tmp_path: Path) -> None:
    """Fails if a trial waits for a process on a host that was cut off, which waits for the network.

    Or if that process, which still has its lock, would go on with the trial when it is back.
    """
    place = TrialPlace(TrainConfig.parse({"data": tmp_path, "out": tmp_path / "trials" / "0000"}))
    node = cluster.add_node(num_cpus=1)
    (tmp_path / "trials").mkdir()
    with place.taken():
        place.check()
        path = lock_of(place.config.out)
        path.write_text(f"1 of elsewhere\n{node.node_id}")
        cluster.remove_node(node, allow_graceful=False)
        with only_process(place.config.out) as ours:
            assert ours.ours()
            with pytest.raises(UserError, match="another process has taken this trial over"):
                place.check()


def test_a_process_on_a_host_that_is_there_is_waited_for(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a trial is taken from a process that still trains it."""
    monkeypatch.setattr(trial_lock, "_LOCK_SECONDS", 1.0)
    out = tmp_path / "trials" / "0000"
    file = held_by(lock_of(out), cluster.add_node(num_cpus=1).node_id)
    with (
        pytest.raises(UserError, match="process 1 of elsewhere trains this trial"),
        only_process(out),
    ):
        pass
    del file

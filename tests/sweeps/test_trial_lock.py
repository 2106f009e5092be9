"""A trial has one process, and is not kept waiting by one on a host that Ray has given up."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from noetik_rllib.errors import UserError
from noetik_rllib.runs import TrainConfig
from noetik_rllib.sweeps import trial_lock
from noetik_rllib.sweeps.trial_lock import lock_of, only_process
from noetik_rllib.sweeps.trial_place import TrialPlace

pytestmark = pytest.mark.slow

#: How soon Ray gives up a host that is silent: in a second or two, not in half a minute.
SOON = {
    f"RAY_health_check_{name}": value
    for name, value in {
        "initial_delay_ms": "500",
        "period_ms": "500",
        "timeout_ms": "1000",
        "failure_threshold": "2",
    }.items()
}


def on_two_hosts(happens: Callable[..., None], folder: Path) -> None:
    """Call a function in a process that has a Ray of two hosts: the tests' own has one."""
    code = (
        f"import pathlib; from {__name__} import two_hosts, {happens.__name__} as happens;"
        f"two_hosts(happens, pathlib.Path({str(folder)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ | SOON,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def two_hosts(happens: Callable[..., None], folder: Path) -> None:
    """In that process."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    ray.init(cluster.address, log_to_driver=False, configure_logging=False)
    try:
        happens(cluster, folder)
    finally:
        ray.shutdown()
        cluster.shutdown()


def takes_over(cluster: Cluster, folder: Path) -> None:
    """Have a trial's lock, as a process on a host that is then cut off, and let another have it."""
    place = TrialPlace(TrainConfig.parse({"data": folder, "out": folder / "trials" / "0000"}))
    (folder / "trials").mkdir()
    node = cluster.add_node(num_cpus=1)
    with place.taken():
        place.check()
        lock_of(place.config.out).write_text(f"1 of elsewhere\n{node.node_id}")
        cluster.remove_node(node, allow_graceful=False)
        with only_process(place.config.out) as ours:
            assert ours.ours()
            with pytest.raises(UserError, match="another process has taken this trial over"):
                place.check()


def waits(cluster: Cluster, folder: Path) -> None:
    """Want a trial that a process on another host, which is there, has locked."""
    trial_lock._LOCK_SECONDS = 1.0
    out = folder / "0000"
    node = cluster.add_node(num_cpus=1)
    with lock_of(out).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"1 of elsewhere\n{node.node_id}")
        file.flush()
        said = "process 1 of elsewhere trains this trial"
        with pytest.raises(UserError, match=said), only_process(out):
            pass


def test_a_lock_of_a_lost_host_is_taken_over(tmp_path: Path) -> None:
    """Fails if a trial waits for a process on a host that was cut off, which waits for the network.

    Or if that process, which still has its lock, would go on with the trial when it is back.
    """
    on_two_hosts(takes_over, tmp_path)


def test_a_process_on_a_host_that_is_there_is_waited_for(tmp_path: Path) -> None:
    """Fails if a trial is taken from a process that still trains it."""
    on_two_hosts(waits, tmp_path)

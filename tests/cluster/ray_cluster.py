"""A Ray cluster of three hosts and a client on this machine, brought up by the Ray launcher."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from tests.cluster.hosts import REPOSITORY, Hosts

#: The client is a host of its own, so that it shares nothing with the head but over ssh.
CLIENT, HEAD, WORKERS = "client", "head", ("worker1", "worker2")
#: One learner fits on each host: two learners are on two hosts, and a third one is spare.
CPUS = 1
_SMALL = f"--num-cpus={CPUS} --object-store-memory=150000000"


@dataclass(frozen=True)
class RayCluster:
    """The running cluster.

    Attributes:
        hosts: client, head and workers.
    """

    hosts: Hosts

    def client(self, command: str, timeout: float = 120) -> str:
        """Run a command where the user sits; returns what it prints.

        Raises:
            AssertionError: it failed.
        """
        result = self.hosts[CLIENT].run("bash", "-c", command, timeout=timeout, **CLIENT_SETTINGS)
        assert result.returncode == 0, f"{command}\n{result.stdout[-6000:]}"
        return result.stdout

    def start(self, command: str, output: int | IO[str] = subprocess.PIPE) -> subprocess.Popen[str]:
        """Start a command where the user sits; stderr joins stdout.

        Args:
            command: to start.
            output: where what it prints goes. A pipe that is not read stops it: `ray submit` and
                `ray exec` have a terminal on the head, where a bar is drawn ten times a second.
        """
        return subprocess.Popen(
            self.hosts[CLIENT].command(shlex.split(command), **CLIENT_SETTINGS),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @contextmanager
    def dashboard(self) -> Iterator[None]:
        """Have the head's dashboard, which listens on its loopback, at the client's port 8265."""
        tunnel = self.start("ray dashboard cluster.yaml", subprocess.DEVNULL)
        probe = ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 8265))"]
        try:
            self.hosts.wait_for(
                lambda: self.hosts[CLIENT].run(*probe).returncode == 0, "the dashboard", 60
            )
            yield
        finally:
            tunnel.kill()  # ends nsenter; the rest goes with the host
            tunnel.wait()

    def alive(self) -> set[str]:
        """Return the addresses of the hosts that Ray believes to be there."""
        return set(re.findall(r"ALIVE (\S+)", self.hosts[HEAD].run("python", "-c", _ALIVE).stdout))


#: See docs/cluster.md: in Ray 2.60, its newer autoscaler does not start all hosts that are listed.
CLIENT_SETTINGS = {"RAY_UP_enable_autoscaler_v2": "0"}
_ALIVE = """
from ray._raylet import GcsClient
for node in GcsClient(address="127.0.0.1:6379").get_all_node_info().values():
    print("DEAD" if node.state else "ALIVE", node.node_manager_address)
"""


def cluster_file(hosts: Hosts) -> dict[str, Any]:
    """Return docs/cluster_local.yaml with these hosts' addresses, and this machine's Python."""
    content: dict[str, Any] = yaml.safe_load((REPOSITORY / "docs/cluster_local.yaml").read_text())
    content["provider"] |= {
        "head_ip": hosts[HEAD].address,
        "worker_ips": [hosts[name].address for name in WORKERS],
    }
    content["auth"] = {"ssh_user": "root", "ssh_private_key": "/root/.ssh/key"}
    # These hosts have no network to install from: PYTHONPATH is the mounted package.
    content["setup_commands"] = []
    for kind in ("head", "worker"):
        start = content[f"{kind}_start_ray_commands"]
        start[-1] = start[-1].replace("ray start", "AUTOSCALER_UPDATE_INTERVAL_S=2 ray start")
        start[-1] += f" {_SMALL}"
    return content


@contextmanager
def running(data: Path) -> Iterator[RayCluster]:
    """``ray up``, then ``ray down``, after which no Ray may be left on any host.

    Args:
        data: a dataset; it is at /srv/data, which all hosts share.
    """
    with Hosts([CLIENT, HEAD, *WORKERS]) as hosts:
        shutil.copytree(data, hosts.shared / "data")
        home = hosts[CLIENT].folder / "root"
        for name in ("noetik_rllib", "tune_configs", "docs"):
            shutil.copytree(
                REPOSITORY / name, home / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        for name in ("train.py", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
            shutil.copy(REPOSITORY / name, home)
        (home / "cluster.yaml").write_text(yaml.safe_dump(cluster_file(hosts)))
        ray = RayCluster(hosts)
        begun = time.monotonic()
        ray.client("ray up -y --no-config-cache cluster.yaml", timeout=200)
        print(f"ray up: {time.monotonic() - begun:.0f} s", file=sys.stderr)
        hosts.wait_for(lambda: len(ray.alive()) == 3, "three hosts in the Ray cluster", 120)
        print(f"three hosts: {time.monotonic() - begun:.0f} s", file=sys.stderr)
        yield ray
        ray.client("ray down -y cluster.yaml")
        for name in (HEAD, *WORKERS):
            hosts.wait_for(
                lambda name=name: hosts[name].run("pgrep", "raylet|gcs_server").returncode,
                f"the end of Ray on {name}",
                90,
            )

"""The Ray cluster that a run is on: joining it, what it has, and what it can grow to."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml
from ray._common.utils import get_ray_address_file

from noetik_rllib.errors import UserError

#: How long a cluster's head may take to accept a connection.
_ANSWER_SECONDS = 10.0
#: What `ray up` and the autoscaler leave on the head (ray/autoscaler/_private/constants.py).
_BOOTSTRAP_CONFIG = Path("~/ray_bootstrap_config.yaml")


def cluster_is_running() -> bool:
    """Whether there is a Ray cluster that ``ray.init()`` would join.

    That is one named by RAY_ADDRESS, or started with ``ray start`` or ``ray up`` on this machine,
    as under ``ray submit``.
    """
    started = Path(get_ray_address_file(None))
    return os.environ.get("RAY_ADDRESS", "local") != "local" or started.is_file()


def check_address() -> None:
    """Refuse a cluster that does not answer: Ray tries for minutes.

    Raises:
        UserError: nobody listens at RAY_ADDRESS.
    """
    host, _, port = os.environ.get("RAY_ADDRESS", "local").rpartition(":")
    if not port.isdecimal():  # local, auto
        return
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"no Ray cluster answers at {host}:{port} ({error}): give HOST:PORT of its head, "
            "usually port 6379, or auto on one of its hosts"
        ) from None


@contextmanager
def connected_ray(*, cpus: float = 0, gpus: float = 0) -> Iterator[None]:
    """Use the Ray that is there, or start a quiet local one for the time of this block.

    Args:
        cpus: CPUs that will be asked for. A local Ray that has fewer would wait for ever; a
            cluster may still grow.
        gpus: GPUs, likewise.

    Raises:
        UserError: this machine has fewer, or the cluster does not answer.
    """
    if ray.is_initialized():
        yield
        return
    check_address()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local = not cluster_is_running()
    try:
        ray.init(
            address="local" if local else None,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,  # RLlib warns of its own deprecations
        )
    except ConnectionError as error:
        raise UserError(
            f"no Ray cluster answers ({error}); if it asks for a token, as Ray 2.60 does by "
            "default, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from None
    except Exception as error:
        # Ray raises a plain Exception here (ray/_private/node.py).
        if "timed out" not in str(error):
            raise
        raise UserError(
            "Ray did not start in time: this machine is too busy; try again, or set RAY_ADDRESS "
            "to a cluster"
        ) from None
    try:
        for name, needed in (("CPU", cpus), ("GPU", gpus)):
            here = ray.cluster_resources().get(name, 0)
            if local and here < needed:
                raise UserError(
                    f"the learners need {needed:g} {name} and this machine has {here:g}: use fewer "
                    "learners, or set RAY_ADDRESS to a cluster"
                )
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Cluster:
    """What a Ray cluster has, and what it can have.

    Attributes:
        hosts: resources of each host that is there, such as ``{"CPU": 8.0, "GPU": 1.0}``.
        coming: resources of hosts that an autoscaler can add, and how many of each; empty where
            there is no autoscaler, None where there is one whose limits are not known here.
    """

    hosts: list[dict[str, float]]
    coming: list[tuple[dict[str, float], int]] | None

    @classmethod
    def look(cls) -> Cluster:
        """Ask the Ray that this process is connected to."""
        nodes = [node for node in ray.nodes() if node["Alive"]]
        return cls([node["Resources"] for node in nodes], _coming(nodes))

    def places(self, each: dict[str, float]) -> int:
        """Count the learners that the hosts that are there have room for, were they empty."""
        return sum(_places(host, each) for host in self.hosts)

    def most_places(self, each: dict[str, float]) -> float:
        """Count the learners that there is room for when the cluster has grown."""
        if self.coming is None:
            return math.inf
        return self.places(each) + sum(count * _places(host, each) for host, count in self.coming)

    def total(self, resource: str) -> float:
        """Sum a resource over the hosts that are there."""
        return sum(host.get(resource, 0) for host in self.hosts)

    def __str__(self) -> str:
        hosts = len(self.hosts)
        text = (
            f"{hosts} host{'s' if hosts > 1 else ''}, {self.total('CPU'):g} CPUs, "
            f"{self.total('GPU'):g} GPUs"
        )
        if self.coming is None:
            return f"{text}, with an autoscaler"
        more = sum(count for _, count in self.coming)
        return f"{text}, and {more} more hosts on demand" if more else text

    def check_room(self, learners: int, each: dict[str, float]) -> None:
        """Refuse what can never start.

        Args:
            learners: number of learner processes.
            each: what one of them takes.

        Raises:
            UserError: saying what is asked for and what there is.
        """
        most = self.most_places(each)
        if learners > most:
            amounts = " and ".join(f"{amount:g} {name}" for name, amount in each.items())
            raise UserError(
                f"{learners} learners of {amounts} each: this cluster ({self}) has room for "
                f"{most:g}; ask for fewer --num-learners, or for a larger cluster"
            )


def _places(host: dict[str, float], each: dict[str, float]) -> int:
    # Amounts are multiples of 1/10000 in Ray: a third of a GPU fits three times.
    return min((int(host.get(name, 0) / amount + 1e-3) for name, amount in each.items()), default=1)


def _coming(nodes: list[dict[str, Any]]) -> list[tuple[dict[str, float], int]] | None:
    """Return what the autoscaler can add to ``nodes``, by the file that it works from."""
    path = _BOOTSTRAP_CONFIG.expanduser()
    if not path.is_file():
        # KubeRay starts a head so where the autoscaler is a container beside it; its limits are in
        # the RayCluster resource alone.
        return None if "--no-monitor" in os.environ.get("KUBERAY_GEN_RAY_START_CMD", "") else []
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if config["provider"]["type"] == "local":
        # All of its hosts are alike to Ray, and their resources are known once they have joined.
        listed = 1 + len(config["provider"].get("worker_ips", []))
        return None if len(nodes) < listed else []
    names = [node["Labels"].get("ray.io/node-group") for node in nodes]
    left = 1 + config["max_workers"] - len(nodes)
    coming = []
    for name, kind in config["available_node_types"].items():
        if name == config["head_node_type"]:
            continue
        most = kind.get("max_workers", config["max_workers"])
        coming.append((dict(kind["resources"]), max(0, min(left, most - names.count(name)))))
    return coming

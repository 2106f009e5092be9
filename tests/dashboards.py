"""The servers whose pages show runs: TensorBoard, and the head of a Ray cluster with its dashboard.

Each is started as a user starts it, on free ports and with a folder of its own.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


@contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """Serve a folder of runs; yields the address."""
    command = [sys.executable, "-m", "tensorboard.main", "--host=127.0.0.1", "--port=0"]
    with subprocess.Popen(
        [*command, f"--logdir={logdir}"], stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            said = await_line(server.stderr, "(Press CTRL+C to quit)")
            address = re.search(r"http://127\S+", said)
            assert address, said
            yield address[0]
        finally:
            server.terminate()


@dataclass(frozen=True)
class Head:
    """A head that runs: its dashboard's address, its token, and how to speak to it."""

    address: str
    token: str
    environment: dict[str, str]

    def job(self, *words: str | Path) -> None:
        """Run ``ray job WORDS``, again until the head has all of its services."""
        while True:
            done = subprocess.run(
                [BIN / "ray", "job", words[0], "--address", self.address, *words[1:]],
                env=self.environment,
                check=False,
                capture_output=True,
                text=True,
            )
            if "No available agent" not in done.stderr:
                assert done.returncode == 0, done.stderr
                return


@contextmanager
def ray_head(folder: Path) -> Iterator[Head]:
    """Start a head with four CPUs by ``ray start``; other clusters of this machine stay alone.

    Args:
        folder: for its files. Sockets lie there: its path must be short.
    """
    port, client, dashboard, agent = free_ports(4)
    token = secrets.token_hex(16)
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    command = [
        *(BIN / "ray", "start", "--head", "--block", "--num-cpus=4", f"--temp-dir={folder}"),
        *("--node-ip-address=127.0.0.1", f"--port={port}", f"--ray-client-server-port={client}"),
        *("--include-dashboard=true", "--dashboard-host=127.0.0.1"),
        *(f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
        *("--min-worker-port=0", "--max-worker-port=0"),
    ]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            said = await_line(process.stdout, "Ray runtime started")
            assert "Ray runtime started" in said, said
            yield Head(f"http://127.0.0.1:{dashboard}", token, environment)
        finally:
            process.terminate()


def await_line(stream: IO[str] | None, text: str) -> str:
    """Read until a line that holds a text, or the end; returns what was read."""
    said = ""
    for line in stream or ():
        said += line
        if text in line:
            break
    return said


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports

"""Hosts on one machine: each a set of Linux namespaces with its own address, files and sshd.

A host has its own network, processes, mounts, name and shared memory, so that ``ray stop`` on it,
which kills by name, finds nobody else's Ray, and so that its cable can be pulled: packets then
vanish without a reset, which is what the loss of a machine looks like to the others. The switch
that joins them is in a namespace, too: this machine gets no address, route or rule. All of it ends
with the process that made it, even where that is killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
NETWORK = "10.91.0"
TOOLS = ("ip", "nsenter", "unshare", "setpriv", "ssh", "rsync", "/usr/sbin/sshd")

#: Ends the namespaces with this process: --kill-child alone acts only when unshare itself ends.
_NAMESPACES = "setpriv --pdeathsig KILL unshare --net --pid --mount --uts --ipc --fork --kill-child"


def why_not() -> str | None:
    """Say why this machine cannot have test hosts, or None where it can."""
    if os.geteuid() != 0:
        return "only root may make namespaces"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"missing here: {', '.join(missing)}"
    probe = subprocess.run(
        [*_NAMESPACES.split(), "true"], capture_output=True, text=True, check=False
    )
    return f"namespaces are refused: {probe.stderr.strip()}" if probe.returncode else None


@dataclass(frozen=True)
class Host:
    """A running host.

    Attributes:
        name: its hostname.
        address: its IP address.
        folder: where its /root and /tmp are on this machine.
        pid: its process 1, as seen from this machine.
    """

    name: str
    address: str
    folder: Path
    pid: int

    def command(self, arguments: Sequence[str], **environment: str) -> list[str]:
        """Return the command that runs ``arguments`` on this host, in /root."""
        values = {
            "HOME": "/root",
            "USER": "root",
            "LANG": "C.UTF-8",
            "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": "/root/noetik",
            "RAY_USAGE_STATS_ENABLED": "0",
        } | environment
        given = [f"{name}={value}" for name, value in values.items()]
        # Not nsenter --wd: that folder is looked up before the host's mounts are entered.
        inside = ["bash", "-c", 'cd /root && exec "$@"', "host", *arguments]
        return [*f"nsenter -t {self.pid} -a env -i".split(), *given, *inside]

    def run(
        self, *arguments: str, timeout: float = 120, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; stderr joins stdout."""
        return subprocess.run(
            self.command(arguments, **environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )


class Hosts:
    """A switch and the hosts on it, for the time of a ``with`` block.

    Args:
        names: hostnames; addresses follow their order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.addresses = {name: f"{NETWORK}.{10 + place}" for place, name in enumerate(names)}
        self.hosts: dict[str, Host] = {}
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Hosts:
        # Not below /tmp, which every host replaces by its own.
        self.folder = Path(tempfile.mkdtemp(prefix="nk-hosts-", dir="/var/tmp"))
        self.shared = self.folder / "shared"
        self.shared.mkdir()
        self.key = self.folder / "key"
        subprocess.run(f"ssh-keygen -q -t ed25519 -N  -f {self.key}".split(" "), check=True)
        try:
            self._switch = self._start("sleep", "infinity")
            self._in_switch("ip link add switch type bridge")
            self._in_switch("ip link set switch up")
            for name in self.addresses:
                self.hosts[name] = self._boot(name)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._started:
            process.kill()
        for process in self._started:
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def cut(self, name: str) -> None:
        """Pull a host's cable: packets vanish, no reset comes, the shared disk is out of reach."""
        self._in_switch(f"ip link set {name} down")
        self[name].run(*["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/srv"])

    def heal(self, name: str) -> None:
        """Plug the cable in again."""
        self[name].run("umount", "/srv")
        self._in_switch(f"ip link set {name} up")

    def off(self, name: str) -> None:
        """Pull a host's plug: its processes are gone, and nobody is told; its files stay."""
        # First, so that no process says goodbye; and left to the kernel, it outlives the host.
        self._in_switch(f"ip link delete {name}")
        os.kill(self.hosts.pop(name).pid, signal.SIGKILL)

    def boot(self, name: str) -> None:
        """Start a host that is off: with its files, without its processes."""
        self.hosts[name] = self._boot(name)

    def _start(self, *arguments: str) -> int:
        """Start process 1 of new namespaces; returns its number on this machine."""
        process: subprocess.Popen[str] = subprocess.Popen(
            [*_NAMESPACES.split(), "--mount-proc", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=(self.folder / "log").open("a"),
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._started.append(process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

        def child() -> int:
            return int((children.read_text().split() or [0])[0])

        return int(self.wait_for(child, "a process in new namespaces", 20))

    def _boot(self, name: str) -> Host:
        folder = self.folder / name
        for inside in ("root/.ssh", "tmp"):
            (folder / inside).mkdir(parents=True, exist_ok=True)
        names = [f"{address} {other}\n" for other, address in self.addresses.items()]
        (folder / "etc-hosts").write_text("".join(["127.0.0.1 localhost\n", *names]))
        shutil.copy(self.key.with_suffix(".pub"), folder / "root/.ssh/authorized_keys")
        shutil.copy(self.key, folder / "root/.ssh/key")
        # Ray runs its commands in a login shell that reads this.
        (folder / "root/.bashrc").write_text(
            f"export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH=/root/noetik\n"
            "export RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1\n"
        )
        keep = {sys.prefix, sys.base_prefix, os.path.realpath(sys.prefix)}
        keep.add(str(Path(os.path.realpath(sys.executable)).parents[1]))
        address = self.addresses[name]
        script = ["bash", str(HERE / "host.sh"), str(folder), address, str(self.shared)]
        pid = self._start(*script, *sorted(keep))
        self._in_switch(f"ip link add {name} type veth peer name eth0 netns {pid}")
        self._in_switch(f"ip link set {name} master switch up")
        host = Host(name, address, folder, pid)
        self.wait_for(lambda: host.run("test", "-e", "/run/ready").returncode == 0, name, 30)
        return host

    def _in_switch(self, command: str) -> None:
        enter = f"nsenter -t {self._switch} --net {command}"
        subprocess.run(enter.split(), check=True, capture_output=True)

    def wait_for(self, happened: Any, what: str, seconds: float) -> Any:
        """Return what ``happened()`` returns once that is true.

        Raises:
            TimeoutError: it did not become true in time.
        """
        end = time.monotonic() + seconds
        while not (result := happened()):
            if time.monotonic() > end:
                log = (self.folder / "log").read_text()
                raise TimeoutError(f"{what}: not there within {seconds:g} s\n{log[-2000:]}")
            time.sleep(0.1)
        return result

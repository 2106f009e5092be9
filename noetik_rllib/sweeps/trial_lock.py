"""That one process at a time trains a trial, also when the host of the one before was cut off."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import ray

from noetik_rllib.errors import UserError
from noetik_rllib.io import make_directory

#: How long a trial waits for the process that had it before: Ray ends workers whose driver died
#: within seconds, and a process on a host that Ray has given up is not waited for.
_LOCK_SECONDS = 120.0
#: How often Ray is asked which hosts it has given up.
_ASK_SECONDS = 2.0


def lock_of(out: Path) -> Path:
    """The file that the process which trains the trial ``out`` holds.

    Its lines are ``PROCESS of HOST`` and Ray's id of that host.
    """
    return out.with_name(f".{out.name}.lock")


class TrialLock:
    """The lock of a trial.

    Args:
        file: open.
        path: that it had when it was opened.
    """

    def __init__(self, file: TextIO, path: Path) -> None:
        self.file = file
        self.path = path

    def ours(self) -> bool:
        """Whether the file is still in its place: no other process has put its own there."""
        try:
            return os.path.samestat(os.fstat(self.file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False


@contextmanager
def only_process(out: Path) -> Iterator[TrialLock]:
    """Be the only process that trains the trial ``out``; the one before may still be ending.

    A process on a host that was cut off keeps its lock until that host's raylet notices, which took
    up to three minutes in the cluster test, and takes seven by gRPC's keepalive (Ray 2.60). It does
    nothing meanwhile, for it waits until somebody hears its report. So where Ray has given its host
    up, another file takes the place of the one that it has locked; it sees that by
    ``TrialLock.ours`` if it ever goes on.

    Raises:
        UserError: it does not end, on a host that is there.
    """
    make_directory(out.parent)
    path = lock_of(out)
    until, ask = time.monotonic() + _LOCK_SECONDS, time.monotonic()
    while True:
        with path.open("a+") as file:
            lock = TrialLock(file, path)
            if _locked(file):
                if not lock.ours():  # replaced between opening and locking it
                    continue
            elif time.monotonic() >= ask:
                file.seek(0)
                holder, _, node = file.read().partition("\n")
                if _is_given_up(node):
                    if lock.ours():  # else somebody has replaced it while Ray was asked
                        _replace(path)
                elif time.monotonic() > until:
                    raise UserError(f"{out}: process {holder} trains this trial")
                ask = time.monotonic() + _ASK_SECONDS
                continue
            else:
                time.sleep(0.2)
                continue
            file.truncate(0)
            node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
            file.write(f"{os.getpid()} of {socket.gethostname()}\n{node}")
            file.flush()
            yield lock
            return


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_given_up(node: str) -> bool:
    """Whether Ray says that a host is dead."""
    if not node or not ray.is_initialized():
        return False
    return any(one["NodeID"] == node and not one["Alive"] for one in ray.nodes())


def _replace(path: Path) -> None:
    """Put a file that nobody has locked in the place of the lock."""
    new = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
    new.touch()
    new.replace(path)

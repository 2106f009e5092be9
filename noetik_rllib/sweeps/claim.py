"""Which process has something that is kept at a URI: the last one that took it."""

from __future__ import annotations

import os
import socket
import uuid

from noetik_rllib.remote import Folder

_SUFFIX = ".process"


class Claim:
    """The name of a process, at a URI, beside what it works on.

    Object stores have no locks, and a host that is cut off cannot be asked. So whoever comes last
    has it, and whoever had it before finds another name there when it next looks, and stops.
    Between two looks, both may work: they do the same, and what either writes there is whole.

    Args:
        folder: where it is kept.
        name: of what is taken.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder = folder
        self.name = f"{name}{_SUFFIX}"
        self.process = f"{os.getpid()} of {socket.gethostname()}, {uuid.uuid4()}".encode()

    def take(self) -> None:
        """Take it, from whoever has it."""
        self.folder.write(self.name, self.process)

    def ours(self) -> bool:
        """Whether nobody took it since."""
        return self.folder.find(self.name) == self.process

    def release(self) -> None:
        """Leave it to nobody, unless somebody has it already."""
        if self.ours():
            self.folder.remove(self.name)

"""The part of a file that has come so far, kept on disk so that another process can go on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from pydantic import TypeAdapter

from noetik_rllib.errors import UserError
from noetik_rllib.io import write_json

#: Bytes read, hashed and written at a time.
BLOCK = 1 << 18


@dataclass(frozen=True)
class Origin:
    """What the server said of the file that a part was begun with; None where it said nothing."""

    url: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    size: int | None = None


class Part:
    """``TARGET.part`` and its md5; beside it ``TARGET.part.json`` says where it comes from.

    A context manager: the file is open inside it, and on the way out an empty one is removed. One
    process may use it at a time.

    Attributes:
        target: the file that it becomes.
        path: the part.
        size: bytes that have come.
        origin: what the server said of the file.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._origin_path = target.with_name(f"{target.name}.part.json")
        self.origin = _read_origin(self._origin_path)
        self.size = 0
        self._digest = hashlib.md5(usedforsecurity=False)

    def __enter__(self) -> Part:
        try:
            # Unbuffered: what has come is on its way to the disk, wherever the process is killed.
            self._stream = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Not self.size: stopped before it was read back, a part of hours would look empty.
        is_empty = os.fstat(self._stream.fileno()).st_size == 0
        self._stream.close()
        if is_empty:
            self.remove()

    @property
    def md5(self) -> str:
        """The md5 of what has come, in hexadecimal."""
        return self._digest.hexdigest()

    @property
    def is_complete(self) -> bool:
        """Whether as much has come as the server announced."""
        return self.size > 0 and self.size == self.origin.size

    def read_back(self, progress: Callable[[int, int], None]) -> None:
        """Learn size and md5 of what an earlier process left; ``progress`` gets bytes, of all."""
        total = self.path.stat().st_size
        self._stream.seek(0)
        while block := self._stream.read(BLOCK):
            self._digest.update(block)
            self.size += len(block)
            progress(self.size, total)

    def continuation(self, url: str) -> dict[str, str]:
        """Headers that ask for the rest, if it is the rest of the same file.

        A part from another address is continued without the condition: what another server calls
        its versions says nothing here, and the md5 finds out.
        """
        if self.size == 0:
            return {}
        headers = {"Range": f"bytes={self.size}-"}
        if self.origin.url == url:
            # RFC 9110, 13.1.5: a weak entity tag may not stand in If-Range.
            etag = self.origin.etag
            strong = etag if etag and not etag.startswith("W/") else None
            if validator := strong or self.origin.last_modified:
                headers["If-Range"] = validator
        return headers

    def begin(self, origin: Origin) -> None:
        """Note where the bytes that follow come from."""
        if origin != self.origin:
            write_json(self._origin_path, asdict(origin))
            self.origin = origin

    def append(self, block: bytes) -> None:
        """Add what came.

        Raises:
            UserError: the disk does not take it; what came before is kept.
        """
        rest = memoryview(block)
        try:
            while rest:  # a disk that fills up takes a piece first
                written = self._stream.write(rest)
                self._digest.update(rest[:written])
                self.size += written
                rest = rest[written:]
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written: {error.strerror}; what came is kept, "
                "make room and run the same command again to go on"
            ) from None

    def restart(self) -> None:
        """Forget what has come."""
        # The bytes first: killed in between, an empty part beside an old origin does no harm.
        self._stream.truncate(0)
        self.size = 0
        self._digest = hashlib.md5(usedforsecurity=False)
        self.begin(Origin())

    def remove(self) -> None:
        """Remove part and origin."""
        self.path.unlink(missing_ok=True)
        self._origin_path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the part the target's name."""
        # In this order: killed in between, the whole part is recognised by its md5.
        self._origin_path.unlink(missing_ok=True)
        self.path.replace(self.target)


def _read_origin(path: Path) -> Origin:
    """Read what ``begin`` wrote; an origin that cannot be read only costs the condition."""
    try:
        origin = TypeAdapter(Origin).validate_json(path.read_bytes(), strict=True)
    except (OSError, ValueError):
        return Origin()
    # They go back out as headers.
    texts = f"{origin.etag} {origin.last_modified}"
    return origin if texts.isascii() and texts.isprintable() else Origin()

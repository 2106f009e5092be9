"""Unpacking a ``.tar.gz`` that might have been made to do harm."""

from __future__ import annotations

import gzip
import tarfile
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import SEEK_SET
from pathlib import Path
from stat import S_ISGID, S_ISUID
from typing import BinaryIO

from noetik_rllib.errors import UserError

#: Bytes copied at a time, and the most that a header may ask for in one piece.
_BLOCK = 1 << 20
_ZERO = b"\0"


@dataclass(frozen=True)
class Unpacked:
    """What an archive held: number of files, and their bytes together."""

    files: int
    size: int


class _RefusedError(Exception):
    """The archive holds something that no honest one does; the message says what."""


class _Bounded(gzip.GzipFile):
    """The unpacked stream as ``tarfile`` reads it, which refuses to go on for ever."""

    def __init__(self, raw: BinaryIO, most: int) -> None:
        super().__init__(fileobj=raw, mode="rb")
        self._most = most
        #: What was read last.
        self.last = b""

    def read(self, size: int | None = -1) -> bytes:
        # tarfile reads a long name or a comment in one piece, of whatever size the header says.
        if size is None or not 0 <= size <= _BLOCK:
            raise _RefusedError(f"a header of {size} bytes")
        self.last = super().read(size)
        self._check(self.tell())
        return self.last

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        self._check(offset)
        return super().seek(offset, whence)

    def _check(self, position: int) -> None:
        if position > self._most:
            raise _RefusedError(f"more than {self._most:,} bytes")


def unpack(
    archive: Path,
    folder: Path,
    *,
    top: str,
    max_bytes: int,
    max_members: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Unpacked:
    """Unpack what lies below ``top`` in a ``.tar.gz`` into ``folder``, which must be empty.

    Only files and folders below the one folder ``top`` are taken, each name once. Everything else
    is refused before it is written: absolute paths, ``..``, links of either kind, devices, pipes,
    sparse files, set-user-id files, and more bytes or members than expected. Permissions and
    owners of the archive are not taken over. After a refusal ``folder`` holds what came before;
    give one that is thrown away then.

    Args:
        archive: the file.
        folder: where to write.
        top: the only name at the top of the archive.
        max_bytes: bound of the unpacked stream, headers included.
        max_members: bound of the number of files and folders.
        progress: called with bytes of the archive done, and in all.

    Raises:
        UserError: refused, damaged, no archive at all, or the disk is full.
    """
    try:
        total = archive.stat().st_size
        with archive.open("rb") as raw, _Bounded(raw, max_bytes) as stream:
            return _Unpacking(
                stream,
                folder,
                top=top,
                max_bytes=max_bytes,
                max_members=max_members,
                progress=lambda: progress(raw.tell(), total),
            ).run()
    except _RefusedError as refused:
        raise UserError(f"{archive} holds {refused}: it is not what was expected") from None
    # The last three: numbers in a header that are none or beyond every bound, headers of headers.
    except (
        tarfile.TarError,
        gzip.BadGzipFile,
        zlib.error,
        EOFError,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{archive} is damaged, or no .tar.gz file: {ascii(said)[1:-1]}") from None
    except OSError as error:
        raise UserError(
            f"{archive} cannot be unpacked in {folder.parent}: {error.strerror or error}"
        ) from None


class _Unpacking:
    def __init__(
        self,
        stream: _Bounded,
        folder: Path,
        *,
        top: str,
        max_bytes: int,
        max_members: int,
        progress: Callable[[], None],
    ) -> None:
        self._stream, self._folder, self._top = stream, folder, top
        self._max_bytes, self._max_members = max_bytes, max_members
        self._progress = progress
        self._seen: set[str] = set()
        self._members = self._files = self._size = 0

    def run(self) -> Unpacked:
        with tarfile.open(fileobj=self._stream, mode="r:") as tar:
            for member in tar:
                self._members += 1
                if self._members > self._max_members:
                    raise _RefusedError(f"more than {self._max_members} files and folders")
                target = self._target(member)
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                else:
                    self._copy(tar, member, target)
        self._check_end()
        return Unpacked(self._files, self._size)

    def _target(self, member: tarfile.TarInfo) -> Path:
        """Where a member goes, once it has passed every check."""
        shown = f"'{ascii(member.name)[1:-1][:100]}'"
        self._check_kind(member, shown)
        pieces = [piece for piece in member.name.split("/") if piece not in ("", ".")]
        if member.name.startswith("/"):
            raise _RefusedError(f"{shown}, an absolute path")
        if ".." in pieces:
            raise _RefusedError(f"{shown}, a path that leads outside")
        if pieces[:1] not in ([], [self._top]) or (len(pieces) < 2 and not member.isdir()):
            raise _RefusedError(f"{shown}, which is not below {self._top}/")
        # File systems without upper and lower case would write one over the other.
        name = unicodedata.normalize("NFC", "/".join(pieces)).casefold()
        if name in self._seen:
            raise _RefusedError(f"{shown} twice")
        self._seen.add(name)
        # A second pair of eyes: what CPython learns of bad archives comes with its updates. Absent
        # before Python 3.10.12 and 3.11.4.
        if data_filter := getattr(tarfile, "data_filter", None):
            data_filter(member, str(self._folder))
        return self._folder.joinpath(*pieces[1:])

    def _check_kind(self, member: tarfile.TarInfo, shown: str) -> None:
        """Refuse what is neither a plain file nor a folder, and what is too large."""
        if member.issym() or member.islnk():
            raise _RefusedError(f"{shown}, a link to '{ascii(member.linkname)[1:-1][:100]}'")
        if not (member.isreg() or member.isdir()) or member.issparse():
            raise _RefusedError(f"{shown}, neither a plain file nor a folder")
        if member.isreg() and member.mode & (S_ISUID | S_ISGID):
            raise _RefusedError(f"{shown}, a file that would run as another user")
        self._size += member.size if member.isreg() else 0
        if self._size > self._max_bytes or member.size < 0:
            raise _RefusedError(
                f"{shown} of {member.size:,} bytes, beyond {self._max_bytes:,} in all"
            )

    def _copy(self, tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        source = tar.extractfile(member)
        assert source is not None, "a plain file has content"
        with source, target.open("xb") as out:
            while block := source.read(_BLOCK):
                out.write(block)
                self._progress()
        self._files += 1

    def _check_end(self) -> None:
        """Read to the end, for the checksum of gzip; ``tarfile`` stops at a broken header as if
        the archive ended there, so whatever follows the last member must be zeros.
        """
        block = self._stream.last
        while block:
            if block.strip(_ZERO):
                raise tarfile.ReadError("a broken header")
            block = self._stream.read(_BLOCK)
            self._progress()

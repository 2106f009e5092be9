"""Files and folders that are either whole or not there: written aside, then renamed."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from noetik_rllib.errors import UserError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def _aside(path: Path, kind: str = "part") -> Path:
    """A name beside ``path``, of this process: same file system, so that renaming is atomic."""
    host, unique = socket.gethostname(), uuid.uuid4().hex[:8]
    return path.with_name(f".{path.name}.{host}.{os.getpid()}.{unique}.{kind}")


def remove_stale(path: Path) -> None:
    """Remove what killed processes of this machine left of files or folders named for ``path``."""
    start = f".{path.name}.{socket.gethostname()}."
    name = re.compile(re.escape(start) + r"(\d+)\.[0-9a-f]{8}\.part")
    for entry in path.parent.iterdir() if os.access(path.parent, os.R_OK) else ():
        owner = name.fullmatch(entry.name)
        if owner and not _runs(int(owner[1])):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # asks only
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True


def _reason(error: OSError) -> str:
    # PyArrow's errors carry the number, and a text of several parts.
    return os.strerror(error.errno) if error.errno else " ".join(str(error).split())


def make_directory(path: Path) -> None:
    """Make a folder and its parents; one that exists is left as it is.

    Raises:
        UserError: it cannot be made there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {_reason(error)}") from None


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write; rename it to ``path`` on success, remove it otherwise.

    Raises:
        UserError: nothing can be written there, or the disk is full.
    """
    path = Path(path)
    make_directory(path.parent)
    part = _aside(path)
    try:
        yield part
        part.replace(path)
    except OSError as error:
        if error.filename in (None, str(part)):
            raise UserError(f"{path} cannot be written: {_reason(error)}") from None
        raise
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_directory(
    path: str | Path, *, replace: bool = True, check: Callable[[], None] | None = None
) -> Iterator[Path]:
    """Yield a temporary folder to fill; it takes the place of ``path`` on success only.

    A killed process leaves its temporary folder, ``.NAME.<host>.<process>.<number>.part``; the next
    one that writes ``path`` on that machine removes it.

    Args:
        path: folder to write.
        replace: whether a folder that is there by then, and not empty, gives way.
        check: called just before it gives way; it may raise instead.

    Raises:
        UserError: nothing can be written there, the disk is full, or something is in the way.
    """
    path = Path(path).resolve()  # of a link, the target is replaced
    make_directory(path.parent)
    remove_stale(path)
    part = _aside(path)
    make_directory(part)
    try:
        yield part
        if replace:
            if check is not None:
                check()
            replace_directory(part, path)
        else:
            part.replace(path)  # refused by the system unless the name is free or an empty folder
    except OSError as error:
        if not replace and error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise UserError(
                f"{path} exists already: another process wrote it in the meantime; nothing was "
                "changed there"
            ) from None
        if error.filename is None or str(error.filename).startswith(str(part)):
            raise UserError(f"{path} cannot be written: {_reason(error)}") from None
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def replace_directory(new: Path, path: Path) -> None:
    """Give the folder ``new`` the name ``path``, and remove what had it before.

    Two folders are exchanged in one step where the system can (Linux, on local disks), so that a
    killed process leaves the old one or the new one under the name. Elsewhere there is a moment
    between two renames; the old folder then lies beside, as
    ``.NAME.<host>.<process>.<number>.old``, and nothing removes it.
    """
    if not path.exists():
        new.replace(path)
        return
    if _exchange(new, path):
        old = _aside(path)  # a name that ``remove_stale`` knows, should this process be killed now
        new.replace(old)
        shutil.rmtree(old)
        return
    old = _aside(path, "old")
    path.replace(old)
    new.replace(path)
    shutil.rmtree(old)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths by renameat2(2); False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    done = renameat2(
        _AT_FDCWD,
        os.fsencode(first),
        _AT_FDCWD,
        os.fsencode(second),
        ctypes.c_uint(_RENAME_EXCHANGE),
    )
    return bool(done == 0)


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented UTF-8 JSON, whole or not at all."""
    with atomic_path(path) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

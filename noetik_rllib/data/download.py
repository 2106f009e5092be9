"""Getting KuaiRand from its authors: download, check, unpack."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from noetik_rllib.data.archive import unpack
from noetik_rllib.data.transfer import (
    ByteProgress,
    Patience,
    Remark,
    check_room,
    fetch,
    file_md5,
)
from noetik_rllib.errors import UserError
from noetik_rllib.io import atomic_directory, make_directory, remove_stale

#: Where the authors publish the archives: record 10439422, CC BY-SA 4.0.
ZENODO = "https://zenodo.org/records/10439422/files"

_MIB, _GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Variant:
    """One published archive.

    Attributes:
        folder: the archive's only top folder; the archive is ``FOLDER.tar.gz``.
        md5: checksum that the authors publish.
        unpacked_bytes: roughly what it unpacks to, as the authors' README says.
        files: patterns below ``folder``, each of which must match a file.
    """

    folder: str
    md5: str
    unpacked_bytes: int
    files: tuple[str, ...] = (
        "data/log_standard_4_08_to_4_21_*.csv",
        "data/log_standard_4_22_to_5_08_*.csv",
        "data/log_random_4_22_to_5_08_*.csv",
        "data/user_features_*.csv",
        "data/video_features_basic_*.csv",
    )

    @property
    def archive(self) -> str:
        """Name of the archive."""
        return f"{self.folder}.tar.gz"


VARIANTS = {
    "pure": Variant("KuaiRand-Pure", "0820331067a3784d9691136f772b35a7", 194 * _MIB),
    "1k": Variant("KuaiRand-1K", "6b0b9c8222d67fcd4c676218edca3f1f", int(4.3 * _GIB)),
    "27k": Variant("KuaiRand-27K", "3e3c799a24e2d23a4d2c757fbf9adf59", 46 * _GIB),
}

#: Bounds of what is unpacked. The variants hold some ten files each.
_MOST_TIMES_EXPECTED = 2
_MOST_MEMBERS = 100


@dataclass(frozen=True)
class Downloaded:
    """What ``download`` did.

    Attributes:
        folder: where the files are.
        archive: the archive, where it is kept.
        received_bytes: bytes that came over the network this time.
        files: number of files unpacked.
        unpacked_bytes: their bytes together.
    """

    folder: Path
    archive: Path | None
    received_bytes: int
    files: int
    unpacked_bytes: int


def download(
    variant: Variant,
    out: Path,
    *,
    url: str = ZENODO,
    keep_archive: bool = False,
    overwrite: bool = False,
    patience: Patience | None = None,
    progress: ByteProgress = lambda doing, done, total: None,
    remark: Remark = lambda line: None,
) -> Downloaded:
    """Download, check and unpack a variant to ``OUT/FOLDER``.

    Whatever stops it, ``OUT/FOLDER`` is whole or not there, and calling it again goes on with what
    has come (``OUT/FOLDER.tar.gz.part``). An archive that lies in ``out`` already is used, and
    left there.

    Args:
        variant: what to get.
        out: folder that gets the variant's folder.
        url: address of the folder that holds the archive, for a mirror.
        keep_archive: leave the archive in ``out``.
        overwrite: replace ``OUT/FOLDER``.
        patience: how often and how long to try.
        progress: called with what is being done, bytes done, and bytes in all if known.
        remark: called with one line when a connection was cut, and the like.

    Raises:
        UserError: the folder exists, another process downloads to it, no room, or what
            ``fetch`` and ``unpack`` raise.
    """
    address = f"{_checked(url)}/{variant.archive}"
    folder, archive = out / variant.folder, out / variant.archive
    _check_folder(folder, overwrite=overwrite)
    make_directory(out)
    with _alone(out / f".{variant.folder}.lock"):
        remove_stale(folder)  # before the room is measured
        check_room(out, variant.unpacked_bytes, f"what {variant.archive} unpacks to")
        was_there = archive.exists()
        received = 0
        if was_there:
            _check_archive(archive, variant, progress)
        else:
            received = fetch(
                address,
                archive,
                variant.md5,
                reserve=variant.unpacked_bytes,
                patience=patience,
                progress=progress,
                remark=remark,
            )
        with atomic_directory(folder, replace=overwrite) as part:
            unpacked = unpack(
                archive,
                part,
                top=variant.folder,
                max_bytes=_MOST_TIMES_EXPECTED * variant.unpacked_bytes,
                max_members=_MOST_MEMBERS,
                progress=lambda done, total: progress(f"unpacking {variant.archive}", done, total),
            )
            for pattern in variant.files:
                if not any(part.glob(pattern)):
                    raise UserError(f"{archive} holds no {variant.folder}/{pattern}: is it whole?")
        kept = was_there or keep_archive
        if not kept:
            archive.unlink()
    return Downloaded(folder, archive if kept else None, received, unpacked.files, unpacked.size)


def _checked(url: str) -> str:
    """The base address without a slash at its end.

    Raises:
        UserError: it is no http or https address of a folder.
    """
    try:
        pieces = urlsplit(url)
        is_address = pieces.scheme in ("http", "https") and bool(pieces.hostname)
        is_address &= pieces.port != 0 and pieces.username is None
        (pieces.hostname or "").encode("idna")  # as looking it up would: raises a ValueError
    except ValueError:
        is_address = False
    is_plain = url.isascii() and url.isprintable() and not set(url) & set(" ?#")
    if not (is_address and is_plain):
        raise UserError(
            f"url is {url!a}: expected the address of a folder that holds the archive, "
            f"such as {ZENODO}"
        )
    return url.rstrip("/")


def _check_folder(folder: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(folder):
        return
    if not overwrite:
        raise UserError(
            f"{folder} exists already: use --overwrite to replace it, or choose another --out"
        )
    is_folder = folder.is_dir() and not folder.is_symlink()
    if not is_folder or (any(folder.iterdir()) and not any(folder.glob("data/log_standard_*.csv"))):
        raise UserError(f"{folder} is no KuaiRand folder, not overwritten: choose another --out")


def _check_archive(archive: Path, variant: Variant, progress: ByteProgress) -> None:
    try:
        md5 = file_md5(archive, progress)
    except OSError as error:
        raise UserError(f"{archive} cannot be read: {error.strerror}") from None
    if md5 != variant.md5:
        raise UserError(
            f"{archive} is there already with md5 {md5}, expected {variant.md5}: remove it, or "
            "choose another --out"
        )


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Keep a second process out; the system lets go of the lock of a killed one.

    Raises:
        UserError: another process holds it, or it cannot be written there.
    """
    try:
        stream = lock.open("a")
    except OSError as error:
        raise UserError(f"{lock} cannot be written: {error.strerror}") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it before removed it: then this is the lock of nothing.
            is_held = os.path.samestat(os.fstat(stream.fileno()), lock.stat())
        except (BlockingIOError, FileNotFoundError):
            is_held = False
        except OSError:  # some network file systems know no locks
            is_held = True
        if not is_held:
            raise UserError(f"{lock.parent}: another download to it is running, wait for it")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)

"""An archive made to do harm writes nothing but what an honest one would."""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from noetik_rllib.data.archive import Unpacked, unpack
from noetik_rllib.errors import UserError
from tests.data.mirror import ARCHIVE, FILES, TOP

LIMIT = 400_000


def try_unpack(content: bytes, tmp_path: Path, max_bytes: int = LIMIT) -> Unpacked:
    """Unpack in ``tmp_path/within``; ``tmp_path`` shows what escaped."""
    archive, folder = tmp_path / "x.tar.gz", tmp_path / "within"
    archive.write_bytes(content)
    folder.mkdir(exist_ok=True)
    return unpack(archive, folder, top=TOP, max_bytes=max_bytes, max_members=20)


def member(
    name: str, content: bytes = b"harm", **attributes: object
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    if info.isreg() and "size" not in attributes:
        info.size = len(content)
    return info, content


def tar_of(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A ``.tar`` of an honest file, then these."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for info, content in (member(f"{TOP}/honest", b"good"), *members):
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return buffer.getvalue()


def outside(tmp_path: Path) -> set[str]:
    return {path.name for path in tmp_path.iterdir()} - {"x.tar.gz", "within"}


def test_an_honest_archive_is_unpacked(tmp_path: Path) -> None:
    """Fails if caution refuses what the authors publish."""
    done = try_unpack(ARCHIVE, tmp_path)
    folder = tmp_path / "within"
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert found == FILES
    assert done == Unpacked(len(FILES), sum(map(len, FILES.values())))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_and_dotted_names_are_read(form: int, tmp_path: Path) -> None:
    """Fails if an archive is refused for the program that made it."""
    long = f"./{TOP}/" + "a" * 90 + "/" + "b" * 90
    try_unpack(gzip.compress(tar_of(member(long, b"fine"), form=form)), tmp_path)
    assert (tmp_path / "within" / ("a" * 90) / ("b" * 90)).read_bytes() == b"fine"


BAD_MEMBERS: dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], str]] = {
    "escape": ([member("../escape")], "'../escape', a path that leads outside"),
    "escape below": ([member(f"{TOP}/../../escape")], "leads outside"),
    "absolute": ([member("/tmp/noetik-escape")], "an absolute path"),
    "symlink": (
        [
            member(f"{TOP}/link", type=tarfile.SYMTYPE, linkname="../.."),
            member(f"{TOP}/link/escape"),
        ],
        "a link to '../..'",
    ),
    "absolute symlink": (
        [member(f"{TOP}/link", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
        "a link to '/etc/passwd'",
    ),
    "hard link": (
        [member(f"{TOP}/link", type=tarfile.LNKTYPE, linkname="/etc/passwd")],
        "a link to '/etc/passwd'",
    ),
    "device": (
        [member(f"{TOP}/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
        "neither a plain file nor a folder",
    ),
    "block device": ([member(f"{TOP}/disk", type=tarfile.BLKTYPE)], "neither a plain file"),
    "pipe": ([member(f"{TOP}/pipe", type=tarfile.FIFOTYPE)], "neither a plain file nor a folder"),
    "set-user-id": ([member(f"{TOP}/sudo", mode=0o4755)], "run as another user"),
    "set-group-id": ([member(f"{TOP}/sudo", mode=0o2755)], "run as another user"),
    "twice": ([member(f"{TOP}/honest")], f"'{TOP}/honest' twice"),
    "twice by case": ([member(f"{TOP}/Honest")], "twice"),
    "twice by dots": ([member(f"{TOP}/./honest")], "twice"),
    "second top": ([member("other/file")], f"which is not below {TOP}/"),
    "no top": ([member("file")], f"which is not below {TOP}/"),
    "top as a file": ([member(TOP)], f"which is not below {TOP}/"),
    "one large": ([member(f"{TOP}/large", bytes(LIMIT))], "beyond 400,000 in all"),
    "many": ([member(f"{TOP}/{number}", b"") for number in range(20)], "more than 20 files"),
    "a file as a folder": ([member(f"{TOP}/honest/below")], "cannot be unpacked"),
    "a name of two lines": ([member("two\nlines")], r"'two\nlines'"),
}


@pytest.mark.parametrize("case", BAD_MEMBERS)
def test_a_bad_member_is_refused(case: str, tmp_path: Path) -> None:
    """Fails if an archive can write, link or run outside of its folder, or fill the disk."""
    members, message = BAD_MEMBERS[case]
    with pytest.raises(UserError) as caught:
        try_unpack(gzip.compress(tar_of(*members)), tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not outside(tmp_path)
    assert not Path("/tmp/noetik-escape").exists()
    for path in (tmp_path / "within").rglob("*"):
        assert path.read_bytes() in (b"good", b"")
        assert not path.is_symlink()
        assert path.stat().st_nlink == 1


def test_permissions_are_not_taken_over(tmp_path: Path) -> None:
    """Fails if an archive can leave files that everybody may write, or that nobody can remove."""
    everybody = member(f"{TOP}/open", mode=0o777, uid=12345)
    nobody = member(f"{TOP}/folder", type=tarfile.DIRTYPE, mode=0)
    try_unpack(gzip.compress(tar_of(everybody, nobody)), tmp_path)
    status = (tmp_path / "within" / "open").stat()
    assert (status.st_mode & 0o7133, status.st_uid) == (0, os.getuid())
    assert (tmp_path / "within" / "folder").stat().st_mode & 0o700 == 0o700


def long_name(size: int) -> bytes:
    """A header that says that a name of ``size`` bytes follows, and those bytes."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, size
    header = info.tobuf(tarfile.GNU_FORMAT)
    return header + b"a" * min(max(size, 0), 3 << 20)


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    # 50 MB of zeros shrink to 50 kB.
    "zeros behind the end": (lambda: tar_of() + bytes(50_000_000), "more than 400,000 bytes"),
    "zeros in a file": (
        lambda: tar_of(member(f"{TOP}/bomb", bytes(50_000_000))),
        "of 50,000,000 bytes, beyond 400,000 in all",
    ),
    "a sparse file": (
        lambda: tar_of(
            member(
                f"{TOP}/a",
                b"1\n0\n0\n",
                pax_headers={
                    "GNU.sparse.major": "1",
                    "GNU.sparse.minor": "0",
                    "GNU.sparse.name": f"{TOP}/a",
                    "GNU.sparse.realsize": "99999999999",
                },
            )
        ),
        "neither a plain file nor a folder",
    ),
    "a huge name": (lambda: long_name(3 << 20), "a header of 3145728 bytes"),
    "a name of less than nothing": (lambda: long_name(-4096), "a header of -4096 bytes"),
    "a huge comment": (
        lambda: tar_of(member(f"{TOP}/a", pax_headers={"comment": "a" * (2 << 20)})),
        "a header of 20",
    ),
    "names of names": (lambda: long_name(512) * 1500, "is damaged"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_is_refused(case: str, tmp_path: Path) -> None:
    """Fails if a small archive can fill the memory or the disk, or keep the command busy."""
    make, message = BOMBS[case]
    limit = 2_000_000 if case == "names of names" else LIMIT
    with pytest.raises(UserError) as caught:
        try_unpack(gzip.compress(make()), tmp_path, limit)
    assert message in str(caught.value)
    assert sum(path.stat().st_size for path in (tmp_path / "within").rglob("*")) < LIMIT


PLAIN = gzip.decompress(ARCHIVE)
HEADER = PLAIN.index(f"{TOP}/data/log_random".encode())
DAMAGED = {
    "not gzip": b"<html>Please log in</html>",
    "not tar": gzip.compress(b"hello " * 1000),
    "nothing": b"",
    "cut gzip": ARCHIVE[: len(ARCHIVE) // 2],
    "cut before the checksum": ARCHIVE[:-8],
    "wrong checksum": ARCHIVE[:-8] + bytes(8),
    "something after it": ARCHIVE + b"more",
    "flipped": ARCHIVE[:1000] + bytes([ARCHIVE[1000] ^ 255]) + ARCHIVE[1001:],
    "cut tar": gzip.compress(PLAIN[: len(PLAIN) // 2]),
    "cut header": gzip.compress(PLAIN[: HEADER + 100]),
    # tarfile alone takes this for the end of the archive.
    "broken header": gzip.compress(PLAIN[:HEADER] + b"?" + PLAIN[HEADER + 1 :]),
    "empty tar": gzip.compress(b""),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_named(case: str, tmp_path: Path) -> None:
    """Fails if a damaged archive is a traceback, or passes as a shorter one."""
    with pytest.raises(UserError, match=r"x\.tar\.gz is damaged, or no \.tar\.gz file") as caught:
        try_unpack(DAMAGED[case], tmp_path)
    assert "\n" not in str(caught.value)


def test_random_damage_ends_in_one_line_or_not_at_all(tmp_path: Path) -> None:
    """Fails if some archive is a traceback, hangs, or escapes; headers are random."""
    small = tar_of(
        member(f"{TOP}/data/one", b"1" * 600),
        member(f"{TOP}/" + "long" * 60, b"2", pax_headers={"comment": "c"}),
        member(f"{TOP}/folder", type=tarfile.DIRTYPE),
    )
    generator = random.Random(0)
    refused, lines = 0, []
    for _ in range(400):
        content = bytearray(small)
        for _ in range(generator.randint(1, 4)):
            block = generator.randrange(len(content) // 512) * 512
            # A random number field or flag, with its checksum put right half of the time.
            content[block + generator.randrange(512)] = generator.randrange(256)
            if generator.random() < 0.5:
                header = content[block : block + 512]
                total = sum(header[:148]) + 8 * 32 + sum(header[156:])
                content[block + 148 : block + 156] = f"{total:06o}\0 ".encode()
        try:
            try_unpack(gzip.compress(bytes(content), 1), tmp_path)
        except UserError as error:
            lines += str(error).splitlines()
            refused += 1
        assert not outside(tmp_path)
        for path in sorted((tmp_path / "within").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    assert len(lines) == refused > 100

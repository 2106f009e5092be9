"""KuaiRand comes whole, or what was there stays as it was."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from noetik_rllib.data.download import VARIANTS, Downloaded, download
from noetik_rllib.errors import UserError
from tests.data.downloading import Log, contents, names
from tests.data.mirror import ARCHIVE, FILES, TOP, Fault, Mirror, make_archive, serve, tiny_variant


def test_a_variant_is_downloaded_checked_and_unpacked(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if the plain case leaves anything but the right files."""
    out = tmp_path / "new" / "place"
    done = Log().get(mirror, out)
    assert contents(out / TOP) == FILES
    assert names(out) == [TOP]
    size = sum(map(len, FILES.values()))
    assert done == Downloaded(out / TOP, None, len(ARCHIVE), len(FILES), size)
    assert mirror.ranges == [None]


def test_the_archive_is_kept_if_asked_for_and_used_again(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if --keep-archive keeps nothing, or what is there is downloaded a second time."""
    archive = tmp_path / f"{TOP}.tar.gz"
    assert Log().get(mirror, tmp_path, keep_archive=True).archive == archive
    assert archive.read_bytes() == ARCHIVE
    again = Log().get(mirror, tmp_path, overwrite=True)
    assert (again.received_bytes, again.archive) == (0, archive)
    assert len(mirror.requests) == 1
    assert names(tmp_path) == [TOP, archive.name]


def test_a_wrong_archive_that_is_there_is_left_alone(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if a file of the user is unpacked unseen, or overwritten."""
    archive = tmp_path / f"{TOP}.tar.gz"
    archive.write_bytes(b"mine")
    with pytest.raises(UserError, match="is there already with md5"):
        Log().get(mirror, tmp_path)
    assert archive.read_bytes() == b"mine"
    assert not mirror.requests


def test_a_folder_that_is_there_is_not_touched(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if a second download overwrites unasked, or replaces what is no KuaiRand folder."""
    Log().get(mirror, tmp_path)
    note = tmp_path / TOP / "data" / "note.txt"
    note.write_text("mine")
    with pytest.raises(UserError, match="exists already: use --overwrite"):
        Log().get(mirror, tmp_path)
    assert len(mirror.requests) == 1
    assert note.read_text() == "mine"
    Log().get(mirror, tmp_path, overwrite=True)
    assert contents(tmp_path / TOP) == FILES


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_only_a_kuairand_folder_is_overwritten(what: str, mirror: Mirror, tmp_path: Path) -> None:
    """Fails if --overwrite with a wrong --out destroys something else."""
    place = tmp_path / TOP
    if what == "file":
        place.write_text("mine")
    else:
        folder = tmp_path / "elsewhere" if what == "link" else place
        folder.mkdir()
        (folder / "mine").write_text("mine")
        if what == "link":  # even to a KuaiRand folder: it lies elsewhere on purpose
            (folder / "data").mkdir()
            (folder / "data" / "log_standard_x.csv").touch()
            place.symlink_to(folder)
    with pytest.raises(UserError, match="is no KuaiRand folder"):
        Log().get(mirror, tmp_path, overwrite=True)
    assert not mirror.requests
    assert b"mine" in (contents(tmp_path).values())


def test_an_archive_without_the_logs_is_named(tmp_path: Path) -> None:
    """Fails if a dataset without one of its files looks complete."""
    archive = make_archive({name: FILES[name] for name in FILES if "random" not in name})
    with (
        serve(Mirror(content=archive)) as served,
        pytest.raises(UserError, match=r"log_random_4_22_to_5_08_\*\.csv"),
    ):
        Log().get(served, tmp_path, variant=tiny_variant(archive))
    assert names(tmp_path) == [f"{TOP}.tar.gz"]


def test_room_is_made_sure_of_first(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if a disk that is too small is noticed only when it is full."""
    huge = replace(tiny_variant(), unpacked_bytes=10**18)
    with pytest.raises(UserError, match=r"free, expected 1\.0 EB for what .* unpacks to"):
        Log().get(mirror, tmp_path, variant=huge)
    assert not mirror.requests
    # Only the answer says how large the archive is; alone, either would fit.
    free = shutil.disk_usage(tmp_path).free
    large = replace(tiny_variant(), unpacked_bytes=free // 2)
    mirror.faults = [Fault(headers={"Content-Length": str(free * 3 // 4)})]
    with pytest.raises(UserError, match=r"free, expected .* for the rest of .* what it unpacks to"):
        Log().get(mirror, tmp_path, variant=large)
    assert names(tmp_path) == []


def test_a_second_process_is_kept_out(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if two downloads write into one part."""
    seen = []

    def try_another(doing: str, done: int, total: int | None) -> None:
        with pytest.raises(UserError, match="another download to it is running"):
            download(tiny_variant(), tmp_path, url=mirror.url)
        seen.append(doing)

    download(tiny_variant(), tmp_path, url=mirror.url, progress=try_another)
    assert seen
    assert contents(tmp_path / TOP) == FILES
    assert names(tmp_path) == [TOP]


URLS = [
    "file:///etc",
    "ftp://x",
    "zenodo.org/x",
    "",
    "http://",
    "http://x:99999",
    "http://[x",
    "http://me:secret@x",
    "http://x/\n",
    "http://x/a b",
    "http://x/?token=1",
    "http://ü",
    "http://x..y",
    f"http://{'x' * 64}.org",
]


@pytest.mark.parametrize("url", URLS, ids=ascii)
def test_a_wrong_address_is_named(url: str, tmp_path: Path) -> None:
    """Fails if a typing error in --url is a traceback, or reads files of this machine."""
    with pytest.raises(UserError, match="expected the address of a folder") as caught:
        download(tiny_variant(), tmp_path, url=url)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_the_published_variants_are_three() -> None:
    """Fails if a checksum was mistyped to something that no md5 is, or two variants share one."""
    assert list(VARIANTS) == ["pure", "1k", "27k"]
    sums = [variant.md5 for variant in VARIANTS.values()]
    assert len(set(sums)) == 3
    assert all(len(bytes.fromhex(md5)) == 16 for md5 in sums)

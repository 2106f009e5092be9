"""Downloads in processes of their own: killed, stopped, out of disk, and by the command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from noetik_rllib.cli.main import cli
from noetik_rllib.state import MAX_VIDEOS
from tests.data.downloading import ETAG, HALF, ORIGIN, PART, Log, contents, names
from tests.data.mirror import ARCHIVE, FILES, TOP, Fault, Mirror

ROOT = Path(__file__).resolve().parents[2]

#: A process that downloads and says what it does, and how many bytes of it are done.
WORKER = """
import resource, sys
from pathlib import Path
from noetik_rllib.data.download import download
from noetik_rllib.errors import UserError
from tests.data.mirror import tiny_variant

url, out, largest_file, stop_at = sys.argv[1:]
if largest_file != "-":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest_file), resource.RLIM_INFINITY))

def say(doing, done, total):
    print(doing.split()[0], done, flush=True)
    if doing.startswith(stop_at):
        sys.stdin.read()

try:
    download(tiny_variant(), Path(out), url=url, progress=say)
except UserError as error:
    sys.exit(str(error))
"""


def start_worker(
    mirror: Mirror, out: Path, *, largest_file: str = "-", stop_at: str = "-"
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, mirror.url, str(out), largest_file, stop_at],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill(worker: subprocess.Popen[str]) -> None:
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    assert worker.returncode == -signal.SIGKILL


def test_a_killed_download_goes_on(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if what came before a kill -9 is lost, or spoils what comes after."""
    mirror.faults = [Fault(stall_after=HALF)]
    worker = start_worker(mirror, tmp_path)
    assert worker.stdout is not None
    assert f"downloading {HALF}\n" in iter(worker.stdout.readline, "")
    kill(worker)
    assert (tmp_path / PART).read_bytes() == ARCHIVE[:HALF]
    done = Log().get(mirror, tmp_path)
    assert mirror.ranges == [None, f"bytes={HALF}-"]
    assert mirror.requests[1]["If-Range"] == ETAG
    assert done.received_bytes == len(ARCHIVE) - HALF
    assert contents(tmp_path / TOP) == FILES
    assert names(tmp_path) == [TOP]


def test_a_killed_unpacking_leaves_nothing_under_the_name(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if half a dataset looks whole, or the rubble of 46 GB stays on the disk."""
    worker = start_worker(mirror, tmp_path, stop_at="unpacking")
    assert worker.stdout is not None
    assert any(line.startswith("unpacking") for line in iter(worker.stdout.readline, ""))
    kill(worker)
    assert not (tmp_path / TOP).exists()
    assert list(tmp_path.glob(f".{TOP}.*.part"))
    Log().get(mirror, tmp_path)
    assert len(mirror.requests) == 1
    assert contents(tmp_path / TOP) == FILES
    assert names(tmp_path) == [TOP, f"{TOP}.tar.gz"]


def test_a_full_disk_keeps_the_part(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if a disk that fills up is a traceback, or costs what has come."""
    worker = start_worker(mirror, tmp_path, largest_file=str(HALF))
    _, complaint = worker.communicate()
    assert worker.returncode == 1
    assert f"{PART} cannot be written: File too large; what came is kept" in complaint
    assert len(complaint.splitlines()) == 1
    assert (tmp_path / PART).read_bytes() == ARCHIVE[:HALF]
    Log().get(mirror, tmp_path)
    assert mirror.ranges == [None, f"bytes={HALF}-"]
    assert contents(tmp_path / TOP) == FILES


def test_a_disk_that_fills_up_while_unpacking_leaves_nothing(
    mirror: Mirror, tmp_path: Path
) -> None:
    """Fails if a full disk leaves half a dataset, or loses the archive."""
    (tmp_path / f"{TOP}.tar.gz").write_bytes(ARCHIVE)
    worker = start_worker(mirror, tmp_path, largest_file="1000")
    _, complaint = worker.communicate()
    assert worker.returncode == 1
    assert "cannot be unpacked" in complaint
    assert "File too large" in complaint
    assert len(complaint.splitlines()) == 1
    assert names(tmp_path) == [f"{TOP}.tar.gz"]


#: The command itself, with the tiny archive published under the name of Pure.
COMMAND = """
import signal

from noetik_rllib.cli.main import main
from noetik_rllib.data.download import VARIANTS
from tests.data.mirror import tiny_variant

VARIANTS["pure"] = tiny_variant()
# A shell that runs the tests in the background has SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


def start_command(mirror: Mirror, out: Path, *words: str) -> subprocess.Popen[str]:
    options = ["--variant", "pure", "--out", str(out), "--url", mirror.url]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "data", "download", *options, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_says_what_it_did(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if the command line does something else than the function, or says nothing of it."""
    out, progress = start_command(mirror, tmp_path, "--keep-archive").communicate()
    archive = tmp_path / f"{TOP}.tar.gz"
    size = sum(map(len, FILES.values()))
    assert out.splitlines() == [
        f"{tmp_path / TOP}: {len(FILES)} files, {size / 1000:.1f} kB",
        f"{archive} is kept",
    ]
    assert progress.splitlines() == [
        f"download: downloading {archive.name}",
        f"download: unpacking {archive.name}",
    ]
    out, _ = start_command(mirror, tmp_path, "--overwrite", "--json").communicate()
    assert json.loads(out) == {
        "variant": "pure",
        "folder": str(tmp_path / TOP),
        "archive": str(archive),
        "received_bytes": 0,
        "files": len(FILES),
        "unpacked_bytes": size,
    }


def test_the_help_says_that_27k_cannot_be_prepared_whole() -> None:
    """Fails if the user learns of it only with 46 GB on the disk."""
    shown = CliRunner().invoke(cli, ["data", "download", "--help"], catch_exceptions=False)
    said = " ".join(shown.stdout.split())
    assert f"refuses it as a whole: it has more than {MAX_VIDEOS:,} videos" in said


def test_ctrl_c_keeps_the_part_and_exits_130(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if stopping a long download loses it, or looks like a success or a crash."""
    mirror.faults = [Fault(stall_after=HALF)]
    command = start_command(mirror, tmp_path)
    assert command.stderr is not None
    assert "downloading" in command.stderr.readline()
    command.send_signal(signal.SIGINT)
    out, complaint = command.communicate()
    assert command.returncode == 130
    assert out == ""
    # A console that is interrupted may show its last line of progress again.
    lines = [line for line in complaint.splitlines() if not line.startswith("download: ")]
    assert [line for line in lines if line] == [
        "What came is kept: run the same command again to go on.",
        "Stopped.",
    ]
    kept = (tmp_path / PART).read_bytes()
    assert 0 < len(kept) <= HALF
    assert kept == ARCHIVE[: len(kept)]
    again = start_command(mirror, tmp_path)
    again.communicate()
    assert again.returncode == 0
    assert mirror.ranges == [None, f"bytes={len(kept)}-"]
    assert contents(tmp_path / TOP) == FILES


@pytest.mark.parametrize("size", [0, HALF])
def test_sigterm_clears_up_as_ctrl_c_does(size: int, mirror: Mirror, tmp_path: Path) -> None:
    """Fails if a supervisor that stops a download leaves a lock or an empty part, or loses one."""
    mirror.faults = [Fault(stall_after=size)]
    command = start_command(mirror, tmp_path)
    assert command.stderr is not None
    if size:
        assert "downloading" in command.stderr.readline()
    assert mirror.asked.wait(60)
    command.send_signal(signal.SIGTERM)
    out, complaint = command.communicate()
    assert command.returncode == 128 + signal.SIGTERM
    assert out == ""
    lines = [line for line in complaint.splitlines() if not line.startswith("download: ")]
    assert [line for line in lines if line] == [
        "What came is kept: run the same command again to go on."
    ]
    assert names(tmp_path) == ([PART, ORIGIN] if size else [])
    kept = (tmp_path / PART).read_bytes() if size else b""
    assert kept == ARCHIVE[: len(kept)]
    assert bool(kept) == bool(size)
    again = start_command(mirror, tmp_path)
    again.communicate()
    assert again.returncode == 0
    assert mirror.ranges == [None, f"bytes={len(kept)}-" if size else None]
    assert contents(tmp_path / TOP) == FILES


def test_a_refusal_is_one_line_and_exit_code_2(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if a wrong address ends in a traceback, another exit code or left-over files."""
    mirror.faults = [Fault(status=404)]
    command = start_command(mirror, tmp_path)
    out, complaint = command.communicate()
    assert (command.returncode, out) == (2, "")
    assert complaint == (
        f"Error: {mirror.url}/{TOP}.tar.gz is not there (404 Not Found): check --url\n"
    )
    assert names(tmp_path) == []

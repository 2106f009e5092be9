"""Datasets and runs by URI: ``s3://bucket/data``, ``gs://...``, ``file:///mnt/shared/data``.

A dataset is copied to each host once, into a folder that is named by what is in it; the run is kept
as one object per checkpoint, so that what is there is whole. Arrow's file systems do the transfer.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from noetik_rllib.errors import UserError
from noetik_rllib.io import atomic_directory, make_directory
from noetik_rllib.offline.dataset import DATASET_FILES
from noetik_rllib.offline.manifest import MANIFEST_NAME

#: Files that are transferred side by side: one stream does not fill a data centre's line.
STREAMS = 8
_CHUNK = 8 * 2**20
#: The file by which a folder is a run; it comes last.
_RUN_MARK = "config.yaml"
_CHECKPOINT = re.compile(r"iteration-(\d+)\.tar")


def cache_directory() -> Path:
    """Where copies of datasets are kept: NOETIK_CACHE, or ``~/.cache/noetik``.

    The same path is used on every host of a cluster.
    """
    return Path(os.environ.get("NOETIK_CACHE", "~/.cache/noetik")).expanduser().resolve()


class TransferError(UserError):
    """A file system did not answer as it should: it may the next time."""


def dataset_copy(fingerprint: str) -> Path:
    """Where the copy of the dataset with this fingerprint is kept, on whatever host."""
    return cache_directory() / "datasets" / fingerprint


@dataclass(frozen=True)
class Folder:
    """A folder that a URI names.

    Attributes:
        uri: its name.
        files: the file system that it is on.
        path: its path there.
    """

    uri: str
    files: fs.FileSystem
    path: str

    @classmethod
    def at(cls, uri: str) -> Folder:
        """Find the file system of a URI; nothing is read yet.

        Raises:
            UserError: no file system answers to it.
        """
        with _explained(uri):
            files, path = fs.FileSystem.from_uri(uri)
        return cls(uri, files, path.rstrip("/"))

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            UserError: it is not there, or cannot be read.
        """
        with (
            _explained(f"{self.uri}/{name}"),
            self.files.open_input_stream(f"{self.path}/{name}") as stream,
        ):
            content: bytes = stream.read()
        return content

    def find(self, name: str) -> bytes | None:
        """Return a file's content; None where there is no such file.

        Raises:
            TransferError: it cannot be read.
        """
        with _explained(f"{self.uri}/{name}"):
            try:
                with self.files.open_input_stream(f"{self.path}/{name}") as stream:
                    content: bytes = stream.read()
            except FileNotFoundError:
                return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, whole or not at all."""
        with tempfile.NamedTemporaryFile(prefix="noetik-") as file:
            file.write(content)
            file.flush()
            self.upload(Path(file.name), name)

    def names(self) -> dict[str, int]:
        """Return the files below the folder, relative to it, and their sizes in bytes."""
        with _explained(self.uri):
            found = self.files.get_file_info(
                fs.FileSelector(self.path, recursive=True, allow_not_found=True)
            )
        start = len(self.path) + 1
        return {one.path[start:]: one.size for one in found if one.type == fs.FileType.File}

    def download(self, name: str, target: Path) -> None:
        """Copy a file to this machine."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with _explained(f"{self.uri}/{name}"):
            fs.copy_files(
                f"{self.path}/{name}",
                str(target),
                source_filesystem=self.files,
                destination_filesystem=fs.LocalFileSystem(),
                chunk_size=_CHUNK,
            )

    def upload(self, source: Path, name: str) -> None:
        """Copy a file here; another that has its name is replaced by the whole of it.

        On an object store, an object appears when it is whole; elsewhere it is renamed then.
        """
        path = f"{self.path}/{name}"
        local = isinstance(self.files, fs.LocalFileSystem)
        part = f"{path}.part" if local else path
        with _explained(f"{self.uri}/{name}"):
            if local:
                self.files.create_dir(str(Path(path).parent), recursive=True)
            fs.copy_files(
                str(source),
                part,
                source_filesystem=fs.LocalFileSystem(),
                destination_filesystem=self.files,
                chunk_size=_CHUNK,
            )
            if local:
                self.files.move(part, path)

    def remove(self, name: str) -> None:
        """Remove a file."""
        with _explained(f"{self.uri}/{name}"):
            self.files.delete_file(f"{self.path}/{name}")


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn what a file system raises into one clear line."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise TransferError(f"{uri}: {reason[:300]}") from None


def cached_dataset(uri: str) -> Path:
    """Copy a dataset to this machine, unless it is there already, and return its folder.

    The folder is named by the dataset's fingerprint: one that was prepared again is another.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    manifest = Folder.at(uri).read(MANIFEST_NAME)
    fingerprint = hashlib.sha256(manifest).hexdigest()
    directory = dataset_copy(fingerprint)
    copy_dataset(uri, directory)
    return directory


def copy_dataset(uri: str, directory: Path) -> None:
    """Copy a dataset to ``directory``, once per host: who comes second waits for the first.

    Args:
        uri: where it is.
        directory: as ``cached_dataset`` returned it, here or on another host.

    Raises:
        UserError: it cannot be read, or it is no longer the one that this folder is named for.
    """
    make_directory(directory.parent)
    lock = directory.with_suffix(".lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # let go where this process ends, however it does
        if directory.is_dir():
            return
        folder = Folder.at(uri)
        wanted = {n: size for n, size in folder.names().items() if DATASET_FILES.fullmatch(n)}
        with atomic_directory(directory, replace=False) as part:
            with ThreadPoolExecutor(STREAMS) as streams:
                copies = [streams.submit(folder.download, name, part / name) for name in wanted]
            for copy in copies:
                copy.result()
            # Last: it is what the copy is believed by.
            manifest = folder.read(MANIFEST_NAME)
            if hashlib.sha256(manifest).hexdigest() != directory.name:
                raise UserError(f"{uri} was prepared again meanwhile: start the training again")
            (part / MANIFEST_NAME).write_bytes(manifest)
            for name, size in wanted.items():
                if (part / name).stat().st_size != size:
                    raise UserError(f"{uri}/{name} changed while it was copied: try again")


class RunStorage:
    """Where a run is kept beside the disk that it is written on.

    ``URI.unfinished/iteration-N.tar`` holds an unfinished run whole, after N iterations; the last
    two are kept. The finished run is at ``URI``, file by file.

    Args:
        uri: of the finished run.
        suffix: of the unfinished one's.
    """

    def __init__(self, uri: str, suffix: str) -> None:
        self.folder = Folder.at(uri.rstrip("/"))
        # The query of a URI, such as an endpoint, stays behind.
        self.unfinished = Folder(
            f"{self.folder.uri}{suffix}", self.folder.files, self.folder.path + suffix
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="noetik-storage")
        self._transfer: Future[None] | None = None

    def iterations(self) -> list[int]:
        """Return after how many iterations there is an unfinished run, ascending."""
        matches = (_CHECKPOINT.fullmatch(name) for name in self.unfinished.names())
        return sorted(int(match[1]) for match in matches if match)

    def check_free(self) -> None:
        """Refuse to write over a run.

        Raises:
            UserError: there is one, finished or not.
        """
        if _RUN_MARK in self.folder.names():
            raise UserError(
                f"{self.folder.uri} holds a finished run: choose another --storage, or use "
                "--overwrite"
            )
        if kept := self.iterations():
            raise UserError(
                f"{self.unfinished.uri} holds an unfinished run ({kept[-1]} iterations): continue "
                f"it with '--resume {self.folder.uri}', or replace it with --overwrite"
            )

    def check_newest(self, done: int) -> None:
        """Refuse to go on from less than what is kept here.

        Args:
            done: iterations after which a run on this machine would go on.

        Raises:
            UserError: there are more.
        """
        if (kept := max(self.iterations(), default=0)) > done:
            raise UserError(
                f"{self.unfinished.uri} has {kept} iterations, more than the {done} here: continue "
                f"with '--resume {self.folder.uri}'"
            )

    def clear(self) -> None:
        """Remove the unfinished run that is kept here, if there is one."""
        for iteration in self.iterations():
            self.unfinished.remove(f"iteration-{iteration}.tar")

    def keep(self, work: Path, iteration: int) -> None:
        """Keep the unfinished run in ``work``; training goes on while it is transferred.

        Raises:
            UserError: the transfer before this one failed.
        """
        self.wait()
        with (
            tempfile.NamedTemporaryFile(prefix="noetik-", suffix=".tar", delete=False) as file,
            tarfile.open(fileobj=file, mode="w") as archive,
        ):
            for path in sorted(work.iterdir()):
                if not path.name.startswith("."):
                    archive.add(path, path.name)
        self._transfer = self._thread.submit(self._send, Path(file.name), iteration)

    def _send(self, file: Path, iteration: int) -> None:
        try:
            self.unfinished.upload(file, f"iteration-{iteration}.tar")
        finally:
            file.unlink()
        for old in self.iterations()[:-2]:
            self.unfinished.remove(f"iteration-{old}.tar")

    def wait(self) -> None:
        """Return when what was given to ``keep`` is there.

        Raises:
            UserError: it could not be transferred.
        """
        if self._transfer is not None:
            transfer, self._transfer = self._transfer, None
            transfer.result()

    def fetch(self, work: Path) -> None:
        """Bring the last unfinished run to the folder ``work``.

        Raises:
            UserError: there is none, or it is damaged.
        """
        kept = self.iterations()
        if not kept:
            raise UserError(f"nothing to resume: {self.unfinished.uri} holds no checkpoint")
        name = f"iteration-{kept[-1]}.tar"
        with tempfile.TemporaryDirectory(prefix="noetik-") as folder:
            self.unfinished.download(name, Path(folder) / name)
            try:
                with (
                    atomic_directory(work) as part,
                    tarfile.open(Path(folder) / name) as archive,
                ):
                    archive.extractall(part, filter="data")
            except tarfile.TarError as error:
                raise UserError(f"{self.unfinished.uri}/{name} is damaged: {error}") from None

    def fetch_finished(self, run: Path) -> None:
        """Bring the finished run to the folder ``run``.

        Raises:
            TransferError: a file of it cannot be read.
        """
        with ThreadPoolExecutor(STREAMS) as streams:
            transfers = [
                streams.submit(self.folder.download, name, run / name)
                for name in self.folder.names()
            ]
        for transfer in transfers:
            transfer.result()

    def finish(self, run: Path) -> None:
        """Keep the finished run, in place of one that was there, and remove the unfinished one."""
        self.wait()
        before = self.folder.names()
        if _RUN_MARK in before:
            self.folder.remove(_RUN_MARK)
        else:
            before = {}  # whatever is there, it is no run of ours
        names = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
        for old in before.keys() - set(names) - {_RUN_MARK}:
            self.folder.remove(old)
        names.remove(_RUN_MARK)
        with ThreadPoolExecutor(STREAMS) as streams:
            transfers = [streams.submit(self.folder.upload, run / name, name) for name in names]
        for transfer in transfers:
            transfer.result()
        self.folder.upload(run / _RUN_MARK, _RUN_MARK)
        self.clear()

"""A sweep that is kept at a URI: its driver's folder is on one machine, and may be lost with it.

``URI/sweep.yaml`` and what else the driver writes are copies of its folder's; the trials' runs, see
``trial_place``, are kept there by the processes that train them. What is at the URI counts: a
driver on another machine begins with that, and so does the same one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from noetik_rllib.envs.response_model import MODEL_NAME
from noetik_rllib.errors import UserError
from noetik_rllib.io import atomic_directory
from noetik_rllib.places import below, split
from noetik_rllib.remote import STREAMS, Folder, TransferError
from noetik_rllib.sweeps.claim import Claim
from noetik_rllib.sweeps.config import SweepConfig
from noetik_rllib.sweeps.folder import (
    JOURNAL_NAME,
    STARTED_ON_NAME,
    USER_MODELS_NAME,
    SweepFolder,
)
from noetik_rllib.sweeps.search import CONFIG_NAME, is_sweep

log = logging.getLogger("noetik_rllib.cluster")


class SweepAtUri(SweepFolder):
    """The folder of a sweep that is kept at a URI as well."""

    #: Whether this process drives the sweep, and whether another one does by now.
    _driving = _lost = False

    @cached_property
    def kept(self) -> Folder:
        """Where it is kept."""
        return Folder.at(_uri(self.config()))

    @cached_property
    def claim(self) -> Claim:
        """Which driver has it."""
        return Claim(self.kept, "driver")

    @classmethod
    def create(cls, path: Path, config: SweepConfig) -> SweepFolder:
        """Begin a sweep, here and at its URI.

        Raises:
            UserError: there is one already, or either place or the dataset cannot be used.
        """
        uri = _uri(config)
        if Folder.at(uri).find(CONFIG_NAME) is not None:
            raise UserError(
                f"{uri} holds a sweep already: go on with 'noetik tune --resume {uri}', or choose "
                "another --storage"
            )
        return super().create(path, config)

    @classmethod
    def announce(cls, config: SweepConfig, begun: Path) -> None:
        """Keep what the sweep begins with; the settings last, which make it a sweep."""
        kept = Folder.at(_uri(config))
        for name in (STARTED_ON_NAME, CONFIG_NAME):
            kept.upload(begun / name, name)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Be the only driver of this machine, and the last one of all, and know what is kept.

        Raises:
            UserError: another process of this machine runs this sweep, or there is none any more.
        """
        with super().claimed():
            _check_there(self.kept)
            self.claim.take()
            for name in self.kept.names():
                if name == JOURNAL_NAME or name.startswith(f"{USER_MODELS_NAME}/"):
                    self.kept.download(name, self.path / name)
            self._driving = True
            yield
            self.claim.release()

    def check(self) -> None:
        """Refuse to go on with a sweep that another driver has taken over.

        Raises:
            UserError: one has.
        """
        if self._lost:
            raise UserError(f"{self.kept.uri}: another driver has taken this sweep over")

    def keep(self, *names: str) -> None:
        """Keep files and folders of the sweep's."""
        files: list[Path] = []
        for name in names:
            path = self.path / name
            files += [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
        # A model is one when this file is there.
        marks = [file for file in files if file.name == MODEL_NAME]
        for group in ([file for file in files if file not in marks], marks):
            with ThreadPoolExecutor(STREAMS) as streams:
                transfers = [
                    streams.submit(self.kept.upload, file, file.relative_to(self.path).as_posix())
                    for file in group
                ]
            for transfer in transfers:
                transfer.result()

    def journal(self) -> str:
        """Return the journal as it is: of a sweep that others drive, what is kept."""
        if self._driving:
            return super().journal()
        return (self.kept.find(JOURNAL_NAME) or b"").decode()

    def note(self, trial: int, what: str, **more: Any) -> None:
        """Add a line to the journal, here and at the URI."""
        super().note(trial, what, **more)
        try:
            self._lost = self._lost or not self.claim.ours()
            if not self._lost:
                self.keep(JOURNAL_NAME)
        except TransferError as error:
            log.warning("The journal is kept with its next line: %s", error)


def create_sweep(path: Path, config: SweepConfig) -> SweepFolder:
    """Begin a sweep; see ``SweepFolder.create``."""
    kind = SweepFolder if config.uri is None else SweepAtUri
    return kind.create(path, config)


def open_sweep(path: Path) -> SweepFolder:
    """Open a sweep that was begun; see ``SweepFolder.open``."""
    folder = SweepFolder.open(path)
    return folder if folder.config().uri is None else SweepAtUri(folder.path)


def fetch_sweep(uri: str, path: Path) -> None:
    """Have the folder of a sweep that is kept at a URI, as far as its driver needs it to go on.

    Args:
        uri: where it is kept.
        path: its folder on this machine, of an earlier driver or new.

    Raises:
        UserError: there is no sweep, or the folder is another one.
    """
    kept = Folder.at(uri)
    _check_there(kept)
    if path.exists():
        if not is_sweep(path) or _plain(SweepFolder.open(path).config().uri) != _plain(uri):
            raise UserError(f"{path} is not the folder of {uri}: choose another with --out")
        return
    with atomic_directory(path, replace=False) as part:
        for name in (CONFIG_NAME, STARTED_ON_NAME):
            kept.download(name, part / name)
        # It may have been moved.
        storage, name = split(uri)
        config = SweepConfig.load(part / CONFIG_NAME)
        config.model_copy(update={"storage": storage, "name": name}).save(part / CONFIG_NAME)


def _uri(config: SweepConfig) -> str:
    assert config.uri is not None  # or it is a SweepFolder
    return config.uri


def _plain(uri: str | None) -> str | None:
    return uri and below(*split(uri))


def _check_there(kept: Folder) -> None:
    if kept.find(CONFIG_NAME) is None:
        folder, name = split(kept.uri)
        raise UserError(
            f"{kept.uri} holds no sweep: start one with 'noetik tune FILE --storage {folder}' and "
            f"'name: {name}' in FILE"
        )

"""The folder of a sweep: what it was started with, what happened, and what each trial came to.

``sweep.yaml`` (its settings), ``started_on.json`` (the dataset's checksum), ``journal.jsonl`` (what
happened, a line each), ``trials/NNNN`` (a run each; ``NNNN.unfinished`` while it trains), ``tune/``
(Ray Tune's own files and TensorBoard's), ``user_models/`` and the results.

A trial is finished when ``trials/NNNN/outcomes.json`` is there: the process that trained it writes
that last, whole or not at all. So whatever is killed, and when, a trial is finished or can go on,
and which of the two does not hang on what the driver had time to write.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.result import Interval
from noetik_rllib.io import atomic_directory, write_json
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.places import Place, below
from noetik_rllib.remote import cached_dataset, dataset_copy
from noetik_rllib.run_folder import is_run
from noetik_rllib.runs import TRIALS_NAME, TrainConfig, iterations_done, unfinished
from noetik_rllib.sweeps.config import SweepConfig
from noetik_rllib.sweeps.search import CONFIG_NAME, draw_parameters, is_sweep

OUTCOMES_NAME = "outcomes.json"
STARTED_ON_NAME = "started_on.json"
JOURNAL_NAME = "journal.jsonl"
USER_MODELS_NAME = "user_models"
#: Training users who validate the policies that a scheduler compares: enough to tell which trials
#: lag behind.
_SCORE_USERS = 200


class Outcome(BaseModel):
    """What a trial came to.

    Attributes:
        outcomes: ``OUTCOMES`` that the dataset has evidence for.
        stopped_at: iteration at which the scheduler ended it; None if it was trained to its end.
        training_seconds: that its training took, all attempts together.
        judging_seconds: that measuring its outcomes took.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    outcomes: dict[str, Interval]
    stopped_at: int | None = None
    training_seconds: float
    judging_seconds: float


class Event(BaseModel):
    """A line of the journal, written by the driver.

    Attributes:
        time: seconds since 1970.
        trial: its number.
        what: ``start`` (of a process for it), ``lost`` (that process or its host; another goes on),
            ``score`` (on its way), ``stop`` (by the scheduler, because of its score; what is left
            is to judge it), ``fail`` (for good: it is tried again only when the sweep is resumed)
            or ``finish``.
        iteration: that it had come to.
        score: of its policy then.
        error: what went wrong, in one line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: float
    trial: int
    what: Literal["start", "lost", "score", "stop", "fail", "finish"]
    iteration: int | None = None
    score: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class SweepFolder:
    """A sweep on disk."""

    path: Path

    @classmethod
    def create(cls, path: Path, config: SweepConfig) -> SweepFolder:
        """Begin a sweep: the folder appears with its settings in it, in one step.

        Raises:
            UserError: there is something already, or the dataset cannot be used.
        """
        if path.exists():
            raise UserError(
                f"{path} exists already: choose another --out, go on with 'noetik tune --resume "
                f"{path}', or remove it"
            )
        # Every trial's settings are checked before the first one starts.
        trial_configs(config, path)
        dataset = open_dataset(config.data)
        dataset.files("train")
        if isinstance(config.data, Path):
            config = config.model_copy(update={"data": config.data.resolve()})
        with atomic_directory(path, replace=False) as part:
            config.save(part / CONFIG_NAME)
            write_json(part / STARTED_ON_NAME, {"dataset_sha256": dataset.fingerprint})
            cls.announce(config, part)
        return cls(path.resolve())

    @classmethod
    def announce(cls, config: SweepConfig, begun: Path) -> None:
        """Tell others of a sweep, just before its folder, ``begun``, takes its name."""

    @classmethod
    def open(cls, path: Path) -> SweepFolder:
        """Open a sweep that was begun.

        Raises:
            UserError: there is none.
        """
        if not is_sweep(path):
            what = "holds no sweep" if path.exists() else "does not exist"
            raise UserError(f"{path} {what}: start one with 'noetik tune FILE --out {path}'")
        return cls(path.resolve())

    def config(self) -> SweepConfig:
        """Return the sweep's settings."""
        return SweepConfig.load(self.path / CONFIG_NAME)

    def fingerprint(self) -> str:
        """Return that of the dataset that the sweep was started on."""
        started_on = json.loads((self.path / STARTED_ON_NAME).read_text(encoding="utf-8"))
        return str(started_on["dataset_sha256"])

    def trials(self, config: SweepConfig) -> list[TrainConfig]:
        """Return the settings of every trial."""
        copy = dataset_copy(self.fingerprint()) if isinstance(config.data, str) else None
        return trial_configs(config, self.path, copy)

    def dataset(self, config: SweepConfig) -> OfflineDataset:
        """Open the dataset that the sweep was started on.

        Raises:
            UserError: it is not there, or was prepared again meanwhile.
        """
        dataset = open_dataset(config.data)
        if dataset.fingerprint != self.fingerprint():
            raise UserError(
                f"{config.data} is not the dataset that {self.path} was started on: it was "
                "prepared again meanwhile; start another sweep"
            )
        return dataset

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Be the only process that runs this sweep.

        Raises:
            UserError: another one does.
        """
        with (self.path / ".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self.path}: another process is running this sweep") from None
            yield

    def check(self) -> None:
        """Refuse to go on with a sweep that another driver has taken over.

        Raises:
            UserError: one has; a lock on a disk does not let it.
        """

    def keep(self, *names: str) -> None:
        """Keep files and folders of the sweep's where a lost machine does not take them along."""

    def journal(self) -> str:
        """Return the journal as it is, a line per event."""
        path = self.path / JOURNAL_NAME
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def events(self) -> list[Event]:
        """Return what happened, in order; a line that was cut off is left out."""
        events = []
        for line in self.journal().splitlines():
            try:
                events.append(Event.model_validate_json(line))
            except ValidationError:
                continue
        return events

    def stops(self) -> dict[int, int]:
        """Return the trials that the scheduler has ended, and the iteration of each."""
        return {
            event.trial: event.iteration
            for event in self.events()
            if event.what == "stop" and event.iteration is not None
        }

    def note(self, trial: int, what: str, **more: Any) -> None:
        """Add a line to the journal."""
        event = Event.model_validate({"time": time.time(), "trial": trial, "what": what, **more})
        path = self.path / JOURNAL_NAME
        with path.open("ab+") as file:
            if file.tell():
                # What a killed driver left of its last line gets a line of its own.
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(event.model_dump_json(exclude_none=True).encode() + b"\n")


def open_dataset(place: Place) -> OfflineDataset:
    """Open a dataset, copied to this machine if need be.

    Raises:
        UserError: there is none.
    """
    return OfflineDataset(cached_dataset(place) if isinstance(place, str) else place)


def trial_configs(config: SweepConfig, path: Path, copy: Path | None = None) -> list[TrainConfig]:
    """Return the settings of every trial of a sweep in a folder.

    Args:
        config: of the sweep.
        path: the folder.
        copy: of a dataset at a URI; without it, settings can be checked and not trained with.

    Raises:
        UserError: one of them is wrong.
    """
    folder = path.resolve() / TRIALS_NAME
    uri = config.uri
    # A scheduler goes by validation.
    validated = {"validation_users": _SCORE_USERS} if config.scheduler else {}
    return [
        TrainConfig.parse(
            {
                "data": copy or Path(config.data).resolve(),
                "data_source": config.data if isinstance(config.data, str) else None,
                "out": folder / f"{number:04d}",
                "storage": uri and below(uri, f"trials/{number:04d}"),
                "seed": config.seed,
                "gpus_per_learner": config.gpus_per_trial,
                **validated,
                **config.train,
                **drawn,
            }
        )
        for number, drawn in enumerate(draw_parameters(config))
    ]


def read_outcome(trial: Path) -> Outcome | None:
    """Return what the trial in a folder came to; None where it is not finished.

    Raises:
        UserError: the file is damaged.
    """
    path = trial / OUTCOMES_NAME
    try:
        return parse_outcome(path.read_bytes(), str(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def parse_outcome(content: bytes, name: str) -> Outcome:
    """Read what a trial came to.

    Raises:
        UserError: the file, ``name``, is damaged.
    """
    try:
        return Outcome.model_validate_json(content)
    except ValueError as error:  # a ValidationError is one
        reason = " ".join(str(error).split())
        raise UserError(
            f"{name} is damaged: {reason}; remove it to judge the trial again"
        ) from None


def kept_iterations(out: Path) -> int:
    """Iterations that the trial ``out`` need not train again."""
    if is_run(out) and not unfinished(out).exists():
        return TrainConfig.load(out).last_iteration
    return iterations_done(unfinished(out))

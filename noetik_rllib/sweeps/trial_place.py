"""Where a trial's run is: on a disk that all hosts share, or kept at a URI beside its host's own.

At a URI, ``trials/NNNN.unfinished/iteration-N.tar`` are the checkpoints of a run that trains on
some host, in the folder that it has on every host; ``trials/NNNN`` is the finished run, and
``trials/NNNN/outcomes.json``, which comes last, makes it a finished trial: as on a disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
import yaml

from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.evaluation_result import METRICS_NAME
from noetik_rllib.io import atomic_directory, make_directory, write_json
from noetik_rllib.places import split
from noetik_rllib.remote import Folder, RunStorage, copy_dataset
from noetik_rllib.runs import (
    CONFIG_NAME,
    UNFINISHED_SUFFIX,
    TrainConfig,
    iterations_done,
    unfinished,
)
from noetik_rllib.sweeps.claim import Claim
from noetik_rllib.sweeps.folder import (
    OUTCOMES_NAME,
    Outcome,
    kept_iterations,
    parse_outcome,
    read_outcome,
)
from noetik_rllib.sweeps.trial_lock import TrialLock, only_process


class TrialPlace:
    """A trial on a disk that all hosts share: what its process writes is there for all.

    Args:
        config: settings of the trial.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self._lock: TrialLock | None = None

    def outcome(self) -> Outcome | None:
        """Return what the trial came to; None where it is not finished."""
        return read_outcome(self.config.out)

    def iterations(self) -> int:
        """Iterations that need not be trained again."""
        return kept_iterations(self.config.out)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Be the only process that trains and judges the trial.

        Raises:
            UserError: another one does, or this host lacks the disk.
        """
        if not self.config.out.parent.is_dir():
            # Tune made it on the driver's machine: it is another one, without the shared disk.
            raise UserError(
                f"{self.config.out.parent} is not on {ray.util.get_node_ip_address()}: on several "
                "hosts, 'storage' must be a disk that all of them share, or a URI"
            )
        with self._alone():
            yield

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the only process that has the trial's folder, as far as its lock reaches."""
        with only_process(self.config.out) as lock:
            self._lock = lock
            try:
                yield
            finally:
                self._lock = None

    def bring(self) -> None:
        """Have on this host what going on with the trial takes.

        Raises:
            UserError: it cannot be had.
        """
        if self.config.data_source is not None:
            copy_dataset(self.config.data_source, self.config.data)

    def keep_begun(self) -> None:
        """Let any host go on with a run that was begun on this one."""

    def check(self) -> None:
        """Refuse to go on with a trial that another process has taken over.

        Raises:
            UserError: one has, as this host was cut off.
        """
        if self._lock is not None and not self._lock.ours():
            raise UserError(f"{self.config.out}: another process has taken this trial over")

    def keep(self, outcome: Outcome) -> None:
        """Write down what the trial came to: it is finished."""
        self.check()
        write_json(self.config.out / OUTCOMES_NAME, outcome.model_dump(mode="json"))

    def fetch(self, progress: Callable[[str], None]) -> None:
        """Have the run of a finished trial on this machine.

        Args:
            progress: called with what is being done, if that takes time.
        """


class TrialAtUri(TrialPlace):
    """A trial that is kept at a URI: what is there counts, and a host's disk is for training."""

    def __init__(self, config: TrainConfig, uri: str) -> None:
        super().__init__(config)
        self.storage = RunStorage(uri, UNFINISHED_SUFFIX)
        folder, name = split(uri)
        self.claim = Claim(Folder.at(folder), name)

    def outcome(self) -> Outcome | None:
        """Return what the trial came to; None where it is not finished."""
        content = self.storage.folder.find(OUTCOMES_NAME)
        if content is None:
            return None
        return parse_outcome(content, f"{self.storage.folder.uri}/{OUTCOMES_NAME}")

    def iterations(self) -> int:
        """Iterations that need not be trained again."""
        return max([self._trained(), *self.storage.iterations()])

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Be the only process of this host, and the last one of all, that has the trial."""
        with self._alone():
            self.claim.take()
            yield

    def bring(self) -> None:
        """Have the dataset and the run, as far as it is kept, in place of whatever lies there.

        What this host has beyond that was trained for a sweep of the same name, or in the seconds
        before its process was killed.
        """
        super().bring()
        out, work = self.config.out, unfinished(self.config.out)
        for folder in (out, work):
            if folder.exists():
                shutil.rmtree(folder)
        trained, kept = self._trained(), self.storage.iterations()
        if trained:
            self._fetch_run()
        # Of a generation that has ended and the next one, or a copy that it begins with, both.
        if kept and kept[-1] >= trained:
            self.storage.fetch(work)
            self._adopt(work)

    def keep_begun(self) -> None:
        """Let any host go on with a run that was begun on this one."""
        work = unfinished(self.config.out)
        self.storage.keep(work, iterations_done(work))
        self.storage.wait()

    def check(self) -> None:
        """Refuse to go on with a trial that another process has taken over.

        Raises:
            UserError: one has: this host was cut off for a while, or its driver was.
        """
        super().check()
        if not self.claim.ours():
            raise UserError(f"{self.storage.folder.uri}: another process has taken this trial over")

    def keep(self, outcome: Outcome) -> None:
        """Write down what the trial came to, here and then at the URI: it is finished."""
        super().keep(outcome)
        self.check()
        for name in (METRICS_NAME, OUTCOMES_NAME):
            self.storage.folder.upload(self.config.out / name, name)
        self.storage.clear()
        self.claim.release()

    def fetch(self, progress: Callable[[str], None]) -> None:
        """Have the run of a finished trial on this machine, and the dataset that it was trained on.

        A run that is here is left as it is: it may have been evaluated since.
        """
        outcome, here = self.storage.folder.find(OUTCOMES_NAME), self.config.out / OUTCOMES_NAME
        if outcome is None or (here.is_file() and here.read_bytes() == outcome):
            return
        progress(f"fetching the run of trial {self.config.out.name}")
        super().bring()
        self._fetch_run()

    def _trained(self) -> int:
        """Iterations of the run that is kept as finished; 0 where there is none."""
        content = self.storage.folder.find(CONFIG_NAME)
        return 0 if content is None else TrainConfig.parse(yaml.safe_load(content)).last_iteration

    def _fetch_run(self) -> None:
        make_directory(self.config.out.parent)
        with atomic_directory(self.config.out) as part:
            self.storage.fetch_finished(part)
            self._adopt(part)

    def _adopt(self, run: Path) -> None:
        """Let a run that was trained elsewhere know where it and its dataset are here."""
        places = ("data", "data_source", "out", "storage")
        here = {name: getattr(self.config, name) for name in places}
        before = TrainConfig.load(run)
        if any(getattr(before, name) != value for name, value in here.items()):
            before.model_copy(update=here).save(run)


def trial_place(config: TrainConfig) -> TrialPlace:
    """Return where a trial's run is, by its settings."""
    if config.storage is None:
        return TrialPlace(config)
    return TrialAtUri(config, config.storage)

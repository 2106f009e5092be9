"""A training run and its directory: what ``noetik train`` writes, and what the others read.

``config.yaml``, ``progress.csv``, ``validation.csv`` and TensorBoard events, ``checkpoint/``
(RLlib's, to train on) and ``policy/`` (safetensors and JSON: to evaluate and explain, without Ray
and without unpickling), ``snapshots/`` (the same, of earlier iterations) and ``chosen.json``, which
says that validation liked one of those better.

While a run trains, it lives in ``OUT.unfinished``, and takes the name ``OUT`` when it is complete:
see ``run_folder``. Ray is imported only by training: reading a run is quick.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from noetik_rllib.data.signals import RewardWeights
from noetik_rllib.errors import UserError
from noetik_rllib.io import atomic_directory, atomic_path, write_json
from noetik_rllib.iql.network_config import NETWORK_VERSION, NetworkConfig, NetworkSizes
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.iql.reward import RewardDecomposition
from noetik_rllib.iql.settings import IQLSettings, explain
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.progress import PROGRESS_NAME, read_rows, read_validations
from noetik_rllib.state import LAYOUT_VERSION

if TYPE_CHECKING:  # it imports what evaluates
    from noetik_rllib.evaluation.comparison import Course

CONFIG_NAME = "config.yaml"
CHECKPOINT_NAME = "checkpoint"
POLICY_NAME = "policy"
SNAPSHOTS_NAME = "snapshots"
CHOSEN_NAME = "chosen.json"
UNFINISHED_SUFFIX = ".unfinished"
#: The folder of a sweep that its trials are in, each a run.
TRIALS_NAME = "trials"
#: Settings that an earlier version had: runs that hold them stay readable.
_RETIRED_SETTINGS = ("interpretability_events",)
_WEIGHTS_NAME = "weights.safetensors"
_POLICY_CONFIG_NAME = "config.json"


class TrainConfig(NetworkSizes, IQLSettings):
    """Everything that a run depends on; the options of ``noetik train``."""

    data: Path = Field(description="Offline dataset, written by 'noetik data prepare'; or its URI.")
    # Where ``data`` was copied from, and learners on other hosts copy it from.
    data_source: str | None = Field(default=None, description="URI of the dataset.")
    out: Path = Field(description="Folder of the run to write.")
    storage: str | None = Field(
        default=None, description="URI to keep the run and its checkpoints at, beside --out."
    )
    # 2,000 gradient steps, half a pass over KuaiRand-Pure: some five minutes on two cores.
    iterations: int = Field(default=20, ge=1, description="Iterations to train.")
    # Of a run that was ended early. ``iterations`` stay what it was begun for: step sizes that fall
    # (``actor_lr_decay``) did so over all of them.
    stopped_at: int | None = Field(default=None, ge=1, description="Iteration to end after.")
    # RLlib's own work per iteration, some 20 ms, is then below 1 %.
    steps_per_iteration: int = Field(default=100, ge=1, description="Gradient steps of each.")
    # The official code's.
    batch_size: int = Field(default=256, ge=1, description="Rows per gradient step and learner.")
    # 0 trains in this process: on one machine, a second process only pays with a second GPU.
    num_learners: int = Field(
        default=0, ge=0, description="Learner processes that share each step; 0: this one."
    )
    gpus_per_learner: float = Field(default=0.0, ge=0, description="GPUs of each learner.")
    # A spot host that is taken away comes back in minutes, if at all.
    host_wait_minutes: float = Field(
        default=15.0, ge=0, description="Time to wait for hosts with room for the learners."
    )
    max_restarts: int = Field(
        default=5,
        ge=0,
        description="Hosts lost in a row, without a new checkpoint, to put up with.",
    )
    # The upper bound is NumPy's and RLlib's.
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="Same seed, same run, on a CPU.")
    reward: RewardWeights = Field(
        default=RewardWeights(), description="Weight of each signal in the reward."
    )
    # As in the official code.
    actor_lr_decay: bool = Field(
        default=True, description="Let the policy's step size fall to 0 over the run (cosine)."
    )
    # A checkpoint takes a fraction of a second: at most a minute of work is lost.
    checkpoint_seconds: float = Field(
        default=60.0, ge=0, description="Least time between checkpoints while training."
    )

    # More would choose among policies that hardly differ.
    snapshots: int = Field(
        default=4, ge=1, description="Policies kept, evenly over the run; validation chooses one."
    )
    # The users' answers must be learnt first: a minute or two, which 'noetik evaluate' then saves,
    # but too long to spend unasked before a first try.
    validation_users: int = Field(
        default=0,
        ge=0,
        description="Training users whose simulated sessions tell what a kept policy is worth.",
    )

    @property
    def last_iteration(self) -> int:
        """Iteration after which the run ends: of one that is stopped early, ``stopped_at``."""
        return self.iterations if self.stopped_at is None else self.stopped_at

    @property
    def snapshot_iterations(self) -> list[int]:
        """Iterations after which a policy is kept, ascending; the last is the end of the run."""
        count = min(self.snapshots, self.iterations)
        planned = [(place + 1) * self.iterations // count for place in range(count)]
        last = self.last_iteration
        return [*(iteration for iteration in planned if iteration < last), last]

    @model_validator(mode="after")
    def _stopped_before_its_end(self) -> TrainConfig:
        if self.stopped_at is not None and self.stopped_at > self.iterations:
            raise ValueError(
                f"stopped_at is {self.stopped_at}: expected at most the {self.iterations} "
                "iterations of the run"
            )
        return self

    @model_validator(mode="after")
    def _one_schedule(self) -> TrainConfig:
        if self.actor_lr_decay and isinstance(self.actor_lr, list):
            raise ValueError("actor_lr is a schedule already: set actor_lr_decay to false")
        return self

    @classmethod
    def parse(cls, values: dict[str, Any]) -> TrainConfig:
        """Check ``values``.

        Raises:
            UserError: one line that says which value is wrong, and what is expected.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(explain(error, cls.model_fields)) from None

    def save(self, directory: Path) -> None:
        """Write ``directory/config.yaml``, with the dataset's full path."""
        content = self.model_dump(mode="json") | {"data": str(self.data.resolve())}
        with atomic_path(directory / CONFIG_NAME) as part:
            part.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> TrainConfig:
        """Read ``directory/config.yaml``.

        Raises:
            UserError: missing or damaged.
        """
        path = directory / CONFIG_NAME
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise UserError("not a list of settings")
            known = {key: value for key, value in content.items() if key not in _RETIRED_SETTINGS}
            return cls.parse(known)
        except (OSError, UnicodeDecodeError, yaml.YAMLError, UserError) as error:
            raise UserError(f"{path} is damaged: {' '.join(str(error).split())}") from None


def unfinished(out: Path) -> Path:
    """Where the run ``out`` lives while it trains."""
    return out.with_name(out.name + UNFINISHED_SUFFIX)


def save_policy(directory: Path, networks: IQLNetworks, data: Path) -> None:
    """Write the folder ``directory``: weights, sizes, and the dataset that they were learnt on."""
    from safetensors.torch import save_model

    with atomic_directory(directory) as part:
        save_model(networks, str(part / _WEIGHTS_NAME))
        content = {
            "layout_version": LAYOUT_VERSION,
            "dataset_sha256": OfflineDataset(data).fingerprint,
            "network_version": NETWORK_VERSION,
            "network": networks.config.model_dump(),
            "reward": networks.reward.model_dump(),
        }
        write_json(part / _POLICY_CONFIG_NAME, content)


@dataclass(frozen=True)
class Run:
    """A finished training run, opened for reading.

    Attributes:
        directory: its folder.
        config: how it was trained.
    """

    directory: Path
    config: TrainConfig

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open a run.

        Raises:
            UserError: no such run, not finished, damaged, or of another release's state layout.
        """
        directory = Path(path)
        if not (directory / CONFIG_NAME).is_file():
            rest = unfinished(directory)
            if (rest / CONFIG_NAME).is_file():
                raise UserError(
                    f"run {directory} is unfinished ({iterations_done(rest)} iterations are in "
                    f"{rest}): continue it with 'noetik train --resume {directory}'"
                )
            what = "holds no run" if directory.exists() else "does not exist"
            raise UserError(
                f"{directory} {what}: train one with 'noetik train --data DATA --out {directory}'"
            )
        run = cls(directory, TrainConfig.load(directory))
        version = run._policy_config().get("layout_version")
        if version != LAYOUT_VERSION:
            raise UserError(
                f"{directory} was trained on state layout {version}; this release uses "
                f"{LAYOUT_VERSION}: train it again"
            )
        return run

    def dataset(self, directory: str | Path | None = None) -> OfflineDataset:
        """Open the dataset that the run was trained on.

        Args:
            directory: where it is now, if it was moved.

        Raises:
            UserError: it is not there, or another dataset is.
        """
        place = Path(directory) if directory is not None else self.config.data
        if directory is None and not place.exists():
            raise UserError(
                f"run {self.directory} was trained on {place}, which does not exist any more"
            )
        dataset = OfflineDataset(place)
        if dataset.fingerprint != self._policy_config().get("dataset_sha256"):
            raise UserError(
                f"{place} is not the dataset that {self.directory} was trained on: it was "
                "prepared again, or replaced; train again"
            )
        return dataset

    def snapshots(self) -> list[int]:
        """Return the iterations whose policies the run has kept, ascending; the last is its end."""
        names = (path.name for path in (self.directory / SNAPSHOTS_NAME).glob("*"))
        earlier = {int(name) for name in names if name.isdecimal()}
        return sorted(earlier | {self.config.last_iteration})

    def chosen_iteration(self) -> int:
        """Return the iteration whose policy is the run's: validation's choice, or the last.

        Raises:
            UserError: ``chosen.json`` is damaged, or names a policy that is not there.
        """
        path = self.directory / CHOSEN_NAME
        if not path.exists():
            return self.config.last_iteration
        try:
            chosen = json.loads(path.read_text(encoding="utf-8"))["iteration"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged: {' '.join(str(error).split())}") from None
        if chosen not in self.snapshots():
            raise UserError(
                f"{path} names iteration {chosen}, of which the run has no policy: evaluate again"
            )
        return int(chosen)

    def choose(self, iteration: int) -> None:
        """Make the policy of one of ``snapshots`` the run's own."""
        write_json(self.directory / CHOSEN_NAME, {"iteration": iteration})

    def networks(self, iteration: int | None = None) -> IQLNetworks:
        """Load the networks, in evaluation mode, with the catalogue that they were trained on.

        Args:
            iteration: one of ``snapshots``; the chosen one where not given.

        Raises:
            UserError: the policy's files are damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_model

        iteration = self.chosen_iteration() if iteration is None else iteration
        folder = self._policy_folder(iteration)
        path = folder / _WEIGHTS_NAME
        content = self._policy_config(folder)
        version = content.get("network_version")
        if version != NETWORK_VERSION:
            raise UserError(
                f"{folder} holds networks of version {version}; this release uses "
                f"{NETWORK_VERSION}: train it again"
            )
        try:
            networks = IQLNetworks(
                NetworkConfig.model_validate(content["network"]),
                reward=RewardDecomposition.model_validate(content["reward"]),
            )
            load_model(networks, path)
        except (SafetensorError, OSError, RuntimeError, KeyError, ValueError) as error:
            # A ValidationError is a ValueError.
            raise UserError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
        return networks.eval()

    def progress(self) -> list[dict[str, float]]:
        """Return what was measured in each iteration, in order; docs/iql.md explains the names."""
        rows = read_rows(self.directory / PROGRESS_NAME)
        if len(rows) != self.config.last_iteration:
            raise UserError(
                f"{self.directory / PROGRESS_NAME} is damaged: {len(rows)} iterations, expected "
                f"{self.config.last_iteration}"
            )
        return rows

    def validations(self) -> list[dict[str, float]]:
        """Return what kept policies were worth in validation; none without ``validation_users``."""
        return read_validations(self.directory)

    def weights_file(self, iteration: int | None = None) -> Path:
        """Return the file with the weights of a policy; arguments as ``networks``."""
        iteration = self.chosen_iteration() if iteration is None else iteration
        return self._policy_folder(iteration) / _WEIGHTS_NAME

    def _policy_folder(self, iteration: int) -> Path:
        if iteration == self.config.last_iteration:
            return self.directory / POLICY_NAME
        return self.directory / SNAPSHOTS_NAME / str(iteration)

    def _policy_config(self, folder: Path | None = None) -> dict[str, Any]:
        path = (folder or self.directory / POLICY_NAME) / _POLICY_CONFIG_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise UserError(f"{path} is damaged: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict):
            raise UserError(f"{path} is damaged: not a JSON object")
        return content


def iterations_done(directory: Path) -> int:
    """Count the iterations that an unfinished run can be resumed after."""
    if not (directory / CHECKPOINT_NAME).is_dir():
        return 0
    return len(read_rows(directory / CHECKPOINT_NAME / PROGRESS_NAME))


def train(
    config: TrainConfig,
    on_iteration: Callable[[dict[str, float]], None] | None = None,
    *,
    on_start: Callable[[int], None] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    course: Course | None = None,
) -> Run:
    """Train discrete IQL with RLlib, on the Ray cluster that is there or on a local one.

    Args:
        config: what to train, and where to write it.
        on_iteration: called after each iteration with its line of ``progress.csv``, and what its
            policy is worth as ``validation/NAME`` if it was validated. Where it raises
            KeyboardInterrupt or SystemExit, a checkpoint is written on the way out.
        on_start: called when the training begins, with the number of iterations done before.
        overwrite: replace a run, finished or not, that has this name.
        resume: go on from the last checkpoint of a run with the same settings; the result is the
            same, on a CPU bit for bit, as if it had not been stopped.
        course: where kept policies are validated; where not given, with ``validation_users``.

    Raises:
        UserError: the dataset, the settings or the folder do not allow it, or the training
            diverged; nothing half-written is left behind.
    """
    from noetik_rllib.iql.training import train as train_with_ray

    return train_with_ray(
        config,
        on_iteration or (lambda row: None),
        on_start=on_start or (lambda done: None),
        overwrite=overwrite,
        resume=resume,
        course=course,
    )

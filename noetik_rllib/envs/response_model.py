"""A fitted user response model: what a user in a given state would answer to a video.

Saved as a folder of ``weights.safetensors`` and ``model.json``; nothing in it is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch.nn import functional as F

from noetik_rllib.data.signals import BINARY_COLUMNS, BINARY_SIGNALS, SIGNALS, RewardWeights
from noetik_rllib.envs.response_network import (
    Candidates,
    Family,
    ResponseConfig,
    ResponseNetwork,
    make_network,
)
from noetik_rllib.errors import UserError
from noetik_rllib.io import atomic_directory, write_json
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.state import LAYOUT_VERSION, StateLayout

WEIGHTS_NAME = "weights.safetensors"
MODEL_NAME = "model.json"
#: Raised when the network or the files change so that an older model can no longer be read.
FORMAT_VERSION = 3
#: Rows scored at a time: 8,192 states of 128 with 16 embedded events are some 20 MB.
CHUNK = 8_192
#: Videos scored at a time in one state: 64 x 4,096 float32 fill a core's cache of 1 MB; 1,024 or
#: 7,583 of them are slower.
BLOCK = 4_096

WATCH_COLUMN = SIGNALS.index("watch_ratio")


class FitRecord(BaseModel):
    """What a model was fitted on, for the file and for reports."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: SHA-256 of the dataset's manifest.
    dataset: str
    part: str
    #: Kind of network.
    family: Family
    seed: int
    #: Rows that the weights were fitted on, random exposures among them, and their users.
    rows: int
    uniform_rows: int
    users: int
    #: Later rows that decided when to stop.
    validation_rows: int
    #: Passes over the rows up to the weights that were kept.
    epochs: int
    #: Sum over signals of the mean negative log-likelihood of the validation rows, nats.
    validation_loss: float = Field(allow_inf_nan=False)


@dataclass(frozen=True)
class AnswerDistribution:
    """Distribution of B answers.

    ``binary`` (B, 8): probability of each signal, in ``BINARY_SIGNALS`` order. ``watch`` (B, W):
    probability of each of ``watch_values`` (B, W), watch ratios, ascending along a row: they
    differ from video to video, with the play times at which a click and a long view begin. One
    row of values (W,) stands for all. All float64.
    """

    binary: np.ndarray
    watch: np.ndarray
    watch_values: np.ndarray

    @property
    def expected(self) -> np.ndarray:
        """Expected value of each signal, (B, 9) float32 in ``SIGNALS`` order."""
        signals = np.empty((len(self.binary), len(SIGNALS)), dtype=np.float32)
        signals[:, BINARY_COLUMNS] = self.binary
        signals[:, WATCH_COLUMN] = (self.watch * self.watch_values).sum(axis=1)
        return signals


class ResponseModel:
    """A response network with what is needed to use it: batches, files, checks.

    Args:
        network: fitted network; put into evaluation mode. Its weights must not change afterwards,
            since the videos' embeddings are computed once.
        record: what it was fitted on.
    """

    def __init__(self, network: ResponseNetwork, record: FitRecord) -> None:
        self.network = network.eval()
        self.record = record
        self.config = network.config
        self.layout: StateLayout = network.layout
        self.num_videos = self.config.tower.num_videos
        with torch.no_grad():
            self._values = network.form.values(network.limits.double())  # (N, W)
            self._table = self.network.tower(self.network.features)  # (N, D)

    def distribution(
        self,
        states: np.ndarray,
        videos: np.ndarray,
        user_id: np.ndarray | None = None,
        *,
        uniform: bool = True,
    ) -> AnswerDistribution:
        """Distribution of the answers to one video each.

        Args:
            states: (B, state size) float32.
            videos: index of the video shown, (B,) int64.
            user_id: whose states they are, (B,) int64; None where that is not known.
            uniform: False where the logging policy chose the video, which is then likelier to be
                to the user's taste than the state alone says; True for any other choice.

        Raises:
            ValueError: a shape does not fit, or a video is not in the catalogue.
        """
        return self.describe(states, videos, user_id, uniform=uniform)[0]

    def describe(
        self,
        states: np.ndarray,
        videos: np.ndarray,
        user_id: np.ndarray | None = None,
        *,
        uniform: bool | np.ndarray = True,
    ) -> tuple[AnswerDistribution, np.ndarray]:
        """Return ``distribution`` and what its parameters are linear in, (B, hidden) float32.

        ``uniform`` may differ by row, (B,).
        """
        if videos.shape != states.shape[:1]:
            raise ValueError(
                f"expected one video per state, got {videos.shape} for states {states.shape}"
            )
        if videos.size and not (videos.min() >= 0 and videos.max() < self.num_videos):
            raise ValueError(
                f"videos must be 0 to {self.num_videos - 1}, got {videos.min()} to {videos.max()}"
            )
        users = self._places(user_id, len(states))
        exposure = torch.from_numpy(np.broadcast_to(uniform, videos.shape).astype(np.float32))
        binary = np.empty((len(videos), len(BINARY_SIGNALS)))
        watch = np.empty((len(videos), self._values.shape[1]))
        values = np.empty_like(watch)
        features = np.empty((len(videos), self.config.hidden_size), dtype=np.float32)
        with torch.no_grad():
            for first in range(0, len(videos), CHUNK):
                rows = slice(first, first + CHUNK)
                chunk, index = _tensor(states[rows]), _tensor(videos[rows])
                candidate = self._table[index]
                hidden = self.network.hidden(chunk, self._past(chunk), candidate, exposure[rows])
                hidden = hidden + self.network.person(users[rows], candidate)
                last = self.network.last(hidden)
                features[rows] = last.numpy()
                outputs = self.network.output(last).double()
                signals, bins = self.network.form.probabilities(outputs, self.network.limits[index])
                binary[rows], watch[rows] = signals.numpy(), bins.numpy()
                values[rows] = self._values[index].numpy()
        return AnswerDistribution(binary, watch, values), features

    def predict(
        self,
        states: np.ndarray,
        videos: np.ndarray,
        user_id: np.ndarray | None = None,
        *,
        uniform: bool = True,
    ) -> np.ndarray:
        """Expected signals (B, 9) float32, in ``SIGNALS`` order; arguments as ``distribution``."""
        return self.distribution(states, videos, user_id, uniform=uniform).expected

    def describe_lists(
        self, states: np.ndarray, lists: np.ndarray, user_id: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As ``describe``, for lists of videos (B, L), a list in each state (B, state size).

        A state is read once for its whole list.

        Returns:
            Expected signals (B, L, 9) and what they follow from (B, L, hidden), float32.
        """
        users = self._places(user_id, len(states))
        expected = np.empty((*lists.shape, len(SIGNALS)), dtype=np.float32)
        features = np.empty((*lists.shape, self.config.hidden_size), dtype=np.float32)
        values, network = self._values.float(), self.network
        step = max(1, CHUNK // lists.shape[1])
        with torch.no_grad():
            for first in range(0, len(states), step):
                rows = slice(first, first + step)
                chunk, index = _tensor(states[rows]), _tensor(lists[rows])
                hidden = network.lists(chunk, self._past(chunk), self._table[index], users[rows])
                last = network.last(hidden)
                features[rows] = last.numpy()
                binary, bins = network.form.probabilities(
                    network.output(last), network.limits[index]
                )
                expected[rows][..., list(BINARY_COLUMNS)] = binary.numpy()
                expected[rows][..., WATCH_COLUMN] = (bins * values[index]).sum(-1).numpy()
        return expected, features

    def reward_matrix(
        self,
        states: np.ndarray,
        weights: RewardWeights,
        user_id: np.ndarray | None = None,
        videos: np.ndarray | None = None,
    ) -> np.ndarray:
        """Expected reward (B, P) float32 of each of P videos, shown at random.

        Args:
            states: (B, state size) float32.
            weights: of the signals in the reward.
            user_id: whose states they are, (B,) int64; None where that is not known.
            videos: which videos, (P,) int64; all where not given.
        """
        weight = torch.as_tensor(weights.as_array(), dtype=torch.float32)
        users = self._places(user_id, len(states))
        chosen = self._everything if videos is None else self._candidates(_tensor(videos))
        count = self.num_videos if videos is None else len(videos)
        rewards = torch.empty(len(states), count)
        with torch.no_grad():
            for first in range(0, len(states), CHUNK):
                chunk = _tensor(states[first : first + CHUNK])
                read = self.network.read(chunk, self._past(chunk))
                for row, state in enumerate(zip(*read, strict=True), first):
                    done = 0
                    for block in chosen:
                        outputs = self.network.column(state, users[row : row + 1], block)
                        signals = self.network.form.expected(outputs, block.limits)
                        found = rewards[row, done : done + signals.shape[1]]
                        torch.mv(signals.T, weight, out=found)
                        done += len(found)
        return rewards.numpy()

    @cached_property
    def _everything(self) -> list[Candidates]:
        """The whole catalogue, in blocks."""
        return self._candidates(torch.arange(self.num_videos))

    def _candidates(self, videos: torch.Tensor) -> list[Candidates]:
        """Videos (P,) in blocks."""
        with torch.no_grad():
            return [
                self.network.candidates(self._table[block], self.network.limits[block])
                for block in videos.split(BLOCK)
            ]

    def _places(self, user_id: np.ndarray | None, count: int) -> torch.Tensor:
        """Places (B,) of users among the model's vectors; 0 where unknown."""
        if user_id is None:
            return torch.zeros(count, dtype=torch.int64)
        return self.network.places(_tensor(user_id.astype(np.int64)))

    def _past(self, states: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, H, D) of the videos in the histories of ``states``."""
        index = self.layout.unpack(states).video_index
        return F.embedding(index.clamp(min=0), self._table)

    def check_dataset(self, dataset: OfflineDataset) -> None:
        """Refuse a dataset whose states or videos mean something else to this model.

        Raises:
            UserError: the model was fitted on another dataset.
        """
        if self.record.dataset != dataset.fingerprint:
            raise UserError(
                f"the response model was fitted on another dataset than {dataset.directory}: "
                "fit it on this one"
            )
        found = self.layout.history_length, self.num_videos
        expected = dataset.layout.history_length, dataset.manifest.num_videos
        if found != expected:
            raise UserError(
                f"the response model reads states of {found[0]} past events and knows {found[1]} "
                f"videos, but {dataset.directory} has {expected[0]} and {expected[1]}: fit it again"
            )

    def save(self, directory: str | Path) -> None:
        """Write the model as a folder, whole or not at all; an older model there is replaced."""
        described = {
            "fitted_on": self.record.model_dump(mode="json"),
            "config": self.config.model_dump(mode="json"),
        }
        weights = save_tensors({k: v.contiguous() for k, v in self.network.state_dict().items()})
        with atomic_directory(directory) as part:
            (part / WEIGHTS_NAME).write_bytes(weights)
            write_json(
                part / MODEL_NAME,
                {
                    "format_version": FORMAT_VERSION,
                    "layout_version": LAYOUT_VERSION,
                    "signals": list(SIGNALS),
                    "sha256": _checksum(described, weights),
                    **described,
                },
            )

    @classmethod
    def load(cls, directory: str | Path) -> ResponseModel:
        """Read a saved model.

        Raises:
            UserError: it is missing, damaged, changed by hand, or of another version.
        """
        directory = Path(directory)
        content = _read_description(directory)
        try:
            config = ResponseConfig.model_validate(content["config"])
            record = FitRecord.model_validate(content["fitted_on"])
            weights = _read_weights(directory, content)
        except (KeyError, ValidationError) as error:
            raise UserError(
                f"{directory / MODEL_NAME} is damaged: {' '.join(str(error).split())}; "
                "fit the response model again"
            ) from None
        network = make_network(config)
        try:
            network.load_state_dict(load_tensors(weights))
        except (SafetensorError, RuntimeError) as error:
            raise UserError(
                f"{directory / WEIGHTS_NAME} does not fit {MODEL_NAME}: "
                f"{str(error).splitlines()[0]}; fit the response model again"
            ) from None
        if not network.is_finite():
            raise UserError(
                f"{directory / WEIGHTS_NAME} holds weights that are not numbers: "
                "fit the response model again"
            )
        return cls(network, record)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """View an array as a tensor; a copy where NumPy may not write it (Arrow's memory)."""
    return torch.from_numpy(np.require(array, requirements="W"))


def _read_description(directory: Path) -> dict[str, Any]:
    """Read and check the parts of ``model.json`` that every version has."""
    path = directory / MODEL_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{directory} is not a response model: it has no {MODEL_NAME}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: not JSON ({error}); fit the model again") from None
    expected = {
        "format_version": FORMAT_VERSION,
        "layout_version": LAYOUT_VERSION,
        "signals": list(SIGNALS),
    }
    for name, value in expected.items():
        found = content.get(name) if isinstance(content, dict) else None
        if found != value:
            raise UserError(
                f"{path} has {name} {found}; this release reads {value}: fit the model again"
            )
    return cast(dict[str, Any], content)


def _read_weights(directory: Path, content: dict[str, Any]) -> bytes:
    """Read the weights, and check that nothing of them or of their description was changed.

    Raises:
        KeyError: the description lacks a part.
        UserError: the weights are missing, or not those that were saved with the description.
    """
    path = directory / WEIGHTS_NAME
    try:
        weights = path.read_bytes()
    except OSError:
        raise UserError(f"{path} is missing: fit the response model again") from None
    described = {name: content[name] for name in ("fitted_on", "config")}
    if _checksum(described, weights) != content["sha256"]:
        raise UserError(
            f"{path} is damaged: its checksum is not the one in {MODEL_NAME}, or that file was "
            "changed; fit the response model again"
        )
    return weights


def _checksum(described: dict[str, Any], weights: bytes) -> str:
    """SHA-256 of a description, in one order of its names, and the weights that it belongs to."""
    text = json.dumps(described, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode() + b"\0" + weights).hexdigest()

"""A run's policy as a program that torch runs alone: to serve it without Noetik, Ray or the data.

``policy.pt2`` is an exported program (``torch.export``): states (B, state size) float32 in, logits
(B, N) out, one per video. ``videos.parquet`` says which video each column is, ``policy.json`` what
each number of a state is, and where the policy comes from.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noetik_rllib.data.signals import BINARY_SIGNALS
from noetik_rllib.errors import UserError
from noetik_rllib.io import atomic_directory, write_json
from noetik_rllib.iql.networks import Actor
from noetik_rllib.iql.video_tower import VideoFeatures
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.runs import Run
from noetik_rllib.state import CONTEXT_NAMES, EVENT_NAMES, LAYOUT_VERSION, USER_NAMES

PROGRAM_NAME = "policy.pt2"
VIDEOS_NAME = "videos.parquet"
DESCRIPTION_NAME = "policy.json"
#: Logged states on which the program is compared with the run before it is kept.
_CHECKED_STATES = 64
#: Largest difference of a logit that is put up with: sums in another order, in single precision.
_TOLERANCE = 1e-3


class _EmbeddedVideos(nn.Module):
    """A video tower whose catalogue is embedded already: a look-up, whatever the batch's size."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, features: None, index: Tensor) -> Tensor:
        """Embeddings (..., D) of the videos ``index`` (...); ``features`` are not needed."""
        return F.embedding(index, self.table)


class _ExportedActor(nn.Module):
    """An actor's logits over the catalogue that it was trained on."""

    bias: Tensor

    def __init__(self, actor: Actor, features: VideoFeatures) -> None:
        super().__init__()
        with torch.no_grad():
            table, bias = actor.embed(features)
        self.encoder = copy.deepcopy(actor.encoder)
        self.videos = _EmbeddedVideos(table.clone())
        self.encoder.register_module("tower", self.videos)
        self.query = copy.deepcopy(actor.query)
        self.scale = actor.scale
        self.register_buffer("bias", bias.clone())

    def forward(self, states: Tensor) -> Tensor:
        """Logits (B, N) of every video in states (B, state size)."""
        query = self.query(self.encoder(None, states)) * self.scale
        return F.linear(query, self.videos.table, self.bias)


def export(run: Run, out: Path, *, overwrite: bool = False) -> Path:
    """Write a run's policy as a folder that needs torch alone.

    The program is loaded again and compared with the run's networks on states of the dataset before
    anything takes the name ``out``.

    Args:
        run: a finished run; a sweep's trial is one.
        out: folder to write.
        overwrite: replace an export that is there.

    Returns:
        ``out``.

    Raises:
        UserError: ``out`` exists, the run is damaged, or its dataset is not there.
    """
    if out.exists() and not (overwrite and _is_export(out)):
        hint = ", or use --overwrite" if _is_export(out) else ""
        raise UserError(f"{out} exists already: choose another --out{hint}")
    dataset = run.dataset()
    networks = run.networks()
    states = torch.from_numpy(_some_states(dataset))
    with torch.no_grad():
        expected = networks.actor(networks.features, states)
        program = torch.export.export(
            _ExportedActor(networks.actor, networks.features).eval(),
            (states,),
            dynamic_shapes={"states": {0: torch.export.Dim("batch", min=1)}},
        )
    with atomic_directory(out, replace=overwrite) as part:
        torch.export.save(program, part / PROGRAM_NAME)
        again = torch.export.load(part / PROGRAM_NAME).module()
        for rows in (states, states[:1]):
            with torch.no_grad():
                error = float((again(rows) - expected[: len(rows)]).abs().max())
            if not error <= _TOLERANCE:
                raise RuntimeError(f"the exported program differs from the run by {error:g}")
        pq.write_table(_videos(dataset), part / VIDEOS_NAME)
        write_json(part / DESCRIPTION_NAME, _description(run, dataset))
    return out


def _is_export(folder: Path) -> bool:
    return (folder / DESCRIPTION_NAME).is_file()


def _some_states(dataset: OfflineDataset) -> np.ndarray:
    """States of the test part, spread over its rows, (B, state size) float32."""
    states = dataset.load("test", ["obs"])["obs"]
    chosen = np.linspace(0, len(states) - 1, min(_CHECKED_STATES, len(states))).astype(int)
    return np.ascontiguousarray(states[chosen])


def _videos(dataset: OfflineDataset) -> pa.Table:
    """Ids of the columns of the logits; texts where the log has texts."""
    ids = dataset.catalog.video_id
    texts = dataset.keys.get("items")
    return pa.table({"video_id": [texts[i] for i in ids.tolist()] if texts else ids})


def _description(run: Run, dataset: OfflineDataset) -> dict[str, Any]:
    layout = dataset.layout
    return {
        "program": PROGRAM_NAME,
        "input": f"states, float32, (batch, {layout.size})",
        "output": f"logits, float32, (batch, {len(dataset.catalog)}): row i of {VIDEOS_NAME}",
        "state": {
            "layout_version": LAYOUT_VERSION,
            "user": {"from": layout.user.start, "names": USER_NAMES},
            "history": {
                "from": layout.history.start,
                "events": layout.history_length,
                "each": EVENT_NAMES,
                "feedback_bits": [*BINARY_SIGNALS, "unchosen"],
            },
            "context": {"from": layout.context.start, "names": CONTEXT_NAMES},
        },
        "trained_on": {
            "dataset_sha256": dataset.fingerprint,
            "reward": run.config.reward.model_dump(),
            "iteration": run.chosen_iteration(),
            "seed": run.config.seed,
        },
        "torch": torch.__version__,
    }

"""The networks of discrete IQL as an RLModule of RLlib's new API stack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, TargetNetworkAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from noetik_rllib.errors import did_you_mean
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import Actor, IQLNetworks, QNetwork, VNetwork
from noetik_rllib.iql.settings import explain
from noetik_rllib.iql.video_tower import VideoFeatures
from noetik_rllib.offline.catalog import CATALOG_NAME, Catalog

#: Key of ``model_config`` beside the fields of ``NetworkConfig``: folder of the dataset.
DATASET_KEY = "dataset"

#: What ``forward_train`` returns beside the action logits.
Q_VALUES = "q_values"
V_VALUES = "v_values"
NEXT_V_VALUES = "next_v_values"
TARGET_Q_VALUES = "target_q_values"


def network_config(model_config: dict[str, Any]) -> NetworkConfig:
    """Read the networks' sizes out of an RLModule's ``model_config``.

    Raises:
        ValueError: an unknown key, or a size that does not fit.
    """
    sizes = {key: value for key, value in model_config.items() if key != DATASET_KEY}
    known = list(NetworkConfig.model_fields)
    for key in sizes:
        if key not in known:
            raise ValueError(
                f"unknown model_config '{key}': expected one of {', '.join(known)}."
                f"{did_you_mean(key, known)}"
            )
    try:
        return NetworkConfig.model_validate(sizes)
    except ValidationError as error:
        raise ValueError(f"model_config: {explain(error)}") from None


class DiscreteIQLTorchRLModule(TorchRLModule, InferenceOnlyAPI, TargetNetworkAPI, ValueFunctionAPI):
    """Actor, twin Q with its target, and V over one catalogue of videos.

    ``model_config`` holds the fields of ``NetworkConfig`` and the dataset's folder. The features of
    the catalogue are buffers, so a restored module has them even where the dataset is not.
    """

    features: VideoFeatures
    actor: Actor
    q: QNetwork
    v: VNetwork
    target_q: nn.Module

    def setup(self) -> None:
        """Build the networks (RLlib calls this once, from the constructor)."""
        model_config: dict[str, Any] = self.model_config
        dataset = model_config.get(DATASET_KEY)
        # A copy that is restored elsewhere gets the features from its saved state.
        here = dataset is not None and (Path(dataset) / CATALOG_NAME).is_file()
        catalog = Catalog.load(Path(dataset)) if dataset is not None and here else None
        networks = IQLNetworks(network_config(model_config), catalog)
        # Attributes of the module itself: RLlib cannot drop a nested one from an inference-only
        # copy (torch_rl_module.py:71 deletes "networks.q" as self.q).
        self.features, self.actor = networks.features, networks.actor
        self.q, self.v = networks.q, networks.v

    def make_target_networks(self) -> None:
        """Copy Q: only Q has a target. The catalogue is an argument of its call, so is shared."""
        self.target_q = make_target_network(self.q)

    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Return (Q, target Q)."""
        return [(self.q, self.target_q)]

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the target critics' Q (2, B) of the batch's videos, without gradient."""
        with torch.no_grad():
            q = self.target_q(self.features, batch[Columns.OBS], batch[Columns.ACTIONS])
        return {TARGET_Q_VALUES: q}

    def get_non_inference_attributes(self) -> list[str]:
        """Return what a copy that only acts leaves out: critics and target."""
        return ["q", "v", "target_q"]

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Return V (B,) of the batch's states."""
        values: Tensor = self.v(self.features, batch[Columns.OBS])
        return values

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """Return the logits (B, N) of every video; for inference and exploration alike."""
        logits = self.actor(self.features, batch[Columns.OBS])
        return {Columns.ACTION_DIST_INPUTS: logits}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """Run every network once, so that the losses see the V of before the step.

        Actor, Q and V share no parameter: one backward of their summed losses gives each its own
        gradient, and torch's DDP, which wraps this very call, exchanges them all.
        """
        features, states = self.features, batch[Columns.OBS]
        with torch.no_grad():
            next_v = self.v(features, batch[Columns.NEXT_OBS])
        return {
            Columns.ACTION_DIST_INPUTS: self.actor(features, states),
            Q_VALUES: self.q(features, states, batch[Columns.ACTIONS]),
            V_VALUES: self.v(features, states),
            NEXT_V_VALUES: next_v,
            **self.forward_target(batch),
        }

"""The RLModule over a catalogue of videos: the transformer networks of ``networks.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from ray.rllib.core.columns import Columns
from torch import Tensor

from noetik_rllib.errors import did_you_mean
from noetik_rllib.iql import interpretability
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import Actor, IQLNetworks, QNetwork, VNetwork
from noetik_rllib.iql.rl_module import (
    EFFECT_ENTROPY,
    LOG_PROBS,
    PRECISION_KEY,
    Q_VALUES,
    REWARD_KEY,
    V_VALUES,
    DiscreteIQLTorchRLModule,
)
from noetik_rllib.iql.settings import explain
from noetik_rllib.iql.video_tower import VideoFeatures
from noetik_rllib.offline.catalog import CATALOG_NAME, Catalog
from noetik_rllib.offline.dataset import OfflineDataset

#: Key of ``model_config``: folder of the dataset.
DATASET_KEY = "dataset"
#: Key of ``model_config``: whether the interpretability term is computed.
INTERPRETABILITY_KEY = "interpretability"


def network_config(model_config: dict[str, Any]) -> NetworkConfig:
    """Read the networks' sizes out of an RLModule's ``model_config``.

    Raises:
        ValueError: an unknown key, or a size that does not fit.
    """
    others = (DATASET_KEY, REWARD_KEY, PRECISION_KEY, INTERPRETABILITY_KEY)
    sizes = {key: value for key, value in model_config.items() if key not in others}
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


class TransformerIQLTorchRLModule(DiscreteIQLTorchRLModule):
    """Actor, twin Q with its target, and V over one catalogue of videos.

    ``model_config`` holds the fields of ``NetworkConfig`` and the dataset's folder. The features of
    the catalogue are buffers, so a restored module has them even where the dataset is not.
    """

    features: VideoFeatures
    actor: Actor
    q: QNetwork
    v: VNetwork

    def setup(self) -> None:
        """Build the networks (RLlib calls this once, from the constructor)."""
        self.setup_reward()
        model_config: dict[str, Any] = self.model_config
        dataset = model_config.get(DATASET_KEY)
        # A copy that is restored elsewhere gets the features from its saved state.
        here = dataset is not None and (Path(dataset) / CATALOG_NAME).is_file()
        catalog = Catalog.load(Path(dataset)) if dataset is not None and here else None
        networks = IQLNetworks(network_config(model_config), catalog, self.reward)
        # Attributes of the module itself: RLlib cannot drop a nested one from an inference-only
        # copy (torch_rl_module.py:71 deletes "networks.q" as self.q).
        self.features, self.actor = networks.features, networks.actor
        self.q, self.v = networks.q, networks.v
        if dataset is not None and here and self.actor.sampler and not self.inference_only:
            self.actor.sampler.follow(
                torch.from_numpy(OfflineDataset(dataset).times_shown("train"))
            )

    def inputs(self, states: Tensor) -> tuple[Any, ...]:
        """Return what the networks read: the catalogue's features and the states."""
        return self.features, states

    def online(self, states: Tensor, actions: Tensor) -> dict[str, Tensor]:
        """Return LOG_PROBS, Q_VALUES and V_VALUES of logged videos, with gradients.

        And the interpretability term, where it has a weight.
        """
        actor, features = self.actor, self.features
        tokens = actor.encoder.embed(features, states)
        summary = actor.encoder.encode(tokens)
        query = actor.query(summary)
        out = {LOG_PROBS: actor.log_prob(features, query, actions)}
        if self.q.encoder is actor.encoder:
            out[Q_VALUES] = self.q.from_summary(features, summary, actions)
            out[V_VALUES] = self.v.head(summary)
        else:
            out[Q_VALUES] = self.q(features, states, actions)
            out[V_VALUES] = self.v(features, states)
        if self.model_config.get(INTERPRETABILITY_KEY):
            effects = interpretability.direct_effects(actor, features, tokens, actions)
            out[EFFECT_ENTROPY] = interpretability.effect_entropy(effects, tokens.present)
        return out

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """Return the logits (B, N) of every video; for inference and exploration alike."""
        return {Columns.ACTION_DIST_INPUTS: self.actor(self.features, batch[Columns.OBS])}

"""What the networks leave out to be quick does not change what they compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.dataset import OfflineDataset


@pytest.fixture
def networks(tiny_dataset: Path) -> IQLNetworks:
    dataset = OfflineDataset(tiny_dataset)
    torch.manual_seed(0)
    config = NetworkConfig.for_dataset(dataset.manifest, embedding_size=16)
    return IQLNetworks(config, dataset.catalog)


@pytest.fixture
def states(tiny_dataset: Path) -> torch.Tensor:
    return torch.tensor(OfflineDataset(tiny_dataset).load("train", ("obs",))["obs"][:40])


def test_the_last_block_only_updates_what_is_read(
    networks: IQLNetworks, states: torch.Tensor
) -> None:
    """Fails if the short cut in the last block gives another summary than the whole block."""
    encoder = networks.v.encoder
    tokens = encoder.embed(networks.features, states)
    x = torch.cat([tokens.user[:, None], tokens.context[:, None], tokens.events], dim=1)
    always = torch.ones_like(tokens.present[:, :2])
    mask = torch.cat([always, tokens.present], dim=1)[:, None, None, :]
    for block in encoder.blocks:
        x = block(x, mask)
    whole = encoder.summary(x[:, 0], tokens.events, tokens.weight)
    torch.testing.assert_close(encoder.encode(tokens), whole)


def test_few_videos_are_embedded_once(networks: IQLNetworks) -> None:
    """Fails if looking videos up in the embedded catalogue differs from embedding each."""
    tower, features = networks.actor.tower, networks.features
    many = torch.arange(networks.config.num_videos).repeat(2)[torch.randperm(160)].view(20, 8)
    one_by_one = torch.stack([tower(features, row) for row in many])
    torch.testing.assert_close(tower(features, many), one_by_one)


def test_an_empty_slot_has_no_say(networks: IQLNetworks, states: torch.Tensor) -> None:
    """Fails if what stands in an empty slot of the history moves any output."""
    layout = networks.v.encoder.layout
    few = states.clone()
    history = few[:, layout.history].view(len(few), layout.history_length, 4)
    history[:, 3:] = 0.0
    noisy = few.clone()
    history = noisy[:, layout.history].view(len(few), layout.history_length, 4)
    history[:, 3:, 1:] = torch.rand_like(history[:, 3:, 1:])
    with torch.no_grad():
        for network in (networks.actor, networks.v):
            torch.testing.assert_close(
                network(networks.features, few), network(networks.features, noisy)
            )


def test_logits_are_the_scaled_inner_product(networks: IQLNetworks, states: torch.Tensor) -> None:
    """Fails if explanations, which take the logit apart by this formula, explain another policy."""
    actor, features = networks.actor, networks.features
    with torch.no_grad():
        query = actor.query(actor.encoder(features, states)).numpy()
        videos = actor.tower(features)
        bias = actor.item_bias(videos).squeeze(-1).numpy()
        expected = query @ videos.numpy().T / np.sqrt(16) + bias
        np.testing.assert_allclose(actor(features, states).numpy(), expected, atol=1e-5)

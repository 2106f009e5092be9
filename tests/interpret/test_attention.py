"""Attention per event is the rollout of what the network attends to, and sums to 1 where it can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from noetik_rllib.interpret.attention import event_attention_of, raw_attention_of
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.dataset import OfflineDataset


def networks_of(dataset: OfflineDataset, layers: int) -> IQLNetworks:
    """Random networks whose attention is uneven, so that an order of products can be told."""
    torch.manual_seed(0)
    config = NetworkConfig.for_dataset(dataset.manifest, embedding_size=16, num_layers=layers)
    networks = IQLNetworks(config, dataset.catalog).eval()
    for block in networks.actor.encoder.blocks:
        block.qkv.weight.data *= 4.0
    return networks


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> OfflineDataset:
    return OfflineDataset(tiny_dataset)


@pytest.fixture(scope="module")
def states(dataset: OfflineDataset) -> np.ndarray:
    """Forty states; the first has no event, the second has one."""
    states = dataset.load("test", ("obs",))["obs"][-40:].copy()
    events = states[:, dataset.layout.history].reshape(40, -1, 4)
    events[0], events[1, 1:] = 0.0, 0.0
    states[:, dataset.layout.history] = events.reshape(40, -1)
    return states


def weights_of(networks: IQLNetworks, states: np.ndarray) -> list[np.ndarray]:
    """Attention of every block, averaged over heads, float64."""
    encoder = networks.actor.encoder
    attention: list[torch.Tensor] = []
    with torch.no_grad():
        encoder.encode(encoder.embed(networks.features, torch.tensor(states)), attention)
    return [weights.double().mean(dim=1).numpy() for weights in attention]


def over_events(row: np.ndarray, present: np.ndarray) -> np.ndarray:
    """What a row of T tokens gives to the events, made to sum to 1; 0 where there is none."""
    events = np.where(present, row[:, 2:], 0.0)
    total = events.sum(axis=1, keepdims=True)
    return np.divide(events, total, out=np.zeros_like(events), where=total > 0)


def test_the_rollout_is_the_product_of_matrices(
    dataset: OfflineDataset, states: np.ndarray
) -> None:
    """Otherwise "attention" is a number that no paper defines: in NumPy, matrix by matrix."""
    networks = networks_of(dataset, layers=3)
    present = dataset.layout.unpack(states).present
    product = np.eye(present.shape[1] + 2)
    for weights in weights_of(networks, states):
        own = np.eye(product.shape[-1])[: weights.shape[1]]
        product = (0.5 * weights + 0.5 * own) @ product
    got = event_attention_of(networks, states)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, over_events(product[:, 0], present), atol=1e-6)
    assert not got[0].any()
    np.testing.assert_allclose(got[1:].sum(axis=1), 1.0)
    assert got[1, 0] == 1.0


def test_raw_attention_is_the_last_block_alone(dataset: OfflineDataset, states: np.ndarray) -> None:
    """Otherwise the comparison with the rollout is with something else, or with itself."""
    networks = networks_of(dataset, layers=3)
    present = dataset.layout.unpack(states).present
    last = over_events(weights_of(networks, states)[-1][:, 0], present)
    raw = raw_attention_of(networks, states)
    np.testing.assert_allclose(raw, last, atol=1e-6)
    assert np.abs(raw - event_attention_of(networks, states)).max() > 0.01


def test_of_one_block_both_are_the_same(dataset: OfflineDataset, states: np.ndarray) -> None:
    """What the documentation says of runs with one layer would be false."""
    networks = networks_of(dataset, layers=1)
    np.testing.assert_allclose(
        raw_attention_of(networks, states), event_attention_of(networks, states), atol=1e-12
    )


def test_chunks_do_not_matter(
    dataset: OfflineDataset, states: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same state would be explained otherwise in other company."""
    networks = networks_of(dataset, layers=2)
    whole = event_attention_of(networks, states)
    monkeypatch.setattr("noetik_rllib.interpret.attention._WEIGHTS_AT_ONCE", 9_000)
    np.testing.assert_allclose(event_attention_of(networks, states), whole, atol=1e-6)
    assert event_attention_of(networks, states[:0]).shape == (0, dataset.layout.history_length)
    with pytest.raises(ValueError, match="expected states of"):
        event_attention_of(networks, states[:, 1:])

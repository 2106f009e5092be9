"""Attention weights, their rollout, and the term that asks for few events to decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.interpretability import direct_effects, effect_entropy
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.iql.transformer import attention_rollout
from noetik_rllib.offline.dataset import OfflineDataset


@pytest.fixture
def networks(tiny_dataset: Path) -> IQLNetworks:
    dataset = OfflineDataset(tiny_dataset)
    torch.manual_seed(0)
    config = NetworkConfig.for_dataset(dataset.manifest, embedding_size=16, num_layers=3)
    return IQLNetworks(config, dataset.catalog)


@pytest.fixture
def states(tiny_dataset: Path) -> torch.Tensor:
    return torch.tensor(OfflineDataset(tiny_dataset).load("test", ("obs",))["obs"][:60])


def test_attention_is_what_the_summary_was_made_with(
    networks: IQLNetworks, states: torch.Tensor
) -> None:
    """Fails if the path that returns weights computes another summary than the quick one.

    Or if an empty slot is attended, or weights do not sum to 1.
    """
    encoder = networks.actor.encoder
    tokens = encoder.embed(networks.features, states)
    attention: list[torch.Tensor] = []
    with torch.no_grad():
        summary = encoder.encode(tokens, attention)
        torch.testing.assert_close(summary, encoder.encode(tokens), atol=1e-5, rtol=1e-4)
        rollout = attention_rollout(attention)
    assert [weights.shape[2] for weights in attention] == [18, 18, 1]
    for weights in attention:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        empty = ~tokens.present[:, None, None, :]
        assert not (weights[..., 2:] * empty).any()
    # The product of all matrices, as Abnar and Zuidema write it; of the last, one row is known.
    product = torch.eye(18).expand(len(states), 18, 18)
    for weights in attention[:-1]:
        product = (0.5 * weights.mean(1) + 0.5 * torch.eye(18)) @ product
    last = 0.5 * attention[-1].mean(1) + 0.5 * torch.eye(18)[:1]
    torch.testing.assert_close(rollout, (last @ product)[:, 0])


def test_the_term_is_its_formula(networks: IQLNetworks, states: torch.Tensor) -> None:
    """Fails if it is another number than the formula's, state by state, in NumPy."""
    actor, features = networks.actor, networks.features
    layout, states = actor.encoder.layout, states.clone()
    states[:20, layout.history].view(20, 16, 4)[:, 1:] = 0.0  # one event: nothing to concentrate
    videos = torch.arange(len(states)) % 7
    with torch.no_grad():
        tokens = actor.encoder.embed(features, states)
        effects = direct_effects(actor, features, tokens, videos)
        got = effect_entropy(effects, tokens.present).item()
        embedded = actor.embed(features, videos)[0].double().numpy()
        taste = actor.query.weight[:, 16:].double().numpy()
        events, weight = tokens.events.double().numpy(), tokens.weight.double().numpy()
    contrast = embedded - embedded.mean(axis=0)
    entropy = np.zeros(len(states))
    for row, present in enumerate(tokens.present.numpy()):
        number = present.sum()
        if number < 2:
            continue
        moved = np.abs(weight[row] * (events[row] @ taste.T @ contrast[row]))[present]
        share = moved / moved.sum()
        entropy[row] = -(share * np.log(share)).sum() / np.log(number)
    assert (entropy > 0).sum() == 40
    assert got == pytest.approx(entropy.mean(), rel=1e-4)


def test_effects_are_what_an_event_adds_past_attention(
    networks: IQLNetworks, states: torch.Tensor
) -> None:
    """Fails if the effects are not the derivative of the video's margin along the direct path."""
    actor, features = networks.actor, networks.features
    videos = torch.arange(len(states)) % 5
    with torch.no_grad():
        tokens = actor.encoder.embed(features, states)
        effects = direct_effects(actor, features, tokens, videos)
        embedded, _ = actor.embed(features, videos)

    # The summary with attention's part and the hidden layer held fixed: linear in the mean.
    def margin(events: torch.Tensor) -> torch.Tensor:
        mean = (tokens.weight[:, None] @ events)[:, 0]
        summary = torch.cat([torch.zeros_like(mean), mean], dim=-1)
        return (actor.query(summary) * (embedded - embedded.mean(dim=0))).sum(dim=-1)

    events = tokens.events.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(margin(events).sum(), events)
    torch.testing.assert_close(
        effects, (gradient * events).sum(dim=-1).detach(), atol=1e-5, rtol=1e-4
    )


def test_even_effects_have_an_entropy_of_one_and_a_single_one_of_none() -> None:
    """Fails if the entropy is not relative to the number of events, or signs cancel."""
    present = torch.tensor([[True, True, True, False], [True, True, False, False]])
    even = torch.tensor([[2.0, -2.0, 2.0, 9.0], [0.5, 0.5, 0.0, 0.0]])
    assert effect_entropy(even, present).item() == pytest.approx(1.0)
    single = torch.tensor([[0.0, -3.0, 0.0, 9.0], [1.0, 0.0, 0.0, 0.0]])
    assert effect_entropy(single, present).item() == pytest.approx(0.0, abs=1e-6)
    nothing = torch.zeros(2, 4, requires_grad=True)
    entropy = effect_entropy(nothing, present)
    entropy.backward()
    assert nothing.grad is not None
    assert torch.isfinite(nothing.grad).all()


@pytest.mark.usefixtures("ray_session")
def test_its_coefficient_lowers_it(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if the term has no effect on training, or pulls the wrong way.

    Same seed and steps with coefficient 0 (nothing is measured then) and 30; measured on one batch.
    """
    after = {}
    for coeff in (0.0, 30.0):
        config = tiny_config.copy(copy_frozen=False)
        config.training(interpretability_coeff=coeff, actor_lr=3e-3)
        config.offline_data(dataset_num_iters_per_learner=60)
        algorithm = config.build_algo()
        learnt = algorithm.train()["learners"][DEFAULT_MODULE_ID]
        assert ("effect_entropy" in learnt) == (coeff > 0)
        module = algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
        (shard,) = algorithm.offline_data.sample(64)
        batch = next(shard.iter_torch_batches(batch_size=512))
        states, videos = (batch[f"{DEFAULT_MODULE_ID}/{name}"] for name in ("obs", "actions"))
        with torch.no_grad():
            tokens = module.actor.encoder.embed(module.features, states)
            effects = direct_effects(module.actor, module.features, tokens, videos)
            after[coeff] = effect_entropy(effects, tokens.present).item()
        algorithm.stop()
    assert after[30.0] < after[0.0] - 0.01

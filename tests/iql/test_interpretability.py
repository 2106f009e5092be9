"""Attention weights, their rollout, and the term that asks for concentrated, faithful attention."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.interpretability import most_attended, penalties
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
    """Fails if either part is another number than the formula's, state by state, in NumPy.

    Attention is made uneven, so that it matters which events are kept; some states have too few.
    """
    actor, features = networks.actor, networks.features
    layout, states = actor.encoder.layout, states.clone()
    states[:20, layout.history].view(20, 16, 4)[:, 3:] = 0.0
    for block in actor.encoder.blocks:
        block.qkv.weight.data *= 4.0
    with torch.no_grad():
        tokens = actor.encoder.embed(features, states)
        attention: list[torch.Tensor] = []
        query = actor.query(actor.encoder.encode(tokens, attention))
        got = [part.item() for part in penalties(actor, tokens, query, attention, 3)]
        rollout = attention_rollout(attention).double().numpy()[:, 2:]
        entropy, insufficiency = np.zeros(len(states)), np.zeros(len(states))
        for row, present in enumerate(tokens.present.numpy()):
            number = present.sum()
            if number <= 3:
                continue
            alpha = rollout[row, present] / rollout[row, present].sum()
            entropy[row] = -(alpha * np.log(alpha)).sum() / np.log(number)
            kept = np.flatnonzero(present)[np.argsort(-alpha)[:3]]
            # The state itself without the other events: no mask of the term's own.
            few = torch.zeros_like(tokens.present[row : row + 1])
            few[0, torch.from_numpy(kept)] = True
            one = replace(
                tokens,
                user=tokens.user[row : row + 1],
                events=tokens.events[row : row + 1],
                weight=tokens.weight[row : row + 1] * few,
                context=tokens.context[row : row + 1],
                present=few,
            )
            q, q_k = query[row], actor.query(actor.encoder.encode(one))[0]
            insufficiency[row] = ((q - q_k) ** 2).sum() / (q**2).sum()
    assert (entropy > 0).sum() == 40
    assert np.ptp(entropy[entropy > 0]) > 0.01
    assert got == pytest.approx([entropy.mean(), insufficiency.mean()], rel=1e-4)
    assert most_attended(torch.tensor([[0.1, 0.5, 0.4]]), torch.ones(1, 3).bool(), 2).tolist() == [
        [False, True, True]
    ]


def test_even_attention_has_an_entropy_of_one(networks: IQLNetworks, states: torch.Tensor) -> None:
    """Fails if the entropy is not relative to the number of events."""
    actor, features = networks.actor, networks.features
    for block in actor.encoder.blocks:
        block.qkv.weight.data[:16] = 0.0  # no query: everything is attended alike
        block.qkv.bias.data[:16] = 0.0
    with torch.no_grad():
        tokens = actor.encoder.embed(features, states)
        attention: list[torch.Tensor] = []
        query = actor.query(actor.encoder.encode(tokens, attention))
        entropy, _ = penalties(actor, tokens, query, attention, 3)
        many = (tokens.present.sum(1) > 3).float().mean()
        assert entropy.item() == pytest.approx(many.item(), abs=1e-4)
        # Where all events are kept, nothing is missing, and no state counts.
        none = penalties(actor, tokens, query, attention, 16)
        assert [part.item() for part in none] == [0.0, 0.0]


@pytest.mark.usefixtures("ray_session")
def test_its_coefficient_lowers_it(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if the term has no effect on training, or pulls the wrong way.

    Same seed and steps with coefficient 0 (nothing is measured then) and 3; measured on one batch.
    """
    after = {}
    for coeff in (0.0, 3.0):
        config = tiny_config.copy(copy_frozen=False)
        config.training(interpretability_coeff=coeff, actor_lr=3e-3)
        config.offline_data(dataset_num_iters_per_learner=60)
        algorithm = config.build_algo()
        learnt = algorithm.train()["learners"][DEFAULT_MODULE_ID]
        assert ("attention_entropy" in learnt) == (coeff > 0)
        module = algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
        (shard,) = algorithm.offline_data.sample(64)
        states = next(shard.iter_torch_batches(batch_size=512))[f"{DEFAULT_MODULE_ID}/obs"]
        with torch.no_grad():
            tokens = module.actor.encoder.embed(module.features, states)
            attention: list[torch.Tensor] = []
            query = module.actor.query(module.actor.encoder.encode(tokens, attention))
            parts = penalties(module.actor, tokens, query, attention, 3)
        after[coeff] = [part.item() for part in parts]
        algorithm.stop()
    assert after[3.0][0] < after[0.0][0] - 0.02
    assert after[3.0][1] < 0.8 * after[0.0][1]

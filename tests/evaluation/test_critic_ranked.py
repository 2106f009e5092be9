"""The policy that ranks what the actor proposes: the right videos, by the right sum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from noetik_rllib.errors import UserError
from noetik_rllib.evaluation import critic_ranked
from noetik_rllib.evaluation.critic_ranked import CriticRankedPolicy
from noetik_rllib.evaluation.policies import ActorPolicy
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.dataset import OfflineDataset

COUNT = 12
USERS = np.zeros(COUNT, dtype=np.int64)
BETA = 3.0


@pytest.fixture
def dataset(tiny_dataset: Path) -> OfflineDataset:
    return OfflineDataset(tiny_dataset)


@pytest.fixture
def states(dataset: OfflineDataset) -> np.ndarray:
    return np.array(dataset.load("test", ("obs",))["obs"][:COUNT])


@pytest.fixture
def networks(dataset: OfflineDataset) -> IQLNetworks:
    """Untrained networks whose critics disagree with each other and with the actor."""
    torch.manual_seed(0)
    sizes = NetworkConfig.for_dataset(dataset.manifest, embedding_size=16)
    return IQLNetworks(sizes, dataset.catalog).eval()


def ranked(networks: IQLNetworks) -> CriticRankedPolicy:
    return CriticRankedPolicy(networks, BETA, ActorPolicy.of(networks))


def _by_hand(networks: IQLNetworks, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and logits + beta x the smaller critic's total, of every video: (B, N) each."""
    videos, signs = networks.config.num_videos, torch.tensor(networks.reward.signs)
    flat = torch.tensor(states)
    with torch.no_grad():
        logits = networks.actor(networks.features, flat)
        q = networks.q(
            networks.features,
            flat.repeat_interleave(videos, dim=0),
            torch.arange(videos).repeat(len(states)),
        )
        smaller = (q @ signs).min(dim=0).values.view(len(states), videos)
    return logits.numpy(), (logits + BETA * smaller).numpy()


def test_it_ranks_what_the_actor_proposes(
    networks: IQLNetworks, states: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a video beyond the actor's first ones is shown, one is shown twice in a session, the
    greater critic counts, or the outcome hangs on how many states are ranked at a time.
    """
    monkeypatch.setattr(critic_ranked, "CANDIDATES", 10)
    logits, scores = _by_hand(networks, states)
    policy = ranked(networks)
    shown = np.argsort(-scores, axis=1)[:, :3]
    every = np.arange(networks.config.num_videos)
    for pairs in (51_200, 25):
        monkeypatch.setattr(critic_ranked, "_PAIRS", pairs)
        for hidden in (np.empty((COUNT, 0), dtype=np.int64), shown):
            left = logits.copy()
            np.put_along_axis(left, hidden, -np.inf, axis=1)
            proposed = np.argsort(-left, axis=1)[:, :10]
            order = np.argsort(-np.take_along_axis(scores, proposed, axis=1), axis=1)
            expected = np.take_along_axis(proposed, order, axis=1)
            np.testing.assert_array_equal(policy.recommend(states, USERS, hidden), expected[:, 0])
            if not hidden.size:
                np.testing.assert_array_equal(policy.top_k(states, USERS, 4), expected[:, :4])
    monkeypatch.setattr("noetik_rllib.evaluation.policies.ACTOR_CHUNK", 5)
    for video in every[:: len(every) // 5]:
        np.testing.assert_allclose(
            policy.score(states, USERS, np.full(COUNT, video)), scores[:, video], rtol=1e-4
        )


def test_without_a_temperature_it_is_the_actor(networks: IQLNetworks, states: np.ndarray) -> None:
    """Fails if ranking changes more than the critic does."""
    actor = ActorPolicy.of(networks)
    plain = CriticRankedPolicy(networks, 0.0, actor)
    np.testing.assert_array_equal(plain.top_k(states, USERS, 5), actor.top_k(states, USERS, 5))


def test_a_catalogue_smaller_than_the_proposals(
    networks: IQLNetworks, states: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if places without a video are ranked as if one were there."""
    videos = networks.config.num_videos
    monkeypatch.setattr(critic_ranked, "CANDIDATES", 10 * videos)
    _, scores = _by_hand(networks, states)
    shown = np.argsort(-scores, axis=1)[:, : videos - 2]
    best = ranked(networks).recommend(states, USERS, shown)
    np.testing.assert_array_equal(best, np.argsort(-scores, axis=1)[:, videos - 2])


def test_a_diverged_critic_is_named(networks: IQLNetworks, states: np.ndarray) -> None:
    """Fails if NaN of the critic silently recommends something."""
    with torch.no_grad():
        for head in networks.q.heads:
            head.weighted.linear.bias.fill_(torch.nan)
    with pytest.raises(UserError, match="'iql_ranked' gives scores that are not numbers"):
        ranked(networks).top_k(states, USERS, 2)

"""The seed project's own metrics: Q against what users answered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.errors import NoEvidenceError
from noetik_rllib.evaluation import q_correlation as module
from noetik_rllib.evaluation.q_correlation import Critic, q_correlation, score_figures
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.iql.reward import RewardDecomposition
from noetik_rllib.offline.dataset import OfflineDataset


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> OfflineDataset:
    return OfflineDataset(tiny_dataset)


@pytest.fixture(scope="module")
def networks(dataset: OfflineDataset) -> IQLNetworks:
    """Untrained networks with critics of every signal, for a reward with a negative weight."""
    sizes = NetworkConfig.for_dataset(dataset.manifest, embedding_size=16, num_layers=1)
    weights = RewardWeights(click=0.5, watch_ratio=0.5, hate=-2.0)
    reward = RewardDecomposition.fit(dataset.manifest.signals, weights)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return IQLNetworks(sizes, dataset.catalog, reward)


def test_q_is_in_units_of_the_reward(
    dataset: OfflineDataset, networks: IQLNetworks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q would be on a scale of its own, or of the twin that overrates."""
    rows = dataset.load("test", ("obs", "actions", "user_id"))
    with torch.no_grad():
        twins = networks.q(
            networks.features, torch.tensor(rows["obs"]), torch.tensor(rows["actions"])
        )
        value = networks.v(networks.features, torch.tensor(rows["obs"]))
    signs = torch.tensor(networks.reward.signs)
    weights = RewardWeights(click=0.5, watch_ratio=0.5, hate=-2.0)
    std = dataset.manifest.signals.reward_std(weights)
    expected = (twins @ signs).min(dim=0).values.numpy() * std
    critic = Critic(networks)
    found = critic.values(rows["obs"], rows["actions"])
    np.testing.assert_allclose(found.q, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.v, (value @ signs).numpy() * std, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(module, "CHUNK", 37)
    again = critic.score(rows["obs"], rows["user_id"], rows["actions"])
    np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-5)


def test_correlations_are_the_usual_ones() -> None:
    """A figure would not be Pearson's or Spearman's, or a fifth not a fifth."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(60), 10)
    score = rng.normal(size=600)
    answers = np.column_stack([0.3 * score + rng.normal(size=600) for _ in range(4)])
    answers[:, 1] = answers[:, 1] > 0
    answers[:, 3] = 1.0  # does not vary
    found = score_figures(score, answers, user, seed=0)
    for name, column in zip(("reward", "click", "watch_ratio"), answers.T, strict=False):
        assert found.pearson[name].mean == pytest.approx(np.corrcoef(score, column)[0, 1])
        assert found.spearman[name].mean == pytest.approx(spearmanr(score, column)[0])
        assert found.pearson[name].low < found.pearson[name].mean < found.pearson[name].high
    assert "long_view" not in found.pearson
    order = np.argsort(score)
    assert found.top_fifth.mean == pytest.approx(answers[order[-120:], 0].mean())
    assert found.bottom_fifth.mean == pytest.approx(answers[order[:120], 0].mean())
    assert found.difference.mean == pytest.approx(found.top_fifth.mean - found.bottom_fifth.mean)


def test_rows_of_one_user_are_no_independent_evidence() -> None:
    """Ten copies of every user's row would seem to say ten times as much."""
    rng = np.random.default_rng(1)
    score, answers = rng.normal(size=80), rng.normal(size=(80, 4))
    once = score_figures(score, answers, np.arange(80), seed=0).pearson["reward"]
    tenfold = score_figures(
        np.repeat(score, 10), np.repeat(answers, 10, axis=0), np.repeat(np.arange(80), 10), seed=0
    ).pearson["reward"]
    assert tenfold.low == pytest.approx(once.low)
    assert tenfold.high == pytest.approx(once.high)


def test_all_of_test_is_read(dataset: OfflineDataset, networks: IQLNetworks) -> None:
    """Only some users or some rows would be judged, or the progress bar would not fill."""
    shares: list[float] = []
    found = q_correlation(networks, dataset, RewardWeights(), 0, shares.append)
    assert found.rows == dataset.manifest.parts["test"].rows
    assert found.users == dataset.manifest.parts["test"].users
    assert shares[-1] == 1.0
    rows = dataset.load("test", ("obs", "actions", *SIGNALS))
    values = Critic(networks).values(rows["obs"], rows["actions"])
    reward = 0.5 * (rows["click"] + rows["watch_ratio"])
    assert found.q.pearson["reward"].mean == pytest.approx(
        np.corrcoef(values.q, reward)[0, 1], abs=1e-6
    )
    assert found.advantage.pearson["click"].mean == pytest.approx(
        np.corrcoef(values.q - values.v, rows["click"])[0, 1], abs=1e-6
    )
    assert found.mean_q == pytest.approx(values.q.mean(), rel=1e-5)


def test_a_critic_that_knows_nothing(dataset: OfflineDataset) -> None:
    """NaN would be written as a correlation, which no JSON reader takes."""
    sizes = NetworkConfig.for_dataset(dataset.manifest, embedding_size=16, num_layers=1)
    networks = IQLNetworks(sizes, dataset.catalog)
    with torch.no_grad():
        for parameter in networks.q.heads.parameters():
            parameter.zero_()
    with pytest.raises(NoEvidenceError, match="Q is the same on every row"):
        q_correlation(networks, dataset, RewardWeights(), seed=0)

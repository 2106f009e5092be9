"""Policies and the cloned baseline."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from noetik_rllib.envs.starts import load_starts
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.baseline_cache import cache_path, checksum
from noetik_rllib.evaluation.cloning import NAME, CloningConfig, behaviour_cloning
from noetik_rllib.evaluation.policies import (
    ActorPolicy,
    Policy,
    RandomPolicy,
    ScoringPolicy,
    popularity,
)
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.dataset import OfflineDataset
from tests.envs.planted import Planted

USERS = np.zeros(30, dtype=np.int64)
EFFORT = CloningConfig(steps=12, batch_size=64, learning_rate=1e-3)


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> OfflineDataset:
    return OfflineDataset(tiny_dataset)


@pytest.fixture(scope="module")
def sizes(dataset: OfflineDataset) -> NetworkConfig:
    return NetworkConfig.for_dataset(dataset.manifest, embedding_size=16, num_layers=1, num_heads=2)


@pytest.fixture(scope="module")
def states(dataset: OfflineDataset) -> np.ndarray:
    return load_starts(dataset, "test").states[:30]


def test_popularity_counts_clicks_in_train(dataset: OfflineDataset, states: np.ndarray) -> None:
    """The baseline would know the test part, or prefer what was shown to what was clicked."""
    rows = dataset.load("train", ("actions", "click"))
    clicks = [rows["click"][rows["actions"] == v].sum() for v in range(dataset.manifest.num_videos)]
    scores = popularity(dataset).score_all(states, USERS)
    assert scores.shape == (30, dataset.manifest.num_videos)
    np.testing.assert_array_equal(scores[0], np.array(clicks))
    assert (scores == scores[0]).all()
    scores[0] = -1  # the caller may change what it is given
    assert popularity(dataset).score_all(states, USERS)[0, 0] >= 0


def test_chance_is_uniform_and_seeded() -> None:
    """Chance would favour a video: 20,000 first choices among 5, each within 4.5 standard errors of
    a fifth (error below 1e-4).
    """
    many, users = np.zeros((20_000, 128), dtype=np.float32), np.zeros(20_000, dtype=np.int64)
    first = RandomPolicy(5, seed=1).score_all(many, users)
    share = np.bincount(first.argmax(1), minlength=5) / 20_000
    np.testing.assert_allclose(share, 0.2, atol=4.5 * np.sqrt(0.2 * 0.8 / 20_000))
    again = RandomPolicy(5, seed=1)
    np.testing.assert_array_equal(again.score_all(many, users), first)
    other = RandomPolicy(5, seed=2).score_all(many, users)
    assert (other != first).any()


def logits_of(policy: Policy, states: np.ndarray, num_videos: int) -> np.ndarray:
    """Every video's score in every state, (B, N), pair by pair."""
    users = np.zeros(len(states), dtype=np.int64)
    columns = [policy.score(states, users, np.full(len(states), v)) for v in range(num_videos)]
    return np.stack(columns, axis=1)


def test_actor_scores_are_its_logits(
    dataset: OfflineDataset,
    sizes: NetworkConfig,
    states: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another policy than the trained one would be judged, or another one per batch size; or one
    that shows a video twice.
    """
    networks = IQLNetworks(sizes, dataset.catalog).eval()
    with torch.no_grad():
        expected = networks.actor(networks.features, torch.tensor(states)).numpy()
    num_videos = expected.shape[1]
    order = np.argsort(-expected, axis=1)
    policy = ActorPolicy.of(networks)
    for chunk in (2_048, 7):
        monkeypatch.setattr("noetik_rllib.evaluation.policies.ACTOR_CHUNK", chunk)
        logits = logits_of(policy, states, num_videos)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(policy.top_k(states, USERS, 4), order[:, :4])
        np.testing.assert_array_equal(
            policy.recommend(states, USERS, np.empty((30, 0), np.int64)), order[:, 0]
        )
        np.testing.assert_array_equal(policy.recommend(states, USERS, order[:, :3]), order[:, 3])


def test_policies_that_score_everything_agree_with_themselves(
    states: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is shown would not be what is scored highest, or depend on how much fits in memory;
    equal scores would go to another video than the first.
    """
    scores = np.random.default_rng(0).integers(4, size=(30, 9)).astype(np.float32)

    class Table(ScoringPolicy):
        def score_all(self, states: np.ndarray, user_id: np.ndarray) -> np.ndarray:
            return scores[user_id]

    users, policy = np.arange(30), Table("table", 9)
    order = np.argsort(-scores, axis=1, kind="stable")
    videos = np.arange(30) % 9
    for limit in (20_000_000, 9 * 7):
        monkeypatch.setattr("noetik_rllib.evaluation.policies.SCORES_AT_A_TIME", limit)
        np.testing.assert_array_equal(policy.top_k(states, users, 5), order[:, :5])
        np.testing.assert_array_equal(policy.recommend(states, users, order[:, :2]), order[:, 2])
        np.testing.assert_array_equal(policy.score(states, users, videos), scores[users, videos])


def test_diverged_policy_is_named(
    dataset: OfflineDataset, sizes: NetworkConfig, states: np.ndarray
) -> None:
    """NaN scores would recommend video 0 to everybody and look like a policy."""
    networks = IQLNetworks(sizes, dataset.catalog)
    with torch.no_grad():
        networks.actor.query.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="'iql' gives scores that are not numbers"):
        ActorPolicy.of(networks).score(states, USERS, USERS)
    with pytest.raises(UserError, match="'iql' gives scores that are not numbers"):
        ActorPolicy.of(networks).top_k(states, USERS, 2)


def clone_logits(
    states: np.ndarray,
    dataset: OfflineDataset,
    sizes: NetworkConfig,
    effort: CloningConfig,
    run: Path,
) -> np.ndarray:
    """Logits of the cloned policy, (B, N)."""
    policy = behaviour_cloning(dataset, sizes, effort, run)
    return logits_of(policy, states, dataset.manifest.num_videos)


@pytest.mark.parametrize("exact_softmax_videos", [10_000, 0], ids=["exact", "sampled"])
def test_cloning_learns_the_log(world: Planted, tmp_path: Path, exact_softmax_videos: int) -> None:
    """The baseline would be a straw man: the videos that other users than its own were shown must
    be likelier to it than to the popularity of train, which knows no user. The gain is 0.2 nats;
    over 4,633 rows its standard error is below 0.02. Of a large catalogue, the likelihood that it
    is trained on is estimated from few videos.
    """
    train = world.dataset.load("train", ["actions"])["actions"]
    rows = world.dataset.load("judge", ("obs", "actions"))
    videos = torch.tensor(rows["actions"])
    sizes = NetworkConfig.for_dataset(
        world.dataset.manifest,
        embedding_size=16,
        num_layers=1,
        exact_softmax_videos=exact_softmax_videos,
        num_negatives=20,
    )
    effort = CloningConfig(steps=150, batch_size=128, learning_rate=3e-3)
    shares: list[float] = []
    policy = behaviour_cloning(world.dataset, sizes, effort, tmp_path, shares.append)
    loss = torch.nn.functional.cross_entropy(
        torch.tensor(logits_of(policy, rows["obs"], 60)), videos
    )
    popularity = torch.tensor(np.log((np.bincount(train, minlength=60) + 1) / (len(train) + 60)))
    assert loss < -popularity[videos].mean() - 0.1
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_random_exposures_are_not_cloned(mixed_dataset: Path, tmp_path: Path) -> None:
    """The clone would learn when the log experimented: which videos were drawn at random in
    ``train`` must not move a weight, though one that was chosen does.
    """
    sizes = NetworkConfig.for_dataset(
        OfflineDataset(mixed_dataset).manifest, embedding_size=16, num_layers=1, num_heads=2
    )

    def logits(name: str, changed: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        folder = Path(shutil.copytree(mixed_dataset, tmp_path / name))
        for path in (folder / "train").iterdir():
            table = pq.read_table(path)
            actions = table["actions"].to_numpy()
            rows = changed(table["propensity"].to_numpy())
            place = table.schema.get_field_index("actions")
            actions = np.where(rows, (actions + 1) % sizes.num_videos, actions)
            pq.write_table(table.set_column(place, "actions", pa.array(actions)), path)
        dataset = OfflineDataset(folder)
        states = dataset.load("test", ("obs",))["obs"][:30]
        return clone_logits(states, dataset, sizes, EFFORT, tmp_path / f"run-{name}")

    as_it_is = logits("same", lambda propensity: np.zeros(len(propensity), bool))
    random_changed = logits("random", lambda propensity: ~np.isnan(propensity))
    chosen_changed = logits("chosen", np.isnan)
    np.testing.assert_array_equal(random_changed, as_it_is)
    assert (chosen_changed != as_it_is).any()

    nothing = Path(shutil.copytree(mixed_dataset, tmp_path / "nothing"))
    for path in (nothing / "train").iterdir():
        table = pq.read_table(path)
        pq.write_table(table.filter(~np.isnan(table["propensity"].to_numpy())), path)
    with pytest.raises(UserError, match="random exposures alone: there is nothing to clone"):
        behaviour_cloning(OfflineDataset(nothing), sizes, EFFORT, tmp_path / "run-nothing")


def test_clone_is_kept_and_is_the_same(
    dataset: OfflineDataset, sizes: NetworkConfig, states: np.ndarray, tmp_path: Path
) -> None:
    """Every evaluation would train it again, or compare with another baseline each time."""
    first = clone_logits(states, dataset, sizes, EFFORT, tmp_path)
    file = cache_path(tmp_path, NAME)
    whole = file.read_bytes()
    np.testing.assert_array_equal(clone_logits(states, dataset, sizes, EFFORT, tmp_path), first)
    assert file.read_bytes() == whole
    # It is the file that is used: with other weights under the same key, other scores.
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    weights = {name: torch.zeros_like(tensor) for name, tensor in load_file(file).items()}
    save_file(weights, file, metadata=metadata | {"checksum": checksum(weights)})
    assert not clone_logits(states, dataset, sizes, EFFORT, tmp_path).any()
    # Trained again elsewhere, it is the same again.
    elsewhere = clone_logits(states, dataset, sizes, EFFORT, tmp_path / "other")
    np.testing.assert_array_equal(elsewhere, first)


def test_a_changed_clone_is_made_again(
    dataset: OfflineDataset, sizes: NetworkConfig, states: np.ndarray, tmp_path: Path
) -> None:
    """Weights that a bad disk, or somebody, has changed would be compared with."""
    first = clone_logits(states, dataset, sizes, EFFORT, tmp_path)
    file = cache_path(tmp_path, NAME)
    content = bytearray(file.read_bytes())
    content[-4_000:] = bytes(4_000)
    file.write_bytes(content)
    np.testing.assert_array_equal(clone_logits(states, dataset, sizes, EFFORT, tmp_path), first)


def test_clone_is_never_stale(
    dataset: OfflineDataset, sizes: NetworkConfig, states: np.ndarray, tmp_path: Path
) -> None:
    """A run trained anew, on other data or for longer, would be compared with its old baseline."""
    run = tmp_path / "run"
    first = clone_logits(states, dataset, sizes, EFFORT, run)
    for change in ({"steps": 13}, {"batch_size": 65}, {"learning_rate": 2e-3}, {"seed": 1}):
        effort = EFFORT.model_copy(update=change)
        assert (clone_logits(states, dataset, sizes, effort, run) != first).any(), change
    wider = sizes.model_copy(update={"embedding_size": 24})
    assert (clone_logits(states, dataset, wider, EFFORT, run) != first).any()

    shutil.copytree(dataset.directory, tmp_path / "dataset")
    manifest = tmp_path / "dataset" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 9'))
    before = cache_path(run, NAME).read_bytes()
    behaviour_cloning(OfflineDataset(tmp_path / "dataset"), wider, EFFORT, run)
    assert cache_path(run, NAME).read_bytes() != before


def test_damaged_clone_is_trained_again(
    dataset: OfflineDataset, sizes: NetworkConfig, states: np.ndarray, tmp_path: Path
) -> None:
    """A process killed long ago would make every evaluation fail."""
    first = clone_logits(states, dataset, sizes, EFFORT, tmp_path)
    file = cache_path(tmp_path, NAME)
    file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_array_equal(clone_logits(states, dataset, sizes, EFFORT, tmp_path), first)


def test_schedule_of_step_sizes_is_the_runs() -> None:
    """The clone would be trained with another step size than the run."""
    effort = CloningConfig(steps=1, batch_size=1, learning_rate=[(0, 1e-3), (100, 1e-4)])
    rates = [effort.learning_rate_at(rows) for rows in (0, 50, 100, 1_000)]
    assert rates == pytest.approx([1e-3, 5.5e-4, 1e-4, 1e-4])
    assert EFFORT.learning_rate_at(10**9) == 1e-3

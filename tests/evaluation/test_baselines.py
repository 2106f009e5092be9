"""Baselines that a user model makes, and where all baselines are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from noetik_rllib.data.signals import RewardWeights
from noetik_rllib.envs.response_fit import fit_response_model
from noetik_rllib.envs.simulator import Simulator
from noetik_rllib.envs.starts import load_starts
from noetik_rllib.evaluation import baselines
from noetik_rllib.evaluation.baseline_cache import Kept, cache_path, kept
from noetik_rllib.evaluation.baselines import (
    CyclePolicy,
    GreedyPolicy,
    best_cycle,
    best_rewarded,
    greedy,
    user_model,
)
from noetik_rllib.evaluation.policies import popularity
from noetik_rllib.evaluation.sessions import SessionStarts, run_sessions
from noetik_rllib.offline.dataset import OfflineDataset
from tests.envs.planted import Planted

REWARD = RewardWeights()
NOTHING = np.empty((0, 0), dtype=np.int64)


@pytest.fixture(scope="module")
def starts(world: Planted) -> SessionStarts:
    """Sessions of users whom no policy was made for."""
    held_out = world.dataset.users.user_id[world.dataset.users.held_out]
    return SessionStarts.draw(load_starts(world.dataset, "test", held_out), 60, [0])


def test_greedy_shows_what_its_model_likes_best(world: Planted, starts: SessionStarts) -> None:
    """Another policy than the greedy one would be called that, or it would show a video twice."""
    policy = GreedyPolicy(world.model, RewardWeights(like=2.0))
    states, users = starts.states, starts.user_id
    scores = world.model.reward_matrix(states, RewardWeights(like=2.0), users)
    np.testing.assert_allclose(policy.score_all(states, users), scores, rtol=1e-5)
    shown = np.empty((len(states), 0), dtype=np.int64)
    for _ in range(4):
        chosen = policy.recommend(states, users, shown)
        np.testing.assert_array_equal(chosen, scores.argmax(axis=1))
        scores[np.arange(len(scores)), chosen] = -np.inf
        shown = np.concatenate([shown, chosen[:, None]], axis=1)
    np.testing.assert_array_equal(policy.top_k(states, users, 4), shown)
    # Of one video each, the pair's own expectation: a rounding away from the matrix's.
    pairs = policy.score(states, users, chosen)
    best = policy.score_all(states, users)[np.arange(len(chosen)), chosen]
    np.testing.assert_allclose(pairs, best, atol=1e-5)


def test_candidates_hold_the_best_video(
    world: Planted, starts: SessionStarts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The greedy baseline would be weakened by its shortcut: in sessions of users that it was not
    made for, the candidates must hold the best video in at least 99 of 100 states.
    """
    monkeypatch.setattr(baselines, "CANDIDATE_SESSIONS", 60)
    monkeypatch.setattr(baselines, "CANDIDATE_DEPTH", 8)
    policy = greedy(world.model, world.dataset, REWARD, tmp_path)
    assert 8 < len(policy.candidates) < world.model.num_videos
    missed = []

    class Compared(GreedyPolicy):
        def recommend(
            self, states: np.ndarray, user_id: np.ndarray, shown: np.ndarray
        ) -> np.ndarray:
            best = super().recommend(states, user_id, shown)
            missed.append(best != policy.recommend(states, user_id, shown))
            return best

    simulator = Simulator.for_dataset(world.dataset, world.model)
    run_sessions(Compared(world.model, REWARD), simulator, starts, steps=10)
    assert np.mean(missed) <= 0.01


def test_what_was_shown_may_be_no_candidate(world: Planted, starts: SessionStarts) -> None:
    """The last candidate would be held back in place of a shown video that is none."""
    policy = GreedyPolicy(world.model, REWARD, np.array([7, 3]))
    states, users = starts.states, starts.user_id
    ours = policy.score_all(states, users)[:, [7, 3]]
    expected = np.array([7, 3])[ours.argmax(axis=1)]
    strangers = np.tile([0, 59, 4], (len(states), 1))
    np.testing.assert_array_equal(policy.recommend(states, users, strangers), expected)
    without = np.full((len(states), 1), 3)
    assert (policy.recommend(states, users, without) == 7).all()


def test_the_list_is_what_would_be_shown(world: Planted, starts: SessionStarts) -> None:
    """Fitted Q evaluation and sessions would be of two policies; or a short list would fail."""
    policy = GreedyPolicy(world.model, REWARD, np.array([3, 7, 20]))
    states, users = starts.states, starts.user_id
    listed = policy.top_k(states, users, 3)
    for place in range(3):
        shown = policy.recommend(states, users, listed[:, :place])
        np.testing.assert_array_equal(listed[:, place], shown)
    everything = GreedyPolicy(world.model, REWARD)
    np.testing.assert_array_equal(
        policy.top_k(states, users, 4), everything.top_k(states, users, 4)
    )


def test_cycle_repeats_after_its_last_video(world: Planted, starts: SessionStarts) -> None:
    """The published behaviour, few videos for everybody in turn, would not be what is compared."""
    policy = CyclePolicy(np.array([5, 1, 9]), np.linspace(0, 1, 60))
    simulator = Simulator.for_dataset(world.dataset, world.model)
    log = run_sessions(policy, simulator, starts, steps=8)
    assert (log.videos == [5, 1, 9, 5, 1, 9, 5, 1]).all()
    states, users = starts.states[:2], starts.user_id[:2]
    np.testing.assert_array_equal(policy.top_k(states, users, 5), [[5, 1, 9, 59, 58]] * 2)


def test_best_cycle_beats_popularity_where_it_was_found(
    world: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A straw man would be compared: on its own model and users, the best cycle must beat the six
    most popular videos and the six of the highest expected reward.
    """
    monkeypatch.setattr(baselines, "CYCLE_SESSIONS", 150)
    monkeypatch.setattr(baselines, "CYCLE_CHANGES", 6)
    cycle = best_cycle(world.model, world.dataset, REWARD, tmp_path)
    assert len(np.unique(cycle.videos)) == len(cycle.videos) == 6
    simulator = Simulator.for_dataset(world.dataset, world.model)
    starts = SessionStarts.draw(load_starts(world.dataset, "train"), 150, [9])

    def value(policy: CyclePolicy) -> float:
        log = run_sessions(policy, simulator, starts, steps=10)
        return float(log.signals.mean(axis=(0, 1)) @ REWARD.as_array())

    popular = popularity(world.dataset).top_k(starts.states[:1], starts.user_id[:1], 6)[0]
    expected = cycle.score(starts.states[:60], starts.user_id[:60], np.arange(60))
    dear = np.argsort(-expected)[6:12]  # behind the cycle's own, which rank first
    assert value(cycle) > value(CyclePolicy(popular, expected)) + 0.02
    assert value(cycle) > value(CyclePolicy(dear, expected))


def test_best_rewarded_is_the_mean_of_the_log(tiny_dataset: Path) -> None:
    """A video that was shown once and clicked would be the best, or another reward be meant."""
    dataset, weights = OfflineDataset(tiny_dataset), RewardWeights(click=1, watch_ratio=0, like=2)
    rows = dataset.load("train", ("actions", "click", "like"))
    reward = rows["click"] + 2 * rows["like"]
    policy = best_rewarded(dataset, weights)
    states, users = np.zeros((3, 128), dtype=np.float32), np.zeros(3, dtype=np.int64)
    for video in (0, 5, 11):
        own = reward[rows["actions"] == video]
        expected = (own.sum() + 50 * reward.mean()) / (len(own) + 50)
        assert policy.score_all(states, users)[0, video] == pytest.approx(expected, rel=1e-5)


def test_user_model_is_the_training_simulators(tiny_dataset: Path, tmp_path: Path) -> None:
    """Baselines would be made on other rows than ``train``, or on a model that the file garbled."""
    dataset = OfflineDataset(tiny_dataset)
    expected = fit_response_model(dataset, "train")
    for _ in range(2):  # fitted, then read
        model = user_model(dataset, tmp_path)
        assert model.record == expected.record
        for name, tensor in expected.network.state_dict().items():
            assert torch.equal(model.network.state_dict()[name], tensor), name
    assert user_model(dataset, tmp_path, seed=1).record.seed == 1


def test_baselines_are_kept_and_never_stale(
    world: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each evaluation would search again, or a run would meet the baselines of another reward."""
    for name in ("CANDIDATE_SESSIONS", "CYCLE_SESSIONS"):
        monkeypatch.setattr(baselines, name, 10)
    for name in ("CYCLE_BEGINNINGS", "CYCLE_CHANGES"):
        monkeypatch.setattr(baselines, name, 2)
    made = {greedy: "greedy", best_cycle: "best_cycle"}
    for make, name in made.items():
        make(world.model, world.dataset, REWARD, tmp_path)
        file = cache_path(tmp_path, name)
        first = file.stat()
        make(world.model, world.dataset, REWARD, tmp_path)
        assert file.stat() == first
        for change in ({"weights": RewardWeights(like=1.0)}, {"seed": 1}):
            settings = {"weights": REWARD, "seed": 0} | change
            make(world.model, world.dataset, run_directory=tmp_path, **settings)
            assert file.stat() != first
            first = file.stat()


def test_kept_tensors_are_found_by_all_they_follow_from(tmp_path: Path) -> None:
    """A baseline would be stale, or a file that a killed process damaged would stop evaluation."""
    made = []

    def make() -> Kept:
        made.append(1)
        return Kept({"x": torch.arange(3.0).expand(2, 3)}, "how to read it")

    for _ in range(2):
        tensors, note = kept(tmp_path, "x", {"a": [1, 2.0]}, make)
        assert tensors["x"].tolist() == [[0, 1, 2]] * 2
        assert note == "how to read it"
    assert len(made) == 1
    kept(tmp_path, "x", {"a": [1, 2.5]}, make)
    assert len(made) == 2
    file = cache_path(tmp_path, "x")
    for damaged in (file.read_bytes()[:20], file.read_bytes()[:-1], b""):
        file.write_bytes(damaged)
        assert kept(tmp_path, "x", {"a": [1, 2.5]}, make).tensors["x"].shape == (2, 3)
    assert len(made) == 5
    kept(tmp_path, "x", {"a": [1, 2.5]}, make)
    assert len(made) == 5

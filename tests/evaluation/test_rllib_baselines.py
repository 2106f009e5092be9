"""RLlib's own algorithms as baselines: what they are trained with, and what becomes of them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.algorithms.bc import BCConfig
from ray.rllib.algorithms.marwil import MARWILConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from noetik_rllib.data.signals import RewardWeights
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.baseline_cache import cache_path
from noetik_rllib.evaluation.rllib_baselines import (
    MLPPolicy,
    RLlibAlgorithm,
    RLlibEffort,
    learner_rows,
    make_learner,
    rllib_baseline,
)
from noetik_rllib.offline.dataset import OfflineDataset
from tests.envs.planted import Planted

ALGORITHMS: tuple[RLlibAlgorithm, ...] = ("bc", "marwil", "cql")
EFFORT = RLlibEffort(steps=6, batch_size=64, gamma=0.9)


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> OfflineDataset:
    return OfflineDataset(tiny_dataset)


def one_batch(
    dataset: OfflineDataset, effort: RLlibEffort, imitate: bool = False
) -> dict[str, torch.Tensor]:
    """Columns of a batch, as the learners get them."""
    rows = learner_rows(dataset, effort, imitate)
    batch = next(rows.iter_torch_batches(batch_size=effort.batch_size))
    return {name.removeprefix("default_policy/"): column for name, column in batch.items()}


def of_module(batch: dict[str, torch.Tensor]) -> MultiAgentBatch:
    module = SampleBatch({name: column.clone() for name, column in batch.items()})
    return MultiAgentBatch({DEFAULT_MODULE_ID: module}, env_steps=len(module))


def loss_of(learner: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of one batch, before any step."""
    columns = of_module(batch).policy_batches
    output = learner.module.forward_train(columns)
    loss: torch.Tensor = learner.compute_losses(fwd_out=output, batch=columns)[DEFAULT_MODULE_ID]
    return loss


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_policy_is_the_trained_module(algorithm: RLlibAlgorithm, dataset: OfflineDataset) -> None:
    """The layers would be taken from the wrong place or in the wrong order, and another policy than
    RLlib's be judged.
    """
    from noetik_rllib.evaluation.rllib_baselines import _weights

    rows = learner_rows(dataset, EFFORT, imitate=algorithm != "cql")
    learner = make_learner(algorithm, dataset, EFFORT)
    policy = MLPPolicy("x", _weights(learner) | {"mean": rows.mean, "std": rows.std})
    raw = dataset.load("train", ("obs",))["obs"][:20]
    states = torch.tensor(raw)
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    with torch.no_grad():
        batch = {Columns.OBS: (states - rows.mean) / rows.std}
        if algorithm == "cql":
            expected = module.compute_q_values(batch)["qf_preds"]
        else:
            expected = module.forward_inference(batch)[Columns.ACTION_DIST_INPUTS]
    np.testing.assert_allclose(
        policy.score_all(raw, np.zeros(20, dtype=np.int64)), expected.numpy(), atol=1e-5
    )


def test_rows_are_the_logs_own(dataset: OfflineDataset) -> None:
    """RLlib would learn from other rewards than the run, or from states that it cannot read."""
    effort = EFFORT.model_copy(update={"reward": RewardWeights(like=4.0), "batch_size": 600})
    batch = one_batch(dataset, effort)
    raw = dataset.load("train", ("obs", "actions", "click", "watch_ratio", "like", "terminateds"))
    rewards = 0.5 * (raw["click"] + raw["watch_ratio"]) + 4 * raw["like"]
    std = dataset.manifest.signals.reward_std(effort.reward)
    # Rows are found again by what only they have: their standardised state.
    rows = learner_rows(dataset, effort, imitate=False)
    known = ((torch.tensor(raw["obs"]) - rows.mean) / rows.std).double() @ torch.arange(
        128.0
    ).double()
    asked = batch[Columns.OBS].double() @ torch.arange(128.0).double()
    place = np.abs(known.numpy()[None] - asked.numpy()[:50, None]).argmin(axis=1)
    np.testing.assert_array_equal(batch[Columns.ACTIONS][:50], raw["actions"][place])
    np.testing.assert_allclose(batch[Columns.REWARDS][:50], rewards[place] / std, rtol=1e-4)
    np.testing.assert_array_equal(batch[Columns.TERMINATEDS][:50], raw["terminateds"][place])
    assert batch[Columns.OBS].mean(0).abs().max() < 0.25
    assert batch[Columns.OBS].std(0).max() < 2


@pytest.mark.parametrize("imitate", [True, False])
def test_only_what_was_chosen_is_imitated(imitate: bool, mixed_dataset: Path) -> None:
    """BC and MARWIL would learn when the log experimented, or lose rows of its own policy; or CQL
    would lose the only videos that were shown for no reason; or a batch would be short, or empty,
    which RLlib's MARWIL never recovers from. An epoch in batches of two rows tells.
    """
    dataset = OfflineDataset(mixed_dataset)
    effort = EFFORT.model_copy(update={"batch_size": 2})
    raw = dataset.load("train", ("obs", "actions", "propensity"))
    kept = np.isnan(raw["propensity"]) | (not imitate)
    assert 0 < np.isnan(raw["propensity"]).sum() < len(kept)
    rows = learner_rows(dataset, effort, imitate)
    # The epoch's last, short batch is dropped, with at most two rows of these.
    count = int(kept.sum()) // 2 - 1
    batches = list(islice(rows.iter_torch_batches(batch_size=2), count))
    assert {len(column) for batch in batches for column in batch.values()} == {2}
    drawn = {
        name: torch.cat([batch[f"{DEFAULT_MODULE_ID}/{name}"] for batch in batches]).numpy()
        for name in (Columns.ACTIONS, Columns.OBS)
    }
    states = ((torch.tensor(raw["obs"][kept]) - rows.mean) / rows.std).numpy()

    def counted(actions: np.ndarray, states: np.ndarray) -> Counter[bytes]:
        pairs = np.column_stack([actions, states]).astype(np.float32)
        return Counter(pair.tobytes() for pair in pairs)

    missing = counted(raw["actions"][kept], states)
    missing.subtract(counted(drawn[Columns.ACTIONS], drawn[Columns.OBS]))
    assert min(missing.values()) == 0, "a row that is not there, or one drawn twice"
    assert sum(missing.values()) == kept.sum() - 2 * count


@pytest.mark.parametrize("algorithm", ["bc", "marwil"])
def test_loss_is_that_of_rllibs_own_pipeline(
    algorithm: RLlibAlgorithm, dataset: OfflineDataset
) -> None:
    """What is called RLlib's would not be: on the same rows and weights, the stock learner, fed
    with episodes through its own connectors, must find the same loss.
    """
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode

    effort = EFFORT.model_copy(update={"batch_size": 200})
    batch = one_batch(dataset, effort)
    ours = make_learner(algorithm, dataset, effort)
    size = dataset.layout.size
    space = (
        gym.spaces.Box(-np.inf, np.inf, (size,)),
        gym.spaces.Discrete(dataset.manifest.num_videos),
    )
    config = ours.config.copy(copy_frozen=False)
    stock_class = (BCConfig if algorithm == "bc" else MARWILConfig)().get_default_learner_class()
    config.training(learner_class=stock_class).environment(
        observation_space=space[0], action_space=space[1]
    )
    stock = config.build_learner(spaces={DEFAULT_MODULE_ID: space})
    stock.module.set_state(ours.module.get_state())
    episodes = []
    for row in range(effort.batch_size):
        done = bool(batch[Columns.TERMINATEDS][row])
        episode = SingleAgentEpisode(
            observations=[batch[Columns.OBS][row].numpy(), batch[Columns.NEXT_OBS][row].numpy()],
            actions=[int(batch[Columns.ACTIONS][row])],
            rewards=[float(batch[Columns.REWARDS][row])],
            terminated=done,
            truncated=not done,
            observation_space=space[0],
            action_space=space[1],
            len_lookback_buffer=0,
        )
        episodes.append(episode.to_numpy())
    made = stock._make_batch_if_necessary(training_data=TrainingData(episodes=episodes))
    theirs = made.policy_batches
    output = stock.module.forward_train(theirs)
    expected = stock.compute_losses(fwd_out=output, batch=theirs)[DEFAULT_MODULE_ID]
    assert loss_of(ours, batch).item() == pytest.approx(expected.item(), rel=1e-4)
    assert 0 < batch[Columns.TERMINATEDS].sum() < effort.batch_size


def test_penalty_is_cqls(dataset: OfflineDataset) -> None:
    """The conservative term would have the wrong sign or weight: to DQN's own loss, it must add
    alpha x mean(logsumexp Q - Q of the log), computed here by hand.
    """
    batch = one_batch(dataset, EFFORT)
    losses = {}
    for alpha in (0.0, 2.0):
        learner = make_learner("cql", dataset, EFFORT.model_copy(update={"cql_alpha": alpha}))
        losses[alpha] = loss_of(learner, batch).item()
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    with torch.no_grad():
        q = module.compute_q_values({Columns.OBS: batch[Columns.OBS]})["qf_preds"].numpy()
    logged = q[np.arange(len(q)), batch[Columns.ACTIONS].numpy()]
    penalty = (np.log(np.exp(q.astype(float)).sum(axis=1)) - logged).mean()
    assert losses[2.0] - losses[0.0] == pytest.approx(2 * penalty, rel=1e-4)


def test_target_network_follows_every_step(dataset: OfflineDataset) -> None:
    """RLlib moves targets once per ``update()``: 50 steps would then count as one."""
    effort = EFFORT.model_copy(update={"target_polyak": 1.0})
    rows = learner_rows(dataset, effort, imitate=False)
    learner = make_learner("cql", dataset, effort)
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    (online, target), *_ = module.get_target_network_pairs()
    moved = []
    step = learner.apply_gradients

    class Watched(type(learner)):  # type: ignore[misc]
        def apply_gradients(self, gradients_dict: Any) -> None:
            step(gradients_dict)
            pairs = zip(online.parameters(), target.parameters(), strict=True)
            moved.append(all(torch.equal(a, b) for a, b in pairs))

    learner.__class__ = Watched
    learner.update(
        training_data=TrainingData(data_iterators=[rows]),
        minibatch_size=effort.batch_size,
        num_iters=3,
        timesteps={},
    )
    assert moved == [True] * 3


def test_rllibs_cloning_imitates_the_log(world: Planted, tmp_path: Path) -> None:
    """The baseline would be a straw man: what the log shows its users later must be likelier to it
    than to the popularity of train. The gain is 0.24 nats; over 2,256 rows its standard error is
    0.02. Of users whom it never met it knows less than that, in a log of 144 users: its network
    has nothing but the state.
    """
    dataset = world.dataset
    rows = dataset.load("test", ("obs", "actions", "user_id"))
    own = ~np.isin(rows["user_id"], dataset.users.user_id[dataset.users.held_out])
    train = dataset.load("train", ["actions"])["actions"]
    effort = RLlibEffort(steps=150, batch_size=128, gamma=0.9)
    shares: list[float] = []
    policy = rllib_baseline("bc", dataset, effort, tmp_path, shares.append)
    scores = torch.tensor(policy.score_all(rows["obs"][own], rows["user_id"][own]))
    videos = torch.tensor(rows["actions"][own])
    loss = torch.nn.functional.cross_entropy(scores, videos)
    popularity = torch.tensor(np.log((np.bincount(train, minlength=60) + 1) / (len(train) + 60)))
    assert loss < -popularity[videos].mean() - 0.1
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_kept_by_all_that_it_follows_from(
    algorithm: RLlibAlgorithm, dataset: OfflineDataset, tmp_path: Path
) -> None:
    """Each evaluation would train again, or a longer run meet the baseline of a shorter one."""
    states = dataset.load("train", ("obs",))["obs"][:5]
    users = np.zeros(5, dtype=np.int64)

    def scores(effort: RLlibEffort, folder: Path) -> np.ndarray:
        return rllib_baseline(algorithm, dataset, effort, folder).score_all(states, users)

    first = scores(EFFORT, tmp_path)
    file = cache_path(tmp_path, f"rllib_{algorithm}")
    before = file.stat()
    np.testing.assert_array_equal(scores(EFFORT, tmp_path), first)
    assert file.stat() == before
    np.testing.assert_array_equal(scores(EFFORT, tmp_path / "elsewhere"), first)
    assert (scores(EFFORT.model_copy(update={"steps": 7}), tmp_path) != first).any()


def test_kept_policies_need_no_ray(dataset: OfflineDataset, tmp_path: Path) -> None:
    """Evaluation would load Ray for a network of three layers."""
    rllib_baseline("bc", dataset, EFFORT, tmp_path)
    code = (
        "import sys, pathlib\n"
        "from noetik_rllib.evaluation.rllib_baselines import RLlibEffort, rllib_baseline\n"
        "from noetik_rllib.offline.dataset import OfflineDataset\n"
        f"data, run = OfflineDataset({str(dataset.directory)!r}), pathlib.Path({str(tmp_path)!r})\n"
        f"rllib_baseline('bc', data, RLlibEffort.model_validate({EFFORT.model_dump()!r}), run)\n"
        "assert 'ray' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_diverged_network_is_named() -> None:
    """Scores that are no numbers would recommend the same video to everybody."""
    tensors = {
        "0.weight": torch.full((3, 2), torch.nan),
        "0.bias": torch.zeros(3),
        "mean": torch.zeros(2),
        "std": torch.ones(2),
    }
    policy = MLPPolicy("rllib_bc", tensors)
    with pytest.raises(UserError, match="'rllib_bc' gives scores that are not numbers"):
        policy.score_all(np.zeros((1, 2), dtype=np.float32), np.zeros(1, dtype=np.int64))

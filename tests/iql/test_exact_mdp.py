"""The whole algorithm against dynamic programming, on small MDPs whose answers are exact.

The log holds every (state, action, next state) exactly as often as behaviour policy and transition
probabilities ask for, and each batch is the whole log: what is left of a difference is the
algorithm's, not chance's.
"""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ray.rllib.core.columns import Columns

from noetik_rllib.iql.config import DiscreteIQLConfig

pytestmark = pytest.mark.usefixtures("ray_session")

STATES, ACTIONS, GAMMA = 6, 3, 0.9
#: Successors of a state and action, equally likely; state number STATES is the end.
SUCCESSORS = 4


class RandomMDP:
    """Random rewards in [0, 1], transitions and behaviour policy, all in whole counts.

    Attributes:
        rewards: (states, actions).
        after: successors, (states, actions, SUCCESSORS).
        counts: how often behaviour takes an action, in eighths, 1 or more, (states, actions).
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.rewards = rng.random((STATES, ACTIONS))
        self.after = rng.integers(STATES + 1, size=(STATES, ACTIONS, SUCCESSORS))
        self.counts = 1 + rng.multinomial(8 - ACTIONS, np.full(ACTIONS, 1 / ACTIONS), size=STATES)

    @property
    def behaviour(self) -> np.ndarray:
        """Probabilities (states, actions)."""
        return self.counts / 8

    def q(self, v: np.ndarray) -> np.ndarray:
        """Q (states, actions) where the next state's value is v (states,)."""
        return self.rewards + GAMMA * np.append(v, 0.0)[self.after].mean(axis=-1)

    def values(self, policy: np.ndarray) -> np.ndarray:
        """Exact V (states,) of a policy (states, actions)."""
        rewards = (policy * self.rewards).sum(axis=1)
        arrive = np.stack([(self.after == state).mean(axis=-1) for state in range(STATES)], axis=-1)
        moves = np.einsum("sa,sat->st", policy, arrive)
        return np.linalg.solve(np.eye(STATES) - GAMMA * moves, rewards)

    def optimal(self) -> np.ndarray:
        """V* (states,), by policy iteration."""
        policy = self.behaviour
        while True:
            better = np.eye(ACTIONS)[self.q(self.values(policy)).argmax(axis=1)]
            if np.array_equal(better, policy):
                return self.values(policy)
            policy = better

    def expectile_values(self, expectile: float) -> np.ndarray:
        """Exact V (states,) of IQL: the expectile of Q over behaviour's actions."""
        v = np.zeros(STATES)
        while True:
            q, old = self.q(v), v
            weights = self.behaviour * np.abs(expectile - (q < v[:, None]))
            v = (weights * q).sum(axis=1) / weights.sum(axis=1)
            if np.abs(v - old).max() < 1e-9:
                return v

    def write(self, folder: Path) -> int:
        """Write the log as RLlib's Parquet; return its number of rows."""
        state, action, place = np.indices(self.after.shape).reshape(3, -1)
        often = self.counts[state, action]
        state, action, place = (np.repeat(index, often) for index in (state, action, place))
        after = self.after[state, action, place]
        columns = {
            "obs": state,
            "actions": action,
            "rewards": self.rewards[state, action],
            "new_obs": np.where(after == STATES, 0, after),  # an end's next state is never read
            "terminateds": after == STATES,
            "truncateds": np.zeros(len(state), dtype=bool),
        }
        folder.mkdir()
        pq.write_table(pa.table(columns), folder / "rows.parquet")
        return len(state)


def train(mdp: RandomMDP, folder: Path, expectile: float, seed: int) -> tuple[np.ndarray, ...]:
    """Train; return V (states,) and the policy's best action (states,)."""
    rows = mdp.write(folder)
    algorithm = (
        DiscreteIQLConfig()
        .environment(
            observation_space=gym.spaces.Discrete(STATES),
            action_space=gym.spaces.Discrete(ACTIONS),
        )
        .offline_data(input_=[str(folder)], dataset_num_iters_per_learner=1000)
        .training(
            expectile=expectile,
            beta=50.0,  # rewards are left as they are, and actions differ by some 0.1
            gamma=GAMMA,
            normalise_reward=False,
            train_batch_size_per_learner=rows,
            target_polyak=0.1,
            actor_lr=3e-3,
            critic_lr=3e-3,
            value_lr=3e-3,
        )
        .rl_module(model_config={"hidden_sizes": (32, 32)})
        .debugging(seed=seed)
        .build_algo()
    )
    try:
        algorithm.train()
        module = algorithm.learner_group._learner.module["default_policy"].unwrapped()
        states = {Columns.OBS: torch.arange(STATES)}
        with torch.no_grad():
            logits = module.forward_inference(states)[Columns.ACTION_DIST_INPUTS]
            return module.compute_values(states).numpy(), logits.argmax(-1).numpy()
    finally:
        algorithm.stop()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_middle_expectile_is_the_behaviours_value(seed: int, tmp_path: Path) -> None:
    """Fails if V at 0.5 is not the exact value of the policy that made the log, within 2 %.

    Below 2 % of V lie an end bootstrapped over, a wrong discount and a lagging target.
    """
    mdp = RandomMDP(seed)
    v, _ = train(mdp, tmp_path / "log", expectile=0.5, seed=seed)
    np.testing.assert_allclose(v, mdp.values(mdp.behaviour), rtol=0.02)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_high_expectile_finds_the_best_policy(seed: int, tmp_path: Path) -> None:
    """Fails if the greedy policy is worth less than 0.98 of the optimum, averaged over states.

    And if V is not the exact expectile's, within 2 %. Behaviour itself is worth 0.35 to 0.46.
    """
    mdp = RandomMDP(seed)
    best = mdp.optimal().mean()
    assert mdp.values(mdp.behaviour).mean() < 0.7 * best, "little to learn"
    v, actions = train(mdp, tmp_path / "log", expectile=0.98, seed=seed)
    assert mdp.values(np.eye(ACTIONS)[actions]).mean() >= 0.98 * best
    np.testing.assert_allclose(v, mdp.expectile_values(0.98), rtol=0.02)

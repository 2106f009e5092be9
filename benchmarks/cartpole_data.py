"""Transitions of CartPole-v1, made on the spot, for ``cartpole.py`` and ``cartpole_d3rlpy.py``.

Kept apart because the second runs in an environment of its own, which has no RLlib.
"""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: States (B, 4), float32, to actions (B,).
Policy = Callable[[np.ndarray], np.ndarray]
#: Columns of RLlib's offline data, and ``eps_id``: of N rows each, episode after episode.
Rows = dict[str, np.ndarray]

ENVIRONMENT = "CartPole-v1"


def play(policy: Policy, episodes: int, seed: int) -> Rows:
    """Play ``episodes`` episodes side by side, each to its end (500 steps at most)."""
    envs = [gym.make(ENVIRONMENT) for _ in range(episodes)]
    states = [env.reset(seed=seed * 10_000 + place)[0] for place, env in enumerate(envs)]
    played: list[list[tuple]] = [[] for _ in envs]
    going = list(range(episodes))
    while going:
        actions = policy(np.stack([states[place] for place in going]))
        for place, action in zip(list(going), actions, strict=True):
            state, reward, terminated, truncated, _ = envs[place].step(int(action))
            played[place].append((states[place], action, reward, state, terminated, truncated))
            states[place] = state
            if terminated or truncated:
                going.remove(place)
    names = ("obs", "actions", "rewards", "new_obs", "terminateds", "truncateds")
    types = (np.float32, np.int64, np.float32, np.float32, bool, bool)
    columns = zip(*(step for episode in played for step in episode), strict=True)
    rows = {
        name: np.array(column, dtype=type_)
        for name, column, type_ in zip(names, columns, types, strict=True)
    }
    rows["eps_id"] = np.repeat(np.arange(episodes), [len(episode) for episode in played])
    return rows


def returns(rows: Rows) -> np.ndarray:
    """Return each episode's sum of rewards, (episodes,)."""
    return np.bincount(rows["eps_id"], weights=rows["rewards"])


def returns_to_go(rows: Rows, gamma: float) -> np.ndarray:
    """Return the discounted sum of rewards from each row to its episode's end, (N,)."""
    over = rows["terminateds"] | rows["truncateds"]
    total, sums = 0.0, np.zeros(len(over), dtype=np.float32)
    for row in reversed(range(len(over))):
        total = rows["rewards"][row] + gamma * total * (not over[row])
        sums[row] = total
    return sums


def concatenated(first: Rows, second: Rows) -> Rows:
    """Return both sets of rows as one, the second's episodes numbered on."""
    second = second | {"eps_id": second["eps_id"] + first["eps_id"].max() + 1}
    return {name: np.concatenate([first[name], second[name]]) for name in first}


def random_rows(episodes: int, seed: int) -> Rows:
    """Play uniformly random actions; the mean return is about 22."""
    rng = np.random.default_rng(seed)
    return play(lambda states: rng.integers(2, size=len(states)), episodes, seed)


def mixed_rows(episodes: int, seed: int, bar: float = 100.0) -> Rows:
    """Play half the episodes at random, half with a DQN stopped at a mean return of ``bar``.

    The DQN goes on exploring with the 10 % of random actions with which it was trained to the end.
    """
    rng = np.random.default_rng(seed)
    net = partly_trained(seed, bar)
    trained = play(epsilon_greedy(net, 0.1, rng), episodes - episodes // 2, seed + 1)
    return concatenated(random_rows(episodes // 2, seed), trained)


def mlp(outputs: int, width: int) -> nn.Sequential:
    """Return two hidden layers of ReLU."""
    return nn.Sequential(
        nn.Linear(4, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, outputs),
    )


def epsilon_greedy(net: nn.Module, epsilon: float, rng: np.random.Generator) -> Policy:
    """Return the policy that takes the best of the net's two values, or any with ``epsilon``."""

    def act(states: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            greedy = net(torch.from_numpy(states)).argmax(-1).numpy()
        explore = rng.random(len(states)) < epsilon
        return np.where(explore, rng.integers(2, size=len(states)), greedy)

    return act


def partly_trained(seed: int, bar: float, most_steps: int = 50_000) -> nn.Module:
    """Train a DQN (Mnih et al. 2015) until its last 10 episodes return ``bar`` on average.

    Raises:
        RuntimeError: it does not get there in ``most_steps``.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net, target = mlp(2, 64), mlp(2, 64)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    # obs 0:4, action 4, reward 5, new_obs 6:10, terminated 10
    memory = torch.zeros(most_steps, 11)
    env = gym.make(ENVIRONMENT)
    state, _ = env.reset(seed=seed)
    lengths, length = [], 0
    for step in range(most_steps):
        epsilon = max(0.1, 1.0 - step / 3000)
        action = epsilon_greedy(net, epsilon, rng)(state[None])[0]
        after, reward, terminated, truncated, _ = env.step(int(action))
        row = [*state, action, reward, *after, terminated]
        memory[step] = torch.tensor(np.array(row, dtype=np.float32))
        state, length = after, length + 1
        if terminated or truncated:
            lengths.append(length)
            if len(lengths) >= 10 and np.mean(lengths[-10:]) >= bar:
                return net
            state, length = env.reset()[0], 0
        if step % 200 == 0:
            target.load_state_dict(net.state_dict())
        if step >= 500:
            loss = _dqn_loss(net, target, memory[rng.integers(step + 1, size=64)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    raise RuntimeError(f"the DQN of seed {seed} did not return {bar} within {most_steps} steps")


def _dqn_loss(net: nn.Module, target: nn.Module, rows: Tensor) -> Tensor:
    with torch.no_grad():
        value = target(rows[:, 6:10]).max(dim=-1).values
        y = rows[:, 5] + 0.99 * (1 - rows[:, 10]) * value
    q = net(rows[:, :4]).gather(1, rows[:, 4:5].long())[:, 0]
    return F.smooth_l1_loss(q, y)

"""The losses' common fixed point is the exact expectile value function, on tables known in full.

The expected figures are from solving the expectile Bellman equation

    V(s) = expectile over a ~ uniform of E[r + gamma V(s') | s, a]

by value iteration in NumPy, which shares no code with ``losses.py``; V* is with a maximum for the
expectile. gamma is 0.99.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from noetik_rllib.iql import losses

GAMMA = 0.99
EXPECTILES = (0.5, 0.7, 0.9, 0.99, 0.999)


@dataclass(frozen=True)
class Table:
    """An environment of Gymnasium's toy texts, and V for ``EXPECTILES``, averaged over its starts.

    Attributes:
        env_id: name in Gymnasium's registry.
        options: of the environment.
        values: expected V at the start for each of ``EXPECTILES``.
        optimal: expected V* at the start.
        tolerance: half a unit of the last digit of each of ``values``.
    """

    env_id: str
    options: dict[str, bool]
    values: tuple[float, ...]
    optimal: float
    tolerance: tuple[float, ...]

    def at_start(self, values: np.ndarray) -> float:
        """Mean of values (states,) over where an episode can start."""
        return float(values @ gym.make(self.env_id).unwrapped.initial_state_distrib)

    @cached_property
    def outcomes(self) -> list[tuple[int, int, float, int, float, bool]]:
        """All (state, action, probability, next state, reward, terminated) before an end."""
        transitions = gym.make(self.env_id, **self.options).unwrapped.P
        ends = {
            after
            for actions in transitions.values()
            for outcomes in actions.values()
            for _, after, _, over in outcomes
            if over
        }
        return [
            (state, action, *outcome)
            for state, actions in transitions.items()
            if state not in ends
            for action, outcomes in actions.items()
            for outcome in outcomes
        ]


LAKE = (5e-5,) * 5
TABLES = [
    Table(
        "FrozenLake-v1",
        {"is_slippery": True},
        values=(0.0124, 0.0311, 0.1154, 0.4283, 0.5287),
        optimal=0.5420,
        tolerance=LAKE,
    ),
    Table(
        "FrozenLake-v1",
        {"is_slippery": False},
        values=(0.0124, 0.1376, 0.6075, 0.9160, 0.9475),
        optimal=0.9510,
        tolerance=LAKE,
    ),
    Table(
        "CliffWalking-v1",
        {},
        values=(-1072, -210, -37.7, -15.8, -13.4),
        optimal=-12.248,
        tolerance=(0.5, 0.5, 0.05, 0.05, 0.05),
    ),
    Table(
        "Taxi-v3",
        {},
        values=(-384.8, -164.3, -26.5, 3.69, 6.07),
        optimal=6.3275,
        tolerance=(0.05, 0.05, 0.05, 5e-3, 5e-3),
    ),
]
NAMES = ["slippery lake", "lake", "cliff", "taxi"]


class TabularIQL:
    """V and twin Q as tables, moved to the minimum of the two losses in turn.

    The batch holds every outcome as often as its probability asks for (in thirds), and every
    action equally often: the data of a uniform behaviour policy without sampling error.
    """

    def __init__(self, table: Table) -> None:
        thirds = np.array([round(3 * outcome[2]) for outcome in table.outcomes])
        often = thirds // np.gcd.reduce(thirds)
        rows = np.repeat(np.array(table.outcomes, dtype=float), often, axis=0)
        columns = torch.from_numpy(rows).unbind(1)
        states, actions, _, after, reward, self.terminated = columns
        self.states, self.after = states.long(), after.long()
        self.pairs = self.states * int(actions.max() + 1) + actions.long()
        self.reward = reward[:, None]
        self.signs = torch.ones(1, dtype=torch.float64)
        size = int(max(self.states.max(), self.after.max())) + 1
        self.v = torch.zeros(size, 1, dtype=torch.float64, requires_grad=True)
        pairs = int(self.pairs.max()) + 1
        self.q = torch.zeros(2, pairs, 1, dtype=torch.float64, requires_grad=True)

    @property
    def values(self) -> np.ndarray:
        """V (states,)."""
        return self.v.detach().numpy()[:, 0]

    def q_loss(self) -> Tensor:
        next_v = self.v.detach()[self.after]
        target = losses.td_target(self.reward, self.terminated, next_v, GAMMA)
        return losses.q_loss(self.q[:, self.pairs], target)

    def v_loss(self, expectile: float) -> Tensor:
        target_q = losses.smaller_q(self.q.detach()[:, self.pairs], self.signs)
        v = self.v[self.states]
        advantage = losses.total(target_q - v.detach(), self.signs)
        weights = losses.expectile_weights(advantage, expectile)
        return losses.expectile_loss(target_q, v, weights)

    def solve(self, expectile: float, tolerance: float) -> None:
        """Go on until V is within ``tolerance`` of the fixed point, in every state."""
        for _ in range(5000):
            newton_step(self.q_loss(), self.q)
            moved = newton_step(self.v_loss(expectile), self.v)
            # Alternating is a contraction by GAMMA at least.
            if moved * GAMMA / (1 - GAMMA) < tolerance:
                return
        raise AssertionError(f"no fixed point at {expectile}: V still moves by {moved}")


def newton_step(loss: Tensor, table: Tensor) -> float:
    """Move a table to its quadratic loss's minimum, in place; return the largest move.

    No two entries of a table meet in a row of the batch, so the Hessian is diagonal, and its
    diagonal is the gradient of the gradient's sum.
    """
    (gradient,) = torch.autograd.grad(loss, table, create_graph=True)
    (curvature,) = torch.autograd.grad(gradient.sum(), table)
    with torch.no_grad():
        step = gradient / torch.where(curvature == 0, 1.0, curvature)  # 0: an end, or never left
        table -= step
    return float(step.abs().max())


@pytest.mark.parametrize("table", TABLES, ids=NAMES)
def test_v_is_the_expectile_of_exact_q(table: Table) -> None:
    """Fails if minimising the losses gives another value than the expectile Bellman equation's."""
    iql = TabularIQL(table)
    found = []
    for expectile, tolerance in zip(EXPECTILES, table.tolerance, strict=True):
        iql.solve(expectile, tolerance / 5)
        found.append(table.at_start(iql.values))
    for value, expected, tolerance in zip(found, table.values, table.tolerance, strict=True):
        assert value == pytest.approx(expected, abs=1.2 * tolerance), found
    assert np.all(np.diff(found) >= 0), "V falls where the expectile rises"
    assert found[-1] <= table.optimal, "V is above the best policy's"


@pytest.mark.parametrize("table", TABLES, ids=NAMES)
def test_v_tends_to_the_optimum(table: Table) -> None:
    """Fails if an expectile near 1 is not the best action: IQL would then not improve the policy.

    V* is computed here by value iteration, so that the two cannot share a mistake.
    """
    iql = TabularIQL(table)
    iql.solve(1 - 1e-6, tolerance=1e-4 * abs(table.optimal))
    best = optimal_values(table)
    assert table.at_start(best) == pytest.approx(table.optimal, rel=1e-4)
    assert table.at_start(iql.values) == pytest.approx(table.at_start(best), rel=1e-3)


def optimal_values(table: Table) -> np.ndarray:
    """V* (states,) by value iteration."""
    rows = np.array(table.outcomes, dtype=float)
    states, actions, probability, after, reward, over = rows.T
    states, actions, after = states.astype(int), actions.astype(int), after.astype(int)
    v = np.zeros(max(states.max(), after.max()) + 1)
    while True:
        q = np.zeros((len(v), actions.max() + 1))
        np.add.at(q, (states, actions), probability * (reward + GAMMA * (1 - over) * v[after]))
        if np.abs(q.max(axis=1) - v).max() < 1e-9:
            return v
        v = q.max(axis=1)

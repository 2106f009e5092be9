"""The losses are TorchRL's ``DiscreteIQLLoss``, by its answers to a small case.

TorchRL itself is not installed here: ``benchmarks/torchrl_losses.py`` compares 50 cases of 256 rows
and their gradients with it, and printed this one by ``--case`` (TorchRL 0.14.1).
"""

from __future__ import annotations

import pytest
import torch

from noetik_rllib.iql import losses

#: Four rows, three actions. Row 0 is an end; row 1's weight exceeds the cap.
CASE = {
    "logits": [
        [2.7, 0.69, -2.33],
        [-0.37, -0.68, -0.46],
        [1.19, -2.56, 1.93],
        [-2.26, -0.38, 1.77],
    ],
    "q": [
        [[1.33, -1.38, 3.54], [0.73, -1.91, 0.09], [-1.66, 0.87, -2.68], [0.96, -3.54, 2.19]],
        [[0.54, 2.71, -1.42], [-4.19, -2.74, -0.49], [3.93, 1.14, 2.62], [-1.76, -1.06, -0.67]],
    ],
    "target_q": [
        [[2.34, -1.13, -0.58], [3.24, -1.75, -0.07], [-2.69, -0.47, 1.66], [2.39, -2.78, -5.05]],
        [[1.08, 3.33, -1.4], [0.53, 0.05, -4.31], [-5.34, -0.13, 0.97], [-3.03, -0.65, -1.59]],
    ],
    "v": [-1.93, -2.58, 2.34, 0.02],
    "next_v": [-0.47, -0.98, 0.76, -1.03],
    "rewards": [0.3, -1.57, 0.66, -0.65],
    "actions": [1, 0, 2, 1],
    "terminateds": [1.0, 0.0, 0.0, 0.0],
}
EXPECTILE, BETA, GAMMA = 0.8, 3.0, 0.9
ANSWERS = {
    "v_loss": 2.548265037972108,
    "q_loss": 10.929419475988626,
    "actor_loss": 30.24251123139222,
}


def test_the_losses_are_torchrls() -> None:
    """Fails if a loss is another multiple, sum or sign than an independent implementation's."""
    x = {name: torch.tensor(values, dtype=torch.float64) for name, values in CASE.items()}
    rows, actions = torch.arange(4), x["actions"].long()
    one = torch.ones(1, dtype=torch.float64)
    q, target_q = (x[name][:, rows, actions][..., None] for name in ("q", "target_q"))
    target_q, v = losses.smaller_q(target_q, one), x["v"][:, None]
    advantage = losses.total(target_q - v, one)
    weights = losses.awr_weights(advantage, BETA, max_weight=100.0)
    assert weights.max() == 100.0
    target = losses.td_target(x["rewards"][:, None], x["terminateds"], x["next_v"][:, None], GAMMA)
    log_prob = x["logits"].log_softmax(-1)[rows, actions]
    found = {
        "v_loss": losses.expectile_loss(
            target_q, v, losses.expectile_weights(advantage, EXPECTILE)
        ),
        "q_loss": losses.q_loss(q, target),
        "actor_loss": losses.actor_loss(log_prob, weights),
    }
    assert {name: loss.item() for name, loss in found.items()} == pytest.approx(ANSWERS, abs=1e-5)

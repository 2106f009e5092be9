"""The three losses beside TorchRL's ``DiscreteIQLLoss`` on the same tensors, gradients included.

It needs TorchRL and PyTorch alone, so an environment of its own will do. Run it from a clone::

    python3 -m venv torchrl-venv && torchrl-venv/bin/pip install torchrl==0.14.1
    PYTHONPATH=. torchrl-venv/bin/python benchmarks/torchrl_losses.py

``--case`` prints a small case and TorchRL's answers, which ``tests/iql/test_torchrl.py`` keeps.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.modules import ProbabilisticActor
from torchrl.objectives import DiscreteIQLLoss

from noetik_rllib.iql import losses

ACTIONS = 3
LOSSES = ("v_loss", "q_loss", "actor_loss")


def random_case(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Draw what the losses read of ``rows`` rows, in two decimals; each row has its own state."""
    rng = np.random.default_rng(seed)
    reals = {
        "logits": (rows, ACTIONS),
        "q": (2, rows, ACTIONS),
        "target_q": (2, rows, ACTIONS),
        "v": (rows,),
        "next_v": (rows,),
        "rewards": (rows,),
    }
    case: dict[str, np.ndarray] = {
        name: (2 * rng.normal(size=shape)).round(2) for name, shape in reals.items()
    }
    case["actions"] = rng.integers(ACTIONS, size=rows)
    case["terminateds"] = (rng.random(rows) < 0.3).astype(float)
    return case


def ours(
    case: dict[str, np.ndarray], expectile: float, beta: float, gamma: float
) -> tuple[Tensor, list[Tensor]]:
    """Return our losses (3,), and their sum's gradients by logits, Q and V."""
    x = {name: torch.tensor(array) for name, array in case.items()}
    learnt = [x[name].requires_grad_() for name in ("logits", "q", "v")]
    rows = torch.arange(len(x["v"]))
    one = torch.ones(1, dtype=torch.float64)
    q = x["q"][:, rows, x["actions"]][..., None]  # (2, B, 1)
    target_q = losses.smaller_q(x["target_q"][:, rows, x["actions"]][..., None], one)
    v = x["v"][:, None]
    target = losses.td_target(x["rewards"][:, None], x["terminateds"], x["next_v"][:, None], gamma)
    advantage = losses.total(target_q - v.detach(), one)
    log_prob = x["logits"].log_softmax(-1)[rows, x["actions"]]
    values = torch.stack(
        [
            losses.expectile_loss(target_q, v, losses.expectile_weights(advantage, expectile)),
            losses.q_loss(q, target),
            losses.actor_loss(log_prob, losses.awr_weights(advantage, beta, 100.0)),
        ]
    )
    return values.detach(), list(torch.autograd.grad(values.sum(), learnt))


def _table(values: np.ndarray) -> nn.Linear:
    """Return a layer that looks up rows of ``values`` (states, outputs) by one-hot states."""
    layer = nn.Linear(*values.shape, bias=False, dtype=torch.float64)
    layer.weight.data = torch.tensor(values.T)
    return layer


def _with_next(values: np.ndarray) -> np.ndarray:
    """Append rows for the next states, of which neither policy nor Q is read."""
    return np.concatenate([values, np.zeros_like(values)])


def _twins(values: np.ndarray) -> Tensor:
    """Return both critics' weights (2, outputs, states) of Q (2, B, outputs)."""
    return torch.stack([_table(_with_next(critic)).weight.data for critic in values])


def torchrls(
    case: dict[str, np.ndarray], expectile: float, beta: float, gamma: float
) -> tuple[Tensor, list[Tensor]]:
    """Return TorchRL's losses and gradients, as ``ours`` does.

    Its networks are lookup tables: row i is in state i and goes to state rows + i.
    """
    rows = len(case["v"])
    actor = ProbabilisticActor(
        TensorDictModule(_table(_with_next(case["logits"])), ["observation"], ["logits"]),
        in_keys=["logits"],
        distribution_class=Categorical,
    )
    q = TensorDictModule(
        _table(_with_next(case["q"][0])), ["observation"], out_keys=["state_action_value"]
    )
    states_v = np.concatenate([case["v"], case["next_v"]])[:, None]
    v = TensorDictModule(_table(states_v), ["observation"], ["state_value"])
    loss = DiscreteIQLLoss(
        actor,
        q,
        v,
        action_space="categorical",
        loss_function="l2",
        temperature=beta,
        expectile=expectile,
    )
    loss.make_value_estimator(gamma=gamma)
    # Of the two critics, and their targets, TorchRL makes random copies.
    weight = ("module", "weight")
    loss.qvalue_network_params[weight].data.copy_(_twins(case["q"]))
    loss.target_qvalue_network_params[weight].data.copy_(_twins(case["target_q"]))
    states = torch.eye(2 * rows, dtype=torch.float64)
    ends = torch.tensor(case["terminateds"], dtype=torch.bool)[:, None]
    batch = TensorDict(
        {
            "observation": states[:rows],
            "action": torch.tensor(case["actions"]),
            ("next", "observation"): states[rows:],
            ("next", "reward"): torch.tensor(case["rewards"])[:, None],
            ("next", "done"): ends,
            ("next", "terminated"): ends,
        },
        [rows],
    )
    out = loss(batch)
    values = torch.stack([out["loss_value"], out["loss_qvalue"], out["loss_actor"]])
    values.sum().backward()
    gradients = [
        loss.actor_network_params["module", "0", "module", "weight"].grad.T[:rows],
        loss.qvalue_network_params[weight].grad.transpose(1, 2)[:, :rows],
        loss.value_network_params[weight].grad[0, :rows],
    ]
    return values.detach(), gradients


def main() -> None:
    """Print the largest differences over random cases, or one case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=50, help="Random cases of 256 rows.")
    parser.add_argument("--case", action="store_true", help="Print a small case and the answers.")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "No target network updater")  # there is none to make
    if options.case:
        case = random_case(rows=4, seed=24)  # an end, and a weight that is capped
        for name, array in case.items():
            print(f"{name} = {array.tolist()}")
        values, _ = torchrls(case, expectile=0.8, beta=3.0, gamma=0.9)
        print(dict(zip(LOSSES, values.tolist(), strict=True)))
        return
    difference, gradients = torch.zeros(3), torch.zeros(3)
    for seed in range(options.cases):
        rng = np.random.default_rng(seed)
        settings = {
            "expectile": rng.uniform(0.5, 0.99),
            "beta": rng.uniform(0.0, 10.0),
            "gamma": rng.uniform(0.0, 1.0),
        }
        case = random_case(rows=256, seed=seed)
        (left, left_grad), (right, right_grad) = ours(case, **settings), torchrls(case, **settings)
        difference = difference.maximum((left - right).abs())
        largest = [(a - b).abs().max() for a, b in zip(left_grad, right_grad, strict=True)]
        gradients = gradients.maximum(torch.stack(largest))
    print(f"largest differences from TorchRL over {options.cases} cases of 256 rows")
    for name, value in zip(LOSSES, difference.tolist(), strict=True):
        print(f"  {name:12} {value:.1e}")
    for name, value in zip(("logits", "Q", "V"), gradients.tolist(), strict=True):
        print(f"  gradient by {name:6} {value:.1e}")


if __name__ == "__main__":
    main()

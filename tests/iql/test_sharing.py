"""Networks that share a video tower or a whole encoder are trained once, and whole."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from torch import nn

from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.rl_module import Q_VALUES, V_VALUES
from noetik_rllib.offline.dataset import OfflineDataset
from tests.iql.conftest import TINY_NETWORK

pytestmark = pytest.mark.usefixtures("ray_session")

POLYAK = 0.1


def learner_of(algorithm: Algorithm) -> Any:
    return algorithm.learner_group._learner


def module_of(algorithm: Algorithm) -> Any:
    return learner_of(algorithm).module[DEFAULT_MODULE_ID].unwrapped()


def copied(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def check_groups(algorithm: Algorithm, share: str) -> None:
    """Every parameter of actor, Q and V is in one optimizer, once; no other is in any."""
    module, learner = module_of(algorithm), learner_of(algorithm)
    expected = {"actor", "q", "v", "probes"} | ({"shared"} if share != "nothing" else set())
    assert module.optimizer_parameters().keys() == expected
    stepped = Counter(
        id(parameter)
        for _, optimizer in learner.get_optimizers_for_module(DEFAULT_MODULE_ID)
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
    trainable = Counter(
        {id(p): 1 for name in ("actor", "q", "v") for p in getattr(module, name).parameters()}
    )
    assert stepped == trainable
    encoders = {id(getattr(module, name).encoder) for name in ("actor", "q", "v")}
    towers = {id(getattr(module, name).encoder.tower) for name in ("actor", "q", "v")}
    assert (len(encoders), len(towers)) == {
        "nothing": (3, 3),
        "tower": (3, 1),
        "encoder": (1, 1),
    }[share]


def check_values(algorithm: Algorithm, states: torch.Tensor) -> None:
    """The critics' losses reach the encoder, also where one pass of it serves both."""
    module, actions = module_of(algorithm), torch.arange(len(states))
    inputs = module.inputs(states)
    apart = module.q(*inputs, actions), module.v(*inputs)
    online = module.online(states, actions)
    together = online[Q_VALUES], online[V_VALUES]
    for got, alone, network in zip(together, apart, (module.q, module.v), strict=True):
        weights = list(network.encoder.parameters())
        gradients = (
            torch.autograd.grad(
                values.square().sum(), weights, retain_graph=True, materialize_grads=True
            )
            for values in (got, alone)
        )
        torch.testing.assert_close(*gradients)


def check_moments(algorithm: Algorithm) -> None:
    """Adam's second moment is 0 only where every gradient so far was.

    ``item_bias.bias`` adds the same to all logits, which the softmax takes away again, and a key's
    bias (the middle third of ``qkv.bias``) the same to all scores of a query: their exact gradient
    is 0, so nothing is asked of them.
    """
    module, learner = module_of(algorithm), learner_of(algorithm)
    names = {id(p): name for name, p in module.named_parameters()}
    for _, optimizer in learner.get_optimizers_for_module(DEFAULT_MODULE_ID):
        for parameter, state in optimizer.state.items():
            name, moment = names[id(parameter)], state["exp_avg_sq"]
            if name.endswith("item_bias.bias"):
                continue
            if name.endswith("qkv.bias"):
                query, _, value = moment.chunk(3)
                moment = torch.cat([query, value])
            assert moment.any(), f"{name} has never had a gradient"


def check_actor(algorithm: Algorithm, states: torch.Tensor) -> None:
    """A copy that only acts has the shared layers, no critic, and the same logits."""
    module = module_of(algorithm)
    state = module.get_state(inference_only=True)
    assert {name.split(".")[0] for name in state} == {"actor", "features"}
    actor = algorithm.config.get_rl_module_spec(inference_only=True).build()
    actor.set_state(state)
    logits = [
        network.forward_inference({Columns.OBS: states})[Columns.ACTION_DIST_INPUTS]
        for network in (module, actor)
    ]
    torch.testing.assert_close(*logits)


@pytest.mark.parametrize("share", ["nothing", "tower", "encoder"])
def test_what_is_shared_is_trained_and_restored(
    tiny_config: DiscreteIQLConfig, tiny_dataset: Path, tmp_path: Path, share: str
) -> None:
    """Fails if a parameter is stepped twice or never, or if a target or a copy lacks its layers.

    Iterations of one gradient step show Q after each, so that the target can be computed again.
    """
    tiny_config.offline_data(dataset_num_iters_per_learner=1).training(target_polyak=POLYAK)
    tiny_config.rl_module(model_config={**TINY_NETWORK, "share": share})
    states = torch.tensor(OfflineDataset(tiny_dataset).load("test", ("obs",))["obs"][:8])
    algorithm = tiny_config.build_algo()
    try:
        check_groups(algorithm, share)
        module = module_of(algorithm)
        groups = module.optimizer_parameters()
        start = {name: [p.detach().clone() for p in group] for name, group in groups.items()}
        target = copied(module.q)
        assert_same(target, copied(module.target_q))
        for step in range(6):
            if step == 3:
                path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
            algorithm.train()
            q = copied(module.q)
            target = {name: value.lerp(q[name], POLYAK) for name, value in target.items()}
        for name, value in copied(module.target_q).items():
            torch.testing.assert_close(value, target[name], rtol=0, atol=1e-6, msg=name)
        for parameter in module.target_q.parameters():
            assert not parameter.requires_grad
            assert parameter.grad is None
        for name, group in groups.items():
            pairs = zip(start[name], group, strict=True)
            assert not any(torch.equal(before, after) for before, after in pairs), name
        check_moments(algorithm)
        check_values(algorithm, states)
        check_actor(algorithm, states)
        unbroken = copied(module)
    finally:
        algorithm.stop()

    restored = Algorithm.from_checkpoint(path)
    try:
        check_groups(restored, share)
        for _ in range(3):
            restored.train()
        assert_same(copied(module_of(restored)), unbroken)
    finally:
        restored.stop()

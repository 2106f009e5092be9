"""Discrete IQL's RLModule on RLlib's new API stack: what the learner asks of any networks."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, TargetNetworkAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from noetik_rllib.iql import losses
from noetik_rllib.iql.reward import RewardDecomposition

#: Keys of ``model_config`` that ``DiscreteIQLConfig`` fills in, beside the networks' sizes.
REWARD_KEY = "reward"
PRECISION_KEY = "precision"

#: What ``forward_train`` returns: (B,), (2, B, S), (B, S), (B, S), (2, B, S).
LOG_PROBS = "log_probs"
Q_VALUES = "q_values"
V_VALUES = "v_values"
NEXT_V_VALUES = "next_v_values"
TARGET_Q_VALUES = "target_q_values"
#: And, where the interpretability term has a weight, a scalar (``interpretability.py``).
EFFECT_ENTROPY = "effect_entropy"


class DiscreteIQLTorchRLModule(TorchRLModule, InferenceOnlyAPI, TargetNetworkAPI, ValueFunctionAPI):
    """Actor, twin Q with its target, and V: the base of both RLModules.

    ``setup()`` of a subclass sets ``actor``, ``q`` and ``v``, each called with what ``inputs``
    returns, and Q with the actions besides.
    """

    actor: nn.Module
    q: nn.Module
    v: nn.Module
    target_q: nn.Module
    #: Signs of the reward's components (S,), and which of them have a weight and which have none.
    signs: Tensor
    weighted: Tensor
    unweighted: Tensor

    def setup_reward(self) -> None:
        """Keep what the critics' outputs are; a subclass calls it in ``setup()``."""
        given = self.model_config.get(REWARD_KEY)
        self.reward = RewardDecomposition.model_validate(given) if given else RewardDecomposition()
        self.register_buffer("signs", torch.tensor(self.reward.signs), persistent=False)
        for name in ("weighted", "unweighted"):
            places = torch.tensor(getattr(self.reward, name), dtype=torch.int64)
            self.register_buffer(name, places, persistent=False)

    @abstractmethod
    def inputs(self, states: Tensor) -> tuple[Any, ...]:
        """Return what the networks read of a batch's observations."""

    @abstractmethod
    def online(self, states: Tensor, actions: Tensor) -> dict[str, Tensor]:
        """Return LOG_PROBS, Q_VALUES and V_VALUES of logged actions, with gradients.

        And the interpretability term, where it has a weight.
        """

    def make_target_networks(self) -> None:
        """Copy Q: only Q has a target. What it reads is an argument of its call, so is shared."""
        self.target_q = make_target_network(self.q)

    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Return (Q, target Q)."""
        return [(self.q, self.target_q)]

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the target critics' Q (2, B, S) of the batch's actions, without gradient."""
        with torch.no_grad():
            q = self.target_q(*self.inputs(batch[Columns.OBS]), batch[Columns.ACTIONS])
        return {TARGET_Q_VALUES: q}

    def get_non_inference_attributes(self) -> list[str]:
        """Return what a copy that only acts leaves out: critics and target."""
        return ["q", "v", "target_q"]

    def optimizer_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of each optimizer, every parameter once.

        ``actor``, ``q`` and ``v`` as in the paper's code; ``shared``, where networks share some;
        ``probes``, the critics' outputs for signals without weight: apart, so that neither
        clipping nor the gradient norms of Q and V depend on them.
        """
        groups: dict[str, dict[int, nn.Parameter]] = {"shared": {}, "probes": {}}
        seen: set[int] = set()
        for name in ("actor", "q", "v"):
            groups[name] = {}
            for path, parameter in getattr(self, name).named_parameters():
                key = id(parameter)
                probe = ".probe." in f".{path}"
                owner = "probes" if probe else "shared" if key in seen else name
                groups[owner][key] = parameter
                seen.add(key)
        for name in ("actor", "q", "v"):
            for key in groups["shared"]:
                groups[name].pop(key, None)
        return {name: list(group.values()) for name, group in groups.items() if group}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Return V (B,) of the batch's states, in units of the training reward."""
        return losses.total(self.v(*self.inputs(batch[Columns.OBS])), self.signs)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """Return the logits (B, actions); for inference and exploration alike."""
        logits = self.actor(*self.inputs(batch[Columns.OBS]))
        return {Columns.ACTION_DIST_INPUTS: logits}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """Run every network once, so that the losses see the V of before the step.

        One backward of the summed losses gives each parameter its gradient, and torch's DDP, which
        wraps this very call, exchanges them all.
        """
        states, actions = batch[Columns.OBS], batch[Columns.ACTIONS]
        half = self.model_config.get(PRECISION_KEY) == "bfloat16"
        with torch.autocast(states.device.type, dtype=torch.bfloat16, enabled=half):
            with torch.no_grad():
                next_v = self.v(*self.inputs(batch[Columns.NEXT_OBS]))
            out = {
                **self.online(states, actions),
                NEXT_V_VALUES: next_v,
                **self.forward_target(batch),
            }
        # Losses, targets and statistics are of single precision.
        return {name: value.float() for name, value in out.items()}

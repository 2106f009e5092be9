"""The Learner of discrete IQL: losses, one optimizer per network, target update, statistics."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from torch import Tensor

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.errors import UserError
from noetik_rllib.iql import losses
from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.random_state import random_state, set_random_state
from noetik_rllib.iql.rl_module import (
    EFFECT_ENTROPY,
    LOG_PROBS,
    NEXT_V_VALUES,
    Q_VALUES,
    TARGET_Q_VALUES,
    V_VALUES,
    DiscreteIQLTorchRLModule,
)
from noetik_rllib.iql.row_files import PROPENSITY
from noetik_rllib.iql.settings import cosine_decay
from noetik_rllib.iql.shard_iterator import REWARD_COMPONENTS, ShardIterator
from noetik_rllib.remote import copy_dataset

#: Optimizers (``optimizer_parameters``), and the setting of their step size.
OPTIMIZERS = {
    "actor": "actor_lr",
    "q": "critic_lr",
    "v": "value_lr",
    "shared": "critic_lr",
    "probes": "critic_lr",
}

#: Statistics of every run, each the mean over an iteration's gradient steps; docs/iql.md explains
#: them and those that only some runs have.
STATISTICS = (
    "actor_loss",
    "q_loss",
    "v_loss",
    "q_mean",
    "v_mean",
    "advantage_mean",
    "advantage_std",
    "capped_weight_share",
    "effective_sample_size",
    "log_prob_mean",
    "actor_gradient_norm",
    "q_gradient_norm",
    "v_gradient_norm",
)

#: Counters among the metrics and in the saved state: gradient steps and target updates so far.
GRADIENT_STEPS = "gradient_steps"
TARGET_UPDATES = "num_target_updates"
#: Seconds of the iteration that the learner spent waiting for batches.
DATA_WAIT = "data_wait_seconds"
#: The random generators in the saved state: dropout and sampling go on where they stopped.
RANDOM_STATE = "random_state"

#: Statistics of some runs: parts of Q by signal, probes, interpretability, shared layers.
_OPTIONAL_STATISTICS = (
    *(f"{part}_mean_{name}" for part in ("q", "v", "advantage") for name in SIGNALS),
    "probe_loss",
    EFFECT_ENTROPY,
    "shared_gradient_norm",
    "probes_gradient_norm",
)


def statistics(learnt: Mapping[str, Any]) -> list[str]:
    """Return the names of the statistics that a module's results hold, in a fixed order."""
    return [*STATISTICS, *(name for name in _OPTIONAL_STATISTICS if name in learnt)]


class _TimedBatches:
    """A shard's batches, and how long they were waited for.

    Attributes:
        shard: what they come from.
        seconds: waited since it was last set to 0.
    """

    def __init__(self, shard: ShardIterator) -> None:
        self.shard = shard
        self.seconds = 0.0

    def iter_torch_batches(self, **kwargs: Any) -> Iterator[dict[str, Tensor]]:
        batches = self.shard.iter_torch_batches(**kwargs)
        begun = time.perf_counter()
        for batch in batches:
            self.seconds += time.perf_counter() - begun
            yield batch
            begun = time.perf_counter()


class DiscreteIQLTorchLearner(TorchLearner):
    """Takes gradient steps on a ``DiscreteIQLTorchRLModule``."""

    config: DiscreteIQLConfig

    def __repr__(self) -> str:
        # Ray's dashboard shows it: RLlib wraps the class in one whose name says nothing.
        return "DiscreteIQL learner"

    def build(self) -> None:
        """Build module and optimizers (RLlib), then the target network.

        Raises:
            UserError: the dataset is not on this host and cannot be copied to it.
        """
        if self.config.data_source is not None:
            copy_dataset(self.config.data_source, Path(self.config.input_[0]).parent)
        super().build()
        # A seed makes RLlib turn on torch's deterministic mode (torch_utils.py:727), whose filling
        # of fresh tensors with NaN serves the search for bugs and costs 4 % here.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self.gradient_steps = 0
        self._batches: _TimedBatches | None = None
        #: Module -> names of its statistics and the sums of a kind over the iteration's steps.
        self._statistics: dict[str, dict[str, tuple[list[str], Tensor]]] = {}
        for module_id in self.module.keys():  # noqa: SIM118 (a MultiRLModule, no mapping)
            self._unwrapped(module_id).make_target_networks()
            if self._torch_compile_forward_train:
                # RLlib compiles only modules that are added later (torch_learner.py:416), so that
                # its option has no effect on the ones it begins with.
                self._unwrapped(module_id).compile(self._torch_compile_cfg)

    def _unwrapped(self, module_id: str) -> DiscreteIQLTorchRLModule:
        """Return the module itself, out of the DDP wrapper that several learners put around it."""
        module: DiscreteIQLTorchRLModule = self.module[module_id].unwrapped()
        return module

    def configure_optimizers_for_module(
        self, module_id: str, config: DiscreteIQLConfig | None = None
    ) -> None:
        """Give actor, Q and V an Adam each, as the paper's code does."""
        settings = config or self.config
        for name, parameters in self._unwrapped(module_id).optimizer_parameters().items():
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=name,
                # fused: one pass over the embedding tables, a third of the time on a CPU.
                optimizer=torch.optim.Adam(parameters, fused=True),
                params=parameters,
                lr_or_lr_schedule=getattr(settings, OPTIMIZERS[name]),
            )

    def update(self, *args: Any, training_data: Any = None, **kwargs: Any) -> Any:
        """Take the gradient steps of one iteration (RLlib's entry point).

        The first time, and after a restore, the data goes on where the gradient steps stopped.
        """
        if self.iterator is None and training_data is not None and training_data.data_iterators:
            shard: ShardIterator = training_data.data_iterators[0]
            self._batches = _TimedBatches(shard.starting_at(self.gradient_steps))
            training_data.data_iterators = [self._batches]
        if self._batches is not None:
            self._batches.seconds = 0.0
        return super().update(*args, training_data=training_data, **kwargs)

    def compute_loss_for_module(
        self,
        *,
        module_id: str,
        config: DiscreteIQLConfig,
        batch: dict[str, Tensor],
        fwd_out: dict[str, Tensor],
    ) -> Tensor:
        """Return the sum of the losses: each parameter is in its own network's alone."""
        module = self._unwrapped(module_id)
        signs, names = module.signs, module.reward.names
        q, v = fwd_out[Q_VALUES], fwd_out[V_VALUES]  # (2, B, S), (B, S)
        target_q = losses.smaller_q(fwd_out[TARGET_Q_VALUES], signs)  # (B, S)
        target = losses.td_target(
            batch[REWARD_COMPONENTS],
            batch[Columns.TERMINATEDS],
            fwd_out[NEXT_V_VALUES],
            config.gamma,
        )
        advantage = losses.total(target_q - v.detach(), signs)  # (B,)
        asymmetry = losses.expectile_weights(advantage, config.expectile)
        weights = losses.awr_weights(advantage, config.beta, config.max_weight)
        if PROPENSITY in batch:
            # Critics learn from random exposures; the policy imitates what was chosen for the user.
            weights = weights * batch[PROPENSITY].isnan()

        def critics(components: Tensor) -> tuple[Tensor, Tensor]:
            q_, target_, target_q_, v_ = (
                values.index_select(-1, components) for values in (q, target, target_q, v)
            )
            return losses.q_loss(q_, target_), losses.expectile_loss(target_q_, v_, asymmetry)

        q_loss, v_loss = critics(module.weighted)
        actor_loss = losses.actor_loss(fwd_out[LOG_PROBS], weights)
        loss = actor_loss + q_loss + v_loss
        values = {
            "actor_loss": actor_loss,
            "q_loss": q_loss,
            "v_loss": v_loss,
            "q_mean": losses.total(q, signs).mean(),
            "v_mean": losses.total(v, signs).mean(),
            "advantage_mean": advantage.mean(),
            "advantage_std": advantage.std(correction=0),
            "capped_weight_share": (weights >= config.max_weight).float().mean(),
            "effective_sample_size": losses.effective_sample_size(weights),
            "log_prob_mean": fwd_out[LOG_PROBS].mean(),
        }
        weighted = module.reward.weighted
        if len(weighted) > 1:
            parts = {"q": q, "v": v, "advantage": target_q - v}
            for part, components in parts.items():
                means = components.detach().flatten(end_dim=-2).mean(dim=0) * signs  # (S,)
                values |= {f"{part}_mean_{names[place]}": means[place] for place in weighted}
        if len(weighted) < len(names):
            probe_losses = critics(module.unweighted)
            values["probe_loss"] = probe_losses[0] + probe_losses[1]
            loss = loss + values["probe_loss"]
        if EFFECT_ENTROPY in fwd_out:
            values[EFFECT_ENTROPY] = fwd_out[EFFECT_ENTROPY]
            loss = loss + config.interpretability_coeff * fwd_out[EFFECT_ENTROPY]
        self._accumulate(module_id, "loss", values)
        return loss

    def postprocess_gradients_for_module(
        self,
        *,
        module_id: str,
        config: DiscreteIQLConfig | None = None,
        module_gradients_dict: dict[Any, Tensor],
    ) -> dict[Any, Tensor]:
        """Note each network's gradient norm, then let RLlib clip it (``grad_clip``)."""
        norms = {}
        for name, optimizer in self.get_optimizers_for_module(module_id):
            gradients = self.filter_param_dict_for_optimizer(module_gradients_dict, optimizer)
            norm = torch.nn.utils.get_total_norm(list(gradients.values()))
            norms[f"{name}_gradient_norm"] = norm
        self._accumulate(module_id, "gradient", norms)
        clipped: dict[Any, Tensor] = super().postprocess_gradients_for_module(
            module_id=module_id, config=config, module_gradients_dict=module_gradients_dict
        )
        return clipped

    def apply_gradients(self, gradients_dict: dict[Any, Tensor]) -> None:
        """Step the optimizers, then move the targets: after every gradient step.

        RLlib's own place for target updates, ``after_gradient_based_update``, is called once per
        ``update()``, hence once per 100 gradient steps here (``ray/rllib/core/learner/learner.py:
        1161``, with a TODO that says so).

        RLlib's stepping is replaced: it asks of every gradient, twice, whether it is finite, which
        on a GPU waits for the device 280 times a step, and then trains on with zeros in their
        place (``torch_learner.py:206``). Here an iteration that went wrong stops the training.
        """
        for parameter, gradient in gradients_dict.items():
            parameter.grad = gradient
        self.gradient_steps += 1
        for module_id in self.module.keys():  # noqa: SIM118
            for name, optimizer in self.get_optimizers_for_module(module_id):
                if name == "actor":
                    self._decay(optimizer)
                optimizer.step()
            rate = self.config.get_config_for_module(module_id).target_polyak
            for online, target in self._unwrapped(module_id).get_target_network_pairs():
                losses.polyak_update(list(target.parameters()), list(online.parameters()), rate)

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Log the iteration's statistics, once, after its last gradient step.

        Raises:
            UserError: a loss or gradient is no longer finite.
        """
        super().after_gradient_based_update(timesteps=timesteps)
        for module_id, kinds in self._statistics.items():
            for names, sums in kinds.values():
                # The only transfers from the device in an iteration. Last is the count of steps.
                *values, steps = sums.tolist()
                for name, value in zip(names, values, strict=True):
                    if not math.isfinite(value):
                        raise UserError(
                            f"training diverged: {name} is {value} within the {steps:g} gradient "
                            f"steps before number {self.gradient_steps:,}; lower the learning "
                            "rates, or set grad_clip"
                        )
                    key = (module_id, name)
                    self.metrics.log_value(key, value / steps, reduce="mean", window=1)
            for name in (GRADIENT_STEPS, TARGET_UPDATES):
                self.metrics.log_value(
                    (module_id, name), self.gradient_steps, reduce="max", window=1
                )
            if self._batches is not None:
                # Of the learner that waited longest: the others waited for it.
                key = (module_id, DATA_WAIT)
                self.metrics.log_value(key, self._batches.seconds, reduce="max", window=1)
        self._statistics.clear()

    def _take_own_step_sizes(self) -> None:
        """Set step sizes as configured: an optimizer's state holds those that it was saved with."""
        for module_id in self.module.keys():  # noqa: SIM118
            for name, optimizer in self.get_optimizers_for_module(module_id):
                rate = getattr(self.config, OPTIMIZERS[name])
                if not isinstance(rate, list):
                    for group in optimizer.param_groups:
                        group["lr"] = rate

    def _decay(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the policy's step size for the next step (official code: optax.cosine_decay)."""
        steps, start = self.config.actor_lr_decay_steps, self.config.actor_lr
        if steps and not isinstance(start, list):
            done = min(1.0, (self.gradient_steps - 1) / steps)
            for group in optimizer.param_groups:
                group["lr"] = cosine_decay(start, done)

    def _accumulate(self, module_id: str, kind: str, values: dict[str, Tensor]) -> None:
        """Add one step's statistics to the running sums, on the device; a 1 counts the step."""
        step = torch.stack([value.detach().float() for value in values.values()])
        step = torch.cat([step, torch.ones(1, device=step.device)])
        kinds = self._statistics.setdefault(module_id, {})
        kinds[kind] = (list(values), kinds[kind][1] + step if kind in kinds else step)

    def get_state(
        self, components: Any = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return RLlib's state, with the number of batches drawn and the random generators."""
        state: dict[str, Any] = super().get_state(
            components, not_components=not_components, **kwargs
        )
        state[GRADIENT_STEPS] = self.gradient_steps
        if self._check_component(RANDOM_STATE, components, not_components):
            state[RANDOM_STATE] = random_state()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over a state, and make data and random numbers go on from there.

        Several learners take over the first one's: all draw equally often, from the same seed.
        """
        # RLlib keeps its own weights where they have had more updates than the state's
        # (learner.py:1304), so going back to an earlier state would restore the optimizers alone.
        self._weights_seq_no = -1
        super().set_state(state)
        self._take_own_step_sizes()
        if GRADIENT_STEPS in state:
            self.gradient_steps = state[GRADIENT_STEPS]
            self.iterator = None
        if RANDOM_STATE in state:
            set_random_state(state[RANDOM_STATE])

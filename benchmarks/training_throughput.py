"""Gradient steps per second of the whole RLlib run against a bare PyTorch loop, in one process, and
of one learner update against RLlib's own scheme of updating.

All train the same module on the same rows with the same losses, in turn, several times; what
counts is the ratio. The bare loop and the two learners get batches that are in memory already; the
run has its data path besides. Run it from a clone after ``make demo``::

    .venv/bin/python benchmarks/training_throughput.py --data data/demo

RLlib's scheme is that of ``IQLTorchLearner``: an optimizer and a backward pass per loss, each with
``retain_graph``, finite checks of every gradient, metrics logged at every step, and targets that
move once per ``update()``. To move them after every step, as IQL does, ``update()`` must be called
for every step ("scheme"), and in an RLlib run that is a ``train()`` for every step ("scheme_run").
"scheme_lagging" is the scheme with as many steps per call as ours, while the targets hardly move.
"rllib_iql" is RLlib's IQL with a continuous action, its own networks for the same hidden sizes, as
many steps per call; it shows what a user of RLlib has today, and not the scheme alone.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import gymnasium as gym
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from ray.rllib.algorithms.iql.iql import IQLConfig
from ray.rllib.algorithms.iql.torch.iql_torch_learner import IQLTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.core.learner.utils import update_target_network
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from torch import Tensor

from noetik_rllib.cli.errors import run
from noetik_rllib.cluster import connected_ray
from noetik_rllib.iql import losses
from noetik_rllib.iql.algorithm import DiscreteIQL
from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.learner import DiscreteIQLTorchLearner
from noetik_rllib.iql.shard_iterator import REWARD_COMPONENTS
from noetik_rllib.offline.columns import fixed_lists

MODULE = "default_policy"
#: Step sizes at which hundreds of steps on the same few batches change nothing that matters here.
RATE = 1e-5

Batch = dict[str, Tensor]


def iql_losses(
    module: Any, batch: Batch, out: Batch, config: DiscreteIQLConfig
) -> dict[str, Tensor]:
    """Return the loss of each optimizer, without the statistics that our learner keeps."""
    signs, count = module.signs, len(module.signs)
    target_q, v = losses.smaller_q(out["target_q_values"], signs), out["v_values"]
    target = losses.td_target(
        batch[REWARD_COMPONENTS], batch[Columns.TERMINATEDS], out["next_v_values"], config.gamma
    )
    advantage = losses.total(target_q - v.detach(), signs)
    asymmetry = losses.expectile_weights(advantage, config.expectile)
    weighted = [place for place in range(count) if signs[place]]
    probes = [place for place in range(count) if not signs[place]]

    def q_loss(columns: list[int]) -> Tensor:
        return losses.q_loss(out["q_values"][..., columns], target[:, columns])

    def v_loss(columns: list[int]) -> Tensor:
        return losses.expectile_loss(target_q[:, columns], v[:, columns], asymmetry)

    weights = losses.awr_weights(advantage, config.beta, config.max_weight)
    found = {
        "actor": losses.actor_loss(out["log_probs"], weights),
        "q": q_loss(weighted),
        "v": v_loss(weighted),
    }
    return found | ({"probes": q_loss(probes) + v_loss(probes)} if probes else {})


class BareLoop:
    """Gradient steps as a script without RLlib would take them."""

    def __init__(self, module: Any, config: DiscreteIQLConfig) -> None:
        self.module, self.config = module, config
        self.optimizers = [
            torch.optim.Adam(parameters, lr=RATE, fused=True)
            for parameters in module.optimizer_parameters().values()
        ]

    def steps(self, batches: list[Batch], number: int) -> None:
        """Take ``number`` steps."""
        module = self.module
        targets, online = list(module.target_q.parameters()), list(module.q.parameters())
        for batch in itertools.islice(itertools.cycle(batches), number):
            out = module.forward_train(batch)
            loss = torch.stack([*iql_losses(module, batch, out, self.config).values()]).sum()
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for optimizer in self.optimizers:
                optimizer.step()
            losses.polyak_update(targets, online, self.config.target_polyak)


class SchemeLearner(DiscreteIQLTorchLearner):
    """Our losses and module under the update scheme of RLlib's ``IQLTorchLearner``."""

    compute_gradients = IQLTorchLearner.compute_gradients
    postprocess_gradients_for_module = TorchLearner.postprocess_gradients_for_module
    apply_gradients = TorchLearner.apply_gradients

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Give each loss an Adam, as there: not the fused one."""
        self._temp_losses: dict[tuple[str, str], Tensor] = {}
        for name, parameters in self._unwrapped(module_id).optimizer_parameters().items():
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=name,
                optimizer=torch.optim.Adam(parameters, eps=1e-7),
                params=parameters,
                lr_or_lr_schedule=RATE,
            )

    def compute_loss_for_module(
        self, *, module_id: str, config: DiscreteIQLConfig, batch: Batch, fwd_out: Batch
    ) -> Tensor:
        """Keep the losses for ``compute_gradients``, and log them at every step."""
        found = iql_losses(self._unwrapped(module_id), batch, fwd_out, config)
        named = {f"{name}_loss": loss for name, loss in found.items()}
        self.metrics.log_dict(named, key=module_id, window=1)
        self._temp_losses = {(module_id, name): loss for name, loss in named.items()}
        return torch.stack([*found.values()]).sum()

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Move the targets: RLlib's place for it."""
        TorchLearner.after_gradient_based_update(self, timesteps=timesteps)
        for online, target in self._unwrapped(MODULE).get_target_network_pairs():
            update_target_network(main_net=online, target_net=target, tau=self.config.target_polyak)


class InMemory:
    """Stands for a ``ShardIterator``: the same few batches over and over."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def starting_at(self, batches_drawn: int) -> InMemory:
        """Return itself."""
        return self

    def iter_torch_batches(self, **kwargs: Any) -> Iterator[Batch]:
        """Yield the batches without end, as RLlib names their columns."""
        for batch in itertools.cycle(self.batches):
            yield {f"{MODULE}/{name}": column for name, column in batch.items()}


def update(learner: Any, batches: list[Batch], steps: int) -> None:
    """Let a learner take steps in one call."""
    if learner.iterator is not None:
        learner.iterator._num_iters = steps
    learner.update(
        training_data=TrainingData(data_iterators=[InMemory(batches)]),
        minibatch_size=len(batches[0][Columns.ACTIONS]),
        num_iters=steps,
        timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: 0},
    )


def cartpole_like(folder: Path, rows: int = 20_000) -> Path:
    """Write a log of random rows with the spaces of CartPole, for the small networks."""
    rng = np.random.default_rng(0)
    columns = {name: fixed_lists(rng.normal(size=(rows, 4)).astype("f4")) for name in ("obs", "n")}
    table = pa.table(
        {
            "obs": columns["obs"],
            "new_obs": columns["n"],
            "actions": rng.integers(2, size=rows),
            "rewards": rng.normal(size=rows),
            "terminateds": rng.random(rows) < 0.05,
        }
    )
    pq.write_table(table, folder / "log.parquet")
    return folder


def rllib_iql(steps: int, batch_size: int) -> Callable[[], object]:
    """Return what takes steps of RLlib's own IQL on CartPole's observations and one force."""
    spaces = (gym.spaces.Box(-np.inf, np.inf, (4,)), gym.spaces.Box(-1, 1, (1,)))
    config = (
        IQLConfig()
        .environment(observation_space=spaces[0], action_space=spaces[1])
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=[256, 256], fcnet_activation="relu", head_fcnet_hiddens=[]
            )
        )
        .training(actor_lr=RATE, critic_lr=RATE, value_lr=RATE)
        .debugging(seed=0)
    )
    learner = config.learner_class(
        config=config, module_spec=config.get_multi_rl_module_spec(spaces={MODULE: spaces})
    )
    learner.build()
    batches = [
        {
            Columns.OBS: torch.randn(batch_size, 4),
            Columns.NEXT_OBS: torch.randn(batch_size, 4),
            Columns.ACTIONS: 1.8 * torch.rand(batch_size, 1) - 0.9,
            Columns.REWARDS: torch.randn(batch_size),
            Columns.TERMINATEDS: torch.zeros(batch_size),
        }
        for _ in range(20)
    ]
    return lambda: update(learner, batches, steps)


def measure(
    config: DiscreteIQLConfig, repeats: int, others: dict[str, Callable[[], object]]
) -> dict[str, Any]:
    """Time the run, the bare loop, our update, RLlib's scheme and ``others`` in turn."""
    steps = config.dataset_num_iters_per_learner
    algorithm: DiscreteIQL = config.build_algo()
    module = algorithm.learner_group._learner.module[MODULE].unwrapped()
    (shard,) = algorithm.offline_data.sample(config.train_batch_size_per_learner)
    batch_size = config.train_batch_size_per_learner
    drawn = itertools.islice(shard.iter_torch_batches(batch_size=batch_size), 20)
    batches = [{name.removeprefix(f"{MODULE}/"): x for name, x in b.items()} for b in drawn]
    bare = BareLoop(module, config)
    # A learner each, with a module of its own.
    spec = algorithm.learner_group._learner._module_spec
    ours, scheme = (
        kind(config=algorithm.config, module_spec=spec)
        for kind in (DiscreteIQLTorchLearner, SchemeLearner)
    )
    ours.build()
    scheme.build()
    single = config.copy(copy_frozen=False).offline_data(dataset_num_iters_per_learner=1)
    under_scheme = single.training(learner_class=SchemeLearner).build_algo()

    def per_step() -> None:
        for _ in range(steps):
            update(scheme, batches, 1)

    def run_per_step() -> None:
        for _ in range(steps):
            under_scheme.train()

    contestants: dict[str, Callable[[], object]] = {
        "bare": lambda: bare.steps(batches, steps),
        "run": algorithm.train,
        "update": lambda: update(ours, batches, steps),
        "scheme": per_step,
        "scheme_lagging": lambda: update(scheme, batches, steps),
        "scheme_run": run_per_step,
        **others,
    }
    clocks = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}
    spent: dict[str, dict[str, list[float]]] = {
        clock: {name: [] for name in contestants} for clock in clocks
    }
    for repeat in range(repeats + 1):
        for name, take_steps in contestants.items():
            start = {clock: read() for clock, read in clocks.items()}
            take_steps()
            if repeat:  # the first warms up
                for clock, read in clocks.items():
                    spent[clock][name].append(read() - start[clock])
    algorithm.stop()
    under_scheme.stop()

    def ratio(seconds: dict[str, list[float]], faster: str, than: str) -> dict[str, float]:
        pairs = zip(seconds[than], seconds[faster], strict=True)
        ratios = [left / right for left, right in pairs]
        return {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)}

    return {
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        # By the clock, and by this process' own work, which a loaded machine disturbs less.
        **{
            clock: {
                "ms_per_step": {
                    name: 1000 * statistics.median(values) / steps
                    for name, values in seconds.items()
                },
                "run_to_bare": ratio(seconds, "run", "bare"),
                "update_to_scheme": ratio(seconds, "update", "scheme"),
                "update_to_scheme_lagging": ratio(seconds, "update", "scheme_lagging"),
                "run_to_scheme_run": ratio(seconds, "run", "scheme_run"),
                **{f"update_to_{name}": ratio(seconds, "update", name) for name in others},
            }
            for clock, seconds in spent.items()
        },
    }


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Offline dataset.")
@click.option("--steps", default=20, show_default=True, help="Gradient steps per measurement.")
@click.option("--repeats", default=9, show_default=True, help="Measurements of each, in turn.")
@click.option("--embedding-size", default=64, show_default=True, help="Width of the transformer.")
def main(data: Path, steps: int, repeats: int, embedding_size: int) -> None:
    """Print milliseconds per gradient step of each, and the ratios, for both kinds of networks."""
    rates = {"actor_lr": RATE, "critic_lr": RATE, "value_lr": RATE}
    videos = (
        DiscreteIQLConfig()
        .offline_data(input_=[str(data.resolve() / "train")], dataset_num_iters_per_learner=steps)
        .training(**rates)
        .rl_module(model_config={"embedding_size": embedding_size})
        .debugging(seed=0)
    )
    with connected_ray(), tempfile.TemporaryDirectory() as folder:
        small = (
            DiscreteIQLConfig()
            .environment(
                observation_space=gym.spaces.Box(-np.inf, np.inf, (4,)),
                action_space=gym.spaces.Discrete(2),
            )
            .offline_data(
                input_=[str(cartpole_like(Path(folder)))], dataset_num_iters_per_learner=10 * steps
            )
            .training(**rates)
            .debugging(seed=0)
        )
        own = rllib_iql(10 * steps, small.train_batch_size_per_learner)
        result = {
            "threads": torch.get_num_threads(),
            "transformer": measure(videos, repeats, {}),
            "mlp": measure(small, repeats, {"rllib_iql": own}),
        }
    click.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    run(main)

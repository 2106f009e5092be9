"""Gradient steps per second of the whole RLlib run against a bare PyTorch loop, in one process.

Both train the same module on the same rows with the same losses, in turn, several times; what
counts is the ratio. Run it from a clone after ``make demo``::

    .venv/bin/python benchmarks/training_throughput.py --data data/demo
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn import functional as F

from noetik_rllib.cli.errors import run
from noetik_rllib.iql import losses
from noetik_rllib.iql.algorithm import DiscreteIQL
from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.training import connected_ray

MODULE = "default_policy"


def bare_steps(
    module: Any, batches: Iterator[dict[str, Tensor]], config: DiscreteIQLConfig, steps: int
) -> None:
    """Take ``steps`` gradient steps as a script without RLlib would."""
    networks = [module.actor, module.q, module.v]
    optimizers = [torch.optim.Adam(part.parameters(), lr=1e-5, fused=True) for part in networks]
    for _ in range(steps):
        batch = {name.removeprefix(f"{MODULE}/"): x for name, x in next(batches).items()}
        out = module.forward_train(batch)
        target_q, v = losses.min_q(out["target_q_values"]), out["v_values"]
        weights = losses.awr_weights(target_q - v.detach(), config.beta, config.max_weight)
        log_prob = -F.cross_entropy(out["action_dist_inputs"], batch["actions"], reduction="none")
        target = losses.td_target(
            batch["rewards"], batch["terminateds"], out["next_v_values"], config.gamma
        )
        loss = (
            losses.expectile_loss(target_q, v, config.expectile)
            + losses.q_loss(out["q_values"], target)
            + losses.actor_loss(log_prob, weights)
        )
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.polyak_update(
            list(module.target_q.parameters()),
            list(module.q.parameters()),
            config.target_polyak,
        )


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Offline dataset.")
@click.option("--steps", default=50, show_default=True, help="Gradient steps per measurement.")
@click.option("--repeats", default=5, show_default=True, help="Measurements of each, in turn.")
@click.option("--embedding-size", default=64, show_default=True, help="Width of the networks.")
def main(data: Path, steps: int, repeats: int, embedding_size: int) -> None:
    """Print milliseconds per gradient step of both, and RLlib's throughput over the bare loop's."""
    config = (
        DiscreteIQLConfig()
        .offline_data(input_=[str(data.resolve() / "train")], dataset_num_iters_per_learner=steps)
        .rl_module(model_config={"embedding_size": embedding_size})
        .debugging(seed=0)
    )
    seconds: dict[str, list[float]] = {"bare": [], "rllib": []}
    with connected_ray():
        algorithm: DiscreteIQL = config.build_algo()
        module = algorithm.learner_group._learner.module[MODULE].unwrapped()
        shard = algorithm.offline_data.sample(
            num_samples=config.train_batch_size_per_learner, return_iterator=True, num_shards=0
        )[0]
        batches = iter(shard.iter_torch_batches(batch_size=config.train_batch_size_per_learner))
        bare_steps(module, batches, config, 5)
        algorithm.train()
        for _ in range(repeats):
            start = time.perf_counter()
            bare_steps(module, batches, config, steps)
            seconds["bare"].append(time.perf_counter() - start)
            start = time.perf_counter()
            algorithm.train()
            seconds["rllib"].append(time.perf_counter() - start)
        algorithm.stop()
    pairs = zip(seconds["bare"], seconds["rllib"], strict=True)
    ratios = [bare / rllib for bare, rllib in pairs]
    result = {
        "bare_ms_per_step": 1000 * statistics.median(seconds["bare"]) / steps,
        "rllib_ms_per_step": 1000 * statistics.median(seconds["rllib"]) / steps,
        "throughput_ratio": {
            "min": min(ratios),
            "median": statistics.median(ratios),
            "max": max(ratios),
        },
    }
    click.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    run(main)

"""What should actor, Q and V share: nothing, the video tower, or the whole encoder of states?

Trains the same run with each on a synthetic world, with several seeds, and has the world's true
users answer the policies in the same sessions::

    .venv/bin/noetik data synth --preset demo --out data/demo-world
    .venv/bin/noetik data prepare --source data/demo-world --out data/demo
    .venv/bin/python benchmarks/sharing.py --world data/demo-world --data data/demo
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import get_args

import click
import numpy as np
from rich.table import Table

from noetik_rllib.cli.console import out, progress_bar
from noetik_rllib.cli.demo import DEMO_SETTINGS
from noetik_rllib.cli.errors import run
from noetik_rllib.cluster import connected_ray
from noetik_rllib.data.signals import RewardWeights
from noetik_rllib.envs.simulator import Simulator
from noetik_rllib.envs.starts import load_starts
from noetik_rllib.envs.world_users import WorldUsers
from noetik_rllib.evaluation.policies import ActorPolicy
from noetik_rllib.evaluation.sessions import SessionStarts, run_sessions
from noetik_rllib.iql.network_config import NetworkSizes
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.runs import TrainConfig, train

CHOICES: tuple[str, ...] = get_args(NetworkSizes.model_fields["share"].annotation)
REWARD = RewardWeights().as_array()


@click.command()
@click.option("--world", type=click.Path(path_type=Path), required=True, help="Synthetic world.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Its dataset.")
@click.option("--seeds", default=3, show_default=True, help="Runs of each.")
@click.option("--sessions", default=10, show_default=True, help="Sessions of each held-out user.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(*, world: Path, data: Path, seeds: int, sessions: int, as_json: bool) -> None:
    """Train with each kind of sharing; print true rewards per video and seconds per step."""
    dataset = OfflineDataset(data)
    truth = Simulator(WorldUsers.load(world, dataset), dataset.catalog.duration_ms)
    held_out = dataset.users.user_id[dataset.users.held_out]
    found = load_starts(dataset, "test", held_out)
    rewards: dict[str, list[float]] = {name: [] for name in CHOICES}
    seconds: dict[str, list[float]] = {name: [] for name in CHOICES}
    with connected_ray(), tempfile.TemporaryDirectory() as folder, progress_bar("share") as update:
        for seed in range(seeds):
            starts = SessionStarts.draw(found, len(held_out), range(seed, seed + sessions))
            # In turn, so that a change of the machine's speed meets all of them.
            for place, name in enumerate(CHOICES):
                update(f"{name}, seed {seed}", (seed + place / len(CHOICES)) / seeds)
                settings = DEMO_SETTINGS | {"share": name, "seed": seed, "data": data}
                config = TrainConfig.parse(settings | {"out": Path(folder) / f"{name}-{seed}"})
                finished = train(config)
                log = run_sessions(ActorPolicy.of(finished.networks()), truth, starts, steps=10)
                rewards[name].append(float((log.by_user() @ REWARD).mean()))
                steps = config.iterations * config.steps_per_iteration
                seconds[name].append(finished.progress()[-1]["seconds"] / steps)
    if as_json:
        click.echo(json.dumps({"reward": rewards, "seconds_per_step": seconds}, indent=2))
        return
    table = Table("shared", "true reward", "of each seed", "ms per step", box=None, pad_edge=False)
    for name in CHOICES:
        table.add_row(
            name,
            f"{np.mean(rewards[name]):.4f}",
            " ".join(f"{reward:.4f}" for reward in rewards[name]),
            f"{1000 * statistics.median(seconds[name]):.1f}",
        )
    out.print(table)


if __name__ == "__main__":
    run(main)

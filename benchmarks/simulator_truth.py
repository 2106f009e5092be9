"""The fitted simulators against the truth of a synthetic world.

Two questions. Does the evaluation simulator rank policies as the truth does? And does a policy made
for the training simulator, which recommends what that simulator likes best, gain more on it than it
really does? Every policy goes through the same sessions, of the same held-out users from the same
states, with each of three answering: the training simulator, the evaluation simulator, the world::

    .venv/bin/noetik data synth --preset pure --out data/pure-world
    .venv/bin/python benchmarks/simulator_truth.py --world data/pure-world
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import click
import numpy as np
from off_policy_policies import SameTagsPolicy
from rich.table import Table
from scipy.stats import spearmanr

from noetik_rllib.cli.console import out, progress_bar
from noetik_rllib.cli.errors import run
from noetik_rllib.data.signals import RewardWeights
from noetik_rllib.envs.response_fit import fit_response_model
from noetik_rllib.envs.response_model import ResponseModel
from noetik_rllib.envs.simulator import Simulator
from noetik_rllib.envs.starts import load_starts
from noetik_rllib.envs.world_users import WorldUsers
from noetik_rllib.evaluation.baselines import GreedyPolicy, NoisyPolicy, logged_reward
from noetik_rllib.evaluation.intervals import Intervals, bootstrap_by_user
from noetik_rllib.evaluation.policies import (
    FixedPolicy,
    Policy,
    RandomPolicy,
    popularity,
)
from noetik_rllib.evaluation.sessions import SessionStarts, run_sessions
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.prepare_config import PrepareConfig
from noetik_rllib.offline.writer import prepare

REWARD = RewardWeights()


def policies(dataset: OfflineDataset, model: ResponseModel, seed: int) -> list[Policy]:
    """Return policies from bad to good; the last is made for the training simulator."""
    n = dataset.manifest.num_videos
    rate = logged_reward(dataset, REWARD)
    greedy = GreedyPolicy(model, REWARD, name="greedy on the model")
    likes = RewardWeights(click=0, watch_ratio=0, like=1)
    return [
        RandomPolicy(n, seed),
        FixedPolicy("worst by logged reward", -rate),
        FixedPolicy("best by logged reward", rate),
        popularity(dataset),
        FixedPolicy("longest videos", dataset.catalog.duration_ms),
        SameTagsPolicy(dataset),
        GreedyPolicy(model, likes, name="likes alone"),
        NoisyPolicy("model, noise 0.1", greedy, 0.1, seed),
        NoisyPolicy("model, noise 0.03", greedy, 0.03, seed),
        greedy,
    ]


def values(
    chosen: Sequence[Policy], simulator: Simulator, starts: SessionStarts, seed: int
) -> dict[str, np.ndarray]:
    """Return each policy's mean reward per video and user, (U,)."""
    result = {}
    for policy in chosen:
        log = run_sessions(policy, simulator, starts, steps=10)
        result[policy.name] = log.by_user() @ REWARD.as_array()
    return result


def _interval(per_user: np.ndarray, seed: int) -> Intervals:
    return bootstrap_by_user(per_user[:, None], seed)


def _text(interval: Intervals) -> str:
    mean, low, high = (float(x[0]) for x in (interval.mean, interval.low, interval.high))
    return f"{mean:.4f} [{low:.4f}, {high:.4f}]"


@click.command()
@click.option("--world", type=click.Path(path_type=Path), required=True, help="Synthetic world.")
@click.option("--users", default=200, show_default=True, help="Held-out users.")
@click.option("--sessions", default=2, show_default=True, help="Sessions of each.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--split-at",
    default="2022-05-01T00:00+08:00",
    show_default=True,
    help="The moment up to which is fitted: the random log begins on 22 April, after most users' "
    "own splits, and without it the simulators know only what the logging policy chose.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(
    *, world: Path, users: int, sessions: int, seed: int, split_at: str, as_json: bool
) -> None:
    """Fit both simulators and send ten policies through sessions of each and of the truth."""
    with tempfile.TemporaryDirectory() as folder, progress_bar("simulators") as update:
        update("preparing", 0.0)
        moment = round(datetime.fromisoformat(split_at).timestamp() * 1000)
        config = PrepareConfig(split="time", split_time_ms=moment, seed=seed)
        prepare(world, Path(folder) / "data", config)
        dataset = OfflineDataset(Path(folder) / "data")
        update("fitting the training simulator", 0.1)
        trained = fit_response_model(dataset, "train", seed=seed)
        update("fitting the evaluation simulator", 0.4)
        judge = fit_response_model(dataset, "judge", seed=seed)
        held_out = dataset.users.user_id[dataset.users.held_out]
        starts = SessionStarts.draw(
            load_starts(dataset, "test", held_out), users, range(seed, seed + sessions)
        )
        answering = {
            "training": Simulator.for_dataset(dataset, trained),
            "evaluation": Simulator.for_dataset(dataset, judge),
            "truth": Simulator(WorldUsers.load(world, dataset), dataset.catalog.duration_ms),
        }
        per_user = {}
        for number, (name, simulator) in enumerate(answering.items()):
            update(f"sessions of {name}", 0.5 + number / 6)
            # The same noise for each: policies are made anew.
            per_user[name] = values(policies(dataset, trained, seed), simulator, starts, seed)
    _show(per_user, seed, as_json=as_json)


def _show(per_user: dict[str, dict[str, np.ndarray]], seed: int, *, as_json: bool) -> None:
    names = list(per_user["truth"])
    means = {who: [float(value.mean()) for value in of.values()] for who, of in per_user.items()}
    rank = {who: float(spearmanr(means[who], means["truth"])[0]) for who in means}
    gain = {who: of[names[-1]] - of["random"] for who, of in per_user.items()}
    intervals = {who: _interval(value, seed) for who, value in gain.items()}
    if as_json:
        content = {
            "policies": {
                name: {who: means[who][place] for who in means} for place, name in enumerate(names)
            },
            "spearman": rank,
            "gain_over_random": {
                who: [float(x[0]) for x in (i.mean, i.low, i.high)] for who, i in intervals.items()
            },
        }
        click.echo(json.dumps(content, indent=2))
        return
    table = Table("mean reward per video", *per_user, box=None, pad_edge=False)
    for name in names:
        table.add_row(name, *(_text(_interval(of[name], seed)) for of in per_user.values()))
    table.add_row("gain of the last over random", *(_text(i) for i in intervals.values()))
    table.add_row("Spearman with the truth", *(f"{value:.3f}" for value in rank.values()))
    out.print(table)


if __name__ == "__main__":
    run(main)

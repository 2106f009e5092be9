"""Do the intervals of fitted Q evaluation cover the truth, and does it rank policies as that does?

One synthetic world, with habit and satiation, is drawn and prepared once. The user model whose
features Q is linear in is fitted on the held-out users' rows before the split; the policies follow
from the other users' rows before it. These others are parted at random into disjoint groups, one
per repetition, and each repetition evaluates every policy on its group's rows from the split on.
The truth is the mean over all of them of sessions that begin in the same states and are answered by
the world::

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/fitted_q_coverage.py

Repetitions are independent given the world, the model and the policies: 200 of them place a
coverage of 95 % within 3 points.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from rich.table import Table
from scipy.stats import spearmanr

from noetik_rllib.cli.console import out, progress_bar
from noetik_rllib.cli.errors import run
from noetik_rllib.data.signals import BINARY_SIGNALS, RewardWeights
from noetik_rllib.data.world import SyntheticWorld, WorldConfig
from noetik_rllib.envs.response_fit import fit_response_model
from noetik_rllib.envs.simulator import Simulator
from noetik_rllib.envs.starts import Starts
from noetik_rllib.envs.world_users import WorldUsers
from noetik_rllib.evaluation.fitted_q import (
    RIDGE,
    SessionRows,
    describe_logged,
    load_session_rows,
    transitions,
    with_reward,
)
from noetik_rllib.evaluation.intervals import bootstrap_by_user
from noetik_rllib.evaluation.linear_fqe import fit
from noetik_rllib.evaluation.policies import (
    FixedPolicy,
    Policy,
    RandomPolicy,
    ScoringPolicy,
    popularity,
)
from noetik_rllib.evaluation.result import METRICS
from noetik_rllib.evaluation.session_features import SessionFeatures
from noetik_rllib.evaluation.sessions import SessionStarts, run_sessions
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.prepare_config import PrepareConfig
from noetik_rllib.offline.writer import prepare

STEPS = 10
#: 25 April 2022, 00:00 in UTC+8: three days of the random log are left to fit the user model on.
SPLIT_MS = 1_650_816_000_000
REWARD = RewardWeights()
#: Rows of the mean that are mixed into a video's reward.
PRIOR_ROWS = 50.0
#: Metrics whose coverage is reported: the others follow rare reactions.
REPORTED = ("reward", "click", "watch_ratio")
#: Repetitions whose features are held at a time.
AT_A_TIME = 20
#: Sessions of each user that the truth is the mean of.
TRUE_SESSIONS = 2


class TagsPolicy(ScoringPolicy):
    """Videos with tags of what the user clicked lately, and without tags of what they did not.

    Args:
        name: what tables call it.
        dataset: whose videos are ranked.
        rate: added to the scores: a reward of each video, (N,), times a weight.
        noise: scale of Gumbel noise on the scores.
    """

    def __init__(
        self, name: str, dataset: OfflineDataset, rate: np.ndarray, noise: float = 0.0
    ) -> None:
        super().__init__(name, dataset.manifest.num_videos)
        self._layout, self._rate, self._noise = dataset.layout, rate.astype(np.float32), noise
        self._rng = np.random.default_rng(0)
        tags = dataset.catalog.tags
        self._has = np.zeros((len(tags), int(tags.max()) + 1), dtype=np.float32)
        row, place = np.nonzero(tags >= 0)
        self._has[row, tags[row, place]] = 1.0

    def score_all(self, states: np.ndarray, user_id: np.ndarray) -> np.ndarray:
        """Clicked past events that share a tag, less half of all that do, and the rate, (B, N)."""
        parts = self._layout.unpack(states)
        clicked = parts.feedback[..., BINARY_SIGNALS.index("click")] - 0.5
        weight = np.where(parts.present, clicked, 0.0).astype(np.float32)
        liked = np.zeros((len(states), self._has.shape[1]), dtype=np.float32)
        for slot in range(weight.shape[1]):
            liked += weight[:, slot, None] * self._has[parts.video_index[:, slot]]
        scores = liked @ self._has.T + self._rate
        if self._noise:
            scores += self._noise * self._rng.gumbel(size=scores.shape).astype(np.float32)
        return np.asarray(scores)


def make_policies(dataset: OfflineDataset) -> list[Policy]:
    """Return policies from bad to good, all from the part ``train``."""
    n = dataset.manifest.num_videos
    rows = dataset.load("train", ("actions", "click", "watch_ratio"))
    shown = np.bincount(rows["actions"], minlength=n)
    reward = 0.5 * (rows["click"] + rows["watch_ratio"])
    total = np.bincount(rows["actions"], weights=reward, minlength=n)
    rate = (total + PRIOR_ROWS * reward.mean()) / (shown + PRIOR_ROWS)
    return [
        FixedPolicy("worst by logged reward", -rate),
        RandomPolicy(n),
        popularity(dataset),
        FixedPolicy("best by logged reward", rate),
        TagsPolicy("tags of recent clicks, noise", dataset, 0 * rate, noise=0.7),
        TagsPolicy("tags of recent clicks", dataset, 0 * rate),
        TagsPolicy("tags and logged reward", dataset, 5 * rate),
    ]


@dataclass(frozen=True)
class Coverage:
    """What the repetitions said of P policies: all (repetitions, P, reported metrics)."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray


def starts_of(rows: SessionRows, seeds: range) -> SessionStarts:
    """Start a session of every user of some rows with each seed."""
    order = np.argsort(rows.start_user, kind="stable")
    distinct, first = np.unique(rows.start_user[order], return_index=True)
    found = Starts(
        states=rows.start_states[order],
        user_id=rows.users[rows.start_user[order]],
        users=rows.users[distinct],
        first=np.append(first, len(order)),
    )
    return SessionStarts.draw(found, len(distinct), seeds)


def true_sums(
    policies: list[Policy], simulator: Simulator, rows: SessionRows, seed: int
) -> np.ndarray:
    """Sum over users of the mean of ``METRICS`` per video of their sessions, (P, 10)."""
    starts = starts_of(rows, range(seed, seed + TRUE_SESSIONS))
    sums = []
    for policy in policies:
        log = run_sessions(policy, simulator, starts, steps=STEPS)
        signals = log.by_user().sum(axis=0)
        sums.append(np.concatenate([[signals @ REWARD.as_array()], signals]))
    return np.stack(sums)


def repeat(
    world: Path,
    dataset: OfflineDataset,
    policies: list[Policy],
    repetitions: int,
    seed: int,
    progress: Callable[[float], None],
) -> tuple[Coverage, np.ndarray]:
    """Evaluate the policies on disjoint groups of users; also the truth over all, (P, reported)."""
    model = fit_response_model(dataset, "judge", seed=seed)
    features = SessionFeatures(model, dataset, STEPS, selection=True)
    simulator = Simulator(WorldUsers.load(world, dataset), dataset.catalog.duration_ms)
    columns = [METRICS.index(name) for name in REPORTED]
    everyone = load_session_rows(
        dataset, users=dataset.users.user_id[~dataset.users.held_out], max_rows=10**9
    )
    order = np.random.default_rng(seed).permutation(len(everyone.users))
    groups = np.array_split(order, repetitions)
    truth = np.zeros((len(policies), len(METRICS)))
    found: list[np.ndarray] = []
    for first in range(0, repetitions, AT_A_TIME):
        some = groups[first : first + AT_A_TIME]
        block = everyone.of_users(np.concatenate(some))
        truth += true_sums(policies, simulator, block, seed=first)
        result = np.empty((len(some), len(policies), 3, len(columns)))
        logged = describe_logged(features, block)
        for number, policy in enumerate(policies):
            described, _ = transitions(policy, features, dataset, block, logged)
            for place, users in enumerate(some):
                own = np.searchsorted(block.users, np.sort(everyone.users[users]))
                estimate = fit(described.of_users(own), RIDGE)
                ends = bootstrap_by_user(with_reward(estimate, REWARD)[:, columns], seed)
                result[place, number] = ends.mean, ends.low, ends.high
        found.append(result)
        progress(min(1.0, (first + AT_A_TIME) / repetitions))
    every = np.concatenate(found)
    coverage = Coverage(every[:, :, 0], every[:, :, 1], every[:, :, 2])
    return coverage, truth[:, columns] / len(everyone.users)


def make(folder: Path, users: int, seed: int) -> OfflineDataset:
    """Draw and prepare the world in ``folder``, unless it is there."""
    if not (folder / "data").exists():
        config = WorldConfig(
            users=users,
            videos=150,
            tags=20,
            standard_rows=40 * users,
            random_rows=16 * users,
            seed=seed,
        )
        SyntheticWorld(config).write(folder / "world")
        prepare(
            folder / "world", folder / "data", PrepareConfig(split="time", split_time_ms=SPLIT_MS)
        )
    return OfflineDataset(folder / "data")


@click.command()
@click.option("--users", default=40_000, show_default=True, help="Users of the world.")
@click.option("--repetitions", default=200, show_default=True, help="Disjoint groups of users.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--keep", type=click.Path(path_type=Path), help="Folder to make the world in, or to find it."
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(*, users: int, repetitions: int, seed: int, keep: Path | None, as_json: bool) -> None:
    """Evaluate seven policies in every group, and hold the intervals against the truth."""
    with tempfile.TemporaryDirectory() as folder, progress_bar("fitted Q") as update:
        root = keep or Path(folder)
        update("drawing the world", 0.0)
        dataset = make(root, users, seed)
        policies = make_policies(dataset)
        coverage, truth = repeat(
            root / "world",
            dataset,
            policies,
            repetitions,
            seed,
            lambda share: update("repetitions", share),
        )
    _show([policy.name for policy in policies], coverage, truth, as_json=as_json)


def _show(names: list[str], coverage: Coverage, truth: np.ndarray, *, as_json: bool) -> None:
    covered = (coverage.low <= truth) & (truth <= coverage.high)
    rank = [float(spearmanr(estimate, truth[:, 0])[0]) for estimate in coverage.estimate[:, :, 0]]
    content = {
        "policies": {
            name: {
                metric: {
                    "truth": float(truth[number, place]),
                    "mean_estimate": float(coverage.estimate[:, number, place].mean()),
                    "spread_of_estimates": float(coverage.estimate[:, number, place].std()),
                    "half_width": float(
                        (coverage.high - coverage.low)[:, number, place].mean() / 2
                    ),
                    "coverage": float(covered[:, number, place].mean()),
                }
                for place, metric in enumerate(REPORTED)
            }
            for number, name in enumerate(names)
        },
        "coverage": {
            metric: float(covered[:, :, place].mean()) for place, metric in enumerate(REPORTED)
        },
        "spearman": float(np.mean(rank)),
        "repetitions": len(coverage.estimate),
    }
    if as_json:
        click.echo(json.dumps(content, indent=2))
        return
    table = Table("policy", "metric", "truth", "mean", "spread", "half width", "coverage", box=None)
    for name, metrics in content["policies"].items():
        for metric, figures in metrics.items():
            table.add_row(name, metric, *(f"{value:.4f}" for value in figures.values()))
    for metric, value in content["coverage"].items():
        table.add_row("all", metric, "", "", "", "", f"{value:.4f}")
    out.print(table)
    out.print(f"mean Spearman with the truth: {content['spearman']:.3f}")


if __name__ == "__main__":
    run(main)

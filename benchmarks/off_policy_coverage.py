"""Whether off-policy intervals hold what they promise, and rank policies as the truth does.

One synthetic world of 85,000 users; policies from worse than chance to nearly the best. Each
repetition sees 400 users whom no other one sees, fewer than any KuaiRand, and estimates every
policy from their 8,000 random rows, of which some 130 show what it would. The truth is what the
world would answer in expectation, in closed form, on the rows of all users: the intervals are for
the population that the users are drawn from. The model of dm, dr and switch_dr is fitted once, on
the rows before the split of users held out::

    .venv/bin/python benchmarks/off_policy_coverage.py
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import click
import numpy as np
from off_policy_policies import Witness, policies
from rich.table import Table
from scipy.stats import spearmanr

from noetik_rllib.cli.console import out, progress_bar
from noetik_rllib.cli.errors import run
from noetik_rllib.data.signals import RewardWeights
from noetik_rllib.data.world import SyntheticWorld, WorldConfig
from noetik_rllib.envs.response_fit import fit_response_model
from noetik_rllib.evaluation.candidates import CANDIDATES, Choices, choice_values, choose
from noetik_rllib.evaluation.evidence import ESTIMATORS, collect
from noetik_rllib.evaluation.off_policy import Figures, summarise
from noetik_rllib.evaluation.random_log import RandomLog
from noetik_rllib.evaluation.result import METRICS, Interval
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.offline.prepare_config import PrepareConfig
from noetik_rllib.offline.writer import prepare

#: A quarter of the random log is before it, and the model is fitted on the held-out users' part.
SPLIT = "2022-04-26T00:00+08:00"
#: Metrics that are common enough on so few rows. The rare signals are withheld.
JUDGED = ("reward", "click", "watch_ratio", "long_view")


class Tally:
    """Coverage, bias and width by estimator, policy and metric, over repetitions.

    Args:
        truth: policy -> true value of each of ``METRICS``, (10,).
    """

    def __init__(self, truth: dict[str, np.ndarray]) -> None:
        self._truth = truth
        #: (estimator, policy or "ours - policy", metric) -> (mean, low, high) of each repetition.
        self._seen: dict[tuple[str, str, str], list[tuple[float, float, float]]] = {}
        self._spearman: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
        self._ours = next(iter(truth))

    def add(self, figures: Figures) -> None:
        """Count one repetition."""
        for estimator in ESTIMATORS:
            reward = {}
            for policy, found in figures.policies.items():
                metrics = found.estimates[estimator].metrics
                self._add(estimator, policy, metrics)
                if "reward" in metrics:
                    reward[policy] = metrics["reward"].mean
            for policy, differences in figures.differences.items():
                self._add(estimator, f"ours - {policy}", differences[estimator])
            if len(reward) == len(self._truth):
                truth = [self._truth[policy][0] for policy in reward]
                self._spearman[estimator].append(float(spearmanr(list(reward.values()), truth)[0]))

    def _add(self, estimator: str, policy: str, metrics: dict[str, Interval]) -> None:
        for metric in JUDGED:
            if metric in metrics:
                found = metrics[metric]
                key = estimator, policy, metric
                self._seen.setdefault(key, []).append((found.mean, found.low, found.high))

    def summary(self, estimator: str, what: str, metric: str) -> dict[str, float]:
        """Coverage, mean error, its spread and mean width of one interval."""
        found = np.array(self._seen.get((estimator, what, metric), np.empty((0, 3))))
        if not len(found):
            return {"repetitions": 0.0}
        truth = self._true(what)[METRICS.index(metric)]
        inside = (found[:, 1] <= truth) & (truth <= found[:, 2])
        return {
            "repetitions": float(len(found)),
            "coverage": float(inside.mean()),
            "bias": float(found[:, 0].mean() - truth),
            "standard_error": float(found[:, 0].std()),
            "width": float((found[:, 2] - found[:, 1]).mean()),
        }

    def pooled(self, estimator: str, whats: list[str], metric: str) -> float:
        """Coverage over all intervals that were given; NaN where none was."""
        found = [self.summary(estimator, what, metric) for what in whats]
        given = [of["repetitions"] for of in found]
        inside = [of.get("coverage", 0.0) * of["repetitions"] for of in found]
        return sum(inside) / sum(given) if sum(given) else float("nan")

    def content(self) -> dict[str, object]:
        """All of it, for JSON."""
        differences = [f"ours - {name}" for name in self._truth if name != self._ours]
        whats = [*self._truth, *differences]
        return {
            "truth": {
                name: dict(zip(METRICS, map(float, values), strict=True))
                for name, values in self._truth.items()
            },
            "spearman": {
                name: float(np.mean(values)) if values else None
                for name, values in self._spearman.items()
            },
            "pooled": {
                estimator: {
                    metric: self.pooled(estimator, list(self._truth), metric) for metric in JUDGED
                }
                for estimator in ESTIMATORS
            },
            "pooled_differences": {
                estimator: {
                    metric: self.pooled(estimator, differences, metric) for metric in JUDGED
                }
                for estimator in ESTIMATORS
            },
            "intervals": {
                estimator: {
                    what: {metric: self.summary(estimator, what, metric) for metric in JUDGED}
                    for what in whats
                }
                for estimator in ESTIMATORS
            },
        }

    def _true(self, what: str) -> np.ndarray:
        if what in self._truth:
            return self._truth[what]
        return self._truth[self._ours] - self._truth[what.removeprefix("ours - ")]


class ChoiceTally:
    """The same of candidate values, whose truth is the mean over the sets of all users.

    That is itself an estimate, of a hundredth of a repetition's variance or less.
    """

    def __init__(self, names: list[str], choices: Choices) -> None:
        self._names, self._choices = names, choices
        signals = choices.answers.mean(axis=0, dtype=np.float64)  # (P, 9)
        self._truth = signals @ RewardWeights().as_array()
        self._inside: list[list[bool]] = []
        self._spearman: list[float] = []

    def add(self, users: np.ndarray, seed: int) -> None:
        """Count one repetition, of some users (V,)."""
        kept = np.isin(self._choices.user, users)
        some = Choices(
            self._choices.user[kept],
            self._choices.answers[kept],
            self._choices.chance[kept],
            self._choices.candidates,
        )
        found = choice_values(self._names, some, RewardWeights(), seed).policies
        rewards = [found[name]["reward"] for name in self._names]
        ends = zip(rewards, self._truth, strict=True)
        self._inside.append([bool(of.low <= truth <= of.high) for of, truth in ends])
        self._spearman.append(float(spearmanr([of.mean for of in rewards], self._truth)[0]))

    def content(self) -> dict[str, object]:
        """Coverage of the reward by policy and over all, and mean Spearman."""
        coverage = np.mean(self._inside, axis=0)
        return {
            "truth": dict(zip(self._names, map(float, self._truth), strict=True)),
            "coverage": dict(zip(self._names, map(float, coverage), strict=True)),
            "pooled": float(coverage.mean()),
            "spearman": float(np.mean(self._spearman)),
        }


def parts(users: int, repetitions: int, each: int, seed: int) -> Iterator[np.ndarray]:
    """Yield disjoint random sets of ``each`` users."""
    order = np.random.default_rng(seed).permutation(users)
    if len(order) < repetitions * each:
        raise click.UsageError(
            f"{repetitions} repetitions of {each} users need {repetitions * each} users, and "
            f"{users} have random rows after the split"
        )
    for number in range(repetitions):
        yield np.sort(order[number * each : (number + 1) * each])


@click.command()
@click.option("--repetitions", default=200, show_default=True)
@click.option("--users", default=400, show_default=True, help="Users of a repetition.")
@click.option("--rows", default=26, show_default=True, help="Random rows of a user, on average.")
@click.option("--videos", default=60, show_default=True)
@click.option("--quality-sd", default=0.7, show_default=True, help="0: tags carry all there is.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(
    *,
    repetitions: int,
    users: int,
    rows: int,
    videos: int,
    quality_sd: float,
    seed: int,
    as_json: bool,
) -> None:
    """Count how often 95 % intervals hold the true value."""
    population = round(1.06 * repetitions * users)
    config = WorldConfig(
        users=population,
        videos=videos,
        tags=10,
        standard_rows=12 * population,
        random_rows=rows * population,
        quality_sd=quality_sd,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder, progress_bar("off-policy") as update:
        update("drawing the world", 0.0)
        world = SyntheticWorld(config)
        world.write(Path(folder) / "world")
        update("preparing", 0.1)
        moment = round(datetime.fromisoformat(SPLIT).timestamp() * 1000)
        settings = PrepareConfig(split="time", split_time_ms=moment, seed=seed)
        prepare(Path(folder) / "world", Path(folder) / "data", settings)
        dataset = OfflineDataset(Path(folder) / "data")
        update("fitting the model", 0.3)
        model = fit_response_model(dataset, "judge", seed=seed)
        watched = [Witness(policy, world, dataset) for policy in policies(world, dataset, seed)]
        log = RandomLog(dataset)
        evidence, logged = collect(
            watched, log, model, lambda share: update("asking the policies", 0.4 + 0.4 * share)
        )
        named = {policy.name: of for policy, of in zip(watched, evidence, strict=True)}
        reward = RewardWeights()
        means = {policy.name: policy.total / len(log) for policy in watched}
        truth = {
            name: np.append(signals @ reward.as_array(), signals) for name, signals in means.items()
        }
        update("choosing among candidates", 0.8)
        choices = choose(watched, log, CANDIDATES, seed, lambda share: None)
        tally, restricted = Tally(truth), ChoiceTally(list(named), choices)
        for number, chosen in enumerate(parts(len(log.users), repetitions, users, seed)):
            some = {name: of.of_users(chosen) for name, of in named.items()}
            tally.add(summarise(some, logged[chosen], reward, seed=number))
            restricted.add(chosen, seed=number)
            update("repetitions", 0.85 + 0.15 * (number + 1) / repetitions)
    show(tally, truth, restricted.content(), as_json=as_json)


def show(
    tally: Tally, truth: dict[str, np.ndarray], candidates: dict[str, object], *, as_json: bool
) -> None:
    """Print coverage and Spearman."""
    content = tally.content() | {"candidates": candidates}
    if as_json:
        click.echo(json.dumps(content, indent=2))
        return
    table = Table("coverage of the reward (bias)", *ESTIMATORS, box=None, pad_edge=False)
    intervals = content["intervals"]
    assert isinstance(intervals, dict)
    for what in intervals[ESTIMATORS[0]]:
        cells = []
        for estimator in ESTIMATORS:
            found = intervals[estimator][what]["reward"]
            cells.append(
                f"{found['coverage']:.3f} ({found['bias']:+.4f})" if "coverage" in found else "-"
            )
        name = f"{what} ({truth[what][0]:.3f})" if what in truth else what
        table.add_row(name, *cells)
    for metric in JUDGED:
        table.add_row(
            f"all policies, {metric}",
            *(f"{tally.pooled(estimator, list(truth), metric):.3f}" for estimator in ESTIMATORS),
        )
    spearman = content["spearman"]
    assert isinstance(spearman, dict)
    table.add_row("Spearman with the truth", *(f"{spearman[name]:.3f}" for name in ESTIMATORS))
    out.print(table)
    out.print(
        f"choosing among {CANDIDATES} candidates: coverage {candidates['pooled']:.3f}, "
        f"Spearman {candidates['spearman']:.3f}"
    )


if __name__ == "__main__":
    run(main)

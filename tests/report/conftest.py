"""A run as the report finds it: trained by hand, with progress and an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from noetik_rllib.data.signals import SIGNALS, RewardWeights
from noetik_rllib.envs.response_model import FitRecord
from noetik_rllib.envs.response_quality import ResponseQuality
from noetik_rllib.evaluation.evaluation_result import EvaluationResult
from noetik_rllib.evaluation.result import METRICS, Interval, Judge, Leaving, SessionsResult
from noetik_rllib.interpret.explanation import Explainer, default_users
from noetik_rllib.interpret.facts import Explanation
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.runs import Run, TrainConfig, save_policy, write_progress

PROGRESS = [
    {
        "iteration": float(place),
        "gradient_steps": 100.0 * place,
        "seconds": 2.5 * place,
        "q_loss": 1.0 / place,
        "v_loss": 0.5 / place,
        "actor_loss": 4.0 - 0.1 * place,
        "q_mean": 0.3 * place,
        "v_mean": 0.29 * place,
        "advantage_mean": -0.02,
        "capped_weight_share": 0.01,
        "effective_sample_size": 180.0,
    }
    for place in range(1, 6)
]


def evaluation() -> EvaluationResult:
    """Numbers that occur nowhere else on the page."""
    policies = {
        policy: {
            metric: Interval(mean=mean + 0.0101 * place, low=mean - 0.0333, high=mean + 0.0977)
            for place, metric in enumerate(METRICS)
        }
        for policy, mean in (("iql", 0.5173), ("behaviour_cloning", 0.4391), ("random", 0.2719))
    }
    gain = {"behaviour_cloning": 0.0782, "random": 0.2454}
    leaving = Leaving(
        length={name: metrics["reward"] for name, metrics in policies.items()},
        reward={name: metrics["reward"] for name, metrics in policies.items()},
        order=list(policies),
    )
    sessions = SessionsResult(
        policies=policies,
        differences={
            baseline: {
                metric: Interval(mean=mean, low=mean - 0.1, high=mean + 0.1) for metric in METRICS
            }
            for baseline, mean in gain.items()
        },
        by_seed={name: [0.51, 0.52] for name in policies},
        patience=leaving,
        quit_windows=dict.fromkeys((1, 10), leaving),
        order_stability=1.0,
        distinct_videos={"iql": 61, "behaviour_cloning": 72, "random": 79},
        users=97,
        seeds=[0, 1],
        steps=10,
    )
    judge = Judge(
        fitted_on=FitRecord(
            dataset="0" * 64,
            part="judge",
            family="pooled",
            seed=0,
            rows=4_321,
            uniform_rows=321,
            users=87,
            validation_rows=99,
            epochs=3,
            validation_loss=1.5,
        ),
        quality=ResponseQuality(
            rows=100,
            users=9,
            auc={**dict.fromkeys(SIGNALS), "click": 0.7351},
            gauc=dict.fromkeys(SIGNALS),
            log_loss=dict.fromkeys(SIGNALS, 0.4),
            calibration_error=dict.fromkeys(SIGNALS, 0.01),
            calibration=dict.fromkeys(SIGNALS),
            logged_mean=dict.fromkeys(SIGNALS, 0.1),
        ),
        quality_uniform=ResponseQuality(
            rows=50,
            users=8,
            auc={**dict.fromkeys(SIGNALS), "click": 0.6421},
            gauc=dict.fromkeys(SIGNALS),
            log_loss=dict.fromkeys(SIGNALS, 0.4),
            calibration_error=dict.fromkeys(SIGNALS, 0.01),
            calibration={**dict.fromkeys(SIGNALS), "click": 1.311},
            logged_mean=dict.fromkeys(SIGNALS, 0.1),
        ),
        logged=dict.fromkeys(METRICS, 0.3517),
    )
    return EvaluationResult(policy="iql", reward=RewardWeights(), sessions=sessions, judge=judge)


@pytest.fixture
def make_run(tiny_dataset: Path, tmp_path: Path) -> Callable[..., Run]:
    """Make a run with random weights; ``settings`` go into its configuration."""

    def make(name: str = "made", **settings: object) -> Run:
        directory = tmp_path / name
        directory.mkdir()
        dataset = OfflineDataset(tiny_dataset)
        torch.manual_seed(0)
        networks = IQLNetworks(NetworkConfig.for_dataset(dataset.manifest), dataset.catalog)
        values = {
            "data": tiny_dataset,
            "out": directory,
            "iterations": len(PROGRESS),
            **settings,
        }
        TrainConfig.parse(values).save(directory)
        save_policy(directory / "policy", networks, tiny_dataset)
        write_progress(directory, PROGRESS)
        evaluation().save(directory)
        return Run.open(directory)

    return make


@pytest.fixture
def run(make_run: Callable[..., Run]) -> Run:
    """A run with everything."""
    return make_run()


@pytest.fixture(scope="session")
def explanations(tiny_dataset: Path) -> list[Explanation]:
    """Two recommendations to one user."""
    dataset = OfflineDataset(tiny_dataset)
    torch.manual_seed(0)
    networks = IQLNetworks(NetworkConfig.for_dataset(dataset.manifest), dataset.catalog).eval()
    return Explainer(dataset, networks).explain(default_users(dataset)[0], top_k=2)

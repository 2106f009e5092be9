"""A run as the report finds it: trained by hand, with progress and an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, BrowserContext, Page, Request

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
from noetik_rllib.progress import PROGRESS_NAME, write_rows
from noetik_rllib.runs import Run, TrainConfig, save_policy
from tests.browser import chromium
from tests.report.explored import Explored, explored_page, hostile_page

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


def write_run(directory: Path, data: Path, **settings: object) -> Run:
    """Write a run with random weights; ``settings`` go into its configuration."""
    directory.mkdir()
    dataset = OfflineDataset(data)
    torch.manual_seed(0)
    networks = IQLNetworks(NetworkConfig.for_dataset(dataset.manifest), dataset.catalog)
    values = {"data": data, "out": directory, "iterations": len(PROGRESS), **settings}
    TrainConfig.parse(values).save(directory)
    save_policy(directory / "policy", networks, data)
    write_rows(directory / PROGRESS_NAME, PROGRESS)
    evaluation().save(directory)
    return Run.open(directory)


@pytest.fixture
def make_run(tiny_dataset: Path, tmp_path: Path) -> Callable[..., Run]:
    """Make a run with random weights; ``settings`` go into its configuration."""

    def make(name: str = "made", **settings: object) -> Run:
        return write_run(tmp_path / name, tiny_dataset, **settings)

    return make


@pytest.fixture
def run(make_run: Callable[..., Run]) -> Run:
    """A run with everything."""
    return make_run()


@pytest.fixture(scope="session")
def explanations(tiny_dataset: Path) -> list[Explanation]:
    """Two recommendations to each of two users."""
    dataset = OfflineDataset(tiny_dataset)
    torch.manual_seed(0)
    networks = IQLNetworks(NetworkConfig.for_dataset(dataset.manifest), dataset.catalog).eval()
    explainer = Explainer(dataset, networks)
    return [one for user in default_users(dataset)[:2] for one in explainer.explain(user, top_k=2)]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One headless Chromium for every test that opens a page."""
    with chromium() as opened:
        yield opened


@pytest.fixture
def context_of(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Make windows of a browser, with the settings that a test is about.

    Whatever is opened in them must stay without an error, a refused script and a request.
    """
    made: list[BrowserContext] = []
    problems: list[str] = []

    def requested(request: Request) -> None:
        if not (request.is_navigation_request() and request.url.startswith("file://")):
            problems.append(request.url)

    def make(**settings: object) -> BrowserContext:
        context = browser.new_context(**settings)
        context.on("console", lambda message: problems.append(message.text))
        context.on("weberror", lambda error: problems.append(str(error.error)))
        context.on("dialog", lambda dialog: problems.append(dialog.message))
        context.on("request", requested)
        made.append(context)
        return context

    yield make
    for context in made:
        context.close()
    assert not problems


@pytest.fixture
def page(context_of: Callable[..., BrowserContext]) -> Page:
    """A window on a desk."""
    return context_of().new_page()


@pytest.fixture(scope="package")
def explored(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Explored:
    """A page with four users and three choices each."""
    return explored_page(write_run(tmp_path_factory.mktemp("explored") / "a run", tiny_dataset))


@pytest.fixture(scope="package")
def hostile(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Explored:
    """A page of a folder, users and videos whose names are attacks."""
    folder = tmp_path_factory.mktemp("hostile") / "<img src=x onerror=alert(1)>"
    return hostile_page(write_run(folder, tiny_dataset))

"""In headless Chromium: TensorBoard and the Ray dashboard show runs and sweeps.

``NOETIK_SCREENSHOTS=FOLDER`` keeps pictures of what was looked at.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from noetik_rllib.runs import train
from tests.browser import chromium
from tests.dashboards import ROOT, ray_head, tensorboard
from tests.iql.test_runs import config
from tests.sweeps.conftest import TRAIN, Swept, sweep_config

#: For servers that start while other tests keep the cores busy; nothing waits so long in vain.
PATIENCE_MS = 120_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One headless Chromium."""
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A window in which whatever is waited for may take its time."""
    with browser.new_context(viewport={"width": 1280, "height": 860}) as context:
        context.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        yield context.new_page()
        expect.set_options(timeout=5_000)


def keep(page: Page, name: str) -> None:
    """Keep a picture of the page, if anybody wants it."""
    if folder := os.environ.get("NOETIK_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_tensorboard_shows_runs_and_trials(
    swept: Swept, tiny_dataset: Path, tmp_path: Path, page: Page
) -> None:
    """Fails if a run or trial has no name or curve there, or the table lacks what was drawn."""
    logs = tmp_path / "runs"
    run = train(config(tiny_dataset, logs / "first", validation_users=10))
    shutil.copytree(swept.folder / "tune", logs / "sweep")
    trials = {f"sweep/{trial.name}": trial for trial in swept.result.trials}
    shown = {
        "losses/q_loss": run.progress()[-1]["q_loss"],
        "validation/reward": run.validations()[-1]["reward"],
    }
    with tensorboard(logs) as address:
        page.goto(f"{address}#timeseries")
        for name in ("first", *trials):
            expect(page.locator("runs-data-table").get_by_text(name, exact=True)).to_be_visible()
        groups = page.locator("metrics-card-group-toolbar .group-title")
        expect(groups.first).to_be_visible()
        assert groups.all_inner_texts() == [
            "losses",
            "outcomes",
            "policy",
            "progress",
            "updates",
            "validation",
            "values",
            "values_by_signal",
        ]
        page.get_by_role("button", name="Close side pane").click()
        tags = page.get_by_role("combobox", name="Filter tags")
        tags.fill(f"^({'|'.join(shown)})$")
        tags.press("Tab")  # what it proposes goes away
        for tag, value in shown.items():
            title = page.locator(f'tb-truncated-path[title="{tag}"]')
            chart = page.locator("metrics-filtered-view scalar-card").filter(has=title)
            expect(chart.locator("line-chart canvas")).to_be_visible()
            rows = chart.locator("tb-data-table-content-row")
            for name in ("first", *trials):
                expect(rows.filter(has_text=name)).to_have_count(1)
            expect(rows.filter(has_text="first")).to_contain_text(str(round(value, 4)))
        keep(page, "tensorboard")

        page.goto(f"{address}#hparams")
        table = page.locator("vaadin-grid").first
        for name, trial in trials.items():
            expect(table.get_by_text(name, exact=True)).to_be_visible()
            for signal in ("click", "hate"):
                drawn = format(trial.parameters["reward"][signal], "#.5g")
                expect(table.get_by_text(drawn, exact=True).first).to_be_visible()
        for column in ("reward.click", "reward.hate", "outcomes/click"):
            expect(table.get_by_text(column, exact=True)).to_be_visible()
        keep(page, "tensorboard_hparams")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_ray_dashboard_shows_jobs_learners_and_trials(
    tiny_dataset: Path, tmp_path: Path, page: Page
) -> None:
    """Fails if who opens the dashboard cannot tell what runs there, or which process does what."""
    (tmp_path / "job").mkdir()
    shutil.copy(ROOT / "train.py", tmp_path / "job")
    endless = TRAIN | {"iterations": 100_000, "checkpoint_seconds": 60}
    sweep = sweep_config(tiny_dataset, num_samples=2, cpus_per_trial=1, train=endless)
    sweep.save(tmp_path / "sweep.yaml")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in endless.items()]
    jobs = {
        "two-learners": [
            *("python", "train.py", f"--data={tiny_dataset}", "--out=runs/two-learners"),
            *("--num-learners=2", *options),
        ],
        "sweep": ["noetik", "tune", f"{tmp_path}/sweep.yaml", f"--out={tmp_path}/sweep"],
    }
    # The paths of Ray's sockets are limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray-") as short, ray_head(Path(short)) as head:
        page.goto(f"{head.address}/#/jobs")
        page.get_by_label("Authentication Token", exact=True).fill(head.token)
        page.get_by_role("button", name="Submit").click()
        for name, command in jobs.items():
            folder = ["--working-dir", tmp_path / "job"]
            head.job("submit", "--submission-id", name, "--no-wait", *folder, "--", *command)
            row = page.get_by_role("row").filter(has_text=" ".join(command))
            expect(row).to_contain_text(name)
            expect(row).to_contain_text("RUNNING")
        page.goto(f"{head.address}/#/actors")
        for process in ("DiscreteIQL learner", "run_trial"):
            alive = page.get_by_role("row").filter(has_text=process).filter(has_text="ALIVE")
            expect(alive).to_have_count(2)
        keep(page, "ray_actors")
        page.goto(f"{head.address}/#/jobs")
        expect(page.get_by_role("row").filter(has_text="RUNNING")).to_have_count(len(jobs))
        keep(page, "ray_jobs")
        page.goto(f"{head.address}/#/jobs/two-learners")
        expect(page.get_by_text("gradient steps")).to_be_visible()
        keep(page, "ray_job")
        for name in jobs:
            head.job("stop", name)

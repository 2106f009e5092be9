"""A small sweep, end to end: Tune runs it, each trial is a run, the result says what is best."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.errors import UserError
from noetik_rllib.runs import Run
from noetik_rllib.sweeps.config import SweepConfig
from noetik_rllib.sweeps.sweep import RESULTS_NAME, run_sweep


def config(data: Path, **changes: object) -> SweepConfig:
    content = {
        "name": "test",
        "data": data,
        "num_samples": 2,
        "train": {
            "iterations": 1,
            "steps_per_iteration": 3,
            "batch_size": 32,
            "embedding_size": 8,
            "num_heads": 2,
            "num_layers": 1,
        },
        "reward": {"simplex": ["click", "hate"]},
        "objectives": ["click", "hate"],
        "evaluation_users": 10,
    }
    return SweepConfig.model_validate(content | changes)


@pytest.mark.usefixtures("ray_session")
def test_every_trial_is_a_run_with_its_own_reward(tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if a trial trains on another reward than it reports, or leaves no usable run."""
    counted: list[int] = []
    out = tmp_path / "sweep"
    result = run_sweep(config(tiny_dataset), out, counted.append)
    assert counted == [1, 2]
    assert json.loads((out / RESULTS_NAME).read_text()) == result.model_dump(mode="json")
    for trial in result.trials:
        run = Run.open(out / "trials" / trial.name)
        assert run.config.reward.model_dump() == trial.parameters["reward"]
        assert run.config.reward.watch_ratio == 0
        assert run.networks().config.embedding_size == 8
        assert set(trial.outcomes) == {"reward", *SIGNALS}
    # Two trials: the better one in click, or both where the other has less hate.
    best = max(result.trials, key=lambda trial: trial.outcomes["click"])
    assert best.pareto
    with pytest.raises(UserError, match="exists already"):
        run_sweep(config(tiny_dataset), out)


@pytest.mark.usefixtures("ray_session")
def test_a_failing_trial_is_named(tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if a sweep whose trials cannot train ends with an empty result or a traceback."""
    never = {"reward": None, "search": {"beta": {"choice": [1.0]}}}
    constant = {**never, "train": {"reward": {"follow": 1e-9, "click": 0, "watch_ratio": 0}}}
    with pytest.raises(UserError, match="same on every training row"):
        run_sweep(config(tiny_dataset, **constant), tmp_path / "sweep")
    assert not list(tmp_path.iterdir())


def test_wrong_settings_stop_a_sweep_before_it_starts(tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if a bad value is found only in the middle of a sweep, or leaves a folder."""
    wrong = config(tiny_dataset, search={"expectile": {"choice": [0.7, 1.5]}}, num_samples=8)
    with pytest.raises(UserError, match=r"expectile is 1\.5"):
        run_sweep(wrong, tmp_path / "sweep")
    with pytest.raises(UserError, match="not an offline dataset"):
        run_sweep(config(tmp_path), tmp_path / "sweep")
    assert not list(tmp_path.iterdir())

"""A sweep's file is checked before anything starts, and draws what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from noetik_rllib.errors import UserError
from noetik_rllib.sweeps.config import SweepConfig
from noetik_rllib.sweeps.pareto import pareto_front
from noetik_rllib.sweeps.sweep import draw_parameters

ROOT = Path(__file__).resolve().parents[2]
GOOD = {
    "name": "s",
    "data": "data/x",
    "num_samples": 3,
    "reward": {"simplex": ["click", "like"]},
    "objectives": ["click"],
}
BAD = {
    "unknown key": ({"num_sample": 3}, "unknown key 'num_sample'.*Did you mean 'num_samples'"),
    "unknown parameter": ({"train": {"betta": 1}}, "unknown parameter 'betta'.*'beta'"),
    "unknown signal": ({"objectives": ["clicks"]}, "unknown signal 'clicks'.*'click'"),
    "signal twice": ({"reward": {"simplex": ["like", "like"]}}, "stands there twice"),
    "one signal": ({"reward": {"simplex": ["like"]}}, "at least 2 items"),
    "no trial": ({"num_samples": 0}, "num_samples.*greater than or equal to 1"),
    "bounds turned": ({"search": {"beta": {"low": 3, "high": 1}}}, "3 is not below high 1"),
    "log of zero": ({"search": {"beta": {"low": 0, "high": 1, "scale": "log"}}}, "above 0"),
    "fixed and searched": (
        {"train": {"beta": 1}, "search": {"beta": {"choice": [1, 2]}}},
        "beta is both fixed and searched",
    ),
    "nothing searched": ({"reward": None}, "nothing is searched"),
    "learners": ({"train": {"num_learners": 2}}, "num_learners is not for sweeps"),
    "a path as a name": ({"name": "../up"}, "name"),
}


def write(path: Path, content: object) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_file_is_one_clear_line(case: str, tmp_path: Path) -> None:
    """Fails if a mistake in a file starts a sweep, or is not named."""
    change, message = BAD[case]
    with pytest.raises(UserError, match=message) as caught:
        SweepConfig.load(write(tmp_path / "sweep.yaml", {**GOOD, **change}))
    assert "\n" not in str(caught.value)
    assert "sweep.yaml" in str(caught.value)


def test_missing_and_malformed_files_are_named(tmp_path: Path) -> None:
    """Fails if a wrong path or broken YAML ends in a traceback, or YAML can run code."""
    with pytest.raises(UserError, match=r"none\.yaml cannot be read"):
        SweepConfig.load(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    for text in ("a: [", "!!python/object/apply:os.getcwd []", "just words"):
        broken.write_text(text)
        with pytest.raises(UserError, match=r"broken\.yaml is not"):
            SweepConfig.load(broken)


@pytest.mark.parametrize("path", sorted((ROOT / "tune_configs").glob("*.yaml")), ids=str)
def test_the_shipped_files_are_valid(path: Path) -> None:
    """Fails if a file that we ship would be refused."""
    assert SweepConfig.load(path).num_samples >= 2


def test_draws_are_on_the_simplex_and_follow_the_seed(tmp_path: Path) -> None:
    """Fails if weights do not sum to 1, forget a signal's default, or change between runs."""
    content = {
        **GOOD,
        "num_samples": 50,
        "search": {"beta": {"low": 0.1, "high": 10, "scale": "log"}},
    }
    config = SweepConfig.load(write(tmp_path / "s.yaml", content))
    drawn = draw_parameters(config)
    assert drawn == draw_parameters(config)
    assert drawn[:3] == draw_parameters(config.model_copy(update={"num_samples": 3}))
    assert drawn != draw_parameters(config.model_copy(update={"seed": 1}))
    for trial in drawn:
        assert sum(trial["reward"].values()) == pytest.approx(1, abs=2e-4)
        assert trial["reward"]["watch_ratio"] == 0
        assert 0.1 <= trial["beta"] <= 10
    # Uniform on two signals: the mean is 1/2. Error rate 1e-6: 4.9 standard errors of 0.041.
    assert abs(np.mean([trial["reward"]["click"] for trial in drawn]) - 0.5) < 0.2


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12))
def test_the_front_is_what_nobody_beats(points: list[tuple[int, int, int]]) -> None:
    """Fails if a beaten trial is on the front, an unbeaten one off it, or the front is empty."""
    front = pareto_front(np.array(points))
    assert front.any()
    for point, on_front in zip(points, front, strict=True):
        beaten = any(
            other != point and all(o >= p for o, p in zip(other, point, strict=True))
            for other in points
        )
        assert on_front == (not beaten)

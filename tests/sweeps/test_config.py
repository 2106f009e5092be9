"""A sweep's file is checked before anything starts, and draws what it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import yaml

from noetik_rllib.errors import UserError
from noetik_rllib.sweeps.config import SweepConfig
from noetik_rllib.sweeps.driver import loggers
from noetik_rllib.sweeps.search import draw_parameters

ROOT = Path(__file__).resolve().parents[2]
GOOD = {
    "name": "s",
    "data": "data/x",
    "num_samples": 3,
    "reward": {"simplex": ["click", "like"]},
    "objectives": ["click"],
}
PBT = {"type": "pbt", "perturbation_interval": 2}
BAD = {
    "unknown key": ({"num_sample": 3}, "unknown key 'num_sample'.*Did you mean 'num_samples'"),
    "unknown parameter": ({"train": {"betta": 1}}, "unknown parameter 'betta'.*'beta'"),
    "unknown objective": ({"objectives": ["clicks"]}, "unknown objective 'clicks'.*'click'"),
    "unknown signal": ({"reward": {"simplex": ["clik", "like"]}}, "unknown signal 'clik'.*'click'"),
    "signal twice": ({"reward": {"simplex": ["like", "like"]}}, "stands there twice"),
    "one signal": ({"reward": {"simplex": ["like"]}}, "at least 2 items"),
    "no trial": ({"num_samples": 0}, "num_samples.*greater than or equal to 1"),
    "bounds turned": ({"search": {"beta": {"low": 3, "high": 1}}}, "3 is not below high 1"),
    "log of zero": ({"search": {"beta": {"low": 0, "high": 1, "scale": "log"}}}, "above 0"),
    "out of range": (
        {"search": {"expectile": {"low": 0.5, "high": 1.1}}},
        "search: expectile: 1.1: input should be less than 1",
    ),
    "no value": (
        {"search": {"num_layers": {"choice": [1, 2.5]}}},
        "search: num_layers: 2.5: input should be a valid integer",
    ),
    "the scheduler's own": (
        {"search": {"stopped_at": {"grid": [1, 4]}}},
        "unknown parameter 'stopped_at'",
    ),
    "no folder": ({"name": ".."}, "name"),
    "fixed and searched": (
        {"train": {"beta": 1}, "search": {"beta": {"choice": [1, 2]}}},
        "beta is both fixed and searched",
    ),
    "nothing searched": ({"reward": None}, "nothing is searched"),
    "grid twice": ({"search": {"beta": {"grid": [1, 1.0]}}}, "1.0 stands there twice"),
    "a bare value": ({"search": {"beta": 3}}, "search.beta: expected .*grid"),
    "two kinds": ({"search": {"beta": {"grid": [1], "low": 3}}}, "search.beta.low: Extra"),
    "empty grid": ({"search": {"beta": {"grid": []}}}, "at least 1 item"),
    "a seed for all": ({"train": {"seed": 3}}, "train: unknown parameter 'seed'"),
    "unknown scheduler": ({"scheduler": {"type": "bohb"}}, "scheduler: .*'asha', 'pbt'"),
    "unknown metric": (
        {"scheduler": {"type": "asha", "metric": "diversity"}},
        "unknown metric 'diversity'",
    ),
    "scheduler without validation": (
        {"scheduler": {"type": "asha"}, "train": {"validation_users": 0}},
        "scheduler: it goes by validation, so validation_users cannot be 0",
    ),
    "halving by one": (
        {"scheduler": {"type": "asha", "reduction_factor": 1}},
        "reduction_factor.*greater than 1",
    ),
    "no interval": ({"scheduler": {"type": "pbt"}}, "perturbation_interval: Field required"),
    "rewards in a population": ({"scheduler": PBT}, "reward: not with pbt"),
    "sizes in a population": (
        {"reward": None, "search": {"num_layers": {"grid": [1, 2]}}, "scheduler": PBT},
        "search: num_layers cannot change within a run.*actor_lr, .*and seed",
    ),
    "nothing to change": (
        {"reward": None, "search": {"seed": {"grid": [1, 2]}}, "scheduler": PBT},
        "search: pbt has nothing to change",
    ),
    "schedules in a population": (
        {
            "reward": None,
            "search": {"actor_lr": {"choice": [1e-3, [[0, 1e-3], [99, 1e-4]]]}},
            "scheduler": PBT,
        },
        "search: actor_lr: expected numbers only",
    ),
    "a term that comes and goes": (
        {
            "reward": None,
            "search": {"interpretability_coeff": {"low": 0, "high": 1}},
            "scheduler": PBT,
        },
        "interpretability_coeff: expected values above 0",
    ),
    "unknown logger": ({"loggers": ["comet"]}, "'tensorboard', 'wandb' or 'mlflow'"),
    "half a URI": ({"storage": "s3:/bucket/runs"}, "storage.*neither a folder nor a URI"),
    "no place": ({"data": 3}, "data: 3 is neither a folder nor a URI"),
    "storage of a trial": ({"train": {"storage": "s3://b/x"}}, "unknown parameter 'storage'"),
    "another reference": ({"reference": {"like": 0.1}}, "'like' is no objective"),
    "negative failures": ({"max_failures": -1}, "max_failures.*greater than or equal to 0"),
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
    assert len(draw_parameters(SweepConfig.load(path))) >= 2


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


def test_a_grid_meets_every_draw() -> None:
    """Fails if a combination is missing, or what a grid changes is not all that changes."""
    config = SweepConfig.model_validate(
        {
            **GOOD,
            "num_samples": 3,
            "search": {
                "beta": {"low": 0.1, "high": 10},
                "interpretability_coeff": {"grid": [0, 0.5]},
                "seed": {"grid": [1, 2, 3]},
            },
        }
    )
    drawn = draw_parameters(config)
    assert len(drawn) == 3 * 2 * 3
    for sample in range(3):
        trials = drawn[6 * sample : 6 * sample + 6]
        assert len({(one["beta"], tuple(one["reward"].values())) for one in trials}) == 1
        assert {(one["interpretability_coeff"], one["seed"]) for one in trials} == {
            (coefficient, seed) for coefficient in (0, 0.5) for seed in (1, 2, 3)
        }
    assert len({one["beta"] for one in drawn}) == 3


def test_a_sweep_reads_what_it_wrote(tmp_path: Path) -> None:
    """Fails if a resumed sweep would draw or judge otherwise than it began."""
    shipped = [SweepConfig.load(path) for path in (ROOT / "tune_configs").glob("*.yaml")]
    uris = {"data": "s3://bucket/pure", "storage": "s3://bucket/sweeps/?region=eu-west-1"}
    at_uri = SweepConfig.model_validate({**GOOD, **uris})
    assert at_uri.uri == "s3://bucket/sweeps/s?region=eu-west-1"
    for config in (*shipped, at_uri):
        config.save(tmp_path / "sweep.yaml")
        assert SweepConfig.load(tmp_path / "sweep.yaml") == config
        assert SweepConfig.model_validate_json(config.model_dump_json()) == config
        assert draw_parameters(SweepConfig.load(tmp_path / "sweep.yaml")) == draw_parameters(config)


def test_a_logger_that_is_not_installed_is_named() -> None:
    """Fails if a sweep starts and then cannot tell its logger."""
    for name in ("wandb", "mlflow"):
        config = SweepConfig.model_validate({**GOOD, "loggers": ["tensorboard", name]})
        if importlib.util.find_spec(name) is None:
            with pytest.raises(UserError, match=f"{name} is not installed"):
                loggers(config)
    assert loggers(SweepConfig.model_validate(GOOD)) == []

"""``python train.py`` and ``noetik train``, as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from noetik_rllib.cli.train import parse_reward, train
from noetik_rllib.errors import UserError
from noetik_rllib.runs import Run, TrainConfig

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--iterations", "2", "--steps-per-iteration", "3", "--batch-size", "32")
SMALL += ("--embedding-size", "16", "--num-layers", "1", "--num-heads", "2")


def train_py(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "train.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_train_py_trains_with_a_ray_of_its_own(tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if the command of the README does not end in a run, or mixes remarks into its JSON."""
    out = tmp_path / "runs" / "small"
    done = train_py(
        "--data", tiny_dataset, "--out", out, *SMALL, "--reward", "like=1,click=.5", "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    run = Run.open(out)
    assert result["run"] == str(out)
    assert result["gradient_steps"] == 6
    assert result["q_loss"] == run.progress()[-1]["q_loss"]
    assert (run.config.reward.like, run.config.reward.watch_ratio) == (1.0, 0.0)
    assert "Traceback" not in done.stderr
    assert "WARNING" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere", "--out", "run"], "nowhere is not an offline dataset"),
        (["--data", "nowhere"], "--out"),
        (["--data", "x", "--out", "run", "--expectile", "2"], "expectile is 2.0"),
        (["--data", "x", "--out", "run", "--reward", "clck=1"], "Did you mean 'click'?"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    """Fails if a mistake prints a traceback, or leaves something behind."""
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_every_setting_is_an_option() -> None:
    """Fails if a setting of a run cannot be given on the command line, or has no help."""
    result = CliRunner().invoke(train, ["--help"])
    assert result.exit_code == 0
    assert "Example: noetik train" in result.output
    for name in TrainConfig.model_fields:
        assert f"--{name.replace('_', '-')}" in result.output
    assert all(field.description for field in TrainConfig.model_fields.values())


def test_reward_text() -> None:
    """Fails if signals that are not named keep their default weight, or nonsense is accepted."""
    weights = parse_reward("like=2, hate=-1")
    assert weights is not None
    assert {name: w for name, w in weights.items() if w} == {"like": 2.0, "hate": -1.0}
    for text, message in {
        "like": "expected SIGNAL=WEIGHT",
        "like=x": "no number",
        "lke=1": "Did you mean 'like'",
    }.items():
        with pytest.raises(UserError, match=message):
            parse_reward(text)

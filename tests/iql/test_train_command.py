"""``python train.py`` and ``noetik train``, as a user types them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from noetik_rllib.cli.errors import run
from noetik_rllib.cli.train import parse_reward, train
from noetik_rllib.errors import UserError
from noetik_rllib.runs import Run, TrainConfig
from noetik_rllib.runs import train as train_run
from tests.iql.test_runs import assert_same

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"steps_per_iteration": 3, "batch_size": 32}
SETTINGS |= {"embedding_size": 16, "num_layers": 1, "num_heads": 2}
SMALL = ["--iterations=2"]
SMALL += [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]


def test_train_py_trains_with_a_ray_of_its_own(tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if the command of the README does not end in a run, or mixes remarks into its JSON."""
    out = tmp_path / "runs" / "small"
    arguments = [f"--data={tiny_dataset}", f"--out={out}", *SMALL, "--reward=like=1,click=.5"]
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    trained = Run.open(out)
    assert result["run"] == str(out)
    assert result["gradient_steps"] == 6
    assert result["q_loss"] == trained.progress()[-1]["q_loss"]
    assert (trained.config.reward.like, trained.config.reward.watch_ratio) == (1.0, 0.0)
    assert "Traceback" not in done.stderr
    assert "WARNING" not in done.stderr


def command_in_child(
    address: str, arguments: list[str], number: int, iteration: int, log: Path
) -> None:
    """Run ``noetik train``; in its given iteration, the process gets the signal ``number``."""
    from noetik_rllib.iql.algorithm import DiscreteIQL

    os.environ["RAY_ADDRESS"] = address
    multiprocessing.set_start_method("fork", force=True)  # else its locks count as leaked
    torch.set_num_threads(1)
    with log.open("w") as file:
        os.dup2(file.fileno(), 2)
        os.dup2(file.fileno(), 1)
    begun = 0

    def interrupt(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal begun
        if event == "call" and frame.f_code is DiscreteIQL.training_step.__code__:
            begun += 1
            if begun == iteration:
                os.kill(os.getpid(), number)

    sys.setprofile(interrupt)
    run(train, arguments)


def test_a_stopped_run_is_resumed_by_its_name(
    tiny_dataset: Path, tmp_path: Path, ray_address: str, fork_server: ForkServerContext
) -> None:
    """Fails if Ctrl-C or SIGTERM loses an iteration, or 10 + resume + 10 iterations are not 20."""
    out, log = tmp_path / "run", tmp_path / "log"

    def command(*arguments: str, number: int = 0, iteration: int = 0) -> tuple[int | None, str]:
        process = fork_server.Process(
            target=command_in_child, args=(ray_address, [*arguments], number, iteration, log)
        )
        process.start()
        process.join()
        return process.exitcode, log.read_text()

    code, text = command(
        *(f"--data={tiny_dataset}", f"--out={out}", *SMALL, "--iterations=20"),
        number=signal.SIGINT,
        iteration=10,
    )
    assert code == 130, text
    how = f"of 20 iterations are kept: continue with 'noetik train --resume {out}'"
    assert f"10 {how}" in text
    code, text = command(f"--resume={out}", number=signal.SIGTERM, iteration=4)
    assert code == 143, text
    assert f"resuming {out} at iteration 10 of 20" in text
    assert f"14 {how}" in text
    assert "Traceback" not in text
    code, text = command(f"--resume={out}.unfinished")  # as a shell completes it
    assert code == 0, text
    assert f"resuming {out} at iteration 14 of 20" in text
    assert " rows/s, Q loss " in text
    assert ", 0:00:00 left" in text

    whole = TrainConfig.parse(
        {"data": tiny_dataset, "out": tmp_path / "unbroken", "iterations": 20, **SETTINGS}
    )
    assert whole.actor_lr_decay
    assert_same(Run.open(out), train_run(whole))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere", "--out", "run"], "nowhere is not an offline dataset"),
        (["--data", "nowhere"], "--out"),
        (["--data", "x", "--out", "run", "--expectile", "2"], "expectile is 2.0"),
        (["--data", "x", "--out", "run", "--reward", "clck=1"], "Did you mean 'click'?"),
        (["--resume", "run"], "nothing to resume: there is no run run"),
        (["--resume", "run", "--out", "other"], "leave out --out"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fails if a mistake prints a traceback, or leaves something behind."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        run(train, arguments)
    assert end.value.code == 2
    text = capsys.readouterr().err
    assert message in text
    assert len(text.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_every_setting_is_an_option() -> None:
    """Fails if a setting of a run cannot be given on the command line, or has no help."""
    result = CliRunner().invoke(train, ["--help"])
    assert result.exit_code == 0
    assert "Example: noetik train" in result.output
    for name in TrainConfig.model_fields.keys() - {"data_source"}:  # given as --data
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

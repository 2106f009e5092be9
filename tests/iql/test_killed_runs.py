"""A run killed at any moment goes on from a whole checkpoint, and ends as if it never had been."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections import Counter
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from noetik_rllib.progress import CLOCKS
from noetik_rllib.runs import Run, TrainConfig, iterations_done, train, unfinished

#: How many kills fall in which functions; "" is the training between them.
FIRST = {"claim": 2}
EVERY_ITERATION = {"": 4, "_save_checkpoint": 5, "_save_checkpoint/replace_directory": 4}
#: The latter is when the finished run takes the place of the one before it.
LAST = {"_save_policy": 3, "replace_directory": 2}
ITERATIONS = 30
SEED = 0


class Killer:
    """Counts the calls and returns of functions by phase, and kills the process at one of them.

    By SIGKILL: nothing is cleared up, as when a machine is lost.
    """

    def __init__(self, phase: str, count: int) -> None:
        from noetik_rllib.io import replace_directory
        from noetik_rllib.iql.training import _save_checkpoint, _save_policy
        from noetik_rllib.run_folder import claim

        functions: list[Any] = [claim, _save_checkpoint, _save_policy, replace_directory]
        self.names = {function.__code__: function.__name__ for function in functions}
        self.phases = [""]
        self.moment = (phase, count)
        self.counts: Counter[str] = Counter()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        name = self.names.get(frame.f_code)
        if name and event == "call":
            self.phases.append(f"{self.phases[-1]}/{name}".lstrip("/"))
        phase = self.phases[-1]
        self.counts[phase] += 1
        if (phase, self.counts[phase]) == self.moment:
            os.kill(os.getpid(), signal.SIGKILL)
        if name and event == "return":
            self.phases.pop()
            if name == "claim":  # until the training begins: starting takes twice as long with it
                self.counts[""] = 0
                sys.setprofile(None)

    def start(self, done: int) -> None:
        sys.setprofile(self)


def train_in_child(
    address: str, settings: dict[str, Any], resume: bool, moment: tuple[str, int], counts: Path
) -> None:
    """Train, on the Ray that is there, until the moment comes; or note the counts at the end."""
    os.environ["RAY_ADDRESS"] = address
    # This process' own locks are then removed with it, not noted as leaked by its parent.
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    killer = Killer(*moment)
    sys.setprofile(killer)
    train(TrainConfig.parse(settings), on_start=killer.start, overwrite=True, resume=resume)
    sys.setprofile(None)
    counts.write_text(json.dumps(killer.counts))


def test_killed_at_twenty_random_moments(
    tiny_dataset: Path, tmp_path: Path, ray_address: str, fork_server: ForkServerContext
) -> None:
    """Fails if there is a moment at which a kill loses the run, or leaves half of something.

    The moments are drawn from a fixed seed, uniformly from the calls and returns of a phase; every
    phase has its share, so that short ones are hit too.
    """
    settings = {
        "data": tiny_dataset,
        "steps_per_iteration": 1,
        "batch_size": 32,
        "embedding_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "iterations": ITERATIONS,
        "checkpoint_seconds": 0,
    }

    def child(out: Path, *, moment: tuple[str, int] = ("", 0), **changes: Any) -> int | None:
        values = settings | {"out": out} | changes
        arguments = (ray_address, values, unfinished(out).exists(), moment, tmp_path / "counts")
        process = fork_server.Process(target=train_in_child, args=arguments)
        process.start()
        process.join()
        return process.exitcode

    unbroken, out = tmp_path / "unbroken", tmp_path / "run"
    assert child(out, iterations=1, seed=1) == 0  # which the new run replaces when it is whole
    before = Run.open(out)
    assert child(unbroken) == 0
    counts = json.loads((tmp_path / "counts").read_text())

    rng = np.random.default_rng(SEED)
    first, middle, last = (
        [phase for phase, kills in part.items() for _ in range(kills)]
        for part in (FIRST, EVERY_ITERATION, LAST)
    )
    kept = 0
    for phase in [*first, *rng.permutation(middle).tolist(), *last]:
        # Of what every iteration repeats, the next two; of four policies kept, the last is to come.
        share = {"_save_policy": 1 / 4}.get(phase, 2 / ITERATIONS if phase in middle else 1)
        moment = (phase, int(rng.integers(1, share * counts[phase] + 1)))
        assert child(out, moment=moment) == -signal.SIGKILL, moment
        assert Run.open(out).config in (before.config, Run.open(unbroken).config)
        if unfinished(out).exists():
            assert TrainConfig.load(unfinished(out)).iterations == ITERATIONS
            assert iterations_done(unfinished(out)) >= kept, "an older checkpoint came back"
            kept = iterations_done(unfinished(out))
    if unfinished(out).exists():
        assert child(out) == 0

    run, expected = Run.open(out), Run.open(unbroken)
    assert run.snapshots() == expected.snapshots() == expected.config.snapshot_iterations
    weights = run.networks().state_dict()
    for name, value in expected.networks().state_dict().items():
        assert torch.equal(value, weights[name]), name
    for left, right in zip(run.progress(), expected.progress(), strict=True):
        assert {k: v for k, v in left.items() if k not in CLOCKS} == {
            k: v for k, v in right.items() if k not in CLOCKS
        }
    names = {path.name for path in out.iterdir()} ^ {path.name for path in unbroken.iterdir()}
    assert all(name.startswith("events.out.tfevents") for name in names), names

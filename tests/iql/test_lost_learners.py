"""A learner that is lost: the run goes on from its last checkpoint, or says that it cannot."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from ray._private import state
from ray.rllib.core.learner.learner_group import LearnerGroup

from noetik_rllib.errors import UserError
from noetik_rllib.iql.config import DiscreteIQLConfig
from noetik_rllib.iql.learner_group import LearnerLostError
from noetik_rllib.progress import CLOCKS
from noetik_rllib.runs import TrainConfig, train

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]


def pids(group: LearnerGroup) -> list[int]:
    return [result.get() for result in group.foreach_learner(lambda learner: os.getpid())]


def two_learners(config: DiscreteIQLConfig) -> Any:
    return config.copy(copy_frozen=False).learners(num_learners=2).build_algo()


def test_a_dead_learner_ends_the_wait_for_the_others(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if an iteration waits for a learner that waits for a dead one, or loses the reason.

    The other learner is stopped, so that it neither answers nor notices that connections break:
    like one that is stuck in the exchange of gradients with a host that was cut off.
    """
    algorithm = two_learners(tiny_config)
    try:
        algorithm.train()
        stuck, dead = pids(algorithm.learner_group)
        os.kill(stuck, signal.SIGSTOP)
        os.kill(dead, signal.SIGKILL)
        with pytest.raises(LearnerLostError, match=r"learner on \S+ is gone: "):
            algorithm.train()
    finally:
        os.kill(stuck, signal.SIGCONT)
        algorithm.stop()


def test_a_learners_own_error_is_not_taken_for_a_loss(tiny_config: DiscreteIQLConfig) -> None:
    """Fails if a bug or a mistake in a learner would be tried again as if a host had gone."""

    def fail(learner: Any) -> None:
        raise ZeroDivisionError("a bug")

    algorithm = two_learners(tiny_config)
    try:
        with pytest.raises(ZeroDivisionError, match="a bug"):
            algorithm.learner_group.foreach_learner(fail)
        assert len(pids(algorithm.learner_group)) == 2
    finally:
        algorithm.stop()


def small_run(data: Path, out: Path, **changes: Any) -> TrainConfig:
    settings = {
        "data": data,
        "out": out,
        "iterations": 5,
        "steps_per_iteration": 3,
        "batch_size": 32,
        "embedding_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "num_learners": 2,
        "checkpoint_seconds": 0,
    }
    return TrainConfig.parse(settings | changes)


def kill_a_learner() -> None:
    """Kill the process of one learner: the only actors of a run."""
    alive = [actor["Pid"] for actor in state.actors().values() if actor["State"] == "ALIVE"]
    assert len(alive) == 2
    os.kill(max(alive), signal.SIGKILL)


def test_the_run_goes_on_from_its_last_checkpoint(tiny_dataset: Path, tmp_path: Path) -> None:
    """Fails if a lost learner ends the run, repeats what was kept, or changes what is learnt."""
    whole = train(small_run(tiny_dataset, tmp_path / "whole"))
    starts = []

    def kill_once(row: dict[str, float]) -> None:
        if row["iteration"] == 3 and len(starts) == 1:
            kill_a_learner()

    run = train(small_run(tiny_dataset, tmp_path / "run"), kill_once, on_start=starts.append)
    assert starts == [0, 3]
    for left, right in zip(whole.progress(), run.progress(), strict=True):
        assert {k: v for k, v in left.items() if k not in CLOCKS} == {
            k: v for k, v in right.items() if k not in CLOCKS
        }


def test_losses_without_a_checkpoint_in_between_are_counted(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    """Fails if a run that can never go on is tried for ever, or its checkpoint is lost."""
    config = small_run(tiny_dataset, tmp_path / "run", checkpoint_seconds=3600, max_restarts=1)
    with pytest.raises(UserError, match="lost 2 times without a checkpoint in between"):
        train(config, lambda row: kill_a_learner())
    assert not (tmp_path / "run").exists()

"""Running a sweep with Ray Tune: every trial a run of its own, all judged on the same course."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.errors import UserError
from noetik_rllib.io import write_json
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.runs import TrainConfig
from noetik_rllib.sweeps.config import MINIMISED, Choice, SweepConfig, Uniform
from noetik_rllib.sweeps.pareto import pareto_front

RESULTS_NAME = "results.json"


class Trial(BaseModel):
    """One trial: what was drawn, and what its policy reached in the simulator.

    Attributes:
        name: folder of its run below ``trials/``.
        parameters: what differs between trials.
        outcomes: mean of every signal, and of the default reward, per recommended video.
        pareto: whether no other trial beats it in every objective at once.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    parameters: dict[str, Any]
    outcomes: dict[str, float]
    pareto: bool = False


class SweepResult(BaseModel):
    """A sweep's trials, in the order in which they were drawn."""

    model_config = ConfigDict(frozen=True)

    config: SweepConfig
    trials: list[Trial]

    def save(self, directory: Path) -> None:
        """Write ``directory/results.json``."""
        write_json(directory / RESULTS_NAME, self.model_dump(mode="json"))


def draw_parameters(config: SweepConfig) -> list[dict[str, Any]]:
    """Draw what each trial is trained with, from the sweep's seed alone.

    The simplex is drawn from uniformly: exponential variables divided by their sum (Dirichlet with
    all parameters 1).
    """
    trials = []
    for child in np.random.SeedSequence(config.seed).spawn(config.num_samples):
        rng = np.random.default_rng(child)
        drawn: dict[str, Any] = {}
        if config.reward is not None:
            names = config.reward.simplex
            weights = rng.dirichlet(np.ones(len(names))).round(4)
            # Signals that are not named weigh nothing, whatever the default reward gives them.
            drawn["reward"] = dict.fromkeys(SIGNALS, 0.0) | dict(
                zip(names, weights.tolist(), strict=True)
            )
        for name, search in config.search.items():
            drawn[name] = _draw(search, rng)
        trials.append(drawn)
    return trials


def _draw(search: Uniform | Choice, rng: np.random.Generator) -> Any:
    if isinstance(search, Choice):
        return search.choice[int(rng.integers(len(search.choice)))]
    if search.scale == "log":
        return float(np.exp(rng.uniform(np.log(search.low), np.log(search.high))))
    return float(rng.uniform(search.low, search.high))


def run_sweep(
    config: SweepConfig, out: Path, on_trial: Callable[[int], None] | None = None
) -> SweepResult:
    """Train and judge every trial; trials run side by side where there are CPUs.

    Writes ``out/trials/NNNN`` (a run each), ``out/tune`` (Ray Tune's own files, for its tools and
    TensorBoard) and ``out/results.json``.

    Args:
        config: what to run.
        out: folder to write; it must not exist.
        on_trial: called with the number of trials that are done.

    Raises:
        UserError: ``out`` exists, the dataset cannot be used, or a trial failed.
    """
    if out.exists():
        raise UserError(f"{out} exists already: choose another --out, or remove it")
    data, folder = config.data.resolve(), out.resolve()
    OfflineDataset(data).files("train")
    samples = draw_parameters(config)
    # Every trial's settings are checked before the first one starts.
    trials = [
        TrainConfig.parse(
            {
                "data": data,
                "out": folder / "trials" / f"{number:04d}",
                "seed": config.seed,
                **config.train,
                **drawn,
            }
        )
        for number, drawn in enumerate(samples)
    ]
    try:
        outcomes = _run_with_tune(config, folder, trials, on_trial or (lambda done: None))
    except BaseException:
        # A sweep cannot be continued yet: what a stopped one leaves would only be in the way.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    values = np.array(
        [
            [-found[name] if name in MINIMISED else found[name] for name in config.objectives]
            for found in outcomes
        ]
    )
    front = pareto_front(values)
    result = SweepResult(
        config=config,
        trials=[
            Trial(
                name=trial.out.name,
                parameters=drawn,
                outcomes=found,
                pareto=bool(best),
            )
            for trial, drawn, found, best in zip(trials, samples, outcomes, front, strict=True)
        ],
    )
    result.save(folder)
    return result


def _run_with_tune(
    config: SweepConfig, folder: Path, trials: list[TrainConfig], on_trial: Callable[[int], None]
) -> list[dict[str, float]]:
    """Run the trials under Ray Tune and return each one's outcomes, in order."""
    import torch
    from ray import tune

    from noetik_rllib.cluster import connected_ray
    from noetik_rllib.sweeps.progress import TrialCount

    def trainable(parameters: dict[str, Any]) -> None:
        number = parameters["trial"]
        # A trial has its CPUs to itself: more threads would only wait for other trials'.
        torch.set_num_threads(config.cpus_per_trial)
        tune.report(judge_trial(trials[number], config.evaluation_users) | {"number": number})

    # Ray's own reporter prints to stdout, which is for the result, even with verbose=0.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    with connected_ray(cpus=config.cpus_per_trial):
        tuner = tune.Tuner(
            # The whole trial runs in one process: all that it needs is in its placement group.
            tune.with_resources(
                trainable, tune.PlacementGroupFactory([{"CPU": config.cpus_per_trial}])
            ),
            param_space={"trial": tune.grid_search(list(range(len(trials))))},
            run_config=tune.RunConfig(
                name="tune", storage_path=str(folder), verbose=0, callbacks=[TrialCount(on_trial)]
            ),
        )
        grid = tuner.fit()
    if grid.errors:
        first = str(grid.errors[0]).strip().splitlines()[-1]
        raise UserError(f"{len(grid.errors)} of {len(trials)} trials failed, the first: {first}")
    by_number = {int(result.metrics["number"]): result.metrics for result in grid}
    names = ("reward", *SIGNALS)
    return [{name: float(by_number[n][name]) for name in names} for n in range(len(trials))]


def judge_trial(config: TrainConfig, users: int) -> dict[str, float]:
    """Train one trial and return its outcomes: mean of the reward and of every signal."""
    from noetik_rllib.evaluation.comparison import compare, prepare_course
    from noetik_rllib.evaluation.evaluation_result import EvaluationResult
    from noetik_rllib.evaluation.policies import ActorPolicy
    from noetik_rllib.runs import train

    run = train(config)
    course = prepare_course(run.dataset(), users=users, seed=config.seed)
    policy = ActorPolicy.of(run.networks())
    sessions, _ = compare([policy], course)
    result = EvaluationResult(
        policy=policy.name, reward=course.reward, sessions=sessions, judge=course.judge
    )
    result.save(run.directory)
    return {name: value.mean for name, value in sessions.policies[policy.name].items()}

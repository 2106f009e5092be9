"""The hyper-parameters of discrete IQL: names, defaults and bounds, in one place, without Ray.

``DiscreteIQLConfig`` (RLlib), ``TrainConfig`` (a run) and the command line all take them from here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from noetik_rllib.errors import did_you_mean

#: What networks compute in while they train; losses and parameters stay in single precision.
Precision = Literal["float32", "bfloat16"]
#: Where a learner's rows are: chosen by their size, or not.
DataResidency = Literal["auto", "memory", "stream"]

_Rate = Annotated[float, Field(ge=0)]
#: A step size, or a schedule [(rows trained, step size), ...] between whose points RLlib
#: interpolates; the first point must be at 0.
LearningRate = _Rate | list[tuple[int, _Rate]]


def cosine_decay(start: float, done: float) -> float:
    """Return a step size that falls from ``start`` to 0 while ``done`` goes from 0 to 1.

    Official code: optax.cosine_decay_schedule, of the policy's step size.
    """
    return start * 0.5 * (1.0 + math.cos(math.pi * done))


class IQLSettings(BaseModel):
    """Hyper-parameters, named as in the paper: Kostrikov et al. 2021, arXiv 2110.06169.

    "Official" below is the authors' code (ikostrikov/implicit_q_learning, commit 09d7002), whose
    ``configs/*.py`` hold the values behind the paper's tables.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # tau. Official: 0.7 on locomotion, kitchen and adroit; 0.9 on antmaze, where rare good actions
    # must be stitched together. A log of short sessions is nearer to the former.
    expectile: float = Field(
        default=0.7, gt=0, lt=1, description="Which expectile of Q becomes V; 0.5 is the mean."
    )
    # Official: 3.0 on locomotion, 10.0 on antmaze, 0.5 on the narrow human data of adroit. It is
    # an inverse temperature in units of the reward, which is why rewards are normalised; at unit
    # variance 3 leaves a batch of the synthetic world an effective sample size of 15 %, 1 of 76 %.
    beta: float = Field(
        default=1.0,
        ge=0,
        description="Inverse temperature of the policy; 0 clones what the log had chosen.",
    )
    # Official constant (actor.py:18).
    max_weight: float = Field(
        default=100.0, gt=0, description="Cap on a row's weight, exp(beta A)."
    )
    # Off: beside random exposures, a policy that clones every row learns when the log experimented
    # (a history with random events means that more are to come) instead of what the user likes.
    # On the synthetic Pure world its likelihood of the platform's choices then falls with training.
    imitate_random: bool = Field(
        default=False,
        description="Let the policy clone random exposures of the training part, too.",
    )
    # Official: 0.99. A session has some ten videos: 0.9 looks as far ahead, 0.99 ten sessions.
    gamma: float = Field(default=0.9, ge=0, le=1, description="Discount per video.")
    # Official (tau in its code and in RLlib's).
    target_polyak: float = Field(
        default=0.005, gt=0, le=1, description="Share of Q that its target takes over at each step."
    )
    # Official 3e-4 for all three.
    actor_lr: LearningRate = Field(default=3e-4, description="Adam's step size for the policy.")
    critic_lr: LearningRate = Field(default=3e-4, description="Adam's step size for Q.")
    value_lr: LearningRate = Field(default=3e-4, description="Adam's step size for V.")
    # The official code does not clip.
    grad_clip: float | None = Field(
        default=None, gt=0, description="Largest gradient norm of each network; none by default."
    )
    # Otherwise a sweep over reward weights is a sweep over the temperature as well.
    normalise_reward: bool = Field(
        default=True, description="Divide rewards by their standard deviation in training."
    )
    # Where an episode can end, subtracting makes leaving worth as much as an average video, and
    # changes what is optimal: offered, because it is common.
    subtract_reward_mean: bool = Field(
        default=False, description="Subtract the mean training reward as well."
    )
    # float32 on a CPU, where bfloat16 gains nothing without the instructions for it.
    precision: Precision = Field(
        default="float32",
        description="float32, or bfloat16: torch's autocast, for GPUs that have it.",
    )
    # Changes where rows are, never which rows a batch has.
    data_residency: DataResidency = Field(
        default="auto",
        description="Keep training rows in memory, stream them from disk, or see what fits.",
    )
    # KuaiRand-Pure is one window, hence shuffled as a whole. Streaming holds two.
    data_window_mb: int = Field(
        default=2048, ge=1, description="Size of the rows that are shuffled together, in MiB."
    )
    # Off: what is learnt for the reward is then learnt for nothing else.
    interpretability_coeff: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the term for recommendations that rest on few past events.",
    )


def explain(error: ValidationError, known: Iterable[str] = ()) -> str:
    """Say in one line what the first mistake in some settings is: its name, value and remedy.

    Args:
        error: what pydantic found.
        known: names that exist, to suggest the nearest where one does not.
    """
    first = error.errors()[0]
    # Of a union, pydantic names the branch as well: "actor_lr.constrained-float".
    parts = [str(part) for part in first["loc"]]
    name = ".".join(part for part in parts if part.isidentifier() and part != "float")
    if first["type"] == "missing":
        return f"{name} is missing"
    if first["type"] == "extra_forbidden":
        return f"unknown setting '{name}'.{did_you_mean(name, known)}"
    message = first["msg"].removeprefix("Value error, ")
    if not name or first["type"] == "value_error":
        return f"{name}: {message}" if name else message
    return f"{name} is {first['input']!r}: {message[0].lower()}{message[1:]}"

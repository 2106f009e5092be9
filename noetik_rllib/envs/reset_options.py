"""What ``reset(options=...)`` may ask for: a user, a state; anything else is one clear line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from noetik_rllib.data.layout import MAX_ID
from noetik_rllib.envs.config import KuaiRandEnvConfig
from noetik_rllib.envs.luck import is_whole
from noetik_rllib.envs.plan import check_user
from noetik_rllib.envs.session import SessionPlan
from noetik_rllib.envs.world_users import WorldUsers
from noetik_rllib.errors import UserError, did_you_mean

_NAMES = ("user_id", "state")
#: Said by both environments.
CLOSED = "the environment is closed: make another one"
#: User of a state that is nobody's in particular.
NOBODY = -1


def read_options(options: Any) -> tuple[Any, Any]:
    """Return the user and the state asked for, None each where there is none.

    Raises:
        UserError: ``options`` is no mapping, or has another name in it.
    """
    if options is None:
        return None, None
    if not isinstance(options, Mapping):
        raise UserError(f"reset options: expected a mapping, got {type(options).__name__}")
    for name in options:
        if name not in _NAMES:
            raise UserError(
                f"reset has no option '{name}': expected {' or '.join(_NAMES)}."
                f"{did_you_mean(str(name), _NAMES)}"
            )
    return options.get("user_id"), options.get("state")


def start_of(
    plan: SessionPlan, config: KuaiRandEnvConfig, space: gym.spaces.Box, user: Any, state: Any
) -> tuple[int | None, np.ndarray | None]:
    """Check the user and the state that one session is asked to begin with; None for any.

    Raises:
        UserError: the user has no episode here, or one of them is none.
    """
    begun = None if state is None else _read_state(plan, space, state)
    if user is None:
        if begun is None:
            return None, None
        user = NOBODY
    number = _read_user(user)
    if begun is None or isinstance(plan.simulator.users, WorldUsers):
        check_user(config, plan.dataset, plan.starts, number)
    return number, begun


def _read_user(user: Any) -> int:
    value = user[()] if isinstance(user, np.ndarray) and user.shape == () else user
    if not is_whole(value) or not NOBODY <= value <= MAX_ID:
        raise UserError(
            f"reset option 'user_id': expected the id of a user, a whole number, got {user!r}"
        )
    return int(value)


def _read_state(plan: SessionPlan, space: gym.spaces.Box, state: Any) -> np.ndarray:
    try:
        numbers = np.asarray(state, dtype=np.float32)
    except (TypeError, ValueError):
        numbers = np.empty(0, dtype=np.float32)
    if numbers.shape != space.shape or not space.contains(numbers):
        raise UserError(
            f"reset option 'state': expected {space.shape[0]} finite numbers within the "
            f"observation space, got {_described(state)}"
        )
    slots = plan.dataset.layout.unpack(numbers).events[:, 0]
    if (slots != np.rint(slots)).any():
        raise UserError("reset option 'state': the video of an event must be a whole number")
    return numbers


def for_each(name: str, value: Any, dimensions: int, count: int) -> list[Any]:
    """Return one value per session of an option that is given once or for each.

    Args:
        name: of the option.
        value: one of ``dimensions`` dimensions, or ``count`` of them; None for none.
        dimensions: of a single value.
        count: sessions.

    Raises:
        UserError: it is neither.
    """
    shape = _shape(value)
    if value is None or (shape is not None and len(shape) == dimensions):
        return [value] * count
    if shape is None or len(shape) != dimensions + 1 or shape[0] != count:
        raise UserError(f"reset option '{name}': expected one or {count}, got {_described(value)}")
    return list(value)


def _shape(value: Any) -> tuple[int, ...] | None:
    """Shape of a value as an array; None where its rows are of several lengths."""
    try:
        return np.shape(value)
    except ValueError:
        return None


def _described(value: Any) -> str:
    shape = _shape(value)
    kind = type(value).__name__
    return f"a {kind} of uneven rows" if shape is None else f"a {kind} of shape {shape}"

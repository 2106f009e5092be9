"""``KuaiRandEnv``: one user's session of short videos, as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np

from noetik_rllib.envs.config import KuaiRandEnvConfig
from noetik_rllib.envs.plan import make_plan, read_config, spaces, start_of
from noetik_rllib.envs.session import Sessions

_ONLY = np.zeros(1, dtype=np.int64)


class KuaiRandEnv(gym.Env[np.ndarray, np.int64]):
    """A session: each step shows one video to a user, who answers; 10 steps, then truncated.

    The state is the flat vector of ``noetik_rllib.state`` (128 numbers with 16 past events), the
    action the dense index of a video, the reward ``0.5 click + 0.5 watch ratio``. ``info`` holds
    every signal by name, ``user_id``, ``video_id``, ``logged`` (was the answer a logged one),
    ``repeated`` (had the user just seen the video), ``left`` (did the user leave after it) and
    ``elapsed_seconds`` (until the next request).

    Registered as ``noetik/KuaiRand-v0`` (Gymnasium) and ``KuaiRand-v0`` (RLlib)::

        env = gymnasium.make("noetik/KuaiRand-v0", data="data/pure")
        config.environment("KuaiRand-v0", env_config={"data": "data/pure"})

    For many sessions at once, ``KuaiRandVectorEnv`` is much quicker.

    Args:
        config: a ``KuaiRandEnvConfig``, or its options as a mapping (RLlib's ``env_config``).
        **options: its options by name, beside or instead of the mapping.

    Raises:
        UserError: an option is wrong, ``data`` is not a dataset, the model or the world does not
            fit it, or a user in ``users`` has no episode in the part.
    """

    # A dict, as Gymnasium's base class has it: there is nothing to render.
    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self, config: KuaiRandEnvConfig | Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        self.config = read_config(config, options)
        self._plan = make_plan(self.config)
        self.dataset = self._plan.dataset
        self._box, self.action_space = spaces(self.dataset)
        self.observation_space = self._box
        self._session = Sessions(self._plan, 1)
        self._begun = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a session of a user, from a state in which the log has an episode begin.

        Args:
            seed: of everything random from here on.
            options: ``{"user_id": id}`` chooses the user; otherwise each user is as likely.
                ``{"state": array}`` begins in that state instead of a logged one; without a
                ``user_id`` it is nobody's in particular (-1).

        Raises:
            UserError: the user has no episode here, or the state is not one.
        """
        super().reset(seed=seed)
        asked = options or {}
        user, state = start_of(
            self._plan, self.config, self._box, asked.get("user_id"), asked.get("state")
        )
        self._session.begin(_ONLY, [self.np_random], [user], [state])
        self._begun = True
        return self._session.states[0].copy(), self._info()

    def step(
        self, action: np.int64
    ) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        """Show video ``action``.

        Raises:
            ValueError: the action is not the index of a video.
            RuntimeError: there was no ``reset`` yet, or the episode is over.
        """
        if not self._begun:
            raise RuntimeError("call reset() before step(): there is no running episode")
        if not self.action_space.contains(action):
            raise ValueError(
                f"action must be a video index, 0 to {self.action_space.n - 1}, got {action!r}"
            )
        step = self._session.step(_ONLY, np.array([action], dtype=np.int64))
        info = self._info()
        for name, values in self._session.facts(step).items():
            info[name] = values.item()
        terminated, truncated = bool(step.terminated[0]), bool(step.truncated[0])
        self._begun = not (terminated or truncated)
        return self._session.states[0].copy(), step.rewards.item(), terminated, truncated, info

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"user_id": self._session.user_id.item()}
        if self._session.unseen is not None:
            info["action_mask"] = self._session.unseen[0].copy()
        return info

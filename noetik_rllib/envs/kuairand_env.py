"""``KuaiRandEnv``: one user's session of short videos, as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np

from noetik_rllib.envs.config import KuaiRandEnvConfig
from noetik_rllib.envs.luck import generator, is_whole, read_seed
from noetik_rllib.envs.plan import make_plan, read_config, spaces
from noetik_rllib.envs.reset_options import CLOSED, read_options, start_of
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
        stream: number of the stream of its seed that the session draws from: environments of the
            same seed and different streams are independent. 0 is Gymnasium's own.
        **options: options of the configuration by name, beside or instead of the mapping.

    Raises:
        UserError: an option is wrong, ``data`` is not a dataset, the model or the world does not
            fit it, or a user in ``users`` has no episode in the part.
    """

    # A dict, as Gymnasium's base class has it: there is nothing to render.
    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        config: KuaiRandEnvConfig | Mapping[str, Any] | None = None,
        *,
        stream: int = 0,
        **options: Any,
    ) -> None:
        self.config = read_config(config, options)
        self._stream = stream
        self._plan = make_plan(self.config)
        self.dataset = self._plan.dataset
        self._box, self.action_space = spaces(self.dataset)
        self.observation_space = self._box
        self._session = Sessions(self._plan, 1)
        self._begun = self._closed = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a session of a user, from a state in which the log has an episode begin.

        Args:
            seed: of everything random from here on; None goes on with the last one's numbers.
            options: ``{"user_id": id}`` chooses the user; otherwise each user is as likely.
                ``{"state": array}`` begins in that state instead of a logged one; without a
                ``user_id`` it is nobody's in particular (-1).

        Raises:
            UserError: the seed is no whole number of 0 or more, an option is unknown, the user has
                no episode here, or the state is not one.
            RuntimeError: the environment is closed.
        """
        if self._closed:
            raise RuntimeError(CLOSED)
        user, state = start_of(self._plan, self.config, self._box, *read_options(options))
        if seed is not None:
            self._np_random_seed = read_seed(seed)
            self._np_random = generator(seed, self._stream)
        self._session.begin(_ONLY, [self.np_random], [user], [state])
        self._begun = True
        return self._session.states[0].copy(), self._info()

    def step(
        self, action: np.int64
    ) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        """Show video ``action``.

        Raises:
            ValueError: the action is not the index of a video.
            RuntimeError: there was no ``reset`` yet, or the episode is over, or the environment is
                closed.
        """
        if self._closed:
            raise RuntimeError(CLOSED)
        if not self._begun:
            raise RuntimeError("call reset() before step(): there is no running episode")
        if not self._is_video(action):
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

    def _is_video(self, action: Any) -> bool:
        # Not the space's own check: True is 1 to it, and a number beyond int64 a failure.
        value = action[()] if isinstance(action, np.ndarray) and action.shape == () else action
        return is_whole(value) and 0 <= value < self.action_space.n

    def close(self) -> None:
        """End the use of the environment."""
        self._closed = True

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"user_id": self._session.user_id.item()}
        if self._session.unseen is not None:
            info["action_mask"] = self._session.unseen[0].copy()
        return info

"""``KuaiRandEnv``: one user's session of short videos, as a Gymnasium environment."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.envs.config import KuaiRandEnvConfig
from noetik_rllib.envs.logged import LoggedAnswers
from noetik_rllib.envs.response_fit import fit_response_model
from noetik_rllib.envs.response_model import ResponseModel
from noetik_rllib.envs.simulator import NUM_UNIFORMS, Simulator, Step
from noetik_rllib.envs.starts import Starts, load_starts
from noetik_rllib.errors import UserError
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.state import advance


@functools.lru_cache(maxsize=4)
def _fitted_model(directory: Path, fingerprint: str) -> ResponseModel:
    """Response model of the part ``train``, fitted once per process and state of the dataset."""
    return fit_response_model(OfflineDataset(directory), "train")


class KuaiRandEnv(gym.Env[np.ndarray, np.int64]):
    """A session: each step shows one video to a user, who answers; 10 steps, then truncated.

    The state is the flat vector of ``noetik_rllib.state`` (128 numbers with 16 past events), the
    action the dense index of a video, the reward ``0.5 click + 0.5 watch ratio``. ``info`` holds
    every signal by name, ``user_id``, ``video_id`` and ``logged`` (was the answer a logged one).

    Registered as ``noetik/KuaiRand-v0`` (Gymnasium) and ``KuaiRand-v0`` (RLlib)::

        env = gymnasium.make("noetik/KuaiRand-v0", data="data/pure")
        config.environment("KuaiRand-v0", env_config={"data": "data/pure"})

    Args:
        config: a ``KuaiRandEnvConfig``, or its options as a mapping (RLlib's ``env_config``).
        **options: its options by name, beside or instead of the mapping.

    Raises:
        UserError: an option is wrong, ``data`` is not a dataset, or a user in ``users`` has no
            episode in the part.
    """

    # A dict, as Gymnasium's base class has it: there is nothing to render.
    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self, config: KuaiRandEnvConfig | Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        if not isinstance(config, KuaiRandEnvConfig):
            config = KuaiRandEnvConfig.from_options({**(config or {}), **options})
        elif options:
            raise TypeError("give a KuaiRandEnvConfig or options by name, not both")
        self.config = config
        self.dataset = OfflineDataset(config.data)
        self._starts = self._load_starts()
        self._simulator = self._make_simulator()
        self._reward_weights = config.reward.as_array()
        num_videos = self.dataset.manifest.num_videos
        low, high = self.dataset.layout.bounds(num_videos)
        self.observation_space = gym.spaces.Box(low, high, dtype=np.float32)
        self.action_space = gym.spaces.Discrete(num_videos)
        self._state: np.ndarray | None = None
        self._user_id = -1
        self._steps = 0
        self._unseen = np.ones(num_videos, dtype=np.int8)

    def _load_starts(self) -> Starts:
        users = self.config.users
        starts = load_starts(self.dataset, self.config.part, users)
        for user in users or ():
            if not starts.rows_of(user):
                raise UserError(self._no_episode(user))
        return starts

    def _make_simulator(self) -> Simulator:
        if self.config.response_model is None:
            directory = self.dataset.directory.resolve()
            model = _fitted_model(directory, self.dataset.fingerprint)
        else:
            model = ResponseModel.load(self.config.response_model)
        logged = None
        if self.config.user_model == "logged":
            logged = LoggedAnswers.load(self.dataset, users=self._starts.users)
        return Simulator.for_dataset(self.dataset, model, logged)

    def _no_episode(self, user: int) -> str:
        return (
            f"user {user} has no episode in part '{self.config.part}' of {self.dataset.directory}"
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a session of a user, from a state in which the log has an episode begin.

        Args:
            seed: of everything random from here on.
            options: ``{"user_id": id}`` chooses the user; otherwise each user is as likely.

        Raises:
            UserError: the user has no episode here.
        """
        super().reset(seed=seed)
        wanted = (options or {}).get("user_id")
        if wanted is None:
            self._user_id = int(self.np_random.choice(self._starts.users))
        else:
            self._user_id = int(wanted)
            if not self._starts.rows_of(self._user_id):
                raise UserError(self._no_episode(self._user_id))
        row = self.np_random.choice(self._starts.rows_of(self._user_id))
        # (1, state size): the simulator works on batches.
        self._state = self._starts.states[row : row + 1]
        self._steps = 0
        self._unseen[:] = 1
        return self._state[0].copy(), self._info()

    def step(
        self, action: np.int64
    ) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        """Show video ``action``.

        Raises:
            ValueError: the action is not the index of a video.
            RuntimeError: there was no ``reset`` yet.
        """
        if self._state is None:
            raise RuntimeError("call reset() before step()")
        if not self.action_space.contains(action):
            raise ValueError(
                f"action must be a video index, 0 to {self._unseen.size - 1}, got {action!r}"
            )
        video = np.array([action], dtype=np.int64)
        # Drawn in any case, so that the luck of later steps does not depend on this answer.
        uniforms = self.np_random.random((1, NUM_UNIFORMS))
        if self.config.mask_seen and not self._unseen[video[0]]:
            step = self._skip(video)
        else:
            step = self._simulator.step(self._state, np.array([self._user_id]), video, uniforms)
        self._state = step.next_states
        self._steps += 1
        self._unseen[video] = 0
        info = self._info()
        info["video_id"] = int(self.dataset.catalog.video_id[video[0]])
        info["logged"] = bool(step.logged[0])
        info.update(zip(SIGNALS, step.signals[0].tolist(), strict=True))
        reward = float(self._reward_weights @ step.signals[0])
        truncated = self._steps >= self.config.horizon
        return self._state[0].copy(), reward, False, truncated, info

    def _skip(self, video: np.ndarray) -> Step:
        """What follows when a video is shown that was masked: a second is lost."""
        signals = np.zeros((1, len(SIGNALS)), dtype=np.float32)
        assert self._state is not None
        after = advance(self.dataset.layout, self._state, video, signals, np.ones(1))
        return Step(signals, np.zeros(1, dtype=bool), after)

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"user_id": self._user_id}
        if self.config.mask_seen:
            info["action_mask"] = self._unseen.copy()
        return info

"""``KuaiRandVectorEnv``: many users' sessions at once, one call of the user model per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from noetik_rllib.envs.config import KuaiRandEnvConfig
from noetik_rllib.envs.plan import make_plan, read_config, spaces, start_of
from noetik_rllib.envs.session import Sessions
from noetik_rllib.errors import UserError


class KuaiRandVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """``num_envs`` independent sessions of ``KuaiRandEnv``.

    With a seed s, session i is that of a ``KuaiRandEnv`` with seed s + i, up to the rounding of the
    model's probabilities. A session that is over begins anew in the next step, whose action it
    ignores (Gymnasium's ``AutoresetMode.NEXT_STEP``, which RLlib needs). ``info`` has an array for
    each name, and under ``_name`` says for which sessions it holds.

    With Gymnasium and with RLlib::

        envs = gymnasium.make_vec("noetik/KuaiRand-v0", num_envs=256, data="data/pure")
        config.env_runners(
            num_envs_per_env_runner=256, gym_env_vectorize_mode="vector_entry_point"
        )

    Args:
        num_envs: sessions.
        config: as for ``KuaiRandEnv``.
        **options: as for ``KuaiRandEnv``.

    Raises:
        UserError: as ``KuaiRandEnv``, or ``num_envs`` is below 1.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium's attribute)
        "render_modes": [],
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        config: KuaiRandEnvConfig | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if num_envs < 1:
            raise UserError(f"num_envs is {num_envs}: expected at least 1")
        self.num_envs = num_envs
        self.config = read_config(config, options)
        self._plan = make_plan(self.config)
        self.dataset = self._plan.dataset
        self._box, self._discrete = spaces(self.dataset)
        self.single_observation_space: gym.Space[Any] = self._box
        self.single_action_space: gym.Space[Any] = self._discrete
        self.observation_space = batch_space(self._box, num_envs)
        self.action_space = batch_space(self._discrete, num_envs)
        self._sessions = Sessions(self._plan, num_envs)
        self._rngs: list[np.random.Generator] = []
        self._over = np.zeros(num_envs, dtype=bool)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a session in every place.

        Args:
            seed: of the first session, the others count on from it; or one for each.
            options: as ``KuaiRandEnv.reset``; "user_id" may be one or ``num_envs`` ids, "state"
                one or ``num_envs`` states.

        Raises:
            UserError: as ``KuaiRandEnv.reset``.
        """
        seeds: Sequence[int | None]
        if seed is None or isinstance(seed, int):
            seeds = [None if seed is None else seed + i for i in range(self.num_envs)]
        else:
            seeds = seed
        if len(seeds) != self.num_envs:
            raise ValueError(f"expected one seed or {self.num_envs}, got {len(seeds)}")
        if not self._rngs:
            self._rngs = [seeding.np_random()[0] for _ in seeds]
        for place, one in enumerate(seeds):
            if one is not None:
                self._rngs[place] = seeding.np_random(one)[0]
        asked = options or {}
        users = self._for_each("user_id", asked.get("user_id"), 0)
        states = self._for_each("state", asked.get("state"), 1)
        begun = [
            start_of(self._plan, self.config, self._box, *one)
            for one in zip(users, states, strict=True)
        ]
        everywhere = np.arange(self.num_envs)
        self._sessions.begin(everywhere, self._rngs, *zip(*begun, strict=True))
        self._over[:] = False
        return self._sessions.states.copy(), self._info(np.zeros(0, dtype=np.int64), {})

    def _for_each(self, name: str, value: Any, dimensions: int) -> Sequence[Any]:
        """Return one value per session of a reset option given once or for each."""
        if value is None or np.ndim(value) == dimensions:
            return [value] * self.num_envs
        if np.ndim(value) != dimensions + 1 or len(value) != self.num_envs:
            raise UserError(
                f"reset option '{name}': expected one or {self.num_envs}, got an array of shape "
                f"{np.shape(value)}"
            )
        return list(value)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Show video ``actions[i]`` in session i; actions are (num_envs,), whole numbers.

        Raises:
            ValueError: an action is not the index of a video.
            RuntimeError: there was no ``reset`` yet.
        """
        if not self._rngs:
            raise RuntimeError("call reset() before step()")
        over, videos = self._over.copy(), self._videos(actions)
        fresh, running = np.flatnonzero(over), np.flatnonzero(~over)
        rewards = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, dtype=bool)
        truncated = np.zeros(self.num_envs, dtype=bool)
        facts: dict[str, np.ndarray] = {}
        if len(fresh):
            none = [None] * len(fresh)
            self._sessions.begin(fresh, [self._rngs[place] for place in fresh], none, none)
        if len(running):
            step = self._sessions.step(running, videos[running])
            rewards[running] = step.rewards
            terminated[running], truncated[running] = step.terminated, step.truncated
            facts = self._sessions.facts(step)
        self._over = terminated | truncated
        info = self._info(running, facts)
        return self._sessions.states.copy(), rewards, terminated, truncated, info

    def _videos(self, actions: np.ndarray) -> np.ndarray:
        """Check the actions, those that are ignored apart; (num_envs,) int64."""
        videos = np.asarray(actions)
        if videos.shape != (self.num_envs,) or not np.issubdtype(videos.dtype, np.integer):
            raise ValueError(
                f"expected {self.num_envs} video indices as whole numbers, got {videos.dtype} of "
                f"shape {videos.shape}"
            )
        wrong = np.flatnonzero(~self._over & ((videos < 0) | (videos >= self._discrete.n)))
        if len(wrong):
            raise ValueError(
                f"action must be a video index, 0 to {self._discrete.n - 1}, got "
                f"{videos[wrong[0]]} in session {wrong[0]}"
            )
        return videos.astype(np.int64)

    def _info(self, places: np.ndarray, facts: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return Gymnasium's dictionary of arrays; ``facts`` are of the sessions ``places``."""
        everywhere = np.ones(self.num_envs, dtype=bool)
        info: dict[str, Any] = {"user_id": self._sessions.user_id.copy(), "_user_id": everywhere}
        if self._sessions.unseen is not None:
            info["action_mask"] = self._sessions.unseen.copy()
            info["_action_mask"] = everywhere.copy()
        for name, values in facts.items():
            array = np.zeros(self.num_envs, dtype=values.dtype)
            array[places] = values
            mask = np.zeros(self.num_envs, dtype=bool)
            mask[places] = True
            info[name], info[f"_{name}"] = array, mask
        return info

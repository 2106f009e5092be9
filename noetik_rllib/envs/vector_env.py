"""``KuaiRandVectorEnv``: many users' sessions at once, one call of the user model per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from noetik_rllib.envs.config import KuaiRandEnvConfig
from noetik_rllib.envs.luck import generator, is_whole, read_seed
from noetik_rllib.envs.plan import make_plan, read_config, spaces
from noetik_rllib.envs.reset_options import CLOSED, for_each, read_options, start_of
from noetik_rllib.envs.session import Sessions, SessionStep
from noetik_rllib.errors import UserError


class KuaiRandVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """``num_envs`` independent sessions of ``KuaiRandEnv``.

    With a seed s, session i is that of a ``KuaiRandEnv`` with seed s + i, up to the rounding of the
    model's probabilities. A session that is over begins anew in the next step, whose action it
    ignores (Gymnasium's ``AutoresetMode.NEXT_STEP``, which RLlib needs). ``info`` has an array for
    each name, and under ``_name`` says for which sessions it holds.

    RLlib gives its runner w the seed s + w, so that session i of one runner would repeat session
    i + 1 of the runner before. With ``streams``, session i draws from stream i + 1 of the seed
    itself instead (``KuaiRandEnv``'s ``stream``); the registration with RLlib asks for it.

    With Gymnasium and with RLlib::

        envs = gymnasium.make_vec("noetik/KuaiRand-v0", num_envs=256, data="data/pure")
        config.env_runners(
            num_envs_per_env_runner=256, gym_env_vectorize_mode="vector_entry_point"
        )

    Args:
        num_envs: sessions.
        config: as for ``KuaiRandEnv``.
        streams: whether the sessions draw from streams of one seed instead of from one seed each.
        **options: as for ``KuaiRandEnv``.

    Raises:
        UserError: as ``KuaiRandEnv``, or ``num_envs`` is no whole number of 1 or more.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium's attribute)
        "render_modes": [],
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        config: KuaiRandEnvConfig | Mapping[str, Any] | None = None,
        *,
        streams: bool = False,
        **options: Any,
    ) -> None:
        if not is_whole(num_envs) or num_envs < 1:
            raise UserError(f"num_envs is {num_envs!r}: expected a whole number of 1 or more")
        self.num_envs = int(num_envs)
        self._streams = range(1, self.num_envs + 1) if streams else [0] * self.num_envs
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
            seed: of the first session, the others count on from it (or are its streams, see
                above); or one for each; None goes on with the last one's numbers.
            options: as ``KuaiRandEnv.reset``; "user_id" may be one or ``num_envs`` ids, "state"
                one or ``num_envs`` states.

        Raises:
            UserError: as ``KuaiRandEnv.reset``, or as many as sessions were expected.
            RuntimeError: as ``KuaiRandEnv.reset``.
        """
        if self.closed:
            raise RuntimeError(CLOSED)
        seeds = self._seeds(seed)
        user, state = read_options(options)
        users = for_each("user_id", user, 0, self.num_envs)
        states = for_each("state", state, 1, self.num_envs)
        begun = [
            start_of(self._plan, self.config, self._box, *one)
            for one in zip(users, states, strict=True)
        ]
        rngs = self._rngs or [generator(None) for _ in seeds]
        self._rngs = [
            rng if one is None else generator(one, stream)
            for rng, one, stream in zip(rngs, seeds, self._streams, strict=True)
        ]
        self._sessions.begin(np.arange(self.num_envs), self._rngs, *zip(*begun, strict=True))
        self._over[:] = False
        facts = self._sessions.facts(SessionStep.of_none())
        return self._sessions.states.copy(), self._info(np.zeros(0, dtype=np.int64), facts)

    def _seeds(self, seed: Any) -> list[int | None]:
        """Return the seed of each session."""
        if seed is None or np.ndim(seed) == 0:
            first = read_seed(seed)
            step = 0 if self._streams[0] else 1
            return [None if first is None else first + step * i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise UserError(f"reset seed: expected one or {self.num_envs}, got {len(seed)}")
        return [read_seed(one) for one in seed]

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Show video ``actions[i]`` in session i; actions are (num_envs,), whole numbers.

        Raises:
            ValueError: an action is not the index of a video.
            RuntimeError: there was no ``reset`` yet.
        """
        if self.closed:
            raise RuntimeError(CLOSED)
        if not self._rngs:
            raise RuntimeError("call reset() before step()")
        over, videos = self._over.copy(), self._videos(actions)
        fresh, running = np.flatnonzero(over), np.flatnonzero(~over)
        rewards = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, dtype=bool)
        truncated = np.zeros(self.num_envs, dtype=bool)
        if len(fresh):
            none = [None] * len(fresh)
            self._sessions.begin(fresh, [self._rngs[place] for place in fresh], none, none)
        step = self._sessions.step(running, videos[running])
        rewards[running] = step.rewards
        terminated[running], truncated[running] = step.terminated, step.truncated
        self._over = terminated | truncated
        info = self._info(running, self._sessions.facts(step))
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
        """Return Gymnasium's dictionary of arrays; ``facts`` are of the sessions ``places``.

        Every name is always there, so that a loop need not know when all sessions begin anew.
        """
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

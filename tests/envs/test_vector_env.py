"""``KuaiRandVectorEnv``: the sessions of single environments, side by side."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from noetik_rllib.envs.kuairand_env import KuaiRandEnv
from noetik_rllib.envs.vector_env import KuaiRandVectorEnv
from noetik_rllib.errors import UserError
from tests.envs.planted import Planted

SESSIONS = 6
CALLS = 25


@pytest.fixture(scope="module")
def options(world: Planted, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options of an environment on the planted world with its fitted model."""
    model = tmp_path_factory.getbasetemp() / "planted" / "train"
    return {"data": world.dataset.directory, "response_model": model}


def choices(calls: int, sessions: int) -> np.ndarray:
    """Videos (T, B) to show; some come twice in an episode."""
    return np.random.default_rng(5).integers(60, size=(calls, sessions)) // 3


def plain(value: Any) -> Any:
    """A value without NumPy types, so that trajectories compare equal and fit into JSON."""
    return value.tolist() if hasattr(value, "tolist") else value


def trajectories(envs: Any, seed: int) -> list[Any]:
    """What each session of a vectorised environment goes through."""
    states, info = envs.reset(seed=seed)
    calls = [(states, info)]
    calls += [envs.step(row) for row in choices(CALLS, envs.num_envs)]
    return [
        [
            [
                {k: plain(v[i]) for k, v in part.items() if k[0] != "_" and part[f"_{k}"][i]}
                if isinstance(part, dict)
                else plain(part[i])
                for part in call
            ]
            for call in calls
        ]
        for i in range(envs.num_envs)
    ]


@pytest.mark.parametrize(
    "more",
    [
        {"user_model": "logged"},
        {"user_model": "model", "mask_seen": True},
        {
            "user_model": "model",
            "dynamics": {
                "patience": {"videos_per_session": 4.0},
                "satiation": True,
            },
        },
        {
            "user_model": "logged",
            "horizon": 20,
            "dynamics": {"patience": {"videos_per_session": 4.0}, "returns": True},
        },
        {"user_model": "world", "dynamics": {"patience": True}},
    ],
    ids=str,
)
def test_session_i_of_seed_s_is_the_single_one_of_seed_s_plus_i(
    options: dict[str, Any], more: dict[str, Any]
) -> None:
    """A result would depend on how many sessions run side by side; autoreset, rewards, ends and
    ``info`` would differ from Gymnasium's own vectorisation of the single environment.
    """
    given = {**options, **more}
    if more["user_model"] == "world":
        given["world"] = given.pop("response_model").parent / "world"
    together = KuaiRandVectorEnv(SESSIONS, given)
    own = gymnasium.vector.SyncVectorEnv(
        [lambda: KuaiRandEnv(given)] * SESSIONS,
        autoreset_mode=AutoresetMode.NEXT_STEP,
    )
    mine = trajectories(together, seed=40)
    assert mine == trajectories(own, seed=40)
    assert mine == trajectories(together, seed=40)
    assert len({json.dumps(one) for one in mine}) == SESSIONS
    ends = [call[2] or call[3] for one in mine for call in one[1:]]
    assert any(ends), "no episode ended: the autoreset was not tested"


def test_the_same_in_another_process(options: dict[str, Any]) -> None:
    """Workers on several machines could not repeat a result."""
    names = {name: str(value) for name, value in options.items()}
    script = f"""
import json
from noetik_rllib.envs.vector_env import KuaiRandVectorEnv
from tests.envs.test_vector_env import trajectories
print(json.dumps(trajectories(KuaiRandVectorEnv(3, {names}), seed=9)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == trajectories(KuaiRandVectorEnv(3, options), seed=9)


def test_gymnasium_makes_it_by_name(options: dict[str, Any]) -> None:
    """``gymnasium.make_vec`` would step single environments in a loop instead."""
    envs = gymnasium.make_vec("noetik/KuaiRand-v0", num_envs=3, **options)
    assert isinstance(envs.unwrapped, KuaiRandVectorEnv)
    states, info = envs.reset(seed=0)
    assert envs.observation_space.contains(states)
    assert envs.action_space.contains(np.array([0, 59, 3]))
    assert states.shape == (3, 128)
    assert info["_user_id"].all()


def test_what_comes_back_is_the_callers(options: dict[str, Any]) -> None:
    """Writing into an observation would change the sessions, or a later step an earlier result."""
    envs, other = (KuaiRandVectorEnv(2, options) for _ in range(2))
    states, _ = envs.reset(seed=1)
    other.reset(seed=1)
    kept = states.copy()
    first = envs.step(np.array([1, 2]))
    np.testing.assert_array_equal(states, kept)
    first[0][:] = 0
    other.step(np.array([1, 2]))
    np.testing.assert_array_equal(envs.step(np.array([3, 4]))[0], other.step(np.array([3, 4]))[0])


def test_seeds_users_and_states_one_or_for_each(options: dict[str, Any]) -> None:
    """A reset option would be ignored, or go to another session."""
    envs = KuaiRandVectorEnv(2, options)
    states, info = envs.reset(seed=[11, 4])
    for place, seed in enumerate((11, 4)):
        alone = KuaiRandEnv(options).reset(seed=seed)
        np.testing.assert_array_equal(states[place], alone[0])
        assert info["user_id"][place] == alone[1]["user_id"]
    users = info["user_id"]
    again = envs.reset(options={"user_id": users[::-1]})[1]["user_id"]
    assert again.tolist() == users[::-1].tolist()
    assert envs.reset(options={"user_id": users[0]})[1]["user_id"].tolist() == [users[0]] * 2
    np.testing.assert_array_equal(envs.reset(options={"state": states})[0], states)
    assert (envs.reset(options={"state": states[0]})[0] == states[0]).all()
    for wrong in ({"user_id": [1, 2, 3]}, {"state": states[:1]}):
        with pytest.raises(UserError, match="expected one or 2"):
            envs.reset(options=wrong)
    with pytest.raises(UserError, match="reset seed: expected one or 2, got 1"):
        envs.reset(seed=[1])


def test_wrong_calls_are_refused(options: dict[str, Any]) -> None:
    """A video out of range would be another one without a word, in one session of many."""
    for wrong in (0, 2.5, "3", True):
        with pytest.raises(UserError, match=f"num_envs is {wrong!r}: expected a whole number"):
            KuaiRandVectorEnv(wrong, options)
    envs = KuaiRandVectorEnv(3, options)
    with pytest.raises(RuntimeError, match="reset"):
        envs.step(np.zeros(3, dtype=np.int64))
    envs.reset(seed=0)
    for actions, message in (
        (np.array([0, 60, 1]), "0 to 59, got 60 in session 1"),
        (np.array([0, 1, -1]), "0 to 59, got -1 in session 2"),
        (np.array([0, 1]), "expected 3 video indices"),
        (np.array([0.0, 1.0, 2.0]), "expected 3 video indices"),
    ):
        with pytest.raises(ValueError, match=message):
            envs.step(actions)
    envs.close()
    for call in (envs.reset, lambda: envs.step(np.zeros(3, dtype=np.int64))):
        with pytest.raises(RuntimeError, match="closed"):
            call()


def test_every_name_is_always_there(options: dict[str, Any]) -> None:
    """A loop over ``info`` would crash in the step in which all sessions begin anew."""
    envs = KuaiRandVectorEnv(3, options)
    names = set(envs.reset(seed=0)[1])
    for number in range(12):
        info = envs.step(np.full(3, number))[4]
        assert set(info) == names
        assert {"click", "_click", "logged", "video_id"} <= names
        assert info["_click"].tolist() == [number != 10] * 3
        assert info["video_id"].dtype == np.int64


def test_a_stream_of_one_seed_is_a_session_of_its_own(options: dict[str, Any]) -> None:
    """Sessions of seeds s and s + 1 would overlap, as those of RLlib's runners do, or a stream
    could not be repeated in a single environment.
    """
    first, second = (KuaiRandVectorEnv(SESSIONS, options, streams=True) for _ in range(2))
    mine = trajectories(first, seed=40)
    apart = [json.dumps(one) for one in (*mine, *trajectories(second, seed=41))]
    assert len(set(apart)) == 2 * SESSIONS
    alone = KuaiRandEnv(options, stream=3)
    assert alone.reset(seed=40)[0].tolist() == mine[2][0][0]
    for call, row in zip(mine[2][1:], choices(CALLS, SESSIONS)[:10, 2], strict=False):
        assert alone.step(row)[0].tolist() == call[0]

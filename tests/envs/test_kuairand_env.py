"""``KuaiRandEnv`` as Gymnasium and RLlib see it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import noetik_rllib  # noqa: F401 (registers the environment)
from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.envs.kuairand_env import KuaiRandEnv
from noetik_rllib.envs.response_model import MODEL_NAME, WEIGHTS_NAME, ResponseModel
from noetik_rllib.envs.vector_env import KuaiRandVectorEnv
from noetik_rllib.errors import UserError
from noetik_rllib.offline.dataset import PARTS
from tests.envs.planted import Planted


@pytest.fixture(scope="module")
def options(world: Planted, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options of an environment on the planted world with its fitted model."""
    model = tmp_path_factory.getbasetemp() / "planted" / "train"
    return {"data": world.dataset.directory, "response_model": model}


def run_python(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter, at the root of the repository."""
    return subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def rollout(env: gymnasium.Env, seed: int, steps: int = 10) -> list[Any]:
    """A trajectory of fixed actions, as plain numbers."""
    state, info = env.reset(seed=seed)
    trajectory: list[Any] = [state.tolist(), info]
    for number in range(steps):
        state, reward, terminated, truncated, info = env.step(np.int64((7 * number) % 60))
        trajectory.append([state.tolist(), reward, terminated, truncated, info])
    return trajectory


@pytest.fixture(scope="module")
def of_world(world: Planted, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options of an environment whose users answer as the planted world says."""
    folder = tmp_path_factory.getbasetemp() / "planted" / "world"
    return {"data": world.dataset.directory, "user_model": "world", "world": folder}


@pytest.mark.parametrize("user_model", ["logged", "model", "world"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"mask_seen": True},
        {"dynamics": {"patience": True}},
        {"dynamics": {"patience": True, "returns": True}},
    ],
    ids=str,
)
def test_gymnasium_accepts_it(
    options: dict[str, Any], of_world: dict[str, Any], user_model: str, more: dict[str, Any]
) -> None:
    """Libraries that rely on Gymnasium's contract would misbehave."""
    chosen = of_world if user_model == "world" else {**options, "user_model": user_model}
    env = KuaiRandEnv(**chosen, **more)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)
    assert env.observation_space.shape == (128,)
    assert env.action_space.n == 60


def test_gymnasium_makes_it_by_name(options: dict[str, Any]) -> None:
    """``gymnasium.make`` would not know it, or not pass its options on."""
    env = gymnasium.make("noetik/KuaiRand-v0", **options, horizon=3)
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("order", ["noetik_rllib, ray.rllib", "ray.tune, noetik_rllib"])
def test_rllib_knows_it_by_name(options: dict[str, Any], order: str) -> None:
    """``config.environment("KuaiRand-v0")`` would fail, depending on what was imported first."""
    script = f"""
import {order}
from ray.rllib.env.env_context import EnvContext
from ray.tune.registry import ENV_CREATOR, _global_registry
make = _global_registry.get(ENV_CREATOR, "KuaiRand-v0")
config = EnvContext({ {name: str(value) for name, value in options.items()} }, worker_index=1)
env = make(config)
print(type(env).__name__, env.reset(seed=0)[0].shape)
"""
    done = run_python(script)
    assert done.stdout.strip() == "KuaiRandEnv (128,)", done.stderr


def test_import_stays_light() -> None:
    """``noetik --help`` would wait seconds for torch and Ray."""
    script = "import sys, noetik_rllib; print([m for m in ('torch', 'ray') if m in sys.modules])"
    done = run_python(script)
    assert done.stdout.strip() == "[]", done.stderr


def test_ten_steps_then_truncated(options: dict[str, Any]) -> None:
    """Episodes would have another length than the user asked for, or end without a cause."""
    env = KuaiRandEnv(options)
    ends = [step[2:4] for step in rollout(env, seed=1)[2:]]
    assert ends == [[False, False]] * 9 + [[False, True]]


def test_reward_is_half_click_half_watch_ratio(options: dict[str, Any]) -> None:
    """The reward would not be the product's, or not the one that was configured."""
    for weights in (None, {"click": 0.0, "watch_ratio": 0.0, "like": 2.0, "hate": -1.0}):
        reward = {} if weights is None else {"reward": weights}
        env = KuaiRandEnv({**options, **reward})
        used = weights or {"click": 0.5, "watch_ratio": 0.5}
        for _, got, _, _, info in rollout(env, seed=2)[2:]:
            assert got == pytest.approx(sum(w * info[name] for name, w in used.items()))
            assert set(SIGNALS) <= set(info)


def test_same_seed_same_trajectory(options: dict[str, Any]) -> None:
    """Results could not be reproduced, or every seed would give the same session."""
    one, other = KuaiRandEnv(options), KuaiRandEnv(options)
    first = rollout(one, seed=3)
    assert rollout(other, seed=3) == first
    assert rollout(one, seed=3) == first
    assert rollout(one, seed=4) != first


def test_same_seed_same_trajectory_in_another_process(tiny_dataset: Path) -> None:
    """Two workers would have different users: the model is fitted in each process by itself here,
    so its fit must be the same too. And whoever waits for it must be told why, and what it lacks.
    """
    script = f"""
import json
from noetik_rllib.envs.kuairand_env import KuaiRandEnv
from tests.envs.test_kuairand_env import rollout
print(json.dumps(rollout(KuaiRandEnv(data={str(tiny_dataset)!r}), seed=5)))
"""
    done = run_python(script)
    assert done.returncode == 0, done.stderr
    assert "no response_model is named, so one is fitted on the part 'train'" in done.stderr
    assert "there are fewer than 500 uniformly exposed rows" in done.stderr
    mine = rollout(KuaiRandEnv(data=tiny_dataset), seed=5)
    assert json.loads(done.stdout) == json.loads(json.dumps(mine))


def test_logged_answers_are_replayed(options: dict[str, Any], world: Planted) -> None:
    """The environment would invent an answer where the log has the real one."""
    columns = ("user_id", "actions", "video_id", "time_ms", *SIGNALS)
    parts = [world.dataset.load(part, columns) for part in PARTS]
    log = {name: np.concatenate([part[name] for part in parts]) for name in columns}
    user = int(parts[PARTS.index("train")]["user_id"][11])
    mine = np.flatnonzero(log["user_id"] == user)
    row = mine[log["time_ms"][mine].argmin()]  # the user's very first: no answer before it
    video = log["actions"][row]
    env = KuaiRandEnv({**options, "user_model": "logged"})
    env.reset(seed=0, options={"user_id": user})
    info = env.step(video)[4]
    assert info["logged"] is True
    assert info["user_id"] == user
    assert info["video_id"] == log["video_id"][row]
    for name in SIGNALS:
        assert info[name] == pytest.approx(float(log[name][row]))

    alone = KuaiRandEnv(options)
    alone.reset(seed=0, options={"user_id": user})
    assert alone.step(video)[4]["logged"] is False


def test_sessions_start_in_real_states_of_the_user(options: dict[str, Any], world: Planted) -> None:
    """A session would mix one user's state with another's answers."""
    env = KuaiRandEnv(options)
    rows = world.dataset.load("train", ("user_id", "t", "obs"))
    user = int(rows["user_id"][0])
    mine = rows["obs"][(rows["user_id"] == user) & (rows["t"] == 0)]
    states = {env.reset(seed=s, options={"user_id": user})[0].tobytes() for s in range(20)}
    assert states <= {state.tobytes() for state in mine}
    assert len({env.reset(seed=s)[1]["user_id"] for s in range(20)}) > 10


def test_seen_videos_are_masked_and_worth_nothing(options: dict[str, Any]) -> None:
    """An agent would collect the reward of one good video ten times."""
    env = KuaiRandEnv({**options, "mask_seen": True})
    state, info = env.reset(seed=6)
    begun = info["action_mask"]
    # What the history holds has been seen too.
    past = env.dataset.layout.unpack(state).video_index
    assert (past >= 0).any()
    assert np.flatnonzero(begun == 0).tolist() == sorted({*past.tolist()} - {-1})
    video = int(np.flatnonzero(begun)[0])
    first = env.step(np.int64(video))[4]["action_mask"]
    assert first.sum() == begun.sum() - 1
    assert first[video] == 0
    _, reward, _, _, info = env.step(np.int64(video))
    assert reward == 0
    assert not any(info[name] for name in SIGNALS)
    assert info["logged"] is False
    assert info["repeated"] is True
    assert first.sum() == begun.sum() - 1, "an earlier info must not change"
    assert env.reset(seed=6)[1]["action_mask"].tolist() == begun.tolist()
    # Gymnasium's own sampling understands the mask.
    assert env.action_space.sample(mask=first) != video


def test_users_can_be_restricted(options: dict[str, Any], world: Planted) -> None:
    """An evaluation on chosen users would silently use others."""
    users = [
        int(user) for user in np.unique(world.dataset.load("train", ["user_id"])["user_id"])[:2]
    ]
    env = KuaiRandEnv({**options, "users": users})
    assert {env.reset(seed=s)[1]["user_id"] for s in range(12)} == set(users)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "no/such/place"}, "no/such/place is not an offline dataset"),
        ({"users": [10**9]}, "no episode"),
        ({"part": "tset"}, "option 'part'"),
        ({"user_modl": "model"}, "no option 'user_modl'.*Did you mean 'user_model'"),
        ({"horizon": 0}, "option 'horizon'"),
        ({"reward": {"clicks": 1.0}}, "unknown signal 'clicks'"),
        ({"response_model": "no/such/model"}, "no/such/model is not a response model"),
        ({"user_model": "world"}, "option 'world': user_model 'world' needs the folder"),
        ({"world": "data/world"}, "option 'world': user_model 'model' does not ask"),
        ({"users": []}, "option 'users': expected ids of users, at least one, or 'held_out'"),
        ({"users": "held-out"}, "option 'users': expected ids"),
        ({"users": "held_out"}, "part 'train' of .* has no episode of the users asked for"),
        ({"repeat_interest": 1.5}, "option 'repeat_interest'"),
        ({"dynamics": {"patiense": True}}, "option 'dynamics.patiense'"),
        ({"dynamics": {"returns": True}}, "option 'dynamics.returns': nobody leaves"),
        ({"dynamics": {"patience": {"videos_per_session": 1}}}, "videos_per_session"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], change: dict[str, Any], message: str) -> None:
    """A mistake would end in a traceback that does not name it."""
    with pytest.raises(UserError, match=message) as caught:
        KuaiRandEnv({**options, **change})
    assert "\n" not in str(caught.value)


def test_wrong_calls_are_refused(options: dict[str, Any]) -> None:
    """An unknown user or a video out of range would be another one without a word."""
    env = KuaiRandEnv(options)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(0)
    with pytest.raises(UserError, match="user 1000000 has no episode in part 'train'"):
        env.reset(options={"user_id": 1_000_000})
    env.reset(seed=0)
    for action in (-1, 60, 1.5, 10**30, True, np.bool_(True), "3", None, np.array([3])):
        with pytest.raises(ValueError, match="0 to 59"):
            env.step(action)
    for action in (3, np.uint8(3), np.array(3)):
        env.step(action)
    rollout(env, seed=0)
    with pytest.raises(RuntimeError, match="no running episode"):
        env.step(0)
    env.close()
    for call in (env.reset, lambda: env.step(0)):
        with pytest.raises(RuntimeError, match="closed"):
            call()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"usr": 5}, "no option 'usr'.*user_id or state"),
        ({"user": 5}, "no option 'user'.*Did you mean 'user_id'"),
        ([5], "reset options: expected a mapping, got list"),
        *(
            ({"user_id": wrong}, "reset option 'user_id'")
            for wrong in (5.7, 5.0, True, "5", np.nan, -2, 10**20, [5, [6]], [5, 6, 7])
        ),
        *(
            ({"state": wrong}, "reset option 'state'")
            for wrong in ("x", 1.0, [1, [2]], np.zeros((2, 3)), [None] * 128)
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [KuaiRandEnv, KuaiRandVectorEnv])
def test_reset_options_are_strict(
    options: dict[str, Any], kind: type, asked: Any, message: str
) -> None:
    """A misspelt option would be ignored, user 5.7 be user 5, or a list end in a traceback."""
    with pytest.raises(UserError, match=message) as caught:
        kind(config=options).reset(seed=0, options=asked)
    assert "\n" not in str(caught.value)


def test_seeds_are_whole_numbers(options: dict[str, Any]) -> None:
    """A NumPy seed, as a loop over an array gives it, would be refused or be another seed."""
    single, several = KuaiRandEnv(options), KuaiRandVectorEnv(2, options)
    np.testing.assert_array_equal(single.reset(seed=np.int64(4))[0], single.reset(seed=4)[0])
    np.testing.assert_array_equal(several.reset(seed=np.int64(4))[0], several.reset(seed=4)[0])
    for env in (single, several):
        for wrong in (-1, 1.0, "1", True):
            with pytest.raises(UserError, match="reset seed: expected a whole number"):
                env.reset(seed=wrong)


def test_the_default_is_an_environment_to_train_on(options: dict[str, Any]) -> None:
    """Who takes the defaults would train on held-out users, or on answers that a policy can learn
    by heart.
    """
    env = KuaiRandEnv(options)
    held_out = env.dataset.users.user_id[env.dataset.users.held_out]
    assert not np.isin([env.reset(seed=seed)[1]["user_id"] for seed in range(30)], held_out).any()
    assert not any(step[4]["logged"] for step in rollout(env, seed=0)[2:])


def test_the_other_users_model_is_warned_of(
    options: dict[str, Any], world: Planted, tmp_path: Path
) -> None:
    """A policy would be judged by the model that it was trained with, or the other way round."""
    judging = {**options, "part": "test", "users": "held_out"}
    with pytest.warns(UserWarning, match="held out from training, but .* part 'train'"):
        KuaiRandEnv(judging)
    world.judge.save(tmp_path / "judge")
    with pytest.warns(UserWarning, match="training users, but .* part 'judge'"):
        KuaiRandEnv({**options, "response_model": tmp_path / "judge"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = KuaiRandEnv({**judging, "response_model": tmp_path / "judge"})
        KuaiRandEnv(options)
    users = {env.reset(seed=seed)[1]["user_id"] for seed in range(30)}
    assert users <= set(world.dataset.users.user_id[world.dataset.users.held_out].tolist())


def test_a_given_state_is_checked(options: dict[str, Any]) -> None:
    """A session would go on from numbers that are no state, to answers that mean nothing."""
    env = KuaiRandEnv(options)
    good = env.reset(seed=0)[0]
    np.testing.assert_array_equal(env.reset(options={"state": good})[0], good)
    assert env.reset(options={"state": good})[1]["user_id"] == -1
    for change in (np.nan, 1e9, 60.5):
        bad = good.copy()
        bad[32] = change  # the video of the newest event
        with pytest.raises(UserError, match="reset option 'state'"):
            env.reset(options={"state": bad})
    with pytest.raises(UserError, match="of shape \\(3,\\)"):
        env.reset(options={"state": [1, 2, 3]})


def test_a_model_of_another_dataset_is_refused(options: dict[str, Any], tiny_dataset: Path) -> None:
    """Video 5 of one catalogue is not video 5 of another."""
    with pytest.raises(UserError, match="fitted on another dataset"):
        KuaiRandEnv({**options, "data": tiny_dataset})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("layout", "has layout_version 0; this release reads"),
        ("cut", "weights.safetensors is damaged: its checksum"),
        ("nan", "holds weights that are not numbers"),
    ],
)
@pytest.mark.parametrize("kind", [KuaiRandEnv, KuaiRandVectorEnv])
def test_a_bad_model_is_refused(
    options: dict[str, Any], tmp_path: Path, kind: type, damage: str, message: str
) -> None:
    """Users would answer with noise, or an environment would end in a traceback."""
    model = tmp_path / "model"
    shutil.copytree(options["response_model"], model)
    if damage == "layout":
        content = json.loads((model / MODEL_NAME).read_text())
        (model / MODEL_NAME).write_text(json.dumps(content | {"layout_version": 0}))
    elif damage == "cut":
        weights = (model / WEIGHTS_NAME).read_bytes()
        (model / WEIGHTS_NAME).write_bytes(weights[: len(weights) // 2])
    else:
        broken = ResponseModel.load(model)
        with torch.no_grad():
            next(broken.network.parameters()).fill_(float("nan"))
        broken.save(model)
    with pytest.raises(UserError, match=message) as caught:
        kind(config={**options, "response_model": model})
    assert "\n" not in str(caught.value)

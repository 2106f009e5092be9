"""``user_model="world"``: users who answer as the synthetic world truly does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noetik_rllib.data.signals import BINARY_SIGNALS, SIGNALS
from noetik_rllib.data.world import SyntheticWorld
from noetik_rllib.data.world_value import History, policy_value
from noetik_rllib.envs.kuairand_env import KuaiRandEnv
from noetik_rllib.envs.starts import load_starts
from noetik_rllib.envs.vector_env import KuaiRandVectorEnv
from noetik_rllib.envs.world_users import WorldUsers
from noetik_rllib.errors import UserError
from noetik_rllib.offline.prepare_config import PrepareConfig
from noetik_rllib.offline.writer import prepare
from noetik_rllib.state import CONTEXT_NAMES, USER_SIZE
from tests.envs.planted import Planted

FIRST_TAB = CONTEXT_NAMES.index("tab_0")


@pytest.fixture(scope="module")
def folder(world: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the planted world's logs."""
    return tmp_path_factory.getbasetemp() / "planted" / "world"


def test_answers_have_the_true_distribution(world: Planted) -> None:
    """Users would click, watch or like at other rates than the world's, on some page or after some
    history. Means over 2,000 draws in each of 40 states and on any page lie within 5 standard
    errors of the closed form: error below 1e-3 over the 360 comparisons.
    """
    users, draws = WorldUsers(world.world, world.dataset), 2_000
    starts = load_starts(world.dataset, "test")
    states, user_id = starts.states[:40].copy(), starts.user_id[:40]
    tab = np.arange(40) % 15
    pages = USER_SIZE + 4 * world.dataset.layout.history_length + FIRST_TAB
    states[:, pages : pages + 15] = 0.0
    states[np.arange(40), pages + tab] = 1.0
    videos = np.arange(40)
    parts = world.dataset.layout.unpack(states)
    ids = world.dataset.catalog.video_id
    recent = np.where(parts.present, ids[parts.video_index], -1)
    clicks = parts.feedback[..., BINARY_SIGNALS.index("click")]
    truth = world.world.response(user_id, ids[videos], recent, clicks, tab)

    rows = np.repeat(np.arange(40), draws)
    uniforms = np.random.default_rng(3).random((len(rows), users.num_uniforms))
    drawn = users.signals(states[rows], user_id[rows], videos[rows], uniforms)
    for place, name in enumerate(SIGNALS):
        sample = drawn[:, place].reshape(40, draws).astype(np.float64)
        # The spread of a rare signal is the true one; play times are rounded to whole ms: 2e-4.
        spread = np.sqrt(truth[name] * (1 - truth[name]))
        spread = sample.std(axis=1) if name == "watch_ratio" else spread
        error = np.abs(sample.mean(axis=1) - truth[name])
        assert (error <= 5 * spread / np.sqrt(draws) + 3e-4).all(), name


def test_sessions_are_worth_the_true_value(world: Planted, folder: Path) -> None:
    """What the environment pays would not be the value that ``policy_value`` knows, with users who
    leave: histories, patience or time would differ. Chance, from empty histories on the main page,
    within 4.5 standard errors: error below 1e-5.
    """
    users = np.unique(world.dataset.load("test", ["user_id"])["user_id"])
    sessions = 12
    envs = KuaiRandVectorEnv(
        len(users) * sessions,
        data=world.dataset.directory,
        user_model="world",
        world=folder,
        part="test",
        repeat_interest=1.0,
        dynamics={"patience": True},
    )
    user_id = np.repeat(users, sessions)
    state = np.zeros(world.dataset.layout.size, dtype=np.float32)
    envs.reset(seed=0, options={"user_id": user_id, "state": state})
    total, steps = np.zeros(len(user_id)), np.zeros(len(user_id))
    rng, present = np.random.default_rng(1), np.ones(len(user_id), dtype=bool)
    for _ in range(10):
        _, rewards, terminated, _, info = envs.step(rng.integers(60, size=len(user_id)))
        total += np.where(present, rewards, 0.0)
        steps += present
        assert (info["left"] == terminated)[present].all()
        present &= ~terminated

    def even(user: np.ndarray, *past: np.ndarray) -> np.ndarray:
        shown = world.dataset.catalog.video_id
        chances = np.zeros((len(user), world.world.config.videos))
        chances[:, shown] = 1 / len(shown)
        return chances

    start = History.empty(len(users), world.world.config.history_window)
    value = policy_value(
        world.world, even, users=users, start=start, sessions_per_user=20, patience=True
    )
    for name, found in (("reward", total), ("steps", steps)):
        by_user = found.reshape(len(users), sessions)
        error = np.sqrt((by_user.var(axis=1, ddof=1) / sessions).sum()) / len(users)
        tolerance = 4.5 * np.hypot(error, value.standard_error[name])
        assert found.mean() == pytest.approx(value.mean[name], abs=tolerance), name
    assert 1 < steps.mean() < 9.5


def test_another_world_is_refused(world: Planted, folder: Path, tmp_path: Path) -> None:
    """Users would answer for others who happen to have their ids."""
    options: dict[str, Any] = {"data": world.dataset.directory, "user_model": "world"}
    SyntheticWorld(world.world.config.__class__(**{**vars(world.world.config), "seed": 1})).write(
        tmp_path / "other"
    )
    with pytest.raises(UserError, match=r"other is not the one that .* was made from: data/log"):
        KuaiRandEnv({**options, "world": tmp_path / "other"})
    with pytest.raises(UserError, match=r"no world\.json here"):
        KuaiRandEnv({**options, "world": tmp_path})
    shutil.copy(folder / "world.json", tmp_path)
    with pytest.raises(UserError, match="is not the one that"):
        KuaiRandEnv({**options, "world": tmp_path})
    # The truth needs neither a model nor dynamics that are its own.
    for more, option in (
        ({"response_model": "x"}, "response_model"),
        ({"dynamics": {"satiation": True}}, "dynamics.satiation"),
        ({"dynamics": {"patience": {"impatience": 2.0}}}, "dynamics.patience"),
    ):
        with pytest.raises(UserError, match=f"option '{option}': user_model 'world'"):
            KuaiRandEnv({**options, "world": folder, **more})


def test_a_history_too_short_for_the_truth_is_refused(folder: Path, tmp_path: Path) -> None:
    """The truth would be told of users who forget."""
    prepare(folder, tmp_path / "short", PrepareConfig(history_length=4))
    with pytest.raises(UserError, match="4 past events, but the world's users remember 16"):
        KuaiRandEnv(data=tmp_path / "short", user_model="world", world=folder)


def test_users_without_a_session_here_have_no_truth(world: Planted, folder: Path) -> None:
    """A state of nobody in particular would be answered by the last user."""
    env = KuaiRandEnv(data=world.dataset.directory, user_model="world", world=folder)
    state, _ = env.reset(seed=0)
    with pytest.raises(UserError, match="user -1 has no episode"):
        env.reset(options={"state": state})

"""What users and videos were like before the split."""

from __future__ import annotations

import numpy as np
import pytest

from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.logged_rows import logged_rows
from noetik_rllib.evaluation.past_answers import PastAnswers
from noetik_rllib.offline.dataset import OfflineDataset
from tests.envs.planted import Planted


class Without(OfflineDataset):
    """The dataset with one row of ``train`` after the split, and so not known."""

    def __init__(self, dataset: OfflineDataset, user_id: int, time_ms: int, video: int) -> None:
        super().__init__(dataset.directory)
        self._row = user_id, time_ms

    def before_split(self, user_id: np.ndarray, time_ms: np.ndarray) -> np.ndarray:
        left_out = (user_id == self._row[0]) & (time_ms == self._row[1])
        return super().before_split(user_id, time_ms) & ~left_out


def test_a_row_does_not_tell_its_own_answer(world: Planted) -> None:
    """What is expected would be fitted on its own answer, and overrated for that: leaving a row out
    is the same as never having read it, but for the mean of its video, which hardly moves.
    """
    dataset = world.dataset
    rows = dataset.load("train", ("user_id", "time_ms", "actions", "click", "watch_ratio"))
    past, moved = PastAnswers(dataset), []
    _, first, count = np.unique(rows["user_id"], return_index=True, return_counts=True)
    for row in first[np.argsort(count)[:3]]:  # of those of whom least is known
        user, video = rows["user_id"][row : row + 1], rows["actions"][row : row + 1]
        at = int(rows["time_ms"][row])
        assert ((rows["user_id"] == user[0]) & (rows["time_ms"] == at)).sum() == 1
        answer = 0.5 * (rows["click"][row : row + 1] + rows["watch_ratio"][row : row + 1])
        found = past.of(user, video[:, None], (answer, np.array([True])))
        never = PastAnswers(Without(dataset, int(user[0]), at, int(video[0])))
        np.testing.assert_allclose(found, never.of(user, video[:, None]), atol=0.01)
        told = past.of(user, video[:, None])
        moved.append(np.abs(told - found)[0, 0, 2:4].max())
    # Otherwise the user's level and taste do tell it.
    assert max(moved) > 0.01


def test_users_tastes_are_found(world: Planted) -> None:
    """A user's past would say nothing of their tastes: over pairs, it must go with the truth."""
    users = world.dataset.users.user_id
    videos = np.tile(np.arange(60), (len(users), 1))
    traits = PastAnswers(world.dataset).of(users, videos)
    assert traits.shape == (len(users), 60, len(PastAnswers.NAMES))
    found, truth = traits[..., 3], world.taste(users)
    # Within a user, since the level is another number.
    by_user = [np.corrcoef(mine, true)[0, 1] for mine, true in zip(found, truth, strict=True)]
    assert np.mean(by_user) > 0.5
    untagged = (world.dataset.catalog.tags < 0).all(axis=1)
    assert (traits[:, untagged, 3:] == 0).all()


def test_rows_come_in_order_and_as_asked(world: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows would be lost between batches, or rows of other users or before the split be judged."""
    monkeypatch.setattr("noetik_rllib.evaluation.logged_rows.BATCH", 700)
    dataset = world.dataset
    whole = dataset.load("random", ("user_id", "time_ms", "actions"))
    users = dataset.users.user_id[::3]
    shares: list[float] = []
    found = list(
        logged_rows(
            dataset, "random", ("actions",), from_split=True, users=users, progress=shares.append
        )
    )
    kept = ~dataset.before_split(whole["user_id"], whole["time_ms"])
    kept &= np.isin(whole["user_id"], users)
    np.testing.assert_array_equal(
        np.concatenate([rows["actions"] for rows in found]), whole["actions"][kept]
    )
    assert all(set(rows) == {"actions"} for rows in found)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_damaged_file_is_named(world: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-written file would end in a traceback."""

    class Damaged(OfflineDataset):
        def files(self, part: str) -> list:  # type: ignore[type-arg]
            return [self.directory / "manifest.json"]

    with pytest.raises(UserError, match=r"manifest\.json is damaged: .*prepare the dataset again"):
        next(logged_rows(Damaged(world.dataset.directory), "test", ("actions",)))

"""Groups of users and videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from noetik_rllib.evaluation.groups import (
    ACTIVITY,
    Groups,
    activity_groups,
    figures_by_group,
    popularity_groups,
)
from noetik_rllib.evaluation.intervals import bootstrap_by_user
from noetik_rllib.offline.dataset import OfflineDataset


def test_groups_are_of_one_size_and_ordered() -> None:
    """A tercile would not be one, or 'heavy' would be the users with few rows."""
    size = np.random.default_rng(0).permutation(90)
    groups = Groups.by_size(ACTIVITY, np.arange(90), size)
    np.testing.assert_array_equal(np.bincount(groups.group), [30, 30, 30])
    assert size[groups.group == 0].max() < size[groups.group == 1].min()
    assert size[groups.group == 1].max() < size[groups.group == 2].min()


def test_equal_sizes_share_a_group() -> None:
    """Chance would part videos of which nothing is known: half of these were never shown."""
    size = np.array([0] * 6 + [1, 2, 3, 4])
    groups = Groups.by_size(("a", "b", "c", "d", "e"), np.arange(10), size)
    np.testing.assert_array_equal(groups.group, [0] * 6 + [3, 3, 4, 4])
    assert len(Groups.by_size(ACTIVITY, np.arange(0), np.arange(0)).group) == 0


def test_an_unknown_id_is_refused() -> None:
    """A user of another dataset would be counted with the first group."""
    groups = Groups.by_size(ACTIVITY, np.array([2, 5, 9]), np.array([3, 1, 2]))
    np.testing.assert_array_equal(groups.of(np.array([9, 2, 5, 5])), [1, 2, 0, 0])
    with pytest.raises(ValueError, match="1 ids are in no group, the first is 4"):
        groups.of(np.array([5, 4]))


def test_rows_after_the_split_do_not_decide(tiny_dataset: Path) -> None:
    """What is evaluated would choose the group it is counted in."""
    dataset = OfflineDataset(tiny_dataset)
    users = activity_groups(dataset)
    parts = [dataset.load(part, ("user_id",))["user_id"] for part in ("train", "judge")]
    before = np.concatenate(parts)
    np.testing.assert_array_equal(users.size, [(before == user).sum() for user in users.ids])
    videos = popularity_groups(dataset)
    shown = dataset.load("train", ("actions",))["actions"]
    np.testing.assert_array_equal(videos.size, np.bincount(shown, minlength=len(videos.ids)))


def test_figures_are_means_of_the_group(tiny_dataset: Path) -> None:
    """A group's figure would hold others' rows, a value that is none, or a wrong weight."""
    user = np.array([4, 4, 7, 7, 7, 9])
    group = np.array([0, 1, 0, 0, 1, 1])
    values = np.array([[1.0, 0.5], [0.0, np.nan], [2.0, 0.5], [6.0, 0.0], [4.0, 1.0], [8.0, 0.0]])
    weights = np.array([[1.0], [1.0], [3.0], [1.0], [1.0], [2.0]])
    names = ("a", "b", "none")
    found = figures_by_group(values, ("x", "y"), user, group, names, seed=0)
    assert found["a"].metrics["x"].mean == pytest.approx(3.0)
    assert found["b"].metrics["y"].mean == pytest.approx(0.5)
    assert (found["a"].users, found["a"].rows) == (2, 3)
    assert (found["none"].users, found["none"].rows, found["none"].metrics) == (0, 0, {})
    found = figures_by_group(values, ("x", "y"), user, group, names, seed=0, weights=weights)
    assert found["a"].metrics["x"].mean == pytest.approx((1 + 6 + 6) / 5)
    assert found["b"].metrics["x"].mean == pytest.approx((0 + 4 + 16) / 4)


def test_one_value_per_user_has_the_usual_interval() -> None:
    """A group of all users would have another interval than the users."""
    values = np.random.default_rng(1).random((40, 1))
    everyone = figures_by_group(values, ("x",), np.arange(40), np.zeros(40, int), ("all",), seed=3)
    plain = bootstrap_by_user(values, seed=3)
    assert everyone["all"].metrics["x"].low == pytest.approx(plain.low[0])
    assert everyone["all"].metrics["x"].high == pytest.approx(plain.high[0])

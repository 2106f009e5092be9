"""Sessions cut short, by hand-computed cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.envs.dynamics import Patience
from noetik_rllib.evaluation.leaving import (
    cut_short,
    stays_with_patience,
    stays_with_quit_window,
)
from noetik_rllib.evaluation.sessions import SessionLog

CLICK = SIGNALS.index("click")


def log_of(videos: list[list[int]], clicks: list[list[int]], num_seeds: int = 1) -> SessionLog:
    """Sessions in which clicks are all that happens."""
    signals = np.zeros((*np.shape(videos), len(SIGNALS)), dtype=np.float32)
    signals[..., CLICK] = clicks
    return SessionLog(np.array(videos), signals, num_seeds)


def test_patience_runs_out_with_what_is_not_clicked() -> None:
    """Users would leave for another reason than the simulator's, or at another time."""
    patience = Patience(videos_per_session=4, impatience=2.0, usual_unclicked=0.5)
    log = log_of([[0, 1, 2], [0, 1, 2]], [[1, 0, 1], [0, 0, 0]])
    usual = expit(logit(0.25))
    stays = stays_with_patience(log, np.array([0, 1]), patience)
    all_clicked, half = expit(logit(0.25) - 1.0), usual
    np.testing.assert_allclose(stays[0], [1, 1 - all_clicked, (1 - all_clicked) * (1 - half)])
    none = expit(logit(0.25) + 1.0)
    np.testing.assert_allclose(stays[1], [1, 1 - none, (1 - none) ** 2])


@pytest.mark.parametrize(
    ("window", "seen"),
    [
        # Tags shown: a, b, b c, d, a. The third shares b with the second: it is the last seen.
        (1, [1, 1, 1, 0, 0]),
        (2, [1, 1, 1, 0, 0]),
    ],
)
def test_a_repeated_tag_ends_the_session(window: int, seen: list[int]) -> None:
    """The rule of the published simulators would be another one."""
    tags = np.array([[0, -1], [1, -1], [1, 2], [3, -1], [0, -1]])
    log = log_of([[0, 1, 2, 3, 4]], [[0] * 5])
    np.testing.assert_array_equal(stays_with_quit_window(log, tags, window), [seen])


def test_the_window_is_as_long_as_it_says() -> None:
    """A tag that lies too far back would end the session, or one within the window would not; blank
    tags would count as one.
    """
    tags = np.array([[0, -1], [1, -1], [2, -1], [0, -1], [-1, -1], [-1, -1]])
    log = log_of([[0, 1, 2, 3, 4, 5]], [[0] * 6])
    for window, seen in ((1, 6), (2, 6), (3, 4), (10, 4)):
        assert stays_with_quit_window(log, tags, window).sum() == seen


def test_only_what_is_seen_counts() -> None:
    """A reward after the user left would count, or sessions of a user would not be averaged."""
    log = log_of([[0, 1], [2, 3], [0, 1], [2, 3]], [[1, 1], [1, 0], [0, 0], [1, 1]], num_seeds=2)
    stays = np.array([[1, 0.5], [1, 1], [1, 0], [1, 0.25]])
    weights = np.zeros(len(SIGNALS))
    weights[CLICK] = 2.0
    found = cut_short(log, stays, weights)
    np.testing.assert_allclose(found, [[(1.5 + 2) / 2, (3 + 2) / 2], [(1 + 1.25) / 2, 2.5 / 2]])

"""Episodes end where a session ends, after ten steps, or at the end of the log."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from noetik_rllib.offline.episodes import cut_episodes


def test_a_session_of_23_rows_becomes_10_10_3() -> None:
    """Fails if a long session is not cut after 10 steps, or the cut is called an end."""
    user = np.zeros(25, dtype=int)
    session = np.array([0] * 23 + [1] * 2)
    episodes = cut_episodes(user, session, max_steps=10)
    assert np.bincount(episodes.number).tolist() == [10, 10, 3, 2]
    assert np.flatnonzero(episodes.terminated).tolist() == [22]
    assert np.flatnonzero(episodes.truncated).tolist() == [9, 19, 24]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=60))
def test_every_episode_ends_exactly_once(rows: list[tuple[int, int]]) -> None:
    """Fails if an episode crosses a user or session, has two ends or none."""
    rows = sorted(rows)
    user = np.array([row[0] for row in rows])
    session = np.array([10 * row[0] + row[1] for row in rows])
    episodes = cut_episodes(user, session, max_steps=3)
    for number in range(episodes.number[-1] + 1):
        members = np.flatnonzero(episodes.number == number)
        assert len(set(session[members])) == 1
        assert 1 <= len(members) <= 3
        assert episodes.step[members].tolist() == list(range(len(members)))
        ends = episodes.terminated[members].astype(int) + episodes.truncated[members]
        assert ends.tolist() == [0] * (len(members) - 1) + [1]
    # The last row of a user is a cut: nobody knows whether the user came back.
    last = np.append(user[1:] != user[:-1], True)
    assert episodes.truncated[last].all()

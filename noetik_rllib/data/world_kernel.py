"""The parts of a synthetic world that follow event after event: compiled with Numba.

A row depends on the clicks before it, so a log cannot be drawn all at once; everything random is
drawn before and handed in, and the results do not depend on how users are grouped.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from noetik_rllib.data.world_config import TAP_WITHOUT_PLAY, Page

_GRID, _TAPPED, _MUTE = int(Page.GRID), int(Page.TAPPED), int(Page.MUTE)


class Watching(NamedTuple):
    """The world's numbers behind a play time, as docs/world.md names them."""

    skip_ln_ms: float
    skip_sigma: float
    engaged_sigma: float
    engaged_utility_gain: float
    finish_utility: float
    finish_ln: float
    finish_sigma: float


class VideoSide(NamedTuple):
    """What a play time takes from the video; arrays of one length, or numbers.

    ``watch_ln_ms``: logarithm of the median of an engaged watch at utility 0; ``finish_level``:
    log-odds of finishing at utility 0 (-inf where the duration is unknown); ``duration_ln_ms``;
    ``click_from_ms``: least play of a click in a feed.
    """

    watch_ln_ms: np.ndarray
    finish_level: np.ndarray
    duration_ln_ms: np.ndarray
    click_from_ms: np.ndarray


class Units(NamedTuple):
    """Requests, in order; all arrays (M,) but ``first_row``, (M + 1,).

    ``phase`` numbers the stretches of a user's log between which a session always ends. A request
    shows its own ``random_tab`` if that is not -1, else the tab on which its session began, which
    is ``session_tab`` of the session's first request. ``leave_level`` holds the user's log-odds
    of leaving after a session without a click, ``leave_draw`` is uniform.
    """

    first_row: np.ndarray
    phase: np.ndarray
    random_tab: np.ndarray
    session_tab: np.ndarray
    leave_level: np.ndarray
    leave_draw: np.ndarray


@numba.njit(cache=True)
def _logistic(x: float) -> float:
    return 1.0 / (1.0 + np.exp(-x))


@numba.njit(cache=True)
def _play(
    watching: Watching,
    page: int,
    utility: float,
    watch_ln_ms: float,
    finish_level: float,
    duration_ln_ms: float,
    click_from_ms: int,
    draw: float,
    normal: float,
) -> tuple[int, bool]:
    """Return play time in ms and click; ``draw`` is uniform, ``normal`` standard normal."""
    engaged = 1.0 if page == _TAPPED else _logistic(utility)
    if page == _GRID:
        if draw >= engaged:
            return 0, False
        if draw >= engaged * (1.0 - TAP_WITHOUT_PLAY):
            return 0, True
        engaged *= 1.0 - TAP_WITHOUT_PLAY
    if draw >= engaged:
        ln_ms = watching.skip_ln_ms + watching.skip_sigma * normal
    elif draw < engaged * _logistic(finish_level + watching.finish_utility * utility):
        ln_ms = duration_ln_ms + watching.finish_ln + watching.finish_sigma * normal
    else:
        ln_ms = watch_ln_ms + watching.engaged_utility_gain * utility
        ln_ms += watching.engaged_sigma * normal
    play_ms = int(np.exp(ln_ms))
    if page in (_GRID, _TAPPED):
        return play_ms, True
    return play_ms, page != _MUTE and play_ms >= click_from_ms


@numba.njit(cache=True)
def play_rows(
    watching: Watching,
    page: np.ndarray,
    utility: np.ndarray,
    video: VideoSide,
    draw: np.ndarray,
    normal: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw play times (N,) int64 and clicks (N,) bool of N rows of known utility."""
    play_ms = np.empty(len(utility), dtype=np.int64)
    click = np.empty(len(utility), dtype=np.bool_)
    for i in range(len(utility)):
        play_ms[i], click[i] = _play(
            watching,
            page[i],
            utility[i],
            video.watch_ln_ms[i],
            video.finish_level[i],
            video.duration_ln_ms[i],
            video.click_from_ms[i],
            draw[i],
            normal[i],
        )
    return play_ms, click


@numba.njit(cache=True)
def live(
    watching: Watching,
    units: Units,
    tabs: tuple[np.ndarray, np.ndarray],
    history: tuple[np.ndarray, float, float, float],
    video: VideoSide,
    plain_utility: np.ndarray,
    tag_set: np.ndarray,
    draw: np.ndarray,
    normal: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Let users answer request after request, each row seeing what came before its request.

    Args:
        watching: the world's numbers.
        units: the requests, a user's in order.
        tabs: page (15,) and offset (15,) of each tab.
        history: weight by age (W,), habit, satiation, impatience.
        video: the videos of the N rows.
        plain_utility: (N,) utility without tab and history.
        tag_set: (N,) uint64, the videos' tags as bits.
        draw: (N,) uniform.
        normal: (N,) standard normal.

    Returns:
        Utility (N,), play time in ms (N,) int64, click (N,) bool; tab and session of each
        request, (M,) int64. Sessions are numbered from 0.
    """
    weight, habit, satiation, impatience = history
    window = len(weight)
    count = len(units.phase)
    utility = np.empty(len(draw))
    play_ms = np.empty(len(draw), dtype=np.int64)
    click = np.empty(len(draw), dtype=np.bool_)
    tab = np.empty(count, dtype=np.int64)
    session = np.empty(count, dtype=np.int64)
    # A ring: the event before the next one is at ``end - 1``.
    past_tags = np.zeros(window, dtype=np.uint64)
    past_click = np.zeros(window, dtype=np.bool_)
    end = 0
    number, session_tab, shown, clicked, left = -1, 0, 0, 0, True
    for i in range(count):
        first, last = units.first_row[i], units.first_row[i + 1]
        # Phases are numbered 2 x user, 2 x user + 1: another user has no past.
        if i == 0 or units.phase[i] // 2 != units.phase[i - 1] // 2:
            past_tags[:] = 0
        if left or units.phase[i] != units.phase[i - 1]:
            number, shown, clicked = number + 1, 0, 0
            session_tab = units.session_tab[i]
        session[i] = number
        tab[i] = session_tab if units.random_tab[i] < 0 else units.random_tab[i]
        page, offset = tabs[0][tab[i]], tabs[1][tab[i]]
        for row in range(first, last):
            value = plain_utility[row] + offset
            for age in range(window):
                place = (end - 1 - age) % window
                if past_tags[place] & tag_set[row]:
                    gained = habit if past_click[place] else 0.0
                    value += weight[age] * (gained - satiation)
            utility[row] = value
            play_ms[row], click[row] = _play(
                watching,
                page,
                value,
                video.watch_ln_ms[row],
                video.finish_level[row],
                video.duration_ln_ms[row],
                video.click_from_ms[row],
                draw[row],
                normal[row],
            )
        for row in range(first, last):
            past_tags[end], past_click[end] = tag_set[row], click[row]
            end = (end + 1) % window
            clicked += click[row]
        shown += last - first
        level = units.leave_level[i] - impatience * clicked / shown
        left = units.leave_draw[i] < _logistic(level)
    return utility, play_ms, click, tab, session


@numba.njit(cache=True)
def place_sessions(
    owner: np.ndarray, wish: np.ndarray, busy: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Return starts (S,) int64 of sessions, in order and apart, near where they are wished.

    Sessions of one ``owner`` (a user's phase) lie between its ``low`` and ``high`` and each takes
    ``busy``, the pause after it included; all (S,) int64, ms. They fit, or the last ones begin
    before ``low``: the caller sees to it that they fit.
    """
    start = wish.copy()
    for i in range(len(start)):
        earliest = low[i]
        if i > 0 and owner[i] == owner[i - 1]:
            earliest = start[i - 1] + busy[i - 1]
        start[i] = max(start[i], earliest)
    for i in range(len(start) - 1, -1, -1):
        latest = high[i]
        if i + 1 < len(start) and owner[i] == owner[i + 1]:
            latest = start[i + 1]
        start[i] = min(start[i], latest - busy[i])
    return start

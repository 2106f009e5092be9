"""The truth of the synthetic world: its rows are drawn from the responses that it tells.

Every test with chance in it has a fixed seed, so it cannot flicker; the error rate that is stated
is that of the same test with a fresh seed and correct code.
"""

from __future__ import annotations

from collections import deque
from itertools import product

import numpy as np
import pandas as pd

from noetik_rllib.data.signals import BINARY_SIGNALS, SIGNALS, watch_ratio
from noetik_rllib.data.world import PRESETS, SyntheticWorld
from tests.data.written import Written

TINY = PRESETS["tiny"]
#: Beyond five standard errors: two-sided 6e-7 for one normal comparison.
MAX_Z = 5.0


def recent(events: pd.DataFrame, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Last ``length`` videos and clicks before the request of each row, newest first.

    One request at a time, to be sure.
    """
    result = np.full((len(events), length), -1), np.zeros((len(events), length))
    history: dict[int, deque[tuple[int, int]]] = {}
    row = 0
    for (user, _), request in events.groupby(["user_id", "time_ms"]):
        past = history.setdefault(user, deque(maxlen=length))
        for _ in range(len(request)):
            for place, values in enumerate(zip(*past, strict=True)):
                result[place][row, : len(past)] = values
            row += 1
        past.extendleft(zip(request.video_id, request.is_click, strict=True))
    return result


def test_response_is_what_the_rows_were_drawn_from(demo: Written) -> None:
    """The truth would not be the truth. 101 comparisons within five standard errors: error rate
    below 1e-3, nearly all from the rarest signals (6 expected events), whose tails are heavier.
    """
    rows = demo.events
    videos, clicks = recent(rows, 18)
    pairs = rows.user_id.to_numpy(), rows.video_id.to_numpy()
    truth = demo.world.response(*pairs, videos, clicks, rows.tab.to_numpy())
    drivers = demo.world.drivers(*pairs, videos, clicks).sum(axis=1)
    seen = {
        "watch_ratio": watch_ratio(rows.play_time_ms.to_numpy(), rows.duration_ms.to_numpy()),
        "long_view": rows.long_view.to_numpy(),
        **{name: rows[f"is_{name}"].to_numpy() for name in BINARY_SIGNALS if name != "long_view"},
    }
    assert set(truth) == set(seen)
    groups = {
        "standard": (rows.is_rand == 0).to_numpy(),
        "random": (rows.is_rand == 1).to_numpy(),
        # A wrong order or window of the history would show here.
        "satiated": drivers < -0.15,
        "in the habit": drivers > 0.05,
        **{f"tab {tab}": (rows.tab == tab).to_numpy() for tab in (0, 1, 2, 4, 6)},
    }
    tenth = np.argsort(np.argsort(truth["click"])) * 10 // len(rows)
    cases = [(name, group, mask) for name in SIGNALS for group, mask in groups.items()]
    for i in range(10):
        cases += [(name, f"tenth {i}", tenth == i) for name in ("click", "watch_ratio")]
    for name, group, mask in cases:
        expected = truth[name][mask]
        error = seen[name][mask] - expected
        variance = error**2 if name == "watch_ratio" else expected * (1 - expected)
        z = error.sum() / np.sqrt(variance.sum())
        assert abs(z) < MAX_Z, f"{name}, {group}: z = {z:.1f} of {mask.sum()} rows"


def test_closed_form_matches_sampling() -> None:
    """A branch that the demo's rows rarely take (unknown or short duration) would be wrong. 144
    comparisons within five standard errors: error rate below 1e-3, from the rarest signals.
    """
    world = SyntheticWorld(TINY)
    duration = world.duration_ms
    short = np.flatnonzero(duration == duration[duration > 0].min())[0]
    videos = [np.flatnonzero(duration == 0)[0], short, int(duration.argmax()), 7]
    draws = 100_000
    rng = np.random.default_rng(3)
    for (user, video), tab in product(enumerate(videos), (0, 1, 9, 11)):
        shape = draws, 3
        pair = np.full(draws, user), np.full(draws, video), np.full(shape, video), np.ones(shape)
        sample = world.sample(*pair, rng, tab)
        play, length = sample["play_time_ms"], np.full(draws, duration[video])
        sample["watch_ratio"] = watch_ratio(play, length)
        truth = world.response(*(ids[:1] for ids in pair), tab)
        for name in SIGNALS:
            p = truth[name][0]
            error = np.sqrt((sample[name].var() if name == "watch_ratio" else p * (1 - p)) / draws)
            # The second term is the rounding of play times to whole ms.
            slack = 2e-4 if name == "watch_ratio" else 1e-12
            assert abs(sample[name].mean() - p) < MAX_Z * error + slack, (video, tab, name)


def test_habit_and_satiation() -> None:
    """Repetition would not tire, reward would not attract, or events would count that no state
    holds.
    """
    world = SyntheticWorld(TINY)
    video = 5
    stranger = int(np.flatnonzero(world.tag_bits(np.arange(80)) & world.tag_bits(video) == 0)[0])

    def click(recent: list[int], clicks: list[int]) -> float:
        arguments = np.array([0]), np.array([video]), np.array([recent]), np.array([clicks])
        return world.response(*arguments)["click"][0]

    alone = click([-1], [0])
    assert click([video] * 8, [0] * 8) < click([video], [0]) < alone
    assert click([video], [0]) < click([video], [1])
    assert click([video] * 16, [1] * 16) > alone
    assert click([stranger] * 16, [1] * 16) == alone
    assert click([-1] * 16 + [video] * 3, [0] * 16 + [1] * 3) == alone
    # Newer events count more.
    assert click([video, -1], [0, 0]) < click([-1, video], [0, 0])


def test_drivers_are_the_differences_that_events_make() -> None:
    """The true cause of a click, which explanations are judged by, would not be the true one."""
    world = SyntheticWorld(TINY)
    rng = np.random.default_rng(0)
    user, video = rng.integers(60, size=50), rng.integers(80, size=50)
    videos, clicks = rng.integers(-1, 80, size=(50, 20)), rng.integers(2, size=(50, 20))
    drivers = world.drivers(user, video, videos, clicks)
    utility = world.answers(user, video, videos, clicks).utility
    for age in range(20):
        without = videos.copy()
        without[:, age] = -1
        change = utility - world.answers(user, video, without, clicks).utility
        np.testing.assert_allclose(drivers[:, age], change, atol=1e-12)
    assert (drivers[:, :16] != 0).any(axis=0).all()

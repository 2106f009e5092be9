"""The front is what nobody beats, and its hypervolume the volume that it covers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from noetik_rllib.sweeps.pareto import hypervolume, pareto_front

POINTS = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12)


@given(POINTS)
def test_the_front_is_what_nobody_beats(points: list[tuple[int, int, int]]) -> None:
    """Fails if a beaten trial is on the front, an unbeaten one off it, or the front is empty."""
    front = pareto_front(np.array(points))
    assert front.any()
    for point, on_front in zip(points, front, strict=True):
        beaten = any(
            other != point and all(o >= p for o, p in zip(other, point, strict=True))
            for other in points
        )
        assert on_front == (not beaten)


@given(POINTS, st.tuples(*[st.integers(-1, 2)] * 3))
def test_hypervolume_is_the_number_of_cubes_below_the_points(
    points: list[tuple[int, int, int]], reference: tuple[int, int, int]
) -> None:
    """Fails if overlaps count twice, or a point beyond the reference in one objective counts."""
    cubes = np.indices((8, 8, 8)).reshape(3, -1).T - 2  # corners next to the reference
    inside = (cubes >= reference).all(axis=1)
    covered = np.zeros(len(cubes), dtype=bool)
    for point in points:
        covered |= (cubes + 1 <= np.array(point)).all(axis=1)
    assert (
        hypervolume(np.array(points, dtype=float), np.array(reference)) == (covered & inside).sum()
    )


def test_hypervolume_agrees_with_chance_in_five_objectives() -> None:
    """Fails if the recursion goes wrong in more objectives.

    Error rate 1e-6: 4.9 standard errors.
    """
    rng = np.random.default_rng(0)
    points = rng.random((30, 5))
    draws = rng.random((200_000, 5))
    share = np.mean([(points >= draw).all(axis=1).any() for draw in draws])
    error = np.sqrt(share * (1 - share) / len(draws))
    assert abs(hypervolume(points, np.zeros(5)) - share) < 4.9 * error

"""Progress over stages of different length."""

from __future__ import annotations

import pytest

from noetik_rllib.evaluation.stages import Stages


def test_stages_add_up_to_the_whole() -> None:
    """A bar would run backwards, stand still in a long stage, or end before the work does."""
    seen: list[tuple[str, float]] = []
    stages = Stages({"short": 1.0, "long": 3.0}, lambda *update: seen.append(update))
    with stages("short") as progress:
        progress(0.5)
    with stages("long") as progress:
        progress(1 / 3)
    assert seen == [
        ("short", 0.0),
        ("short", 0.125),
        ("short", 0.25),
        ("long", 0.25),
        ("long", pytest.approx(0.5)),
        ("long", 1.0),
    ]


def test_an_unknown_stage_is_a_bug() -> None:
    """Work that nobody planned for would leave the bar beyond its end."""
    with pytest.raises(KeyError), Stages({"one": 1.0}, None)("other"):
        pass

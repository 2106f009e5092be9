"""Plots of what a policy reads: they show their figures, say them in words, and nothing else."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import pytest

from noetik_rllib.evaluation.groups import GroupFigures
from noetik_rllib.evaluation.result import Interval
from noetik_rllib.interpret.behaviour_curves import BehaviourCurves, UserCurves
from noetik_rllib.report.behaviour_plots import (
    agreement,
    behaviour_figure,
    behaviour_plots,
    group_plots,
)

RECENCY = ("1", "2 to 3", "4 to 8")


def interval(mean: float) -> Interval:
    return Interval(mean=mean, low=mean - 0.1, high=mean + 0.2)


def point(attention: float, attribution: float, users: int = 40) -> GroupFigures:
    metrics = {"attention": interval(attention), "attribution": interval(attribution)}
    return GroupFigures(users=users, rows=100, metrics=metrics)


def user_curves(correlation: float | None = 0.31, users: int = 40) -> UserCurves:
    """Recency, relation, and exposure of one kind only: nothing to compare it with."""
    return UserCurves(
        users=users,
        states=60,
        curves={
            "recency": {
                name: point(2.11 - place, 0.51 + place, users) for place, name in enumerate(RECENCY)
            },
            "relation": {
                "same author": point(7.77, 7.77, 3),
                "same tag": point(1.83, 2.42, users),
                "neither": point(0.64, 0.35, users),
            },
            "exposure": {"chosen": point(1.0, 1.0, users)},
        },
        correlation=None if correlation is None else interval(correlation),
    )


@pytest.fixture
def curves() -> BehaviourCurves:
    groups = {"light": user_curves(0.12), "heavy": user_curves(0.45)}
    return BehaviourCurves(everyone=user_curves(), groups=groups)


def test_each_plot_says_its_figures(curves: BehaviourCurves) -> None:
    """Who cannot see a plot would not learn what it shows, or learn something else."""
    recency, relation, agree = behaviour_plots(curves)
    told = "2 to 3: attention 1.11 (1.01 to 1.31), attribution 1.51 (1.41 to 1.71)"
    assert told in described(recency.svg)
    assert "same tag: attention 1.83 (1.73 to 2.03)" in described(relation.svg)
    assert "all users 0.31" in described(agree.svg)
    assert "heavy users 0.45" in described(agree.svg)
    by_group = group_plots(curves)
    assert len(by_group) == 2
    assert "heavy users: " in described(by_group[0].svg)


def described(svg: str) -> str:
    found = re.search(r"<desc[^>]*>(.*?)</desc>", svg)
    assert found
    return found[1]


def test_attention_never_stands_alone(curves: BehaviourCurves) -> None:
    """A plot could be taken for an explanation."""
    for plot in [*behaviour_plots(curves), *group_plots(curves)]:
        text = " ".join(ElementTree.fromstring(plot.svg).itertext())
        assert "attention" in text
        assert "attribution" in text


def test_plots_stand_on_one_page(curves: BehaviourCurves) -> None:
    """One would be clipped by another's frame, or come out differently every time."""
    plots = [*behaviour_plots(curves), *group_plots(curves)]
    ids = [one for plot in plots for one in re.findall(r'\bid="([^"]+)"', plot.svg)]
    assert len(ids) == len(set(ids))
    again = [*behaviour_plots(curves), *group_plots(curves)]
    assert [plot.svg for plot in again] == [plot.svg for plot in plots]
    for plot in plots:
        ElementTree.fromstring(plot.svg)
        assert "#0" not in plot.svg, "a colour that the style sheet does not decide"
        assert "http" not in plot.svg


def test_what_too_few_users_had_is_not_drawn(curves: BehaviourCurves) -> None:
    """Three users' interval, which is far too narrow, would look like the surest of all."""
    assert all("same author" not in plot.svg for plot in behaviour_plots(curves))
    assert behaviour_plots(BehaviourCurves(everyone=user_curves(users=5), groups={})) == []
    assert behaviour_figure(BehaviourCurves(everyone=user_curves(users=5), groups={})) is None


def test_the_words_follow_from_the_interval() -> None:
    """The page would call attention an explanation where it is none, or the reverse."""
    said = {mean: agreement(user_curves(mean)) for mean in (0.9, 0.31, 0.05, -0.31, None)}
    assert "much as attribution does" in said[0.9]
    assert "only partly" in said[0.31]
    assert "events of a history not as" in said[0.05]
    assert "opposite" in said[-0.31]
    assert "cannot be said" in said[None]
    assert "0.31 (0.21 to 0.51)" in said[0.31]


def test_the_file_shows_every_group(curves: BehaviourCurves) -> None:
    """A slide would show the average user alone, or intervals that end outside of it."""
    figure = behaviour_figure(curves)
    assert figure is not None
    figure.savefig(io.BytesIO(), format="png")
    assert len(figure.axes) == 3 * 2
    labels = [axes.get_ylabel() for axes in figure.axes]
    for told in ("all users\nrank correlation 0.31", "heavy users\nrank correlation 0.45"):
        assert told in labels
    # Recency goes up to 2.71, relation to 2.62.
    for axes, highest in zip(figure.axes, [2.71, 2.62] * 3, strict=True):
        assert axes.get_ylim() == (0.0, pytest.approx(1.06 * highest))

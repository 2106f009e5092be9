"""Which past events a policy reads: its attention, always beside attribution."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from noetik_rllib.evaluation.groups import GroupFigures
from noetik_rllib.evaluation.result import Interval
from noetik_rllib.interpret.behaviour_curves import MEASURES, BehaviourCurves, UserCurves
from noetik_rllib.report.plots import Plot
from noetik_rllib.report.svg import COLOURS, INK, style, to_svg

#: As wide as the other plots of the page (``plots``): a point is about a pixel of a phone.
_WIDTH = 4.6
#: Kinds of events that fewer users had are not drawn: a bootstrap over so few is too narrow.
_MIN_USERS = 10
#: Of attention and attribution, on the page and in files (Okabe and Ito's).
_PAGE = (COLOURS[1], COLOURS[0])
_FILE = ("#D55E00", "#0072B2")
_MARKERS = ("o", "s")
_SCALE = "times an even share"
#: Rank correlation from which two orders are much the same.
_STRONG = 0.7
#: Kind of event -> its figures.
_Points = Mapping[str, GroupFigures]


@dataclass(frozen=True)
class _Look:
    """How one of the curves is drawn: by what, axis and caption, and whether its kinds have an
    order that a line may follow.
    """

    by: str
    axis: str
    caption: str
    ordered: bool = True


_LOOKS = {
    "recency": _Look(
        "recency",
        "events ago",
        "How much is read of the newest event (1) and of those before it. An even share is what "
        "the average event of the same history gets.",
    ),
    "age": _Look("age", "time since the event", "How much is read of an event as it grows old."),
    "watched": _Look(
        "watched share",
        "share of the video that was watched",
        "How much is read of videos that were skipped or watched, whether for or against the "
        "recommended one.",
    ),
    "relation": _Look(
        "relation",
        "shared with the recommended video",
        "How much is read of past videos that have the author or a tag of the recommended one.",
        ordered=False,
    ),
    "exposure": _Look(
        "exposure",
        "how the past video came to be shown",
        "How much is read of videos that the platform had chosen for the user, and of those drawn "
        "at random.",
        ordered=False,
    ),
}


def agreement(curves: UserCurves) -> str:
    """Say how far attention goes along with attribution; the words follow from the interval."""
    found = curves.correlation
    if found is None:
        return (
            "Whether attention goes along with attribution cannot be said: no history has three "
            "events that both tell apart."
        )
    if found.low > _STRONG:
        verdict = "much as attribution does"
    elif found.low > 0:
        verdict = "only partly as attribution does"
    elif found.high < 0:
        verdict = "if anything in the opposite order to attribution"
    else:
        verdict = "not as attribution does"
    return (
        f"Attention ranks the events of a history {verdict}: on average their rank correlation is "
        f"{_said(found)}, where 1 is the same order and 0 has nothing in common. Attention says "
        "where the network looks, attribution what moves the recommendation: where they differ, go "
        "by attribution."
    )


def behaviour_plots(curves: BehaviourCurves) -> list[Plot]:
    """Draw every curve over all users, and how attention and attribution agree by group.

    Curves of which fewer than two kinds of events can be drawn compare nothing, and are left out.
    """
    plots = []
    for name, look in _LOOKS.items():
        points = _drawn(curves.everyone, name)
        if len(points) < 2:
            continue
        title = f"What is read, by {look.by}"
        with style():
            figure = Figure(figsize=(_WIDTH, 2.9), layout="constrained")
            axes = figure.subplots()
            _panel(axes, points, look, list(points), _PAGE)
            axes.set_ylim(0.0, _top([points]))
            axes.set_title(title, pad=24.0)
            axes.set_xlabel(look.axis)
            axes.set_ylabel(_SCALE)
            _legend(axes)
            svg = to_svg(figure, f"behaviour-{name}", title, _described(points, look))
        plots.append(Plot(svg, look.caption))
    return plots + _agreement_plot(curves)


def group_plots(curves: BehaviourCurves) -> list[Plot]:
    """Draw every curve once more, group of users by group of users below each other."""
    plots = []
    for name, look in _LOOKS.items():
        of_group = {group: _drawn(some, name) for group, some in curves.groups.items()}
        of_group = {group: points for group, points in of_group.items() if len(points) > 1}
        if len(of_group) < 2:
            continue
        title = f"What is read, by {look.by} and group of users"
        kinds = _kinds(of_group.values())
        with style():
            figure = Figure(figsize=(_WIDTH, 1.2 + 1.6 * len(of_group)), layout="constrained")
            panels = figure.subplots(len(of_group), sharex=True, sharey=True)
            for axes, (group, points) in zip(panels, of_group.items(), strict=True):
                _panel(axes, points, look, kinds, _PAGE)
                axes.set_title(f"{group} users")
            panels[0].set_ylim(0.0, _top(of_group.values()))
            panels[0].set_title(panels[0].get_title(loc="left"), pad=24.0)
            panels[-1].set_xlabel(look.axis)
            figure.supylabel(_SCALE, fontsize=11)
            figure.suptitle(f"By {look.by}", fontsize=11, fontweight="bold", x=0.02, ha="left")
            _legend(panels[0])
            said = " ".join(
                f"{group} users: {_described(points, look)}" for group, points in of_group.items()
            )
            svg = to_svg(figure, f"behaviour-groups-{name}", title, said)
        plots.append(Plot(svg, f"{look.caption} One panel for each group of users."))
    return plots


def behaviour_figure(curves: BehaviourCurves) -> Figure | None:
    """Draw every curve for all users and for each group, for a file; None if there is none."""
    people = {"all": curves.everyone, **curves.groups}
    drawn = {name: [_drawn(some, name) for some in people.values()] for name in _LOOKS}
    drawn = {name: column for name, column in drawn.items() if len(column[0]) > 1}
    if not drawn:
        return None
    kinds = {name: _kinds(column) for name, column in drawn.items()}
    width = 1.6 + sum(1.0 + 0.4 * len(some) for some in kinds.values())
    figure = Figure(figsize=(width, 1.4 + 1.6 * len(people)), layout="constrained")
    grid = figure.subplots(
        len(people),
        len(drawn),
        sharex="col",
        sharey="col",
        squeeze=False,
        width_ratios=[2 + len(some) for some in kinds.values()],
    )
    for column, (name, look) in zip(grid.T, ((name, _LOOKS[name]) for name in drawn), strict=True):
        for axes, points in zip(column, drawn[name], strict=True):
            _panel(axes, points, look, kinds[name], _FILE)
            axes.tick_params(length=0, labelsize=8)
        column[0].set_ylim(0.0, _top(drawn[name]))
        column[0].set_title(f"by {look.by}")
        column[-1].set_xlabel(textwrap.fill(look.axis, 20), fontsize=9)
    for axes, (group, some) in zip(grid[:, 0], people.items(), strict=True):
        found = some.correlation
        known = "" if found is None else f"\nrank correlation {found.mean:.2f}"
        axes.set_ylabel(f"{group} users{known}", fontsize=9)
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False
    )
    figure.suptitle(
        f"What the policy reads of past events, {_SCALE}, 95 % intervals", x=0.01, ha="left"
    )
    return figure


def _drawn(curves: UserCurves, name: str) -> dict[str, GroupFigures]:
    """Kinds of events of a curve, in order, that enough users had; {} where it was not measured."""
    found = curves.curves.get(name, {})
    return {kind: point for kind, point in found.items() if point.users >= _MIN_USERS}


def _kinds(panels: Iterable[_Points]) -> list[str]:
    """Kinds of events of all panels, each once."""
    return list(dict.fromkeys(kind for points in panels for kind in points))


def _top(panels: Iterable[_Points]) -> float:
    """Upper end of an axis that all intervals of all panels fit into."""
    ends = [v.high for points in panels for one in points.values() for v in one.metrics.values()]
    return 1.06 * max([1.0, *ends])


def _panel(
    axes: Axes, points: _Points, look: _Look, kinds: Sequence[str], colours: Sequence[str]
) -> None:
    """Draw both measures of a curve; ``kinds`` are the axis, of which ``points`` may lack some."""
    axes.axhline(1.0, color=INK if colours is _PAGE else "black", linewidth=0.8)
    for number, measure in enumerate(MEASURES):
        # Side by side, or intervals would hide each other.
        places = [kinds.index(kind) + 0.14 * (number - 0.5) for kind in points]
        values = [point.metrics[measure] for point in points.values()]
        lows, highs = [value.low for value in values], [value.high for value in values]
        axes.vlines(places, lows, highs, color=colours[number])
        axes.plot(
            places,
            [value.mean for value in values],
            marker=_MARKERS[number],
            linestyle="-" if look.ordered else "",
            linewidth=1.0,
            markersize=5,
            color=colours[number],
            label=measure,
        )
    axes.set_xticks(range(len(kinds)), [_two_lines(kind) for kind in kinds])
    axes.set_xlim(-0.6, len(kinds) - 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(axis="x", visible=False)


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=2,
        frameon=False,
        borderaxespad=0.0,
        columnspacing=1.2,
        handletextpad=0.5,
    )


def _two_lines(kind: str) -> str:
    r"""Break a name where six of them would not stand side by side.

    >>> _two_lines("10 to 60 min"), _two_lines("over 7 days"), _two_lines("1")
    ('10 to\n60 min', 'over\n7 days', '1')
    """
    for word in (" to ", "under ", "over "):
        kind = kind.replace(word, f"{word.rstrip()}\n")
    return kind


def _agreement_plot(curves: BehaviourCurves) -> list[Plot]:
    """How attention and attribution agree, by group of users; none where that is not known."""
    people = {"all": curves.everyone, **curves.groups}
    known = {
        group: some.correlation
        for group, some in reversed(people.items())
        if some.correlation is not None and some.users >= _MIN_USERS
    }
    if not known:
        return []
    title = "Do attention and attribution agree?"
    with style():
        figure = Figure(figsize=(_WIDTH, 1.1 + 0.3 * len(known)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0.0, color=INK, linewidth=0.8)
        for place, found in enumerate(known.values()):
            axes.plot([found.low, found.high], [place, place], color=INK)
            axes.plot(found.mean, place, "o", color=INK, markersize=6)
        axes.set_yticks(range(len(known)), [f"{group} users" for group in known])
        axes.set_ylim(-0.6, len(known) - 0.4)
        axes.set_xlim(-1.05, 1.05)
        axes.set_xlabel("rank correlation over the events of a history")
        axes.set_title(title)
        axes.grid(axis="y", visible=False)
        said = "; ".join(f"{group} users {_said(known[group])}" for group in reversed(known))
        svg = to_svg(figure, "behaviour-agreement", title, f"Rank correlation: {said}.")
    return [
        Plot(svg, "1: they put the events of a history in the same order. 0: no order in common.")
    ]


def _described(points: _Points, look: _Look) -> str:
    """A curve in words."""
    said = "; ".join(
        f"{kind}: "
        + ", ".join(f"{measure} {_said(point.metrics[measure])}" for measure in MEASURES)
        for kind, point in points.items()
    )
    return f"Reading of an event, {_SCALE}, by {look.axis}. {said}."


def _said(interval: Interval) -> str:
    return f"{interval.mean:.2f} ({interval.low:.2f} to {interval.high:.2f})"

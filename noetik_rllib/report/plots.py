"""The plots of a run's page, each a small SVG that reads well on a phone and beside others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from noetik_rllib.evaluation.evaluation_result import EvaluationResult
from noetik_rllib.interpret import words
from noetik_rllib.interpret.facts import Explanation
from noetik_rllib.report.svg import COLOURS, FAINT, INK, style, to_svg

#: Width in inches. One point of the drawing is then about one pixel of a phone's screen, so 11 pt
#: text stays 11 px there.
WIDTH = 4.6
#: The plot of a history stands in a wider column.
_HISTORY_WIDTH = 5.4
_FOR, _AGAINST = COLOURS[0], COLOURS[1]


@dataclass(frozen=True)
class Plot:
    """A drawn plot.

    Attributes:
        svg: the element, to be put into the page as it is.
        caption: what to see in it.
    """

    svg: str
    caption: str


@dataclass(frozen=True)
class Curve:
    """One training plot: a title, the columns of progress.csv it shows, and how to read it."""

    name: str
    title: str
    columns: tuple[tuple[str, str], ...]
    caption: str
    percent: bool = False
    logarithmic: bool = False


_CURVES = (
    Curve(
        "critic",
        "Critic losses",
        (("q_loss", "Q"), ("v_loss", "V")),
        "How far Q is from its one-step target, and V from its expectile of Q.",
        logarithmic=True,
    ),
    Curve(
        "actor",
        "Policy loss",
        (("actor_loss", "policy"),),
        "Weighted negative log-likelihood of the logged videos, in nats.",
    ),
    Curve(
        "values",
        "Values",
        (("q_mean", "Q"), ("v_mean", "V")),
        "Mean value of the logged rows, in units of the normalised reward. They level off when "
        "the critic has converged.",
    ),
    Curve(
        "advantage",
        "Advantage",
        (("advantage_mean", "Q - V"),),
        "Mean advantage of the logged videos over what is usual in their states. Below zero with "
        "an expectile above one half.",
    ),
    Curve(
        "capped",
        "Capped weights",
        (("capped_weight_share", "share"),),
        "Share of rows whose policy weight is at its cap. More than a few per cent: beta is too "
        "high for this reward.",
        percent=True,
    ),
    Curve(
        "sample",
        "Effective sample size",
        (("effective_sample_size", "rows"),),
        "Rows of a batch that the weights leave effective: 1 would mean that a single row decides.",
    ),
)


def _compact(value: float, _position: object = None) -> str:
    """Tick labels: 1500 -> 1.5k."""
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def _logarithmic(axes: Axes) -> None:
    """Scale the y axis so that curves of different size are both seen."""
    axes.set_yscale("log")
    decades = float(np.diff(np.log10(axes.get_ylim()))[0])
    marks = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.5 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=marks))
    axes.yaxis.set_minor_locator(NullLocator())


def end_labels(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Name curves at their right ends, moved apart where they end close together."""
    scale = axes.yaxis.get_transform().transform
    low, high = scale(np.array(axes.get_ylim()))
    place = -np.inf
    for value, label, colour in sorted(ends):
        height = float((scale(np.array([value]))[0] - low) / (high - low))
        place = max(height, place + 0.11)
        axes.annotate(
            label,
            (1.0, place),
            xycoords="axes fraction",
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontweight="bold",
            annotation_clip=False,
        )


def training_plots(progress: Sequence[dict[str, float]]) -> list[Plot]:
    """Draw what was measured in training; columns that are not there are left out."""
    plots = []
    steps = np.array([row["gradient_steps"] for row in progress])
    for curve in _CURVES:
        columns = [pair for pair in curve.columns if all(pair[0] in row for row in progress)]
        if not columns or not len(steps):
            continue
        with style():
            figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
            axes = figure.subplots()
            ends, said = [], []
            for (column, label), colour in zip(columns, COLOURS, strict=False):
                values = np.array([row[column] for row in progress])
                # A diverged run has infinities: they cannot be drawn, and are said in words.
                drawn = np.where(np.isfinite(values), values, np.nan)
                axes.plot(steps, drawn, color=colour, marker="o" if len(steps) == 1 else None)
                said.append(f"{label} goes from {values[0]:.4g} to {values[-1]:.4g}")
                if np.isfinite(values[-1]):
                    ends.append((float(values[-1]), label, colour))
            axes.set_title(curve.title)
            axes.set_xlabel("gradient steps")
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.xaxis.set_major_formatter(_compact)
            axes.margins(x=0)
            lowest = min(row[column] for row in progress for column, _ in columns)
            if curve.logarithmic and lowest > 0:
                _logarithmic(axes)
            else:
                axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_formatter(
                (lambda value, _: f"{100 * value:g}%") if curve.percent else _compact
            )
            axes.grid(axis="x", visible=False)
            if len(columns) > 1:
                end_labels(axes, ends)
            svg = to_svg(
                figure,
                f"training-{curve.name}",
                curve.title,
                f"Over {steps[-1]:,.0f} gradient steps, {words.listing(said)}.",
            )
        plots.append(Plot(svg, curve.caption))
    return plots


def evaluation_plot(result: EvaluationResult, metric: str) -> Plot:
    """Draw one metric of every policy as a dot on its 95 % interval, best first."""
    rows = sorted(
        ((name, values[metric]) for name, values in result.sessions.policies.items()),
        key=lambda row: row[1].mean,
    )
    label = metric.replace("_", " ")
    with style():
        figure = Figure(figsize=(WIDTH, 0.75 + 0.3 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for place, (name, interval) in enumerate(rows):
            colour = COLOURS[0] if name == result.policy else INK
            axes.plot([interval.low, interval.high], [place, place], color=colour)
            axes.plot(interval.mean, place, "o", color=colour, markersize=6)
        axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name, _ in rows])
        for tick, (name, _) in zip(axes.get_yticklabels(), rows, strict=True):
            if name == result.policy:
                tick.set_color(COLOURS[0])
                tick.set_fontweight("bold")
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_title(label)
        axes.grid(axis="y", visible=False)
        svg = to_svg(
            figure,
            f"evaluation-{metric.replace('_', '-')}",
            label,
            "; ".join(
                f"{name} {interval.mean:.4f}, from {interval.low:.4f} to {interval.high:.4f}"
                for name, interval in reversed(rows)
            ),
        )
    return Plot(svg, f"Mean {label} per recommended video")


def _short_age(seconds: float) -> str:
    """An age in two to four characters, for an axis."""
    count, unit = words.duration(seconds).split()
    return f"{count}{unit[0]}" if unit[0] != "m" else f"{count}min"


def history_plot(explanation: Explanation, name: str) -> Plot | None:
    """Draw the effect of each past event, oldest on the left; None without any."""
    events = sorted(
        (one for one in explanation.influences if one.event is not None),
        key=lambda one: -(one.event.slot if one.event else 0),
    )
    if not events:
        return None
    with style():
        figure = Figure(figsize=(_HISTORY_WIDTH, 2.5), layout="constrained")
        axes = figure.subplots()
        labels = []
        for place, influence in enumerate(events):
            event = influence.event
            if event is None:
                continue
            related = bool(event.shared_tags) or event.same_author
            colour = _FOR if influence.direction == "for" else _AGAINST
            axes.bar(
                place,
                influence.attribution,
                width=0.72,
                color=colour if related else "none",
                edgecolor=colour,
                linewidth=1.2,
            )
            labels.append(_short_age(event.age_seconds))
        axes.axhline(0, color=INK, linewidth=0.8)
        # At most six ages: more do not fit side by side on a phone.
        shown = np.unique(np.linspace(0, len(events) - 1, num=min(6, len(events))).round())
        axes.set_xticks(shown, [labels[int(place)] for place in shown])
        axes.set_xlabel("time since the event")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:+g}" if value else "0")
        axes.grid(axis="x", visible=False)
        axes.tick_params(axis="y", labelcolor=INK, color=FAINT)
        axes.set_title("Effect of each watched video")
        strongest = ", ".join(
            f"{one.attribution:+.2f} {_short_age(one.event.age_seconds)} ago"
            for one in events
            if one.event is not None
        )
        svg = to_svg(figure, name, "Effect of each watched video", f"Oldest first: {strongest}.")
    return Plot(
        svg,
        "Above the line speaks for the recommendation, below against it. Filled: the video shares "
        "a tag or the author with the recommended one.",
    )

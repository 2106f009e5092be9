"""Plots of how faithful explanations are, for a run's page and for its folder of plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from noetik_rllib.evaluation.evaluation_result import EvaluationResult
from noetik_rllib.evaluation.result import Interval
from noetik_rllib.interpret.faithfulness import FaithfulnessResult
from noetik_rllib.interpret.measure import InterpretabilityResult
from noetik_rllib.report.plots import WIDTH, Plot, end_labels
from noetik_rllib.report.svg import COLOURS, INK, style, to_svg


@dataclass(frozen=True)
class _Look:
    """How an order of events is drawn: on the page by a colour's place, -1 for ink."""

    label: str
    colour: int
    dashed: bool = False


#: What is drawn, the explanations' own order first.
_DRAWN = {
    "reasons": _Look("effects, by size", 0),
    "attribution": _Look("effects, for it first", 0, dashed=True),
    "gradient_times_input": _Look("gradient x input", 1),
    "gradient": _Look("size of gradients", 3),
    "attention": _Look("attention", 2),
    "random": _Look("random order", -1),
}
#: The same in a picture of its own (Okabe and Ito's).
_PICTURE = ("#D55E00", "#E69F00", "#009E73", "#0072B2", "#444444")
_CURVES = {
    "deletion_curve": (
        "Taking events out",
        "share of events taken out",
        "Margin of the recommended video as the events named first leave the history. Explanations "
        "name events by size; with those that speak for the video first, it falls faster still.",
    ),
    "insertion_curve": (
        "Only the first events",
        "share of events that are left",
        "The same with nothing but the events named first. A faithful order rises fast: what it "
        "names suffices.",
    ),
}
_CAUSES = {"same_taste": "same taste", "reactions": "recent reactions"}


def faithfulness_plots(result: InterpretabilityResult) -> list[Plot]:
    """Draw deletion and insertion curves, and the true causes found if a world knows them."""
    plots = [_curve_plot(result.faithfulness, name) for name in _CURVES]
    if result.truth and result.truth.causes:
        plots.append(_truth_plot(result))
    return plots


def _curve_plot(result: FaithfulnessResult, name: str) -> Plot:
    title, across, caption = _CURVES[name]
    with style():
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        axes = figure.subplots()
        drawn = _draw_curves(axes, result, name, (*COLOURS, INK))
        axes.set_title(title)
        axes.set_xlabel(across)
        axes.set_ylabel("margin, log-odds")
        axes.margins(x=0)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
        axes.grid(axis="x", visible=False)
        # Curves meet at both ends: they are named where they are furthest apart.
        end_labels(
            axes,
            [(curve[len(curve) // 4].mean, label, colour) for label, curve, colour in drawn],
        )
        said = "; ".join(
            f"{label} {curve[0].mean:.2f}, {curve[len(curve) // 2].mean:.2f} at half, "
            f"{curve[-1].mean:.2f}"
            for label, curve, _ in drawn
        )
        svg = to_svg(figure, f"faithfulness-{name.split('_', maxsplit=1)[0]}", title, f"{said}.")
    return Plot(svg, caption)


def _draw_curves(
    axes: Axes, result: FaithfulnessResult, name: str, colours: Sequence[str]
) -> list[tuple[str, list[Interval], str]]:
    """Draw a curve with its band for each order; returns label, curve and colour of each."""
    drawn = []
    for order, look in _DRAWN.items():
        colour = colours[look.colour]
        curve: list[Interval] = getattr(result.orders[order], name)
        axes.plot(
            result.shares,
            [one.mean for one in curve],
            "--" if look.dashed else "-",
            color=colour,
            label=look.label,
        )
        axes.fill_between(
            result.shares,
            [one.low for one in curve],
            [one.high for one in curve],
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
        drawn.append((look.label, curve, colour))
    return drawn


def _truth_plot(result: InterpretabilityResult) -> Plot:
    assert result.truth is not None  # asked before
    kinds = list(result.truth.causes.items())
    title = "True causes among the three named"
    with style():
        figure = Figure(figsize=(WIDTH, 0.9 + 1.5 * len(kinds)), layout="constrained")
        axes = figure.subplots()
        places, labels, said = [], [], []
        place = 0.0
        for kind, figures in reversed(kinds):
            for order, look in reversed(_DRAWN.items()):
                value, colour = figures.precision[order], (*COLOURS, INK)[look.colour]
                face = "none" if look.dashed else colour
                axes.plot([value.low, value.high], [place, place], color=colour)
                axes.plot(value.mean, place, "o", color=colour, markersize=6, mfc=face)
                places.append(place)
                labels.append(look.label)
                said.append(
                    f"{_CAUSES[kind]}, {look.label} {value.mean:.0%} ({value.low:.0%} to "
                    f"{value.high:.0%})"
                )
                place += 1
            axes.text(0.0, place - 0.5, _CAUSES[kind], color=INK, fontweight="bold", va="center")
            place += 1.2
        axes.set_yticks(places, labels)
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.6, place - 1.0)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
        axes.set_title(title)
        axes.grid(axis="y", visible=False)
        svg = to_svg(figure, "faithfulness-truth", title, "; ".join(reversed(said)) + ".")
    return Plot(
        svg,
        "In the synthetic world it is known which events drive a recommendation: those of the same "
        "taste, and the recent ones among them that the user reacts to.",
    )


def faithfulness_figure(result: EvaluationResult) -> Figure | None:
    """Deletion and insertion curves side by side, for ``RUN/plots``."""
    if result.interpretability is None:
        return None
    faithful = result.interpretability.faithfulness
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    axes: Axes | None = None
    for place, (name, (title, across, _)) in enumerate(_CURVES.items(), start=1):
        axes = figure.add_subplot(1, 2, place, sharey=axes)
        _draw_curves(axes, faithful, name, _PICTURE)
        axes.set_title(title)
        axes.set_xlabel(across)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    assert axes is not None  # there are two curves
    figure.axes[0].set_ylabel("margin of the recommended video, log-odds")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure

"""Plots of how faithful explanations are, for a run's page and for its folder of plots."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from noetik_rllib.evaluation.evaluation_result import EvaluationResult
from noetik_rllib.evaluation.result import Interval
from noetik_rllib.interpret.faithfulness import FaithfulnessResult
from noetik_rllib.interpret.measure import InterpretabilityResult
from noetik_rllib.report.plots import WIDTH, Plot, end_labels
from noetik_rllib.report.svg import COLOURS, INK, style, to_svg

#: What is drawn, in the order of colours: name -> label.
_DRAWN = {
    "attribution": "effects, for it first",
    "reasons": "effects, by size",
    "attention": "attention",
    "gradient": "size of gradients",
    "gradient_times_input": "gradient x input",
    "random": "random order",
}
_CURVES = {
    "deletion_curve": (
        "Taking events out",
        "share of events taken out",
        "Margin of the recommended video as the events named first leave the history. A faithful "
        "order falls fast: what it names, the policy needs.",
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
        figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
        axes = figure.subplots()
        drawn = _draw_curves(axes, result, name, COLOURS)
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
    for (order, label), colour in zip(_DRAWN.items(), colours, strict=True):
        curve: list[Interval] = getattr(result.orders[order], name)
        axes.plot(result.shares, [one.mean for one in curve], color=colour, label=label)
        axes.fill_between(
            result.shares,
            [one.low for one in curve],
            [one.high for one in curve],
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
        drawn.append((label, curve, colour))
    return drawn


def _truth_plot(result: InterpretabilityResult) -> Plot:
    assert result.truth is not None  # asked before
    kinds = list(result.truth.causes.items())
    title = "True causes among the three named"
    with style():
        figure = Figure(figsize=(WIDTH, 0.9 + 1.1 * len(kinds)), layout="constrained")
        axes = figure.subplots()
        places, labels, said = [], [], []
        place = 0.0
        for kind, figures in reversed(kinds):
            for (order, label), colour in zip(
                reversed(_DRAWN.items()), reversed(COLOURS), strict=True
            ):
                value = figures.precision[order]
                axes.plot([value.low, value.high], [place, place], color=colour)
                axes.plot(value.mean, place, "o", color=colour, markersize=6)
                places.append(place)
                labels.append(label)
                said.append(
                    f"{_CAUSES[kind]}, {label} {value.mean:.0%} ({value.low:.0%} to "
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
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    axes: Axes | None = None
    for place, (name, (title, across, _)) in enumerate(_CURVES.items(), start=1):
        axes = figure.add_subplot(1, 2, place, sharey=axes)
        _draw_curves(axes, faithful, name, ["#D55E00", "#0072B2", "#009E73", "#444444"])
        axes.set_title(title)
        axes.set_xlabel(across)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    assert axes is not None  # there are two curves
    figure.axes[0].set_ylabel("margin of the recommended video, log-odds")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure

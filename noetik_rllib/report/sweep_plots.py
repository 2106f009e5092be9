"""The plots of a sweep's page."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from noetik_rllib.evaluation.result import Interval
from noetik_rllib.interpret import words
from noetik_rllib.report.plots import WIDTH, Plot
from noetik_rllib.report.svg import COLOURS, FAINT, INK, style, to_svg
from noetik_rllib.sweeps.importance import columns
from noetik_rllib.sweeps.outcomes import MINIMISED
from noetik_rllib.sweeps.results import SweepResult, Trial
from noetik_rllib.sweeps.tradeoff import LABELS, REWARD, Tradeoff

#: Most pairs of objectives that are drawn; the table has all.
_PAIRS = 3
#: Most trials whose name stands beside their point.
_NAMED = 8
#: Width in inches of the plot that stands in a column of its own.
_WIDE = 9.2
#: A parameter's correlation that chance gives more rarely is drawn filled.
SIGNIFICANT = 0.05


def plain(name: str) -> str:
    """A name as readers see it."""
    return name.replace("_", " ")


def _better(name: str) -> str:
    return f"{plain(name)} (less is better)" if name in MINIMISED else plain(name)


def _cross(axes: Axes, x: Interval, y: Interval, colour: str, *, filled: bool) -> None:
    axes.plot([x.low, x.high], [y.mean, y.mean], color=colour, linewidth=0.8)
    axes.plot([x.mean, x.mean], [y.low, y.high], color=colour, linewidth=0.8)
    face = colour if filled else "none"
    axes.plot(x.mean, y.mean, "o", color=colour, markerfacecolor=face, markersize=6)


def front_plots(result: SweepResult) -> list[Plot]:
    """Draw the judged trials by pairs of objectives, those of the front filled."""
    plots = []
    pairs = list(combinations(result.config.objectives, 2))[:_PAIRS]
    for number, (first, second) in enumerate(pairs):
        with style():
            figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
            axes = figure.subplots()
            for trial in sorted(result.judged, key=lambda one: one.pareto):
                colour = COLOURS[0] if trial.pareto else FAINT
                x, y = trial.outcomes[first], trial.outcomes[second]
                _cross(axes, x, y, colour, filled=trial.pareto)
            front = [trial for trial in result.judged if trial.pareto]
            for trial in front if len(front) <= _NAMED else []:
                _label(axes, trial.outcomes[first], trial.outcomes[second], trial.name)
            title = f"{plain(first)} and {plain(second)}"
            axes.set_title(title)
            axes.set_xlabel(_better(first))
            axes.set_ylabel(_better(second))
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            said = "; ".join(
                f"{trial.name} {trial.outcomes[first].mean:.4f} and "
                f"{trial.outcomes[second].mean:.4f}"
                for trial in front
            )
            svg = to_svg(figure, f"front-{number}", title, f"On the front: {said}.")
        plots.append(
            Plot(
                svg,
                "Filled: on the front. Lines: 95% intervals over users. A trial may be on "
                "the front by an objective that is not drawn here.",
            )
        )
    return plots


def _label(axes: Axes, x: Interval, y: Interval, text: str) -> None:
    axes.annotate(
        text,
        (x.mean, y.mean),
        xytext=(5, 4),
        textcoords="offset points",
        fontsize=9,
        color=INK,
    )


def parallel_plot(result: SweepResult) -> Plot | None:
    """Draw each judged trial as a line over parameters and objectives; None below two."""
    judged = result.judged
    if len(judged) < 2:
        return None
    axes_of = columns([trial.parameters for trial in judged]) | {
        name: np.array([trial.outcomes[name].mean for trial in judged])
        for name in result.config.objectives
    }
    names = list(axes_of)
    low = {name: column.min() for name, column in axes_of.items()}
    spread = {name: np.ptp(column) or 1.0 for name, column in axes_of.items()}
    with style():
        figure = Figure(figsize=(_WIDE, 3.4), layout="constrained")
        axes = figure.subplots()
        order = sorted(range(len(judged)), key=lambda place: judged[place].pareto)
        for place in order:
            heights = [(axes_of[name][place] - low[name]) / spread[name] for name in names]
            best = judged[place].pareto
            axes.plot(
                range(len(names)),
                heights,
                color=COLOURS[0] if best else FAINT,
                linewidth=1.8 if best else 1.0,
                zorder=2 if best else 1,
            )
        for place, name in enumerate(names):
            axes.axvline(place, color=INK, linewidth=0.8, zorder=0)
            for height, value in ((-0.05, low[name]), (1.05, axes_of[name].max())):
                axes.annotate(
                    f"{value:.3g}", (place, height), ha="center", va="center", fontsize=9, color=INK
                )
        axes.set_ylim(-0.1, 1.1)
        axes.set_yticks([])
        axes.set_xticks(range(len(names)), [_two_lines(name) for name in names])
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        best_trials = [trial.name for trial in judged if trial.pareto]
        svg = to_svg(
            figure,
            "parallel",
            "Parameters and objectives of every trial",
            f"{len(judged)} trials over {words.listing([plain(n) for n in names])}; on the front "
            f"are {words.listing(best_trials)}.",
        )
    return Plot(
        svg,
        "One line per trial, from the parameters on the left to the objectives on the right; each "
        "axis runs from its lowest to its highest value. Coloured: on the front.",
    )


def _two_lines(name: str) -> str:
    """An axis' name, broken where it is long."""
    text = plain(name.removeprefix("reward.")).replace("=", "= ")
    middle = text.find(" ", len(text) // 3)
    return text if len(text) < 10 or middle < 0 else f"{text[:middle]}\n{text[middle + 1 :]}"


def importance_plots(result: SweepResult) -> list[Plot]:
    """Draw, for each objective, how parameters go together with it."""
    plots = []
    for number, outcome in enumerate(result.config.objectives):
        rows = [
            (name, found[outcome]) for name, found in result.importance.items() if outcome in found
        ]
        rows.sort(key=lambda row: abs(row[1].correlation))
        if not rows:
            continue
        with style():
            figure = Figure(figsize=(WIDTH, 0.8 + 0.3 * len(rows)), layout="constrained")
            axes = figure.subplots()
            for place, (_, one) in enumerate(rows):
                colour = COLOURS[0] if one.correlation > 0 else COLOURS[1]
                axes.barh(
                    place,
                    one.correlation,
                    height=0.62,
                    color=colour if one.p_value < SIGNIFICANT else "none",
                    edgecolor=colour,
                )
            axes.axvline(0, color=INK, linewidth=0.8)
            axes.set_xlim(-1, 1)
            axes.set_yticks(range(len(rows)), [plain(name) for name, _ in rows])
            axes.grid(axis="y", visible=False)
            axes.set_title(plain(outcome))
            said = "; ".join(
                f"{plain(name)} {one.correlation:+.2f}, p {one.p_value:.3f}"
                for name, one in reversed(rows)
            )
            svg = to_svg(figure, f"importance-{number}", plain(outcome), said)
        plots.append(Plot(svg, f"Rank correlation with {plain(outcome)}; filled: p below 0.05"))
    return plots


def tradeoff_plots(curve: Tradeoff) -> list[Plot]:
    """Draw the reward against each measure of explanations, over the coefficient."""
    plots = []
    for number, name in enumerate(curve.outcomes):
        label = LABELS[name]
        with style():
            figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
            axes = figure.subplots()
            for setting in curve.settings:
                for trial in setting.trials if len(setting.trials) > 1 else []:
                    place = trial.outcomes[REWARD].mean, trial.outcomes[name].mean
                    axes.plot(*place, "o", color=FAINT, markersize=4)
            axes.plot(
                [setting.means[REWARD] for setting in curve.settings],
                [setting.means[name] for setting in curve.settings],
                color=COLOURS[0],
                linewidth=1.0,
            )
            for setting in curve.settings:
                x, y = setting.interval(REWARD), setting.interval(name)
                best = setting is curve.recommended
                _cross(axes, x, y, COLOURS[0], filled=best)
                _label(axes, x, y, f"{setting.coefficient:g}")
            axes.set_title(label)
            axes.set_xlabel("reward")
            axes.set_ylabel(_two_lines(label))
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            said = "; ".join(
                f"at {one.coefficient:g} reward {one.means[REWARD]:.4f} and {one.means[name]:.3f}"
                for one in curve.settings
            )
            svg = to_svg(figure, f"tradeoff-{number}", label, said)
        plots.append(
            Plot(
                svg,
                "One point per interpretability_coeff, with 95% intervals over users; small "
                "dots are single trials. Filled: the recommended setting.",
            )
        )
    return plots


def trial_rows(result: SweepResult) -> list[Trial]:
    """Trials in the order of the table: the best by the first objective first, then the others."""
    first = result.config.objectives[0]
    sign = 1 if first in MINIMISED else -1
    judged = sorted(result.judged, key=lambda one: sign * one.outcomes[first].mean)
    return [*judged, *(trial for trial in result.trials if not trial.outcomes)]

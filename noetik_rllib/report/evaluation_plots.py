"""Plots of an evaluation as files: ``RUN/plots/*.png``, for slides, papers and docs/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.evaluation_result import EvaluationResult
from noetik_rllib.evaluation.result import Interval
from noetik_rllib.io import atomic_path
from noetik_rllib.report.behaviour_plots import behaviour_figure
from noetik_rllib.report.faithfulness_plots import faithfulness_figure

PLOTS_NAME = "plots"
#: Okabe and Ito's, told apart by every kind of sight.
_OURS, _OTHERS = "#D55E00", "#444444"
_SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442", "#000000", "#999999")
_STYLE = {
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
}
_DPI = 150


def write_plots(result: EvaluationResult, run_directory: Path) -> list[Path]:
    """Write every plot that there are figures for, and remove those that there are none for."""
    folder = run_directory / PLOTS_NAME
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror or error}") from None
    written = []
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]  # keys typed as literals
        for name, draw in _PLOTS.items():
            figure = draw(result)
            path = folder / f"{name}.png"
            if figure is None:
                path.unlink(missing_ok=True)
                continue
            with atomic_path(path) as part:
                figure.savefig(part, format="png", dpi=_DPI, metadata={"Software": None})
            written.append(path)
    return written


def reward_by_evidence(result: EvaluationResult) -> Figure:
    """Mean reward of every policy by each kind of evidence, side by side."""
    sessions = {name: values["reward"] for name, values in result.sessions.policies.items()}
    panels: list[tuple[str, Mapping[str, Interval | None]]] = [("simulated sessions", sessions)]
    if result.fitted_q:
        found = result.fitted_q.policies.items()
        panels.append(("fitted Q evaluation", {n: f.metrics.get("reward") for n, f in found}))
    if result.off_policy:
        estimated = result.off_policy.policies.items()
        for estimator, title in (("dr", "doubly robust"), ("snips", "SNIPS")):
            panels.append(
                (title, {n: e.estimates[estimator].metrics.get("reward") for n, e in estimated})
            )
    if result.candidates:
        chosen = result.candidates.policies.items()
        panels.append(("choice among logged", {n: m.get("reward") for n, m in chosen}))
    if result.true_sessions:
        true = result.true_sessions.policies.items()
        panels.append(("the truth", {n: values["reward"] for n, values in true}))
    panels = [panel for panel in panels if any(panel[1].values())]
    order = sorted(sessions, key=lambda name: sessions[name].mean)
    figure = Figure(figsize=(2.0 + 1.9 * len(panels), 1.0 + 0.3 * len(order)), layout="constrained")
    axes: Axes | None = None
    for place, (title, values) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place, sharex=axes)
        _dots(axes, order, values, result.policy)
        axes.set_title(title)
        axes.tick_params(labelleft=place == 1, length=0)
    figure.supxlabel("mean reward per video, 95 % intervals", fontsize=9)
    return figure


def _dots(
    axes: Axes, order: Sequence[str], values: Mapping[str, Interval | None], ours: str
) -> None:
    for place, name in enumerate(order):
        value = values.get(name)
        if value is None:
            continue
        colour = _OURS if name == ours else _OTHERS
        axes.plot([value.low, value.high], [place, place], color=colour, linewidth=2)
        axes.plot(value.mean, place, "o", color=colour, markersize=5)
    axes.set_yticks(range(len(order)), [_plain(name) for name in order])
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.grid(axis="y", visible=False)


def quit_windows(result: EvaluationResult) -> Figure:
    """Reward of a session if users left after a repeated tag, against the window."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    windows = result.sessions.quit_windows
    places = range(len(windows))
    for number, name in enumerate(result.sessions.policies):
        rewards = [rule.reward[name] for rule in windows.values()]
        ours = name == result.policy
        colour = _OURS if ours else _SERIES[number % len(_SERIES)]
        axes.plot(
            places,
            [reward.mean for reward in rewards],
            "o-" if number <= len(_SERIES) else "s--",
            color=colour,
            linewidth=2.4 if ours else 1.2,
            zorder=3 if ours else 2,
            label=_plain(name),
        )
        if not ours:
            # A dozen bands over each other would hide the lines; metrics.json has them.
            continue
        axes.fill_between(
            places,
            [reward.low for reward in rewards],
            [reward.high for reward in rewards],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
    axes.set_xticks(places, [str(window) for window in windows])
    axes.set_xlabel("users leave after a tag that was shown within so many videos")
    axes.set_ylabel("reward per session")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def groups(result: EvaluationResult) -> Figure | None:
    """Reward in sessions by the users' activity, for every policy."""
    if result.groups is None:
        return None
    activity = result.groups.activity
    names = list(next(iter(activity.values())))
    order = sorted(activity, key=lambda name: result.sessions.policies[name]["reward"].mean)
    figure = Figure(figsize=(2.2 + 2.0 * len(names), 1.0 + 0.3 * len(order)), layout="constrained")
    axes: Axes | None = None
    for place, group in enumerate(names, start=1):
        axes = figure.add_subplot(1, len(names), place, sharex=axes)
        values = {name: figures[group].metrics.get("reward") for name, figures in activity.items()}
        _dots(axes, order, values, result.policy)
        axes.set_title(f"{group} users")
        axes.tick_params(labelleft=place == 1, length=0)
    figure.supxlabel("mean reward per video in simulated sessions", fontsize=9)
    return figure


def _plain(name: str) -> str:
    ours = {"iql": "IQL (this run)", "iql_ranked": "ranked by its Q"}
    return ours.get(name, name.replace("_", " "))


def _behaviour(result: EvaluationResult) -> Figure | None:
    explained = result.interpretability
    return behaviour_figure(explained.behaviour) if explained and explained.behaviour else None


_PLOTS = {
    "reward": reward_by_evidence,
    "quit_windows": quit_windows,
    "groups": groups,
    "faithfulness": faithfulness_figure,
    "behaviour": _behaviour,
}

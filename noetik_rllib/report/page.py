"""``RUN/report.html``: what was trained, how good it is, why it recommends what it recommends.

One file without any reference to the outside: it can be mailed, archived and opened offline.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from noetik_rllib.data.reader import sha256_of
from noetik_rllib.data.signals import RewardWeights
from noetik_rllib.errors import UserError
from noetik_rllib.evaluation.evaluation_result import METRICS_NAME, EvaluationResult
from noetik_rllib.evaluation.result import Judge
from noetik_rllib.interpret import words
from noetik_rllib.interpret.facts import Explanation
from noetik_rllib.interpret.sentence import video_label
from noetik_rllib.io import atomic_path
from noetik_rllib.report.plots import Plot, evaluation_plot, history_plot, training_plots
from noetik_rllib.runs import Run, TrainConfig

REPORT_NAME = "report.html"
#: Metrics that have a plot; the table has all.
_PLOTTED = ("reward", "click", "watch_ratio")
#: Packages whose versions decide a run's numbers.
_PACKAGES = ("noetik-rllib", "ray", "torch", "captum", "numpy", "pandas", "pyarrow")


@dataclass(frozen=True)
class Card:
    """An explanation with its plot, and whether its user was held out from training."""

    explanation: Explanation
    label: str
    plot: Plot | None
    held_out: bool


def _reward(weights: RewardWeights) -> str:
    """A reward as a formula: ``0.5 click + 0.5 watch ratio``."""
    terms = [
        f"{weight:g} {name.replace('_', ' ')}"
        for name, weight in weights.model_dump().items()
        if weight
    ]
    return " + ".join(terms).replace("+ -", "- ")


def _train_command(config: TrainConfig) -> str:
    """The shell command that trains this run again: every setting that is not the default."""
    parts = ["noetik", "train"]
    for name, field in TrainConfig.model_fields.items():
        value = getattr(config, name)
        option = f"--{name.replace('_', '-')}"
        if name == "reward":
            if value != field.default:
                weights = value.model_dump().items()
                parts += [
                    option,
                    ",".join(f"{key}={weight:g}" for key, weight in weights if weight),
                ]
        elif field.is_required() or value != field.default:
            if isinstance(value, bool):
                parts.append(option if value else f"--no-{option[2:]}")
            else:
                parts += [option, str(value)]
    return shlex.join(parts)


def _commands(run: Run, explanations: Sequence[Explanation]) -> list[str]:
    directory = shlex.quote(str(run.directory))
    users = list(dict.fromkeys(shlex.quote(explanation.user_label) for explanation in explanations))
    return [
        _train_command(run.config),
        f"noetik evaluate {directory}",
        *(f"noetik explain {directory} --user {user}" for user in users),
        " ".join([f"noetik report {directory}", *(f"--user {user}" for user in users)]),
    ]


def _versions() -> dict[str, str]:
    """Versions of what this page was made with."""
    versions = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _headlines(result: EvaluationResult) -> list[str]:
    """Our policy against each baseline, in words that follow from the paired intervals."""
    ours = result.sessions.policies[result.policy]["reward"]
    said = [
        f"Per recommended video the policy earns a reward of {ours.mean:.4f} "
        f"(95% interval {ours.low:.4f} to {ours.high:.4f})."
    ]
    for baseline, metrics in result.sessions.differences.items():
        gain = metrics["reward"]
        if gain.low > 0:
            verdict = "more than"
        elif gain.high < 0:
            verdict = "less than"
        else:
            verdict = "not clearly different from"
        said.append(
            f"That is {verdict} {baseline.replace('_', ' ')}: {gain.mean:+.4f} "
            f"({gain.low:+.4f} to {gain.high:+.4f}, paired by user)."
        )
    return said


def _judge(judge: Judge) -> str:
    """Who answered, and how far to believe it."""
    said = (
        f"The users' answers come from a model fitted on {judge.fitted_on.rows:,} earlier rows of "
        f"{judge.fitted_on.users:,} users that no policy learnt from."
    )
    for quality, where in (
        (judge.quality, "On their later rows, videos that the log's policy chose"),
        (judge.quality_uniform, "On videos shown to them at random"),
    ):
        area = quality.auc.get("click") if quality else None
        if quality is None or area is None:
            continue
        said += f" {where}, it tells clicks from non-clicks with an AUC of {area:.3f}"
        ratio = quality.calibration.get("click")
        said += "." if ratio is None else f", predicting {ratio:.2f} times the clicks that came."
    return said


def _configuration(config: TrainConfig) -> list[tuple[str, str, str]]:
    """Name, value and meaning of every setting."""
    rows = []
    for name, field in TrainConfig.model_fields.items():
        value = getattr(config, name)
        if isinstance(value, RewardWeights):
            text = _reward(value)
        else:
            text = {"True": "yes", "False": "no", "None": "none"}.get(str(value), str(value))
        rows.append((name, text, field.description or ""))
    return rows


def _context(run: Run, explanations: Sequence[Explanation]) -> dict[str, Any]:
    dataset = run.dataset()
    manifest = dataset.manifest
    evaluated = (run.directory / METRICS_NAME).exists()
    result = EvaluationResult.load(run.directory) if evaluated else None
    if result and result.provenance and result.provenance.policy != sha256_of(run.weights_file()):
        raise UserError(
            f"{run.directory / METRICS_NAME} is of another policy than the run's: evaluate again"
        )
    progress = run.progress()
    metrics = list(next(iter(result.sessions.policies.values()))) if result else []
    held_out = set(dataset.users.user_id[dataset.users.held_out].tolist())
    return {
        "name": run.directory.resolve().name,
        "directory": str(run.directory),
        "config": run.config,
        "configuration": _configuration(run.config),
        "dataset": dataset.directory,
        "manifest": manifest,
        "held_out": len(held_out),
        "reward": _reward(run.config.reward),
        "last": progress[-1] if progress else {},
        "training": training_plots(progress),
        "result": result,
        "metrics": metrics,
        "headlines": _headlines(result) if result else [],
        "judge": _judge(result.judge) if result else "",
        "evaluation_reward": _reward(result.reward) if result else "",
        "evaluation": [evaluation_plot(result, m) for m in _PLOTTED if m in metrics]
        if result
        else [],
        "cards": [
            Card(
                explanation,
                video_label(explanation.video),
                history_plot(explanation, f"history-{place}"),
                explanation.user_id in held_out,
            )
            for place, explanation in enumerate(explanations, start=1)
        ],
        "commands": _commands(run, explanations),
        "versions": _versions(),
    }


def render(run: Run, explanations: Sequence[Explanation]) -> str:
    """Return the page of a run as HTML."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = words.percent
    environment.filters["signed"] = words.signed
    environment.filters["error"] = words.error
    environment.filters["plain"] = lambda name: str(name).replace("_", " ")
    # Our own files: the style sheet, and plots whose every text went through the SVG writer.
    environment.filters["trusted"] = Markup
    environment.globals["style"] = Markup((folder / "style.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html").render(_context(run, explanations))


def write_report(run: Run, explanations: Sequence[Explanation]) -> Path:
    """Write ``RUN/report.html``, whole or not at all.

    Args:
        run: a finished run; its evaluation is shown if there is one.
        explanations: recommendations to explain on the page.

    Raises:
        UserError: the run's dataset, progress or evaluation is damaged, or the page cannot be
            written.
    """
    page = render(run, explanations)
    path = run.directory / REPORT_NAME
    try:
        with atomic_path(path) as part:
            part.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    return path

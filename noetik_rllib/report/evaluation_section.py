"""The section that says how good the policy is."""

from __future__ import annotations

from noetik_rllib.evaluation.evaluation_result import EvaluationResult
from noetik_rllib.evaluation.result import Judge
from noetik_rllib.report.plots import evaluation_plot
from noetik_rllib.report.run_sections import reward_formula
from noetik_rllib.report.section import Material, Section

#: Metrics that have a plot; the table has all.
_PLOTTED = ("reward", "click", "watch_ratio")


def evaluation_section(material: Material) -> Section:
    """Show the policies' metrics with intervals, or that there are none yet."""
    content: dict[str, object] = {"result": material.result, "directory": str(material.directory)}
    if result := material.result:
        metrics = list(next(iter(result.sessions.policies.values())))
        content |= {
            "metrics": metrics,
            "headlines": _headlines(result),
            "judge": _judge(result.judge),
            "evaluation_reward": reward_formula(result.reward),
            "plots": [evaluation_plot(result, metric) for metric in _PLOTTED if metric in metrics],
        }
    return Section("evaluation", "Evaluation", "evaluation.html", content)


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

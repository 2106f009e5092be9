"""Hold what was measured against the targets: ok, off, or not applicable with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from noetik_rllib.data.figures import Figure, Target, Variant
from noetik_rllib.data.measures import Measure
from noetik_rllib.data.targets import TARGETS

Verdict = Literal["ok", "off", "n.a."]


@dataclass(frozen=True)
class FigureVerdict:
    """One number: ``measured`` is None where there is none; ``reason`` says why of an n.a."""

    figure: Figure
    measured: float | None
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True)
class TargetVerdict:
    """One target on one folder, or on several together (then without figures).

    It is ok where every figure that is judged is, off where one is off, and n.a. where none is
    judged or one could not be measured. It ``applies`` where it is to be met, measured or not.
    """

    target: Target
    applies: bool
    verdict: Verdict
    reason: str = ""
    figures: tuple[FigureVerdict, ...] = ()


def judge(measures: Mapping[str, Measure], variant: Variant) -> list[TargetVerdict]:
    """Return the verdict on each target of a folder of ``variant``, in their order."""
    return [_judge_target(target, measures, variant) for target in TARGETS]


def _judge_target(
    target: Target, measures: Mapping[str, Measure], variant: Variant
) -> TargetVerdict:
    if variant not in target.variants:
        published = " and ".join(target.variants)
        return TargetVerdict(target, False, "n.a.", f"a statistic of {published}")
    figures = tuple(
        _judge_figure(figure, measures[figure.key], variant)
        for figure in target.figures
        if variant in figure.variants
    )
    decisive = [
        one for one in figures if one.figure.judged and variant not in one.figure.not_comparable
    ]
    verdict, reason = _together([(one.verdict, one.reason) for one in decisive])
    if not decisive:
        reason = figures[0].reason
    return TargetVerdict(target, bool(decisive), verdict, reason, figures)


def _judge_figure(figure: Figure, measure: Measure, variant: Variant) -> FigureVerdict:
    if isinstance(measure, str):
        return FigureVerdict(figure, None, "n.a.", measure)
    if not figure.judged:
        return FigureVerdict(figure, measure, "n.a.", "printed for comparison, without a tolerance")
    if variant in figure.not_comparable:
        return FigureVerdict(figure, measure, "n.a.", figure.not_comparable[variant])
    verdict: Verdict = "ok" if figure.low <= measure <= figure.high else "off"
    return FigureVerdict(figure, measure, verdict)


def combine(folders: Sequence[Sequence[TargetVerdict]]) -> list[TargetVerdict]:
    """Return one verdict per target: it holds if it holds on every folder it applies to."""
    combined = []
    for verdicts in zip(*folders, strict=True):
        target = verdicts[0].target
        applying = [one for one in verdicts if one.applies]
        verdict, reason = _together([(one.verdict, one.reason) for one in applying])
        if not applying:
            reason = "; ".join(dict.fromkeys(one.reason for one in verdicts))
        combined.append(TargetVerdict(target, bool(applying), verdict, reason))
    return combined


def strict_count(verdicts: Sequence[TargetVerdict]) -> int:
    """Return how many targets must hold for logs to count as KuaiRand-like.

    Nine in ten of those that apply, rounded up: 27 of the 29 of a Pure and a 1K together, and as
    large a share of the fewer that apply to one folder.
    """
    return math.ceil(sum(one.applies for one in verdicts) * 9 / 10)


def _together(parts: Sequence[tuple[Verdict, str]]) -> tuple[Verdict, str]:
    """Off if a part is off, else n.a. if one is or there is none, else ok."""
    worst: tuple[Verdict, Verdict] = ("off", "n.a.")
    for verdict in worst:
        for one, reason in parts:
            if one == verdict:
                return verdict, reason
    return ("ok" if parts else "n.a."), ""

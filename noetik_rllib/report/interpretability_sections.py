"""The sections that say how far explanations can be trusted, and what the policy reads."""

from __future__ import annotations

from noetik_rllib.interpret import words
from noetik_rllib.interpret.faithfulness import RANDOM
from noetik_rllib.interpret.measure import InterpretabilityResult
from noetik_rllib.report.behaviour_plots import agreement, behaviour_plots
from noetik_rllib.report.faithfulness_plots import faithfulness_plots
from noetik_rllib.report.section import Material, Section, plots_section


def faithfulness_section(material: Material) -> Section | None:
    """Show how faithful explanations are; None without an evaluation of them."""
    result = material.result.interpretability if material.result else None
    if result is None:
        return None
    said = [verdict(result), _numbers(result)]
    return plots_section(
        "faithfulness", "Can the explanations be trusted?", faithfulness_plots(result), said
    )


def behaviour_section(material: Material) -> Section | None:
    """Show which kinds of past events the policy reads; None where nothing is known of it."""
    result = material.result.interpretability if material.result else None
    if result is None or result.behaviour is None:
        return None
    said = [
        "How much the policy reads of a past event, in times an even share: 1 is the average event "
        "of the same history.",
        agreement(result.behaviour.everyone),
    ]
    return plots_section(
        "behaviour", "What the policy reads of a history", behaviour_plots(result.behaviour), said
    )


def verdict(result: InterpretabilityResult) -> str:
    """Whether what is named first matters more than chance would name, in words."""
    ours, chance = (result.faithfulness.orders[name] for name in ("attribution", RANDOM))
    # Only random orders have no gain over random orders.
    gains = [gain for gain in (ours.comprehensiveness_gain, ours.sufficiency_gain) if gain]
    needed = (
        f"without the events that explanations name first, the recommended video's log-odds "
        f"{_moved(ours.comprehensiveness.mean)}, and without as many random ones they "
        f"{_moved(chance.comprehensiveness.mean)}"
    )
    left = (
        f"with them alone they {_moved(ours.sufficiency.mean)}, and with as many random ones they "
        f"{_moved(chance.sufficiency.mean)}"
    )
    if all(gain.low > 0 for gain in gains):
        opening = "They name what the policy rests on"
    elif any(gain.high < 0 for gain in gains):
        opening = "They do not name what the policy rests on"
    else:
        opening = "It is not certain that they name what the policy rests on"
    return (
        f"{opening}: {needed}, and {left}. Means over {result.faithfulness.decisions:,} held-out "
        "users, for a twentieth to half of their events."
    )


def _moved(loss: float) -> str:
    return f"fall by {loss:.2f}" if loss >= 0 else f"rise by {-loss:.2f}"


def _numbers(result: InterpretabilityResult) -> str:
    random = result.randomisation
    last = list(random.stages.values())[-1]
    own = result.infidelity["attribution"]
    sources = words.listing(
        [f"{words.percent(share.mean)} {name}" for name, share in result.sources.items()]
    )
    return (
        f"Of all influence, {sources}. The effects miss what they add up to by "
        f"{words.error(result.completeness.mean)} on average. Effects explain "
        f"{words.percent(max(0.0, 1 - own.mean))} of what taking random parts away does (1 - "
        f"infidelity), and change by {words.percent(result.sensitivity.mean)} when features move a "
        f"little. With random weights their ranks correlate with the policy's by "
        f"{words.signed(last.mean)}: explanations show the policy, not the data, where that is "
        "near 0."
    )

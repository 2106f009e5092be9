"""The sections that say how far explanations can be trusted, and what the policy reads."""

from __future__ import annotations

from noetik_rllib.interpret import words
from noetik_rllib.interpret.faithfulness import RANDOM
from noetik_rllib.interpret.measure import InterpretabilityResult
from noetik_rllib.report.behaviour_plots import agreement, behaviour_plots, group_plots
from noetik_rllib.report.faithfulness_plots import faithfulness_plots
from noetik_rllib.report.section import Material, Section, plots_section


def faithfulness_section(material: Material) -> Section | None:
    """Show how faithful explanations are; None without an evaluation of them."""
    result = material.result.interpretability if material.result else None
    if result is None:
        return None
    said = [*verdict(result), *_numbers(result)]
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
    plots = [*behaviour_plots(result.behaviour), *group_plots(result.behaviour)]
    return plots_section("behaviour", "What the policy reads of a history", plots, said)


def verdict(result: InterpretabilityResult) -> list[str]:
    """Whether what is named matters more than what chance would name, in words."""
    named, chance = (result.faithfulness.orders[name] for name in ("reasons", RANDOM))
    # Only random orders have no gain over random orders.
    gains = [gain for gain in (named.comprehensiveness_gain, named.sufficiency_gain) if gain]
    if all(gain.low > 0 for gain in gains):
        opening = "Explanations name what the policy rests on."
    elif any(gain.high < 0 for gain in gains):
        opening = "Explanations do not name what the policy rests on."
    else:
        opening = "It is not certain that explanations name what the policy rests on."
    return [
        f"{opening} Without the events that they name first, the recommended video's log-odds "
        f"{_moved(named.comprehensiveness.mean)}; without as many random ones they "
        f"{_moved(chance.comprehensiveness.mean)}.",
        f"With the events named first alone, they {_moved(named.sufficiency.mean)}; with as many "
        f"random ones they {_moved(chance.sufficiency.mean)}. Means over "
        f"{result.faithfulness.decisions:,} held-out users, for a twentieth to half of their "
        "events.",
    ]


def _moved(loss: float) -> str:
    return f"fall by {loss:.2f}" if loss >= 0 else f"rise by {-loss:.2f}"


def _numbers(result: InterpretabilityResult) -> list[str]:
    random = result.randomisation
    last = list(random.stages.values())[-1]
    explained = words.percent(max(0.0, 1 - result.infidelity["attribution"].mean))
    sources = words.listing(
        [f"{words.percent(share.mean)} {name}" for name, share in result.sources.items()]
    )
    return [
        f"Of all influence, {sources}. The effects miss what they add up to by "
        f"{words.error(result.completeness.of_change)}. With random weights, their ranks correlate "
        f"with the policy's by {last.size:.2f} on average, whatever the sign: 0 where explanations "
        "show the policy, 1 where they only show the state.",
        f"Up to one scale per recommendation, effects explain {explained} of what taking random "
        "parts away does. Their size is another matter: they tell of the "
        "whole way from no history to this one, and events stand in for each other, so that taking "
        "one event away changes less than its effect.",
    ]

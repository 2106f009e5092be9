"""What a terminal shows of how far explanations can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from noetik_rllib.cli.evaluation_tables import plain_table, signed
from noetik_rllib.interpret import words

if TYPE_CHECKING:  # importing it imports torch
    from noetik_rllib.evaluation.result import Interval
    from noetik_rllib.interpret.faithfulness import OrderFigures
    from noetik_rllib.interpret.measure import InterpretabilityResult

_LABELS = {
    "reasons": "effects, by size",
    "attribution": "effects, for it first",
    "gradient": "size of gradients",
    "gradient_times_input": "gradient x input",
    "attention": "attention rollout",
    "raw_attention": "raw attention",
    "random": "random order",
}
#: Measure -> heading.
_HEADINGS = {
    "comprehensiveness": "compreh.",
    "sufficiency": "suffic.",
    "deletion": "deletion",
    "insertion": "insertion",
}
#: The interval of an order less random ones is above, or below, 0.
_MORE, _LESS = "▲", "▼"


def faithfulness_table(result: InterpretabilityResult) -> Table:
    """How faithful each order of events is, and in a synthetic world how many causes it finds."""
    faithful = result.faithfulness
    known = result.truth.causes.get("same_taste") if result.truth else None
    columns = [*_HEADINGS.values(), *(["causes"] if known else [])]
    table = plain_table("events in order of", *columns)
    for name, figures in faithful.orders.items():
        cells = [_cell(figures, measure) for measure in _HEADINGS]
        if known:
            cells.append(f"{known.precision[name].mean:.0%}")
        style = "bold" if name == "reasons" else None
        table.add_row(_LABELS.get(name, name), *cells, style=style)
    return table


def _cell(figures: OrderFigures, measure: str) -> str:
    value: Interval = getattr(figures, measure)
    gain: Interval | None = getattr(figures, f"{measure}_gain")
    blank = "\N{NO-BREAK SPACE}"
    mark = blank
    if gain is not None:
        mark = _MORE if gain.low > 0 else _LESS if gain.high < 0 else blank
    return f"{value.mean:.2f} {mark}"


def interpretability_remarks(result: InterpretabilityResult) -> str:
    """How to read the table, and what else is known of the explanations."""
    faithful = result.faithfulness
    lines = [
        f"Explanations of the first choice for {result.decisions:,} held-out users, in log-odds. "
        "Comprehensiveness: what the choice loses without the events that are named first; "
        "sufficiency: what it loses when only they are left; areas under the curves as events are "
        f"taken out (deletion) or put in. {_MORE} more faithful than random orders of the same "
        f"events, {_LESS} less: the 95 % interval excludes 0."
    ]
    if result.truth and "same_taste" in result.truth.causes:
        lines[0] += (
            " Causes: the share of true ones among the three events named first (of the same "
            "taste as the video, by the world's own equations)."
        )
    sources = ", ".join(
        f"{name} {words.percent(value.mean)}" for name, value in result.sources.items()
    )
    random = result.randomisation
    last = random.stages[list(random.stages)[-1]]
    ours, theirs = (result.infidelity[name] for name in ("attribution", "gradient_times_input"))
    focus, complete = result.concentration, result.completeness
    lines += [
        "Explanations name events by the size of their effect, for a choice or against it.",
        f"Where influence comes from: {sources}. Of that of the {faithful.events:.0f} events, the "
        f"three strongest have {words.percent(focus.top_share.mean)}.",
        f"Completeness: the effects miss the margin by {words.error(complete.mean)} of all "
        f"influence, at most {words.error(complete.largest)}, and all of them together by "
        f"{words.error(complete.of_change)} of what they add up to. Infidelity, up to one scale "
        f"per choice: {ours.mean:.2f} (gradient x input {theirs.mean:.2f}; 0 is perfect, 1 is "
        f"knowing nothing). As they are: {result.unscaled_infidelity['attribution']:.2f}: effects "
        "are of the whole way from no history, and events stand in for each other. Sensitivity "
        f"{words.percent(result.sensitivity.mean)}.",
        f"With {len(last.draws)} draws of random weights the ranks of effects correlate with the "
        f"policy's by {last.size:.2f} on average, whatever the sign (1: explanations would show "
        "the state and not the policy)." + _agreement(result),
    ]
    return "\n".join(lines)


def _agreement(result: InterpretabilityResult) -> str:
    found = result.behaviour.everyone.correlation if result.behaviour else None
    return "" if found is None else f" Attention's correlate with the policy's by {signed(found)}."

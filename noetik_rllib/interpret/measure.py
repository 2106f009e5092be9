"""How far a policy's explanations can be trusted: every measure of them, on the same decisions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from noetik_rllib.data.world import SyntheticWorld
from noetik_rllib.errors import NoEvidenceError
from noetik_rllib.evaluation.figures import mean_intervals
from noetik_rllib.evaluation.groups import activity_groups
from noetik_rllib.evaluation.result import Interval
from noetik_rllib.interpret.attention import event_attention_of, raw_attention_of
from noetik_rllib.interpret.attribution import Attribution, Attributor
from noetik_rllib.interpret.baseline import Baseline
from noetik_rllib.interpret.behaviour_curves import BehaviourCurves, behaviour_curves
from noetik_rllib.interpret.decisions import Decisions, first_choices
from noetik_rllib.interpret.faithfulness import FaithfulnessResult, faithfulness
from noetik_rllib.interpret.groups import Group, user_groups
from noetik_rllib.interpret.randomisation import RandomisationResult, randomisation
from noetik_rllib.interpret.rank_correlation import MIN_EVENTS
from noetik_rllib.interpret.robustness import infidelity_of, sensitivity_of
from noetik_rllib.interpret.saliency import Saliency, saliency
from noetik_rllib.interpret.scores import MarginScore
from noetik_rllib.interpret.truth import NAMED, TruthResult, true_causes, truth
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.dataset import OfflineDataset

#: Users whose recommendation is explained: intervals of means are then some 5 % of the spread wide.
DEFAULT_DECISIONS = 500
#: Of these, as many for what takes 5 or 17 attributions of each.
_SENSITIVITY_DECISIONS = 100
_RANDOMISATION_DECISIONS = 100
#: Relative gap of the integral that an explanation should stay below.
COMPLETE_BELOW = 0.01


class Completeness(BaseModel):
    """Error of the integral, as a share of all influence.

    Attributes:
        mean, largest: over the decisions.
        share_complete: of decisions whose error is below 1 %.
        of_change: the errors of all decisions as a share of what the effects add up to, value minus
            baseline value: stricter, as reasons for and against cancel in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    largest: float
    share_complete: float
    of_change: float


class Concentration(BaseModel):
    """On how few events a recommendation rests; means over users.

    Attributes:
        top_share: of the three strongest in the influence of all events.
        effective_events: ``exp`` of the entropy of the events' shares: so many equally strong
            events are as concentrated.
        attention_entropy: of the attention's rollout over the events, as a share of its largest
            possible value, the logarithm of their number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_share: Interval
    effective_events: Interval
    attention_entropy: Interval


class InterpretabilityResult(BaseModel):
    """What is known of the explanations of a policy's first choices.

    Attributes:
        decisions: recommendations, one to each of as many held-out users.
        completeness: error of the attributions' integral.
        faithfulness: of orders of events by attribution, gradients and attention.
        infidelity: by measure, after the attributions of a decision were scaled to fit best; 0 is
            perfect, 1 is what attributions of 0 get.
        unscaled_infidelity: the same of attributions as they are, pooled over decisions. Above 1
            where they are larger than what taking parts away does: they tell of the whole way from
            no history, and events stand in for each other.
        sensitivity: largest relative change of attributions under changes of 0.02.
        randomisation: whether attributions change when weights do.
        concentration: on how few events a recommendation rests.
        sources: share of history, profile and situation in all influence.
        behaviour: which kinds of events the policy reads, by attention and by attributions, and
            how far the two agree; None where no history has anything to tell.
        truth: precision against the true causes, in a synthetic world.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    decisions: int
    completeness: Completeness
    faithfulness: FaithfulnessResult
    infidelity: dict[str, Interval]
    unscaled_infidelity: dict[str, float]
    sensitivity: Interval
    randomisation: RandomisationResult
    concentration: Concentration
    sources: dict[str, Interval]
    behaviour: BehaviourCurves | None
    truth: TruthResult | None = None


def event_orders(
    networks: IQLNetworks, decisions: Decisions, attribution: Attribution, gradients: Saliency
) -> dict[str, np.ndarray]:
    """Name every order of events that is compared, (B, H) each; the highest comes first.

    ``reasons`` is the order in which explanations name events, by the size of their effect;
    ``attribution`` puts first what speaks for the video. The size of a gradient and attention have
    no direction either.
    """
    return {
        "reasons": np.abs(attribution.events),
        "attribution": attribution.events,
        "gradient": gradients.gradient,
        "gradient_times_input": gradients.gradient_times_input,
        "attention": event_attention_of(networks, decisions.states),
        "raw_attention": raw_attention_of(networks, decisions.states),
    }


def explained_decisions(
    networks: IQLNetworks, dataset: OfflineDataset, states: np.ndarray, user_id: np.ndarray
) -> tuple[Decisions, np.ndarray, np.ndarray]:
    """Return the first choices in states whose histories can be put in an order at all.

    Args:
        networks: the policy.
        dataset: that it was trained on.
        states: one of each user, (U, state size).
        user_id: whose, (U,).

    Returns:
        B decisions; whose they are, (B,); which slots of their histories are taken, (B, H) bool.

    Raises:
        NoEvidenceError: fewer than two users have events enough in their histories, or there are
            fewer than two candidates.
    """
    present = dataset.layout.unpack(states).present
    several = present.sum(axis=1) >= MIN_EVENTS
    if several.sum() < 2:
        raise NoEvidenceError(
            f"fewer than two held-out users have {MIN_EVENTS} events in their history"
        )
    try:
        decisions = first_choices(
            networks, states[several], repeats=dataset.manifest.mapping.log.repeats
        )
    except ValueError as error:
        raise NoEvidenceError(f"nothing to explain: {error}") from None
    return decisions, user_id[several], present[several]


def interpretability(
    networks: IQLNetworks,
    dataset: OfflineDataset,
    states: np.ndarray,
    user_id: np.ndarray,
    *,
    seed: int,
    world: Path | None = None,
    progress: Callable[[float], None] | None = None,
) -> InterpretabilityResult:
    """Measure the explanations of a policy's first choices.

    Args:
        networks: the policy.
        dataset: that it was trained on.
        states: one of each user, (U, state size).
        user_id: whose, (U,).
        seed: of random orders, perturbations, random weights and intervals.
        world: folder of the synthetic world that the dataset was made from, for the truth.
        progress: called with the share that is done, 0 to 1.

    Raises:
        NoEvidenceError: fewer than two users have events enough in their histories, or there are
            fewer than two candidates.
    """
    report = progress or (lambda share: None)
    networks = networks.eval()
    decisions, user_id, present = explained_decisions(networks, dataset, states, user_id)
    states, mapping = decisions.states, dataset.manifest.mapping
    baseline, groups = Baseline.from_dataset(dataset), user_groups(mapping)
    attributor = Attributor(MarginScore(networks), baseline, groups)
    attribution = attributor.attribute(decisions)
    report(0.2)
    gradients = saliency(attributor, decisions)
    orders = event_orders(networks, decisions, attribution, gradients)
    faithful = faithfulness(attributor, decisions, orders, seed)
    report(0.5)
    infidelity, unscaled = _infidelity(attributor, decisions, attribution, gradients, seed)
    report(0.6)
    few = decisions[slice(0, _SENSITIVITY_DECISIONS)]
    sensitivity = mean_intervals(sensitivity_of(attributor, few, seed)[:, None], seed)[0]
    report(0.7)
    random = _randomisation(networks, baseline, groups, decisions, present, seed)
    report(0.95)
    known = None
    if world is not None:
        loaded = SyntheticWorld.load(world)
        causes = true_causes(loaded, dataset, decisions, user_id)
        known = truth(orders, causes, present, seed)
    behaviour = behaviour_curves(
        states=states,
        user_id=user_id,
        recommended=decisions.videos,
        attention=orders["attention"],
        attribution=attribution.events,
        layout=dataset.layout,
        catalog=dataset.catalog,
        groups=activity_groups(dataset),
        seed=seed,
        log=mapping.log,
    )
    gap = attribution.relative_gap
    return InterpretabilityResult(
        decisions=len(decisions),
        completeness=Completeness(
            mean=float(gap.mean()),
            largest=float(gap.max()),
            share_complete=float((gap < COMPLETE_BELOW).mean()),
            of_change=float(
                np.abs(attribution.gap).sum()
                / np.abs(attribution.value - attribution.baseline_value).sum()
            ),
        ),
        faithfulness=faithful,
        infidelity=infidelity,
        unscaled_infidelity=unscaled,
        sensitivity=sensitivity,
        randomisation=random,
        concentration=concentration(attribution, orders["attention"], present, seed),
        sources=_sources(attribution, seed),
        behaviour=behaviour,
        truth=known,
    )


def _infidelity(
    attributor: Attributor,
    decisions: Decisions,
    attribution: Attribution,
    gradients: Saliency,
    seed: int,
) -> tuple[dict[str, Interval], dict[str, float]]:
    """Infidelity of attributions and of gradients times inputs, scaled and as they are."""
    measures = {"attribution": attribution.all, "gradient_times_input": gradients.all}
    found = {
        name: infidelity_of(attributor, decisions, parts, seed) for name, parts in measures.items()
    }
    scaled = np.column_stack([one.scaled / one.change for one in found.values()])
    return (
        dict(zip(found, mean_intervals(scaled, seed), strict=True)),
        {name: float(one.unscaled.sum() / one.change.sum()) for name, one in found.items()},
    )


def _randomisation(
    networks: IQLNetworks,
    baseline: Baseline,
    groups: tuple[Group, ...],
    decisions: Decisions,
    present: np.ndarray,
    seed: int,
) -> RandomisationResult:
    few = slice(0, _RANDOMISATION_DECISIONS)

    def attribute(other: IQLNetworks) -> np.ndarray:
        return Attributor(MarginScore(other), baseline, groups).attribute(decisions[few]).events

    return randomisation(networks, attribute, present[few], seed)


def concentration(
    attribution: Attribution, attention: np.ndarray, present: np.ndarray, seed: int
) -> Concentration:
    """Measure on how few events recommendations rest.

    Args:
        attribution: of B recommendations.
        attention: rollout over the events, (B, H), rows that sum to 1.
        present: which slots are taken, (B, H) bool, two or more of each.
        seed: of the intervals.
    """
    shares = np.abs(attribution.events)
    shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
    top = np.sort(shares, axis=1)[:, -NAMED:].sum(axis=1)
    relative = _entropy(attention) / np.log(present.sum(axis=1))
    found = mean_intervals(np.column_stack([top, np.exp(_entropy(shares)), relative]), seed)
    return Concentration(top_share=found[0], effective_events=found[1], attention_entropy=found[2])


def _entropy(shares: np.ndarray) -> np.ndarray:
    """Entropy in nats of each row of (B, H), (B,)."""
    return np.asarray(-(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1))


def _sources(attribution: Attribution, seed: int) -> dict[str, Interval]:
    parts = (attribution.events, attribution.user, attribution.context)
    sizes = np.column_stack([np.abs(part).sum(axis=1) for part in parts])
    shares = sizes / np.maximum(sizes.sum(axis=1, keepdims=True), 1e-12)
    return dict(zip(("history", "profile", "situation"), mean_intervals(shares, seed), strict=True))

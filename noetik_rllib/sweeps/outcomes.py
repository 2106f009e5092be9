"""What every trial is measured by, whatever it was trained on, and which way is better."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noetik_rllib.data.signals import SIGNALS
from noetik_rllib.errors import NoEvidenceError
from noetik_rllib.evaluation.result import Interval

if TYPE_CHECKING:  # importing them imports torch
    import numpy as np

    from noetik_rllib.evaluation.comparison import JudgedCourse
    from noetik_rllib.evaluation.evaluation_result import EvaluationResult
    from noetik_rllib.interpret.baseline import Baseline
    from noetik_rllib.iql.networks import IQLNetworks
    from noetik_rllib.offline.dataset import OfflineDataset
    from noetik_rllib.runs import Run

#: Means per recommended video in simulated sessions: of the default reward and of every signal.
ENGAGEMENT = ("reward", *SIGNALS)
#: How far what a policy does can be explained: the comprehensiveness that orders of events by
#: attribution, and by attention, have above random orders; the share that the three strongest
#: events have in the influence of all; and 1 less the relative entropy of attention, which is 0
#: where all events are attended alike and 1 where one alone is.
EXPLAINED = (
    "faithfulness",
    "attention_faithfulness",
    "concentration",
    "attention_concentration",
)
#: Mean over sessions of how different the tags of two videos are: 1 - Jaccard similarity.
DIVERSITY = "diversity"
OUTCOMES = (*ENGAGEMENT, DIVERSITY, *EXPLAINED)
#: Outcomes of which less is better.
MINIMISED = ("hate",)


def measure(
    run: Run, dataset: OfflineDataset, course: JudgedCourse, baseline: Baseline, decisions: int
) -> tuple[dict[str, Interval], EvaluationResult]:
    """Measure a run's policy on a course; what the dataset has no evidence for is left out.

    Args:
        run: a finished run.
        dataset: of the run.
        course: where it is judged.
        baseline: from which recommendations are explained.
        decisions: the most users whose recommendation is explained.

    Returns:
        Some or all of ``OUTCOMES``, in their order, with 95 % intervals over users; and what
        ``metrics.json`` of the run is to hold.
    """
    from noetik_rllib.evaluation.comparison import compare
    from noetik_rllib.evaluation.evaluation_result import EvaluationResult
    from noetik_rllib.evaluation.exposure import tag_diversity
    from noetik_rllib.evaluation.policies import ActorPolicy

    seed = course.starts.seeds[0]
    networks = run.networks()
    policy = ActorPolicy.of(networks)
    sessions, logs = compare([policy], course)
    found = dict(sessions.policies[policy.name])
    shown = logs[policy.name].videos
    diversity = tag_diversity(shown, course.starts.user_id, course.tags, seed)
    if diversity is not None:
        found[DIVERSITY] = diversity
    # Of each user the state that their first session begins in.
    first = slice(None, None, len(course.starts.seeds))
    states, user_id = course.starts.states[first], course.starts.user_id[first]
    states, user_id = states[:decisions], user_id[:decisions]
    found |= _explained(networks, dataset, baseline, states, user_id, seed)
    return found, EvaluationResult(
        policy=policy.name, reward=course.reward, sessions=sessions, judge=course.judge
    )


def _explained(
    networks: IQLNetworks,
    dataset: OfflineDataset,
    baseline: Baseline,
    states: np.ndarray,
    user_id: np.ndarray,
    seed: int,
) -> dict[str, Interval]:
    """Measure ``EXPLAINED`` as ``interpretability`` does, without what takes a minute more."""
    from noetik_rllib.interpret.attention import event_attention_of
    from noetik_rllib.interpret.attribution import Attributor
    from noetik_rllib.interpret.faithfulness import faithfulness
    from noetik_rllib.interpret.groups import user_groups
    from noetik_rllib.interpret.measure import concentration, explained_decisions
    from noetik_rllib.interpret.scores import MarginScore

    try:
        decisions, _, present = explained_decisions(networks, dataset, states, user_id)
    except NoEvidenceError:
        return {}
    attributor = Attributor(
        MarginScore(networks),
        baseline,
        user_groups(dataset.manifest.mapping),
    )
    attribution = attributor.attribute(decisions)
    attention = event_attention_of(networks, decisions.states)
    orders = {"attribution": attribution.events, "attention": attention}
    faithful = faithfulness(attributor, decisions, orders, seed).orders
    gains = [faithful[name].comprehensiveness_gain for name in orders]
    focus = concentration(attribution, attention, present, seed)
    entropy = focus.attention_entropy
    focused = Interval(mean=1 - entropy.mean, low=1 - entropy.high, high=1 - entropy.low)
    found = dict(zip(EXPLAINED, [*gains, focus.top_share, focused], strict=True))
    return {name: value for name, value in found.items() if value is not None}

"""Every score is the number that it says it is, and its attributions add up to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from noetik_rllib.interpret.attribution import Attributor
from noetik_rllib.interpret.decisions import Decisions, first_choices
from noetik_rllib.interpret.scores import LeadScore, LogitScore, MarginScore, QScore, Score
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.state import EVENT_SIZE
from tests.interpret import planted

SCORES = (LogitScore, MarginScore, LeadScore, QScore)


@pytest.fixture(scope="module")
def networks(planted_policy: IQLNetworks) -> IQLNetworks:
    return planted_policy


@pytest.fixture(scope="module")
def states() -> np.ndarray:
    return planted.draw(np.random.default_rng(3), 40).states


@pytest.fixture(scope="module")
def decisions(networks: IQLNetworks, states: np.ndarray) -> Decisions:
    return first_choices(networks, states)


@torch.no_grad()
def by_definition(networks: IQLNetworks, decisions: Decisions) -> dict[type[Score], np.ndarray]:
    """The scores from all logits, and from the critics as they are trained."""
    states = torch.as_tensor(decisions.states)
    logits = networks.actor(networks.features, states).double().numpy()
    row = np.arange(len(decisions))
    assert decisions.alternatives is not None
    logit = logits[row, decisions.videos]
    q = networks.q(networks.features, states, torch.as_tensor(decisions.videos))
    total = (q * torch.tensor(networks.reward.signs)).sum(dim=-1).min(dim=0).values
    return {
        LogitScore: logit,
        MarginScore: logit - logits.mean(axis=1),
        LeadScore: logit - logits[row, decisions.alternatives],
        QScore: total.double().numpy(),
    }


@pytest.mark.parametrize("score", SCORES)
def test_a_score_is_what_it_says(
    networks: IQLNetworks, decisions: Decisions, score: type[Score]
) -> None:
    """Otherwise what is explained is not what ranks the videos."""
    attributor = Attributor(score(networks), planted.BASELINE)
    expected = by_definition(networks, decisions)[score]
    np.testing.assert_allclose(attributor.value(decisions), expected, atol=1e-4)


@pytest.mark.parametrize("score", SCORES)
def test_attributions_of_every_score_add_up(
    networks: IQLNetworks, decisions: Decisions, score: type[Score]
) -> None:
    """Otherwise effects on a lead or on Q are of something else."""
    attribution = Attributor(score(networks), planted.BASELINE).attribute(decisions)
    expected = by_definition(networks, decisions)[score]
    change = expected - attribution.baseline_value
    assert (np.abs(attribution.all.sum(axis=1) - change) / attribution.total).max() < 0.01


def test_a_lead_is_over_the_alternative(networks: IQLNetworks, states: np.ndarray) -> None:
    """Otherwise "rather than" names the wrong video; and without one there is nothing to say."""
    attributor = Attributor(LeadScore(networks), planted.BASELINE)
    one, other = np.full(len(states), 3), np.full(len(states), 8)
    lead = attributor.attribute(Decisions(states, one, other))
    back = attributor.attribute(Decisions(states, other, one))
    np.testing.assert_allclose(lead.all, -back.all, atol=1e-3)
    with pytest.raises(ValueError, match="needs an alternative"):
        attributor.value(Decisions(states, one))


def test_first_choices_are_the_best_unseen(networks: IQLNetworks, states: np.ndarray) -> None:
    """Otherwise what is explained is not what is recommended."""
    with torch.no_grad():
        logits = networks.actor(networks.features, torch.as_tensor(states)).numpy()
    seen = planted.LAYOUT.unpack(states).video_index.astype(int)
    for repeats in (False, True):
        found = first_choices(networks, states, repeats=repeats)
        assert found.alternatives is not None
        for row, hidden in enumerate(seen):
            allowed = logits[row].copy()
            if not repeats:
                allowed[hidden[hidden >= 0]] = -np.inf
            best = np.argsort(-allowed, kind="stable")[:2]
            assert [found.videos[row], found.alternatives[row]] == best.tolist()


def test_taking_events_out_is_emptying_their_slots(
    networks: IQLNetworks, decisions: Decisions
) -> None:
    """Otherwise "without this event" is a state that the network has never seen."""
    rng = np.random.default_rng(4)
    layout = planted.LAYOUT
    kept = rng.random((len(decisions), layout.history_length)) < 0.5
    emptied = decisions.states.copy()
    events = emptied[:, layout.history].reshape(len(decisions), -1, EVENT_SIZE)
    events *= kept[..., None]
    emptied[:, layout.history] = events.reshape(len(decisions), -1)
    attributor = Attributor(MarginScore(networks), planted.BASELINE)
    np.testing.assert_allclose(
        attributor.value(decisions, kept),
        attributor.value(Decisions(emptied, decisions.videos)),
        atol=1e-4,
    )


def test_parts_lead_from_the_baseline_to_the_state(
    networks: IQLNetworks, decisions: Decisions
) -> None:
    """Otherwise ``infidelity`` takes away something else than what is attributed."""
    attributor = Attributor(MarginScore(networks), planted.BASELINE)
    attribution = attributor.attribute(decisions)
    score = attributor.score_of_parts(decisions)
    rows = torch.arange(len(decisions))
    whole = torch.ones(attribution.all.shape)
    with torch.no_grad():
        np.testing.assert_allclose(score(whole, rows), attribution.value, atol=1e-4)
        np.testing.assert_allclose(score(0 * whole, rows), attribution.baseline_value, atol=1e-4)
        # Without the first event alone: as if its slot were empty.
        first = whole.clone()
        first[:, 0] = 0
        kept = np.ones((len(decisions), planted.LAYOUT.history_length), dtype=bool)
        kept[:, 0] = False
        np.testing.assert_allclose(score(first, rows), attributor.value(decisions, kept), atol=1e-2)

"""Measures of faithfulness on a policy of which it is known what it rests on: one liked event."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from noetik_rllib.evaluation.result import Interval
from noetik_rllib.interpret.attribution import Attribution, Attributor
from noetik_rllib.interpret.decisions import Decisions, first_choices
from noetik_rllib.interpret.faithfulness import (
    BINS,
    MEASURES,
    RANDOM,
    SHARES,
    FaithfulnessResult,
    faithfulness,
    removal_curves,
)
from noetik_rllib.interpret.randomisation import (
    DRAWS,
    STAGES,
    randomisation,
    shuffled,
)
from noetik_rllib.interpret.robustness import RADIUS, infidelity_of, sensitivity_of
from noetik_rllib.interpret.saliency import saliency
from noetik_rllib.interpret.scores import MarginScore
from noetik_rllib.iql.networks import IQLNetworks
from tests.interpret import planted


@pytest.fixture(scope="module")
def networks(planted_policy: IQLNetworks) -> IQLNetworks:
    return planted_policy


@pytest.fixture(scope="module")
def sample() -> planted.Planted:
    return planted.draw(np.random.default_rng(5), 80)


@pytest.fixture(scope="module")
def attributor(networks: IQLNetworks) -> Attributor:
    return Attributor(MarginScore(networks), planted.BASELINE)


@pytest.fixture(scope="module")
def decisions(networks: IQLNetworks, sample: planted.Planted) -> Decisions:
    return first_choices(networks, sample.states)


@pytest.fixture(scope="module")
def attribution(attributor: Attributor, decisions: Decisions) -> Attribution:
    return attributor.attribute(decisions)


@pytest.fixture(scope="module")
def cause(sample: planted.Planted) -> np.ndarray:
    """1 at each state's liked event, else 0: the true order."""
    slots = np.arange(planted.LAYOUT.history_length)
    return (slots == sample.liked_slot[:, None]).astype(float)


@pytest.fixture(scope="module")
def result(
    attributor: Attributor, decisions: Decisions, attribution: Attribution, cause: np.ndarray
) -> FaithfulnessResult:
    orders = {"attribution": attribution.events, "cause": cause, "worst": -cause}
    return faithfulness(attributor, decisions, orders, seed=0)


def test_curves_are_the_scores_of_shortened_histories(
    attributor: Attributor, decisions: Decisions, cause: np.ndarray
) -> None:
    """Otherwise the curves are of something else than taking events away, or off by one event."""
    curves = removal_curves(attributor, decisions, cause)
    whole = attributor.value(decisions)
    present = planted.LAYOUT.unpack(decisions.states).present
    nothing = attributor.value(decisions, np.zeros_like(present))
    np.testing.assert_allclose(curves.deletion[:, 0], whole, atol=1e-4)
    np.testing.assert_allclose(curves.insertion[:, -1], whole, atol=1e-4)
    np.testing.assert_allclose(curves.deletion[:, -1], nothing, atol=1e-4)
    np.testing.assert_allclose(curves.insertion[:, 0], nothing, atol=1e-4)
    # 5 % of 3 to 8 events is one event: the liked one.
    liked = cause > 0
    alone, without = attributor.value(decisions, liked), attributor.value(decisions, ~liked)
    np.testing.assert_allclose(curves.deletion[:, 1], without, atol=1e-4)
    np.testing.assert_allclose(curves.insertion[:, 1], alone, atol=1e-4)


def test_measures_follow_from_the_curves(
    attributor: Attributor, decisions: Decisions, cause: np.ndarray
) -> None:
    """Otherwise comprehensiveness and sufficiency have another sign or other shares than stated."""
    curves = removal_curves(attributor, decisions, cause)
    measures = dict(zip(MEASURES, curves.measures().T, strict=True))
    at = [SHARES.index(share) for share in BINS]
    whole = attributor.value(decisions)
    removed = whole[:, None] - curves.deletion[:, at]
    np.testing.assert_allclose(measures["comprehensiveness"], removed.mean(axis=1), atol=1e-4)
    left = whole[:, None] - curves.insertion[:, at]
    np.testing.assert_allclose(measures["sufficiency"], left.mean(axis=1), atol=1e-4)
    steps = np.diff(SHARES)
    for name, curve in (("deletion", curves.deletion), ("insertion", curves.insertion)):
        area = (steps * (curve[:, 1:] + curve[:, :-1]) / 2).sum(axis=1)
        np.testing.assert_allclose(measures[name], area, atol=1e-6)


def test_the_true_cause_is_faithful_and_its_opposite_is_not(result: FaithfulnessResult) -> None:
    """Otherwise the measures do not tell a faithful explanation from a misleading one."""
    for name in MEASURES:
        faithful, misleading = (
            getattr(result.orders[order], f"{name}_gain") for order in ("cause", "worst")
        )
        assert faithful.low > 0, name
        assert misleading.high < 0, name
        assert getattr(result.orders[RANDOM], f"{name}_gain") is None


def test_attributions_are_as_faithful_as_the_cause(result: FaithfulnessResult) -> None:
    """Otherwise reasons that are named are not those that decide, on a policy that is known."""
    ours, cause = result.orders["attribution"], result.orders["cause"]
    for name in MEASURES:
        gain: Interval = getattr(ours, f"{name}_gain")
        assert gain.low > 0, name
        assert gain.mean > 0.9 * getattr(cause, f"{name}_gain").mean, name


def test_orders_of_chance_gain_nothing(attributor: Attributor, decisions: Decisions) -> None:
    """Otherwise an explanation without any information looks faithful.

    Four 95 % intervals of each of 3 orders: with right intervals 4 or more of 12 miss 0 in under
    0.3 % of runs, if they were independent.
    """
    rng = np.random.default_rng(6)
    shape = planted.LAYOUT.unpack(decisions.states).present.shape
    orders = {str(number): rng.random(shape) for number in range(3)}
    found = faithfulness(attributor, decisions, orders, seed=1)
    gains = [
        getattr(found.orders[name], f"{measure}_gain") for name in orders for measure in MEASURES
    ]
    assert sum(not gain.low <= 0 <= gain.high for gain in gains) < 4


def test_states_without_events_are_passed_over(
    attributor: Attributor, decisions: Decisions
) -> None:
    """Otherwise users without history dilute what is said of histories, or divide by zero."""
    layout = planted.LAYOUT
    states = decisions.states.copy()
    states[:10, layout.history] = 0
    present = layout.unpack(states).present
    order = np.random.default_rng(7).random(present.shape)
    mixed = faithfulness(attributor, Decisions(states, decisions.videos), {"x": order}, seed=0)
    assert mixed.decisions == len(states) - 10
    with pytest.raises(ValueError, match="no decision has an event"):
        faithfulness(attributor, Decisions(states, decisions.videos)[slice(0, 10)], {}, seed=0)


def test_infidelity_prefers_what_foretells(
    attributor: Attributor, decisions: Decisions, attribution: Attribution
) -> None:
    """Otherwise the measure does not see whether attributions foretell what removal does."""
    rng = np.random.default_rng(8)
    ours = infidelity_of(attributor, decisions, attribution.all, 0)
    noise = infidelity_of(attributor, decisions, rng.normal(size=attribution.all.shape), 0)
    nothing = infidelity_of(attributor, decisions, np.zeros_like(attribution.all), 0)
    np.testing.assert_allclose(nothing.scaled, nothing.change)
    np.testing.assert_allclose(nothing.unscaled, nothing.change)
    assert ours.scaled.mean() < 0.5 * noise.scaled.mean()
    # Scaled to fit best, the size of attributions is their own affair; as they are, it is not.
    again = infidelity_of(attributor, decisions, 10 * attribution.all, 0)
    np.testing.assert_allclose(again.scaled, ours.scaled, rtol=1e-3, atol=1e-4)
    assert again.unscaled.mean() > 10 * ours.unscaled.mean()
    assert (ours.scaled <= ours.unscaled + 1e-6).all()


class Additive(Attributor):
    """A score that is a weighted sum of the parts that are there, weights (B, parts)."""

    weights: torch.Tensor

    def score_of_parts(
        self, decisions: Decisions
    ) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        return lambda parts, rows: (parts * self.weights[rows]).sum(dim=1)


def test_infidelity_of_a_sum_is_zero(decisions: Decisions, attribution: Attribution) -> None:
    """Otherwise attributions are blamed that foretell every removal exactly."""
    attributor = Additive(MarginScore(planted.untrained()), planted.BASELINE)
    weights = np.random.default_rng(9).normal(size=attribution.all.shape)
    attributor.weights = torch.as_tensor(weights, dtype=torch.float32)
    found = infidelity_of(attributor, decisions, weights, 0)
    assert found.scaled.max() < 1e-5
    assert found.unscaled.max() < 1e-5


def test_sensitivity_is_small_and_repeats(attributor: Attributor, decisions: Decisions) -> None:
    """Otherwise the same user a second later gets another explanation, or the figure is luck."""
    few = decisions[slice(0, 20)]
    found = sensitivity_of(attributor, few, 0)
    # A tenth of the radius moves attributions less: it is the radius that is measured.
    smaller = sensitivity_of(attributor, few, 0, radius=RADIUS / 10)
    assert (smaller < 0.5 * found).mean() > 0.8
    np.testing.assert_array_equal(found, sensitivity_of(attributor, few, 0))
    assert (found > 0).all()
    assert np.median(found) < 0.2


def test_gradients_are_those_of_the_network(
    networks: IQLNetworks, attributor: Attributor, decisions: Decisions
) -> None:
    """Otherwise attributions are compared with something that nobody calls a gradient."""
    few = decisions[slice(0, 5)]
    found = saliency(attributor, few)
    encoder = networks.actor.encoder
    states = torch.as_tensor(few.states)
    tokens = encoder.embed(networks.features, states)
    # Finite differences of the score along each event's own token.
    base = attributor.value(few)
    step = 1e-2
    present = planted.LAYOUT.unpack(few.states).present
    for slot in range(planted.LAYOUT.history_length):
        scale = torch.ones(present.shape)
        scale[:, slot] += step
        moved = tokens.events * scale[..., None]
        summary = encoder.encode(
            type(tokens)(tokens.user, moved, tokens.weight, tokens.context, tokens.present)
        )
        about = attributor.score.about(torch.as_tensor(few.videos), None)
        value = attributor.score.of_summary(summary, *about).detach().double().numpy()
        expected = np.where(present[:, slot], (value - base) / step, 0.0)
        np.testing.assert_allclose(
            found.gradient_times_input[:, slot], expected, rtol=0.1, atol=0.05
        )
    assert not found.gradient[~present].any()
    # The norm: along no direction does the score change faster than by it.
    events = tokens.events.detach().requires_grad_()
    summary = encoder.encode(
        type(tokens)(tokens.user, events, tokens.weight, tokens.context, tokens.present)
    )
    about = attributor.score.about(torch.as_tensor(few.videos), None)
    attributor.score.of_summary(summary, *about).sum().backward()
    assert events.grad is not None
    expected = events.grad.square().sum(dim=-1).sqrt().double().numpy()
    np.testing.assert_allclose(found.gradient, np.where(present, expected, 0), rtol=1e-3, atol=1e-5)


def test_attributions_change_when_weights_do(
    networks: IQLNetworks, decisions: Decisions, attribution: Attribution
) -> None:
    """Otherwise explanations show the state and not the policy (Adebayo et al. 2018)."""
    present = planted.LAYOUT.unpack(decisions.states).present

    def attribute(other: IQLNetworks) -> np.ndarray:
        return Attributor(MarginScore(other), planted.BASELINE).attribute(decisions).events

    found = randomisation(networks, attribute, present, seed=0)
    assert list(found.stages) == list(STAGES)
    assert found.stages["videos"].size < 0.2
    assert found.signed["videos"].size < 0.2
    assert len(found.stages["videos"].draws) == DRAWS

    # An "explanation" that only looks at the state is found out.
    def blind(other: IQLNetworks) -> np.ndarray:
        return np.where(present, np.arange(present.shape[1]) + 1.0, 0.0)

    seen = randomisation(networks, blind, present, seed=0)
    assert seen.stages["videos"].size == pytest.approx(1)

    # Signs count in one of the two alone: an attribution that only turns round.
    turned = iter([1.0] + [-1.0] * DRAWS * len(STAGES))

    def turning(other: IQLNetworks) -> np.ndarray:
        return next(turned) * blind(other)

    seen = randomisation(networks, turning, present, seed=0)
    assert seen.stages["videos"].draws == pytest.approx([1.0] * DRAWS)
    assert seen.signed["videos"].draws == pytest.approx([-1.0] * DRAWS)


def test_random_weights_are_a_shuffle_of_every_weight(networks: IQLNetworks) -> None:
    """Otherwise a layer keeps what it learnt, or another scale explains the change."""
    random = shuffled(networks, len(STAGES), seed=0)
    pairs = zip(networks.actor.named_parameters(), random.actor.parameters(), strict=True)
    for (name, before), after in pairs:
        torch.testing.assert_close(before.flatten().sort().values, after.flatten().sort().values)
        if before.unique().numel() > 10:
            assert not torch.equal(before, after), name
    for before, after in zip(networks.q.parameters(), random.q.parameters(), strict=True):
        torch.testing.assert_close(before, after)

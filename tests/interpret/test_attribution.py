"""Attributions are complete, sparse where nothing is, and find the cause that was planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from noetik_rllib.interpret.attribution import (
    MAX_RELATIVE_GAP,
    Attribution,
    Attributor,
    Baseline,
    encode_with_presence,
)
from noetik_rllib.interpret.decisions import Decisions
from noetik_rllib.interpret.groups import CONTEXT_GROUPS, USER_GROUPS
from noetik_rllib.interpret.scores import MarginScore, Score
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.state import EVENT_SIZE
from tests.interpret import planted


@pytest.fixture(scope="module")
def sample() -> planted.Planted:
    return planted.draw(np.random.default_rng(1), 60)


@pytest.fixture(scope="module")
def trained(planted_policy: IQLNetworks) -> IQLNetworks:
    return planted_policy


@pytest.fixture(scope="module", params=["untrained", "trained"])
def networks(request: pytest.FixtureRequest, trained: IQLNetworks) -> IQLNetworks:
    return planted.untrained() if request.param == "untrained" else trained


@pytest.fixture(scope="module")
def videos(networks: IQLNetworks, sample: planted.Planted) -> np.ndarray:
    return full_logits(networks, sample.states).argmax(axis=1)


@pytest.fixture(scope="module")
def attribution(networks: IQLNetworks, sample: planted.Planted, videos: np.ndarray) -> Attribution:
    return attributor_of(networks).attribute(Decisions(sample.states, videos))


def attributor_of(networks: IQLNetworks, score: type[Score] = MarginScore) -> Attributor:
    return Attributor(score(networks), planted.BASELINE)


def full_logits(networks: IQLNetworks, states: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return networks.actor(networks.features, torch.as_tensor(states)).numpy()


def full_margin(networks: IQLNetworks, states: np.ndarray, videos: np.ndarray) -> np.ndarray:
    """The margin by its definition, from all N logits."""
    logits = full_logits(networks, states).astype(np.float64)
    return logits[np.arange(len(videos)), videos] - logits.mean(axis=1)


def deletion_effects(attributor: Attributor, states: np.ndarray, videos: np.ndarray) -> np.ndarray:
    """How much the margin falls when one event's slot is emptied, (B, H)."""
    layout = planted.LAYOUT
    effects = []
    for slot in range(layout.history_length):
        without = states.copy()
        first = layout.history.start + EVENT_SIZE * slot
        without[:, first : first + EVENT_SIZE] = 0
        effects.append(
            attributor.value(Decisions(states, videos))
            - attributor.value(Decisions(without, videos))
        )
    return np.stack(effects, axis=1)


def test_the_shortcut_is_the_margin_over_all_logits(
    networks: IQLNetworks, sample: planted.Planted, videos: np.ndarray
) -> None:
    """Otherwise the explained number is not the one that ranks the videos."""
    margin = attributor_of(networks).value(Decisions(sample.states, videos))
    np.testing.assert_allclose(margin, full_margin(networks, sample.states, videos), atol=1e-4)


def test_the_baseline_is_the_average_user_without_any_event(
    networks: IQLNetworks, sample: planted.Planted, videos: np.ndarray, attribution: Attribution
) -> None:
    """Otherwise attributions compare with a state that no user is ever in."""
    count = len(videos)
    state = planted.LAYOUT.pack(
        planted.BASELINE.user[None],
        np.zeros((1, planted.LAYOUT.history_length, EVENT_SIZE)),
        planted.BASELINE.context[None],
    )
    expected = full_margin(networks, np.repeat(state, count, axis=0), videos)
    np.testing.assert_allclose(attribution.baseline_value, expected, atol=1e-4)


def test_attributions_add_up_to_the_margin(
    networks: IQLNetworks, sample: planted.Planted, videos: np.ndarray, attribution: Attribution
) -> None:
    """Otherwise shares of "all influence" are shares of something else."""
    change = full_margin(networks, sample.states, videos) - attribution.baseline_value
    error = np.abs(attribution.all.sum(axis=1) - change)
    assert (error / attribution.total).max() < 0.01
    assert attribution.relative_gap.max() < 0.01
    np.testing.assert_allclose(np.abs(attribution.gap), error, atol=1e-3)


def test_empty_slots_get_exactly_nothing(sample: planted.Planted, attribution: Attribution) -> None:
    """Otherwise an explanation names an event that never was."""
    empty = ~planted.LAYOUT.unpack(sample.states).present
    assert empty.any()
    assert not attribution.events[empty].any()


def test_events_are_credited_as_deleting_them_shows(
    networks: IQLNetworks, sample: planted.Planted, videos: np.ndarray, attribution: Attribution
) -> None:
    """Otherwise the words "speaks for it" are not about what the policy does with the event."""
    attributor = attributor_of(networks)
    effects = deletion_effects(attributor, sample.states, videos)
    present = planted.LAYOUT.unpack(sample.states).present
    correlation = [
        np.corrcoef(attribution.events[row, kept], effects[row, kept])[0, 1]
        for row, kept in enumerate(present)
    ]
    assert np.mean(correlation) > 0.9


def test_the_planted_cause_is_found(trained: IQLNetworks) -> None:
    """Otherwise the method does not find the one event that decides, where it is known."""
    sample = planted.draw(np.random.default_rng(2), 100)
    videos = full_logits(trained, sample.states).argmax(axis=1)
    right = videos == sample.target
    assert right.mean() > 0.9, "the policy has not learnt the planted rule"
    attribution = attributor_of(trained).attribute(Decisions(sample.states[right], videos[right]))
    influence = attribution.all
    assert (influence.argmax(axis=1) == sample.liked_slot[right]).mean() > 0.95


def test_presence_0_is_an_empty_history_and_1_changes_nothing(
    networks: IQLNetworks, sample: planted.Planted
) -> None:
    """Otherwise the path of the integral does not join the two states it claims to join."""
    encoder = networks.actor.encoder
    with torch.no_grad():
        tokens = encoder.embed(networks.features, torch.as_tensor(sample.states))
        empty = replace(
            tokens,
            weight=torch.zeros_like(tokens.weight),
            present=torch.zeros_like(tokens.present),
        )
        whole = encode_with_presence(encoder, tokens, torch.ones(tokens.present.shape))
        nothing = encode_with_presence(encoder, tokens, torch.zeros(tokens.present.shape))
        torch.testing.assert_close(whole, encoder.encode(tokens))
        # In the mean: where the trained policy's attention is sharper than e^55, e^-60 shows.
        assert (nothing - encoder.encode(empty)).abs().mean() < 1e-3


def test_batches_do_not_mix(
    networks: IQLNetworks, sample: planted.Planted, videos: np.ndarray
) -> None:
    """Otherwise one user's explanation depends on who is explained beside them."""
    attributor = attributor_of(networks)
    # 70 decisions at 64 steps go through the network in three chunks.
    states = np.concatenate([sample.states, sample.states[:10]])
    together = attributor.attribute(
        Decisions(states, np.concatenate([videos, videos[:10]])), steps=(64,)
    )
    for row in (0, 31, 32, 69):
        alone = attributor.attribute(Decisions(states[[row]], videos[[row % 60]]), steps=(64,))
        np.testing.assert_allclose(alone.all[0], together.all[row], rtol=1e-3, atol=1e-4)


def test_rough_integrals_are_refined(
    networks: IQLNetworks, sample: planted.Planted, videos: np.ndarray
) -> None:
    """Otherwise sharp attention gives attributions that do not add up."""
    attributor = attributor_of(networks)
    rough = attributor.attribute(Decisions(sample.states, videos), steps=(3,))
    fine = attributor.attribute(Decisions(sample.states, videos), steps=(3, 48))
    again = rough.relative_gap > MAX_RELATIVE_GAP
    assert again.any()
    np.testing.assert_array_equal(fine.steps, np.where(again, 48, 3))
    assert fine.relative_gap.mean() < rough.relative_gap.mean()


def test_groups_cover_every_feature_once() -> None:
    """Otherwise an influence is dropped, or counted twice."""
    for groups in (USER_GROUPS, CONTEXT_GROUPS):
        columns = [column for group in groups for column in group.columns]
        assert sorted(columns) == list(range(32))


@pytest.mark.parametrize("video", [-1, planted.VIDEOS])
def test_a_video_outside_of_the_catalogue_is_refused(
    networks: IQLNetworks, sample: planted.Planted, video: int
) -> None:
    """Otherwise index -1 silently explains the last video."""
    attributor = attributor_of(networks)
    with pytest.raises(ValueError, match=f"0 to {planted.VIDEOS - 1}, got {video}"):
        attributor.attribute(Decisions(sample.states[:1], np.array([video])))
    with pytest.raises(ValueError, match=f"0 to {planted.VIDEOS - 1}, got {video}"):
        attributor.attribute(Decisions(sample.states[:1], np.array([0]), np.array([video])))


def test_decisions_must_fit_together(sample: planted.Planted) -> None:
    """Otherwise one video is explained in the state of another."""
    with pytest.raises(ValueError, match=r"\(2, 96\), \(1,\) and \(1,\)"):
        Decisions(sample.states[:2], np.array([0]))
    with pytest.raises(ValueError, match=r"\(2,\) and \(1,\)"):
        Decisions(sample.states[:2], np.array([0, 1]), np.array([0]))
    with pytest.raises(ValueError, match="B > 0"):
        Decisions(sample.states[:0], np.zeros(0, dtype=np.int64))


def test_the_baseline_averages_the_training_part_alone(tiny_dataset: Path) -> None:
    """Otherwise explanations compare with users or days that the policy must not know."""
    dataset = OfflineDataset(tiny_dataset)
    baseline = Baseline.from_dataset(dataset)
    parts = dataset.layout.unpack(dataset.load("train", ("obs",))["obs"].astype(np.float64))
    np.testing.assert_allclose(baseline.user, parts.user.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(baseline.context, parts.context.mean(axis=0), atol=1e-6)

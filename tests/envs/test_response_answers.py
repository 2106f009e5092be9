"""Click, long view and watch ratio as thresholds of one play time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from noetik_rllib.data.signals import BINARY_SIGNALS, SIGNALS
from noetik_rllib.envs.response_answers import (
    AnswerForm,
    Answers,
    fit_bins,
    segment_of,
    thresholds,
)
from noetik_rllib.envs.response_model import AnswerDistribution
from noetik_rllib.envs.simulator import NUM_UNIFORMS, sample_signals

#: A video of 100 s, of 18, of 10, of 7, of 5, and one of unknown length.
DURATIONS = np.array([100_000, 18_000, 10_000, 7_000, 5_000, 0])
PLACES = [[0.0, 0.5], [0.3, 0.8], [0.2, 1.0]]


def outputs(rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, AnswerForm(PLACES).size, generator=generator).double()


def test_thresholds_are_the_plays_that_count() -> None:
    """A click would begin elsewhere than after 7 s, or the whole of a shorter video (README of
    KuaiRand); a long view than after 18 s. An unknown length counts as long.
    """
    expected = [[0.07, 0.18], [7 / 18, 1], [0.7, 1], [1, 1], [1, 1], [7 / 18, 1]]
    np.testing.assert_allclose(thresholds(DURATIONS), expected, rtol=1e-6)


def test_a_play_is_put_into_the_segment_that_its_signals_say() -> None:
    """A play of exactly 7 s would be no click by a rounding, or a place lie outside [0, 1]."""
    plays = np.array([0, 6_999, 7_000, 17_999, 18_000, 100_000])
    limits = np.repeat(thresholds(np.array([100_000])), len(plays), axis=0)
    segment, place = segment_of((plays / 100_000).astype(np.float32), limits)
    assert segment.tolist() == [0, 0, 1, 1, 2, 2]
    np.testing.assert_allclose(place, [0, 1, 0, 1, 0, 1], atol=2e-4)
    whole, _ = segment_of(np.ones(len(DURATIONS), np.float32), thresholds(DURATIONS))
    assert (whole == 2).all()


def test_likelihood_is_that_of_the_probabilities() -> None:
    """The model would be fitted to something else than what it answers with. The probability of
    every combination of segment and bin, times that of click and long view given the segment and
    of the reactions, must be the exponential of the loss, and all of them sum to 1.
    """
    form = AnswerForm(PLACES)
    for limits in torch.as_tensor(thresholds(DURATIONS)).double():
        out = outputs(1)
        total = 0.0
        for segment, place in itertools.product(range(3), range(2)):
            if (segment == 1 and limits[0] == 1) or (
                segment == 2 and limits[1] == 1 and place == 0
            ):
                continue  # no play ends there
            for signals in itertools.product((0.0, 1.0), repeat=2):
                binary = torch.zeros(1, len(BINARY_SIGNALS))
                binary[0, :2] = torch.tensor(signals)
                answers = Answers(torch.tensor([segment]), torch.tensor([place]), binary)
                total += float(torch.exp(-form.loss(out, answers, limits[None])))
        reactions = torch.sigmoid(out[0, 6 : 6 + len(BINARY_SIGNALS) - 2])
        assert total == pytest.approx(float((1 - reactions).prod()))


def test_probabilities_add_up() -> None:
    """A distribution would not sum to 1, its values not ascend, or click and long view not be the
    sums over the segments.
    """
    form = AnswerForm(PLACES)
    limits = torch.as_tensor(thresholds(DURATIONS)).double()
    out = outputs(len(limits))
    # Rows follow the rule: a click's play is a click, a shorter one is none.
    out[:, 2], out[:, 3], out[:, 4], out[:, 5] = -40, 40, -40, 40
    binary, watch = form.probabilities(out, limits)
    values = form.values(limits)
    torch.testing.assert_close(watch.sum(1), torch.ones(len(limits)).double())
    assert (values.diff(dim=1) >= 0).all()
    torch.testing.assert_close(binary[:, 0], watch[:, 2:].sum(1))
    torch.testing.assert_close(binary[:, 1], watch[:, 4:].sum(1))


def test_draws_follow_the_rule_where_the_model_does() -> None:
    """Simulated plays of 3 s would be clicks, and whole views none."""
    form = AnswerForm(PLACES)
    count = 2_000
    limits = torch.as_tensor(thresholds(np.resize(DURATIONS, count))).double()
    out = outputs(count)
    out[:, 2], out[:, 3], out[:, 4], out[:, 5] = -40, 40, -40, 40
    binary, watch = (part.numpy() for part in form.probabilities(out, limits))
    answers = AnswerDistribution(binary, watch, form.values(limits).numpy())
    signals = sample_signals(answers, np.random.default_rng(0).random((count, NUM_UNIFORMS)))
    played = signals[:, [SIGNALS.index("watch_ratio")]] >= limits.numpy() - 1e-6
    said = signals[:, [SIGNALS.index("click"), SIGNALS.index("long_view")]] == 1
    np.testing.assert_array_equal(played, said)


def test_bins_are_of_the_training_rows() -> None:
    """A bin would be empty, so that its share could not be learnt, or its value be off."""
    rng = np.random.default_rng(0)
    place = np.where(rng.random(5_000) < 0.3, 0.0, rng.random(5_000))
    segment = rng.integers(2, size=5_000)  # none is a long view
    edges, means = fit_bins(segment, place)
    for number in range(2):
        own = place[segment == number]
        found = np.searchsorted(edges[number], own)
        counts = np.bincount(found, minlength=len(means[number]))
        assert counts.min() > 0
        assert np.dot(counts, means[number]) == pytest.approx(own.sum())
    assert means[2] == [1.0]

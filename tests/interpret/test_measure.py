"""Every measure of explanations together: what the evaluation, the terminal and the page show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from noetik_rllib.cli.interpretability_tables import (
    faithfulness_table,
    interpretability_remarks,
)
from noetik_rllib.data.signals import BINARY_SIGNALS
from noetik_rllib.data.world import SyntheticWorld
from noetik_rllib.errors import NoEvidenceError
from noetik_rllib.evaluation.comparison import held_out_starts
from noetik_rllib.evaluation.result import Interval
from noetik_rllib.interpret.attribution import Attributor
from noetik_rllib.interpret.baseline import Baseline
from noetik_rllib.interpret.decisions import first_choices
from noetik_rllib.interpret.faithfulness import FaithfulnessResult
from noetik_rllib.interpret.measure import (
    InterpretabilityResult,
    concentration,
    explained_decisions,
    interpretability,
)
from noetik_rllib.interpret.scores import MarginScore
from noetik_rllib.interpret.truth import precision_at, true_causes, truth
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.dataset import OfflineDataset
from noetik_rllib.report.faithfulness_plots import faithfulness_plots
from noetik_rllib.report.interpretability_sections import verdict
from noetik_rllib.runs import Run
from tests.interpret.test_describe import attribution as made_attribution


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> OfflineDataset:
    return OfflineDataset(tiny_dataset)


@pytest.fixture(scope="module")
def networks(untrained_run: Run) -> IQLNetworks:
    return untrained_run.networks()


@pytest.fixture(scope="module")
def states(dataset: OfflineDataset) -> tuple[np.ndarray, np.ndarray]:
    starts = held_out_starts(dataset, 100, 1, 0)
    return starts.states, starts.user_id


@pytest.fixture(scope="module")
def result(
    networks: IQLNetworks,
    dataset: OfflineDataset,
    states: tuple[np.ndarray, np.ndarray],
    tiny_world: Path,
) -> InterpretabilityResult:
    return interpretability(networks, dataset, *states, seed=0, world=tiny_world)


def test_everything_is_measured_and_can_be_saved(result: InterpretabilityResult) -> None:
    """Otherwise metrics.json holds other figures than were measured, or lacks a kind."""
    again = InterpretabilityResult.model_validate_json(result.model_dump_json())
    assert again == result
    assert result.completeness.share_complete == 1.0
    assert result.truth is not None
    orders = {"random", "reasons", "attribution", "gradient", "gradient_times_input"}
    assert set(result.faithfulness.orders) == orders | {"attention", "raw_attention"}
    named = set(result.truth.causes["same_taste"].precision)
    assert named == {*result.faithfulness.orders, "best"}
    # 16 events, all of them in the world's window: one kind of cause.
    assert list(result.truth.causes) == ["same_taste"]
    assert sum(share.mean for share in result.sources.values()) == pytest.approx(1.0)
    assert 0 < result.concentration.top_share.mean <= 1
    assert 1 <= result.concentration.effective_events.mean <= 16
    assert 0 <= result.concentration.attention_entropy.mean <= 1


def test_shares_are_those_of_their_source(
    networks: IQLNetworks, dataset: OfflineDataset, states: tuple[np.ndarray, np.ndarray]
) -> None:
    """Otherwise the profile's influence is told as the situation's."""
    decisions, user_id, present = explained_decisions(networks, dataset, *states)
    attributor = Attributor(MarginScore(networks), Baseline.from_dataset(dataset))
    found = attributor.attribute(decisions)
    result = interpretability(networks, dataset, *states, seed=1)
    for name, part in (
        ("history", found.events),
        ("profile", found.user),
        ("situation", found.context),
    ):
        share = np.abs(part).sum(axis=1) / found.total
        assert result.sources[name].mean == pytest.approx(share.mean(), rel=1e-3)
    assert len(user_id) == len(present) == result.decisions


def test_the_same_seed_gives_the_same_measures(
    result: InterpretabilityResult,
    networks: IQLNetworks,
    dataset: OfflineDataset,
    states: tuple[np.ndarray, np.ndarray],
) -> None:
    """Otherwise nobody can get these figures again."""
    again = interpretability(networks, dataset, *states, seed=0)
    for field in ("faithfulness", "infidelity", "sensitivity", "randomisation"):
        assert getattr(again, field) == getattr(result, field), field
    assert again.truth is None


def test_histories_without_events_have_no_evidence(
    networks: IQLNetworks, dataset: OfflineDataset, states: tuple[np.ndarray, np.ndarray]
) -> None:
    """Otherwise a log of newcomers stops an evaluation with a traceback."""
    empty = states[0].copy()
    empty[:, dataset.layout.history] = 0
    with pytest.raises(NoEvidenceError, match="3 events in their history"):
        interpretability(networks, dataset, empty, states[1], seed=0)


def test_causes_are_those_of_the_worlds_equations(
    networks: IQLNetworks,
    dataset: OfflineDataset,
    states: tuple[np.ndarray, np.ndarray],
    tiny_world: Path,
) -> None:
    """Otherwise attributions are praised for finding something else than the truth."""
    world = SyntheticWorld.load(tiny_world)
    decisions = first_choices(networks, states[0])
    causes = true_causes(world, dataset, decisions, states[1])
    parts = dataset.layout.unpack(decisions.states)
    ids = dataset.catalog.video_id
    click = BINARY_SIGNALS.index("click")
    for row in range(len(decisions)):
        video = int(decisions.videos[row])
        tags = set(dataset.catalog.tags_of(video))
        past = [int(index) for index in parts.video_index[row] if index >= 0]
        same = [bool(tags & set(dataset.catalog.tags_of(index))) for index in past]
        # The dataset knows only tags that occur in training.
        assert not (np.array(same) & ~causes["same_taste"][row, : len(past)]).any()
        assert not causes["same_taste"][row, len(past) :].any()
        # Taking an event away changes the true answer exactly where it is a reaction.
        if row < 10 and past:
            user = np.array([states[1][row]])
            shown = ids[np.array([video])]
            videos = ids[np.array(past)][None]
            clicks = parts.feedback[row, : len(past), click][None] > 0

            def answer(
                without: int | None,
                user: np.ndarray = user,
                shown: np.ndarray = shown,
                videos: np.ndarray = videos,
                clicks: np.ndarray = clicks,
            ) -> list[float]:
                kept = videos.copy()
                if without is not None:
                    kept[0, without] = -1
                return [float(x[0]) for x in world.response(user, shown, kept, clicks).values()]

            moved = [answer(None) != answer(slot) for slot in range(len(past))]
            assert causes["reactions"][row, : len(past)].tolist() == moved
            # 16 events, all of them in the world's window: the two kinds are the same.
            assert causes["same_taste"][row, : len(past)].tolist() == moved


def test_precision_counts_the_first_three() -> None:
    """Otherwise ties, short histories or empty slots change what is counted."""
    present = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], dtype=bool)
    cause = np.array([[1, 0, 1, 0, 1], [0, 1, 1, 0, 0]], dtype=bool)
    order = np.array([[0.1, 0.9, 0.5, 0.4, 9.0], [1.0, 2.0, 9.0, 9.0, 9.0]])
    np.testing.assert_allclose(precision_at(order, cause, present), [1 / 3, 1 / 2])
    alike = np.zeros_like(order)  # by slot: the newest three
    np.testing.assert_allclose(precision_at(alike, cause, present), [2 / 3, 1 / 2])


def test_chance_finds_the_share_of_causes() -> None:
    """Otherwise "twice as good as random" compares with something else than random.

    The mean over 4,000 random orders is within 4 standard errors in all but 1 of 10,000 runs.
    """
    rng = np.random.default_rng(0)
    present = np.arange(12) < rng.integers(3, 13, size=4_000)[:, None]
    cause = present & (rng.random(present.shape) < 0.4)
    orders = {"attribution": cause.astype(float), "chance": rng.random(present.shape)}
    found = truth(orders, {"x": cause}, present, seed=0).causes["x"]
    rows = cause.any(axis=1)  # a history without a cause says nothing
    best = np.minimum(cause.sum(axis=1), 3) / np.minimum(present.sum(axis=1), 3)
    assert found.decisions == rows.sum()
    assert found.precision["attribution"].mean == pytest.approx(best[rows].mean())
    gap = found.precision["chance"].mean - found.precision["random"].mean
    error = (found.precision["chance"].high - found.precision["chance"].low) / 4
    assert abs(gap) < 4 * error
    assert found.difference["chance"].low > 0


def test_concentration_is_by_hand() -> None:
    """Otherwise "three events carry it" is another share."""
    made = made_attribution(event_0=4.0, event_1=-3.0, event_2=2.0, event_3=1.0)
    present = np.ones((1, 4), dtype=bool)
    attention = np.full((1, 4), 0.25)
    found = concentration(made, attention, present, seed=0)
    assert found.top_share.mean == pytest.approx(0.9)
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    assert found.effective_events.mean == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert found.attention_entropy.mean == pytest.approx(1.0)


def test_the_terminal_shows_every_order(result: InterpretabilityResult) -> None:
    """Otherwise the command keeps what was measured to itself."""
    console = Console(width=100, record=True)
    console.print(faithfulness_table(result))
    text = console.export_text()
    for name in ("random order", "effects, by size", "size of gradients", "raw attention"):
        assert name in text
    ours = result.faithfulness.orders["reasons"]
    assert f"{ours.comprehensiveness.mean:.2f}" in text
    said = interpretability_remarks(result)
    last = list(result.randomisation.stages.values())[-1]
    assert f"correlate with the policy's by {last.size:.2f} on average" in said
    assert f"As they are: {result.unscaled_infidelity['attribution']:.2f}" in said


def _with_gains(result: InterpretabilityResult, low: float, high: float) -> InterpretabilityResult:
    gain = Interval(mean=(low + high) / 2, low=low, high=high)
    faithful = result.faithfulness
    ours = faithful.orders["reasons"].model_copy(
        update={"comprehensiveness_gain": gain, "sufficiency_gain": gain}
    )
    changed: FaithfulnessResult = faithful.model_copy(
        update={"orders": faithful.orders | {"reasons": ours}}
    )
    return result.model_copy(update={"faithfulness": changed})


def test_the_page_says_what_the_intervals_say(result: InterpretabilityResult) -> None:
    """Otherwise the page calls explanations faithful whatever was measured."""
    said = {
        (0.1, 0.3): "Explanations name what",
        (-0.1, 0.3): "It is not certain",
        (-0.3, -0.1): "Explanations do not name",
    }
    for (low, high), opening in said.items():
        assert verdict(_with_gains(result, low, high))[0].startswith(opening)


def test_plots_say_their_numbers(result: InterpretabilityResult) -> None:
    """Otherwise those who cannot see the plots are told nothing, or something else."""
    plots = faithfulness_plots(result)
    assert len(plots) == 3
    curve = result.faithfulness.orders["reasons"].deletion_curve
    assert f"effects, by size {curve[0].mean:.2f}" in plots[0].svg
    assert result.truth is not None
    value = result.truth.causes["same_taste"].precision["attention"]
    assert f"same taste, attention {value.mean:.0%}" in plots[2].svg

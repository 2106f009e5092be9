"""Curves of what a policy reads: their values are known by hand, their intervals by simulation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from noetik_rllib.data.mapping import LogFiles, kuairand
from noetik_rllib.evaluation.groups import Groups
from noetik_rllib.interpret.attention import event_attention_of
from noetik_rllib.interpret.attribution import Attributor
from noetik_rllib.interpret.behaviour_curves import BehaviourCurves, UserCurves, behaviour_curves
from noetik_rllib.interpret.decisions import Decisions
from noetik_rllib.interpret.event_kinds import event_kinds
from noetik_rllib.interpret.rank_correlation import spearman_of_rows
from noetik_rllib.interpret.scores import MarginScore
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.offline.catalog import Catalog
from noetik_rllib.state import (
    AGE,
    CONTEXT_SIZE,
    EVENT_SIZE,
    FEEDBACK,
    USER_SIZE,
    VIDEO,
    WATCH_RATIO,
    StateLayout,
    feedback_bits,
)
from tests.interpret import planted

#: Video 0 is what is recommended: tag 0, author 0. With tag ``v % 12``, 12 shares its tag.
SAME_TAG, OTHER, SAME_AUTHOR = 12, 5, 7
LAYOUT = StateLayout(4)


def catalog() -> Catalog:
    """That of ``planted``, of which video 7 has the author of video 0, 12 and 3 have none."""
    made = planted.catalog()
    author = made.author_id.copy()
    author[SAME_AUTHOR] = author[0]
    author[[3, SAME_TAG]] = -1
    return replace(made, author_id=author)


def states_of(histories: list[list[int]], layout: StateLayout = LAYOUT) -> np.ndarray:
    """States whose past videos are given, newest first, an hour apart and half watched."""
    events = np.zeros((len(histories), layout.history_length, EVENT_SIZE), dtype=np.float32)
    for row, videos in enumerate(histories):
        for slot, video in enumerate(videos):
            events[row, slot, [VIDEO, WATCH_RATIO, AGE]] = (
                video + 1,
                0.5,
                np.log1p(3600.0 * slot + 30),
            )
    count = len(histories)
    return layout.pack(np.zeros((count, USER_SIZE)), events, np.zeros((count, CONTEXT_SIZE)))


def measured(
    states: np.ndarray, attention: np.ndarray, attribution: np.ndarray, **changes: Any
) -> BehaviourCurves | None:
    """Curves of one state per user, all of one group, video 0 recommended, unless changed."""
    user_id = np.arange(len(states))
    arguments: dict[str, Any] = {
        "user_id": user_id,
        "recommended": np.zeros(len(states), dtype=np.int64),
        "layout": LAYOUT,
        "catalog": catalog(),
        "groups": Groups(("all",), user_id, np.zeros(len(states), dtype=np.int64), user_id),
        "seed": 0,
        **changes,
    }
    return behaviour_curves(
        states=states, attention=attention, attribution=attribution, **arguments
    )


def everyone(*given: Any, **changes: Any) -> UserCurves:
    found = measured(*given, **changes)
    assert found is not None
    return found.everyone


def means(curves: UserCurves, curve: str, measure: str) -> dict[str, float]:
    """Kind of event -> mean."""
    return {kind: one.metrics[measure].mean for kind, one in curves.curves[curve].items()}


def random_case(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States of 0 to 4 random events, attention and attributions."""
    lengths = rng.integers(0, 5, size=count)
    states = states_of([rng.integers(1, planted.VIDEOS, size=n).tolist() for n in lengths])
    present = LAYOUT.unpack(states).present
    return states, rng.random((count, 4)) * present, rng.normal(size=(count, 4)) * present


def test_even_reading_is_1_everywhere() -> None:
    """The scale would not be what the plots call it, times an even share."""
    states = states_of([[SAME_TAG, OTHER, OTHER], [OTHER, SAME_AUTHOR, SAME_TAG, OTHER]])
    present = LAYOUT.unpack(states).present
    even = present / present.sum(axis=1, keepdims=True)
    found = everyone(states, even, -3.0 * present)
    assert (found.users, found.states) == (2, 2)
    for curve in found.curves:
        for measure in ("attention", "attribution"):
            np.testing.assert_allclose(list(means(found, curve, measure).values()), 1.0)
    # The same for all events: nothing to rank.
    assert found.correlation is None


def test_curves_of_known_reading() -> None:
    """A formula would be another than the documented one: all by hand.

    One user with two states, another with one; attention goes to events of the same tag alone.
    """
    states = states_of(
        [[SAME_TAG, OTHER, OTHER], [OTHER, SAME_TAG], [SAME_TAG, SAME_TAG, OTHER, OTHER]]
    )
    attention = np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0.5, 0.5, 0, 0]])
    attribution = np.array([[-1.0, 2, 1, 0], [3, 1, 0, 0], [1, -2, 3, -4]])
    user_id = np.array([1, 1, 2])
    groups = Groups(("few", "many"), np.array([1, 2]), np.array([1, 0]), np.array([2, 1]))
    result = measured(states, attention, attribution, user_id=user_id, groups=groups)
    assert result is not None
    found = result.everyone
    # 3 events / 1 read, 2 / 1, and 4 / 2 twice; no other event gets anything.
    assert means(found, "relation", "attention") == {
        "same tag": pytest.approx((3 + 2 + 2 + 2) / 4),
        "neither": 0.0,
    }
    # Absolute: 1/4 of three, 1/4 of two, 1/10 and 2/10 of four; the rest is the others'.
    assert means(found, "relation", "attribution") == {
        "same tag": pytest.approx((0.75 + 0.5 + 0.4 + 0.8) / 4),
        "neither": pytest.approx((1.5 + 0.75 + 1.5 + 1.2 + 1.6) / 5),
    }
    assert means(found, "recency", "attention") == {
        "1": pytest.approx((3 + 0 + 2) / 3),
        "2": pytest.approx((0 + 2 + 2) / 3),
        "3": 0.0,
        "4": 0.0,
    }
    point = found.curves["relation"]["same tag"]
    assert (point.rows, point.users) == (4, 2)
    # By user: 5 of 2 events and 4 of 2, so resamples have 2.5, 2.25 or 2.
    interval = point.metrics["attention"]
    assert (interval.low, interval.high) == (2.0, 2.5)
    # A group's figures are those of its users alone.
    alone = measured(states[:2], attention[:2], attribution[:2], user_id=user_id[:2], groups=groups)
    assert alone is not None
    assert set(result.groups) == {"few", "many"}
    assert alone.groups == {"many": result.groups["many"]}
    assert alone.everyone == result.groups["many"]
    # Correlations of the two states with three events or more, both of different users.
    expected = [spearmanr(attention[0, :3], [1, 2, 1])[0], spearmanr(attention[2], [1, 2, 3, 4])[0]]
    assert found.correlation is not None
    assert found.correlation.mean == pytest.approx(np.mean(expected))
    assert BehaviourCurves.model_validate_json(result.model_dump_json()) == result


def test_the_mean_over_all_events_is_1_whatever_is_read() -> None:
    """Points of a curve would not balance each other: more here must be less elsewhere."""
    found = everyone(*random_case(np.random.default_rng(0), 300))
    for curve, points in found.curves.items():
        rows = np.array([one.rows for one in points.values()])
        for measure in ("attention", "attribution"):
            mean = np.average(list(means(found, curve, measure).values()), weights=rows)
            assert mean == pytest.approx(1.0), curve


def test_the_order_of_states_does_not_matter() -> None:
    """The same decisions in another order would give other curves, or other intervals."""
    rng = np.random.default_rng(1)
    case = random_case(rng, 80)
    user_id = rng.integers(0, 30, size=80)
    groups = Groups(("a", "b"), np.arange(30), np.arange(30) % 2, np.arange(30))
    order = rng.permutation(80)
    first = measured(*case, user_id=user_id, groups=groups)
    other = measured(*(part[order] for part in case), user_id=user_id[order], groups=groups)
    assert first is not None
    assert other is not None
    assert numbers(first) == pytest.approx(numbers(other))


def numbers(curves: BehaviourCurves) -> list[float]:
    """Every number of all curves, in order."""
    found: list[float] = []
    for some in (curves.everyone, *curves.groups.values()):
        assert some.correlation is not None
        found += some.correlation.model_dump().values()
        for points in some.curves.values():
            for point in points.values():
                found += [point.users, point.rows]
                for interval in point.metrics.values():
                    found += interval.model_dump().values()
    return found


def test_states_with_nothing_to_share_do_not_count() -> None:
    """Users without a history would be read evenly, and a single event always so."""
    states = states_of([[], [SAME_TAG], [SAME_TAG, OTHER], [SAME_TAG, OTHER]])
    attention = np.array([[0.0, 0, 0, 0], [1, 0, 0, 0], [0.5, 0.5, 0, 0], [1, 0, 0, 0]])
    attribution = np.array([[0.0, 0, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0], [1, 3, 0, 0]])
    result = measured(states, attention, attribution)
    assert result is not None
    assert (result.everyone.users, result.everyone.states) == (1, 1)
    assert means(result.everyone, "relation", "attention") == {"same tag": 2.0, "neither": 0.0}
    assert measured(states[:3], attention[:3], attribution[:3]) is None


def test_intervals_cover_the_truth() -> None:
    """Intervals would promise more than they hold. 60 users with 1 to 3 states of two events; a
    user's attention to the one of the same tag is Beta(2, 3), to the other the rest, and so,
    independently, are the attributions: the truth is 2 x 0.4 and 2 x 0.6. 150 times two intervals.
    A 95 % percentile interval of 60 users covers some 94 %; the band is 3.5 standard errors (1.4 %)
    around that, so chance fails it once in 2,000 seeds, and this seed is fixed.
    """
    rng = np.random.default_rng(2)
    covered = []
    for repetition in range(150):
        user_id = np.repeat(np.arange(60), rng.integers(1, 4, size=60))
        share = rng.beta(2, 3, size=(60, 2))[user_id]
        nothing = np.zeros_like(share)
        states = states_of([[SAME_TAG, OTHER]] * len(user_id))
        attention, attribution = (np.column_stack([part, 1 - part, nothing]) for part in share.T)
        found = everyone(
            states,
            attention,
            attribution,
            user_id=user_id,
            seed=repetition,
            groups=Groups(("all",), np.arange(60), np.zeros(60, dtype=np.int64), np.ones(60)),
        )
        for interval in found.curves["relation"]["same tag"].metrics.values():
            covered.append(interval.low <= 0.8 <= interval.high)
    assert 0.89 <= np.mean(covered) <= 0.99


def test_every_event_is_of_the_kind_that_its_numbers_say() -> None:
    """An event at an edge, or of unknown author, would be counted among others."""
    layout = StateLayout(6)
    states = states_of([[SAME_TAG, SAME_AUTHOR, OTHER, 3, 0, SAME_TAG]] * 2, layout)
    events = layout.unpack(states).events.copy()
    events[..., AGE] = np.log1p([59.9, 60, 600, 3600, 86_400, 604_800]).astype(np.float32)
    events[..., WATCH_RATIO] = np.array([0.0, 0.01, 0.1, 0.5, 0.9, 1.0], dtype=np.float32)
    events[:, 2:, FEEDBACK] = feedback_bits(np.ones(8), unchosen=True)
    states = layout.pack(np.zeros((2, USER_SIZE)), events, np.zeros((2, CONTEXT_SIZE)))
    log = kuairand().log
    kinds = event_kinds(states, np.array([0, 15]), layout, catalog(), log)
    said = {
        name: [[some.names[kind] for kind in row] for row in some.kind]
        for name, some in kinds.items()
    }
    assert said["recency"] == [["1", "2", "3", "4 to 5", "4 to 5", "6"]] * 2
    assert said["age"][0] == [
        "under 1 min",
        "1 to 10 min",
        "10 to 60 min",
        "1 to 24 h",
        "1 to 7 days",
        "over 7 days",
    ]
    assert said["watched"][0] == ["0%", "under 10%", "10 to 50%", "50 to 90%", "over 90%", "100%"]
    # Video 0 is of author and tag of itself; two unknown authors are not the same.
    assert said["relation"][0] == [
        "same tag",
        "same author",
        "neither",
        "neither",
        "same author",
        "same tag",
    ]
    assert said["relation"][1] == [
        "neither",
        "neither",
        "neither",
        "same tag",
        "neither",
        "neither",
    ]
    assert said["exposure"][0] == ["chosen"] * 2 + ["random"] * 4


@pytest.mark.parametrize("slots", [1, 2, 4, 16, 50, 1024])
def test_recency_names_every_slot(slots: int) -> None:
    """A history of another length would have slots under a wrong name."""
    layout = StateLayout(slots)
    states = np.zeros((1, layout.size), dtype=np.float32)
    kinds = event_kinds(states, np.zeros(1, dtype=np.int64), layout, catalog(), kuairand().log)
    recency = kinds["recency"]
    for slot, kind in enumerate(recency.kind[0]):
        ends = recency.names[kind].split(" to ")
        assert int(ends[0]) <= slot + 1 <= int(ends[-1])
    assert recency.names[-1].split(" to ")[-1] == str(slots)


def test_a_log_without_clock_or_watched_share_has_no_such_curve() -> None:
    """Steps would be called minutes, and a rating a watched share."""
    states, attention, attribution = random_case(np.random.default_rng(3), 20)
    given = kuairand().log.model_dump()
    steps = LogFiles.model_validate({**given, "time": {**given["time"], "unit": "step"}})
    assert "age" not in everyone(states, attention, attribution, log=steps).curves
    rated = LogFiles.model_validate({**given, "meanings": {"watch_ratio": "rated it"}})
    assert "watched" not in everyone(states, attention, attribution, log=rated).curves


def test_what_does_not_fit_is_refused() -> None:
    """Another run's numbers would be averaged with this one's states."""
    states, attention, attribution = random_case(np.random.default_rng(4), 5)
    with pytest.raises(ValueError, match="expected attribution of shape"):
        measured(states, attention, attribution[:, :3])
    with pytest.raises(ValueError, match="in no group"):
        measured(states, attention, attribution, user_id=np.arange(5) + 1)


def test_rank_correlation_is_that_of_each_row() -> None:
    """Empty slots would be ranked too, or ties would be ranked by their place."""
    rng = np.random.default_rng(5)
    first, second = rng.integers(0, 4, size=(2, 200, 8)).astype(float)
    present = np.arange(8) < rng.integers(0, 9, size=200)[:, None]
    got = spearman_of_rows(first, second, present)
    for row in range(200):
        own = present[row]
        known = own.sum() > 2 and np.ptp(first[row, own]) and np.ptp(second[row, own])
        expected = spearmanr(first[row, own], second[row, own])[0] if known else np.nan
        assert got[row] == pytest.approx(expected, nan_ok=True)
    assert 0 < np.isnan(got).sum() < 150


def test_a_planted_cause_is_seen_in_the_curves(planted_policy: IQLNetworks) -> None:
    """Curves would not show what drives a policy: this one follows the one event of the same tag
    among 3 to 8, which should get most of the attribution.
    """
    sample = planted.draw(np.random.default_rng(6), 100)
    attribution = Attributor(MarginScore(planted_policy), planted.BASELINE).attribute(
        Decisions(sample.states, sample.target)
    )
    found = everyone(
        sample.states,
        event_attention_of(planted_policy, sample.states),
        attribution.events,
        recommended=sample.target,
        layout=planted.LAYOUT,
        catalog=planted.catalog(),
    )
    relation = found.curves["relation"]
    same, neither = (relation[kind].metrics["attribution"] for kind in ("same tag", "neither"))
    assert same.low > 2.5
    assert neither.high < 0.7

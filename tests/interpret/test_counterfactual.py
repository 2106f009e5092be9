"""What skipping a video would do, and what is told of both counterfactuals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from noetik_rllib.data.mapping import kuairand
from noetik_rllib.data.signals import BINARY_SIGNALS
from noetik_rllib.interpret.counterfactual import (
    CounterfactualFinder,
    skipped,
    slot_to_skip,
    watched,
)
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.state import AGE, VIDEO, WATCH_RATIO, feedback_bits
from tests.interpret import planted

LAYOUT = planted.LAYOUT
LOG = kuairand().log


def bits(*names: str, unchosen: bool = False) -> float:
    given = np.array([name in names for name in BINARY_SIGNALS], dtype=np.float32)
    return float(feedback_bits(given, unchosen))


def state_of(*events: tuple[float, float]) -> np.ndarray:
    """A state of events (watch ratio, feedback) of videos 0, 1, ..., newest first."""
    slots = np.zeros((1, LAYOUT.history_length, 4), dtype=np.float32)
    for slot, (ratio, feedback) in enumerate(events):
        slots[0, slot] = (slot + 1, ratio, feedback, slot + 1.0)
    return LAYOUT.pack(np.ones((1, 32)), slots, np.full((1, 32), 0.5))[0]


def test_a_skip_leaves_the_exposure_as_it_was() -> None:
    """Fails if a skip also makes the video older, chosen, another, or better liked than before."""
    before = state_of((0.7, bits("click", "like", "hate", unchosen=True)), (0.9, bits("click")))
    after = skipped(LAYOUT, before, 0)
    parts, changed = LAYOUT.unpack(before[None]), LAYOUT.unpack(after[None])
    assert changed.events[0, 0, WATCH_RATIO] == 0
    given = dict(zip(BINARY_SIGNALS, changed.feedback[0, 0], strict=True))
    assert {name for name, bit in given.items() if bit} == {"hate"}
    assert changed.unchosen[0, 0]
    for field in (VIDEO, AGE):
        assert changed.events[0, 0, field] == parts.events[0, 0, field]
    np.testing.assert_array_equal(changed.events[0, 1:], parts.events[0, 1:])
    np.testing.assert_array_equal(after[LAYOUT.user], before[LAYOUT.user])
    np.testing.assert_array_equal(after[LAYOUT.context], before[LAYOUT.context])
    assert before[LAYOUT.history.start + WATCH_RATIO] == np.float32(0.7), "the state was edited"


def test_what_counts_as_a_skip() -> None:
    """Fails if "had they skipped" is said of what was skipped, or an answer is not seen as one."""
    state = state_of(
        (0.05, bits("like")),  # its words are "they skipped ..., 5.0% into it, and liked it"
        (0.05, bits("click")),
        (0.1, bits()),
        (0.0, bits("hate", unchosen=True)),
    )
    assert watched(LAYOUT, state, LOG)[:5].tolist() == [False, True, True, False, False]
    answers = LOG.model_copy(update={"signals": {"click": "clicked", "like": "liked"}})
    state = state_of((0.0, bits("like")), (0.0, bits("click")), (0.0, bits()), (0.0, bits("hate")))
    assert watched(LAYOUT, state, answers)[:5].tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("seen", "attribution", "expected"),
    [
        ([1, 1, 1], [0.1, 0.3, 0.2], 1),
        ([1, 0, 1], [0.1, 0.3, 0.2], 2),  # what speaks most was skipped already
        ([0, 1, 1], [0.3, -0.2, -0.1], 1),  # nothing watched speaks for it: the newest watched
        ([0, 0, 0], [0.1, 0.3, 0.2], None),
    ],
)
def test_the_event_to_skip(seen: list[int], attribution: list[float], expected: int | None) -> None:
    """Fails if the question is asked of another event than the strongest reason."""
    assert slot_to_skip(np.array(seen, dtype=bool), np.array(attribution)) == expected


def test_a_skips_numbers_are_the_policys() -> None:
    """Fails if the margin, the probability or what comes instead is of another decision."""
    networks = planted.untrained()
    finder = CounterfactualFinder(networks, networks.actor.embed_catalogue(networks.features))
    replaced = 0
    for state in planted.draw(np.random.default_rng(7), 40).states:
        seen = LAYOUT.unpack(state[None]).video_index[0]
        seen = seen[seen >= 0]
        edited = skipped(LAYOUT, state, 1)
        with torch.no_grad():
            before, after = (
                networks.actor(networks.features, torch.as_tensor(one)[None])[0].double().numpy()
                for one in (state, edited)
            )
        margins = [logits - logits.mean() for logits in (before, after)]
        for logits in (before, after):
            logits[seen] = -np.inf
        videos = np.argsort(-before, kind="stable")[:3].tolist()
        then = np.argsort(-after, kind="stable").tolist()
        weights = np.exp(after - after.max())
        found = finder.find(state, videos, seen, [1, None, 1])
        assert found[1].skip is None
        for rank in (1, 3):
            video, skip = videos[rank - 1], found[rank - 1].skip
            assert skip is not None
            assert skip.slot == 1
            change = margins[1][video] - margins[0][video]
            assert skip.margin_change == pytest.approx(change, abs=1e-4)
            assert skip.probability == pytest.approx(weights[video] / weights.sum(), rel=1e-3)
            new = [one for one in then[:rank] if one not in videos[:rank]]
            assert skip.becomes == (None if video in then[:rank] else new[0])
            replaced += skip.becomes is not None
    assert replaced, "no case was replaced"


def test_skipping_the_planted_cause_changes_the_choice(planted_policy: IQLNetworks) -> None:
    """Fails if a skip leaves a like behind: where the cause is known, without it all is open.

    Without the cause the policy chooses among some 20 videos: 5 % may be the same by chance, and
    over 75 % must not be, which 30 cases miss less than once in 10,000 times.
    """
    networks = planted_policy
    finder = CounterfactualFinder(networks, networks.actor.embed_catalogue(networks.features))
    sample = planted.draw(np.random.default_rng(8), 60)
    replaced = []
    for state, slot, target in zip(*sample, strict=True):
        with torch.no_grad():
            logits = networks.actor(networks.features, torch.as_tensor(state)[None])[0]
        seen = LAYOUT.unpack(state[None]).video_index[0]
        logits[seen[seen >= 0]] = -torch.inf
        if int(logits.argmax()) == target:
            (found,) = finder.find(state, [int(target)], seen[seen >= 0], [int(slot)])
            assert found.skip is not None
            replaced.append(found.skip.becomes is not None)
            assert found.skip.margin_change < 0 or not replaced[-1]
    assert len(replaced) > 30
    assert np.mean(replaced) > 0.75

"""A removal changes the choice, none of its events can stay, and the smallest is the smallest.

Everything is recomputed from scratch by another path: slots of the state are zeroed, and the whole
catalogue is ranked by the actor's own ``forward``.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from noetik_rllib.interpret.removal import TOKENS_TO_TRY, Choices, RemovalSearch, Search
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.state import AGE, EVENT_SIZE, VIDEO, StateLayout
from tests.interpret import planted

#: Leads nearer to 0 are decided by the order in which floating-point numbers are added up.
TIE = 1e-4


@pytest.fixture(scope="module")
def networks() -> IQLNetworks:
    """Random networks, in which events also differ in what they weigh in the history's mean."""
    networks = planted.untrained()
    torch.nn.init.normal_(networks.actor.encoder.weigh.weight, std=2.0)
    return networks


def parts_of(state: np.ndarray, layout: StateLayout) -> tuple[np.ndarray, np.ndarray]:
    """The slots that are taken, and the videos in them."""
    parts = layout.unpack(state[None])
    return np.flatnonzero(parts.present[0]), parts.video_index[0][parts.present[0]]


def scores(
    networks: IQLNetworks, state: np.ndarray, without: tuple[int, ...], seen: np.ndarray
) -> np.ndarray:
    """Logits (N,) without the events of some slots; -inf for what is no candidate."""
    layout, edited = networks.actor.encoder.layout, state.copy()
    for slot in without:
        first = layout.history.start + EVENT_SIZE * slot
        edited[first : first + EVENT_SIZE] = 0
    with torch.no_grad():
        logits = networks.actor(networks.features, torch.as_tensor(edited)[None])[0].double()
    logits[seen] = -np.inf
    return logits.numpy()


def lead(logits: np.ndarray, video: int, rank: int) -> float:
    """Logit of a video minus the best that would push it out of the first ``rank``."""
    others = np.delete(logits, video)
    return float(logits[video] - np.sort(others)[::-1][rank - 1])


def search(
    networks: IQLNetworks,
    state: np.ndarray,
    count: int,
    tokens_to_try: int = TOKENS_TO_TRY,
) -> tuple[list[int], np.ndarray, list[Search]]:
    """The first ``count`` choices, what is no candidate, and the searches of the choices."""
    actor, features = networks.actor, networks.features
    _, videos = parts_of(state, actor.encoder.layout)
    seen = np.unique(videos)
    order = np.argsort(-scores(networks, state, (), seen), kind="stable")
    chosen = order[: min(count, len(order) - len(seen))].tolist()
    catalogue = actor.embed_catalogue(features)
    choices = Choices(actor, catalogue, chosen, torch.as_tensor(seen))
    with torch.no_grad():
        tokens = actor.encoder.embed(features, torch.as_tensor(state)[None])
    return chosen, seen, RemovalSearch(choices, tokens, tokens_to_try).run()


def check(
    networks: IQLNetworks, state: np.ndarray, chosen: list[int], seen: np.ndarray, found: Search
) -> None:
    """A removal changes the choice; put back any of its events, and it stays."""
    removal, video = found.removal, chosen[found.rank - 1]
    assert removal is not None
    assert list(removal.slots) == sorted(set(removal.slots))
    logits = scores(networks, state, removal.slots, seen)
    assert lead(logits, video, found.rank) < TIE, "the removal does not change the choice"
    order = np.argsort(-logits, kind="stable")[: found.rank].tolist()
    newcomers = [one for one in order if one not in chosen[: found.rank]]
    assert logits[removal.becomes] >= logits[newcomers].max() - TIE
    for slot in removal.slots:
        fewer = tuple(one for one in removal.slots if one != slot)
        again = lead(scores(networks, state, fewer, seen), video, found.rank)
        assert again > -TIE, f"slot {slot} is not needed"


def smallest(
    networks: IQLNetworks, state: np.ndarray, video: int, rank: int, seen: np.ndarray
) -> tuple[int | None, int | None, dict[int, float]]:
    """Size of the smallest removal, by trying all: for certain, and if ties counted as changed.

    And the lowest lead that is left by sets of each size.
    """
    slots, _ = parts_of(state, networks.actor.encoder.layout)
    sizes: dict[float, int] = {}
    lowest: dict[int, float] = {}
    for size in range(1, len(slots) + 1):
        for gone in combinations(slots.tolist(), size):
            value = lead(scores(networks, state, gone, seen), video, rank)
            lowest[size] = min(value, lowest.get(size, np.inf))
            for edge in (-TIE, TIE):
                if value < edge:
                    sizes.setdefault(edge, size)
    return sizes.get(-TIE), sizes.get(TIE), lowest


@pytest.mark.parametrize("tokens_to_try", [TOKENS_TO_TRY, 0])
def test_removals_are_true_and_the_smallest_where_they_say_so(
    networks: IQLNetworks, tokens_to_try: int
) -> None:
    """Fails if a removal changes nothing, is larger than needed, or wrongly said to be smallest.

    Without tokens to try, sets of more than one event come from the search that removes one after
    the other.
    """
    sizes = []
    for state in planted.draw(np.random.default_rng(5), 12).states:
        slots, _ = parts_of(state, planted.LAYOUT)
        state[planted.LAYOUT.history.start + EVENT_SIZE * 6 : planted.LAYOUT.history.stop] = 0
        slots = slots[slots < 6]
        chosen, seen, searches = search(networks, state, 3, tokens_to_try)
        for found in searches:
            video = chosen[found.rank - 1]
            surely, perhaps, lowest = smallest(networks, state, video, found.rank, seen)
            if found.removal is None:
                if tokens_to_try:
                    assert surely is None
                    assert found.tried == 2 ** len(slots) - 1
                continue
            check(networks, state, chosen, seen, found)
            size = len(found.removal.slots)
            sizes.append(size)
            assert perhaps is not None
            assert size >= perhaps
            if found.removal.is_smallest:
                assert surely is None or size <= surely
            if tokens_to_try or size == 1:
                logits = scores(networks, state, found.removal.slots, seen)
                assert lead(logits, video, found.rank) < lowest[size] + TIE, "another goes further"
            assert found.removal.is_smallest or not tokens_to_try
    assert max(sizes) > 2, "no case needed the search over larger sets"


def test_the_planted_cause_is_what_is_removed(planted_policy: IQLNetworks) -> None:
    """Fails if the search does not find the one event that decides, where it is known.

    Without it the policy chooses among some 20 videos for no reason, and at times the same: those
    states do not count.
    """
    networks = planted_policy
    sample = planted.draw(np.random.default_rng(2), 60)
    found_slots, liked_slots = [], []
    for state, slot, target in zip(*sample, strict=True):
        chosen, seen, (found,) = search(networks, state, 1)
        if chosen[0] == target and scores(networks, state, (slot,), seen).argmax() != target:
            assert found.removal is not None
            assert found.removal.is_smallest
            found_slots.append(found.removal.slots)
            liked_slots.append((slot,))
    assert len(found_slots) > 30
    assert found_slots == liked_slots


def sized(history_length: int, seed: int = 0) -> IQLNetworks:
    """Random networks for another length of history."""
    torch.manual_seed(seed)
    config = NetworkConfig(
        num_videos=planted.VIDEOS,
        num_tags=planted.TAGS,
        num_video_types=1,
        num_upload_types=1,
        history_length=history_length,
        embedding_size=16,
        num_layers=1,
        id_buckets=2 * planted.VIDEOS,
        author_buckets=2 * planted.VIDEOS,
    )
    return IQLNetworks(config, planted.catalog()).eval()


def filled(layout: StateLayout, videos: list[int], rng: np.random.Generator) -> np.ndarray:
    """A state whose newest events are of the given videos."""
    events = np.zeros((1, layout.history_length, EVENT_SIZE), dtype=np.float32)
    events[0, : len(videos), VIDEO] = np.array(videos) + 1
    events[0, : len(videos), 1] = rng.random(len(videos))
    events[0, : len(videos), AGE] = np.sort(10 * rng.random(len(videos)))
    return layout.pack(rng.normal(size=(1, 32)), events, rng.random((1, 32)))[0]


def test_a_long_history_is_searched_in_large_steps() -> None:
    """Fails if steps of several events skip the empty history, or leave events that can stay."""
    networks, rng = sized(120), np.random.default_rng(0)
    layout, needed = networks.actor.encoder.layout, 0
    for _ in range(4):
        # Three videos, over and over: one event alone hardly matters.
        state = filled(layout, rng.integers(0, 3, size=120).tolist(), rng)
        chosen, seen, searches = search(networks, state, 2)
        for found in searches:
            if found.removal is None:
                everything = tuple(range(120))
                logits = scores(networks, state, everything, seen)
                assert lead(logits, chosen[found.rank - 1], found.rank) > -TIE
                continue
            check(networks, state, chosen, seen, found)
            needed = max(needed, len(found.removal.slots))
            assert found.removal.is_smallest == (len(found.removal.slots) <= 2)
    assert needed > 2


def test_a_history_of_one_slot() -> None:
    """Fails if a state of fewer events than the tokens beside them does not go through."""
    networks, rng = sized(1), np.random.default_rng(1)
    changed = 0
    for video in range(planted.VIDEOS):
        state = filled(networks.actor.encoder.layout, [video], rng)
        chosen, seen, (found,) = search(networks, state, 1)
        assert found.tried == 1
        if found.removal is None:
            assert lead(scores(networks, state, (0,), seen), chosen[0], 1) > -TIE
        else:
            assert found.removal.slots == (0,)
            assert found.removal.is_smallest
            check(networks, state, chosen, seen, found)
            changed += 1
    assert changed


def test_identical_events_are_told_apart_by_their_slots(networks: IQLNetworks) -> None:
    """Fails if one of two events of the same video stands for both."""
    rng, both = np.random.default_rng(3), 0
    for video in range(planted.VIDEOS):
        state = filled(planted.LAYOUT, [video, video], rng)
        first = planted.LAYOUT.history.start
        state[first + EVENT_SIZE : first + 2 * EVENT_SIZE] = state[first : first + EVENT_SIZE]
        chosen, seen, searches = search(networks, state, 2)
        for found in searches:
            if found.removal is not None:
                check(networks, state, chosen, seen, found)
                both += found.removal.slots == (0, 1)
    assert both, "no case needed both"


def test_an_only_candidate_cannot_be_replaced(networks: IQLNetworks) -> None:
    """Fails if something that may not be recommended is said to take its place."""
    actor, features = networks.actor, networks.features
    state = planted.draw(np.random.default_rng(4), 1).states[0]
    hidden = torch.arange(1, planted.VIDEOS)
    choices = Choices(actor, actor.embed_catalogue(features), [0], hidden)
    with torch.no_grad():
        tokens = actor.encoder.embed(features, torch.as_tensor(state)[None])
    (found,) = RemovalSearch(choices, tokens).run()
    assert found.removal is None
    assert found.tried == 0


def test_choices_together_are_as_alone(networks: IQLNetworks) -> None:
    """Fails if what is found for one choice depends on which others are explained with it."""
    for state in planted.draw(np.random.default_rng(6), 5).states:
        for budget in (TOKENS_TO_TRY, 0):
            _, _, together = search(networks, state, 4, budget)
            _, _, fewer = search(networks, state, 2, budget)
            assert together[:2] == fewer

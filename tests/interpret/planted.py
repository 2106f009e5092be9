"""A policy that was trained to follow one known event, so that the truth of attributions is known.

Every state has one liked event among others; the right recommendation is the other video with the
liked video's only tag. Nothing else in the state matters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from noetik_rllib.data.signals import BINARY_SIGNALS
from noetik_rllib.interpret.baseline import Baseline
from noetik_rllib.iql.network_config import NetworkConfig
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
)

TAGS = 12
VIDEOS = 2 * TAGS
LAYOUT = StateLayout(8)
BASELINE = Baseline(
    user=np.zeros(USER_SIZE, dtype=np.float32),
    context=np.full(CONTEXT_SIZE, 0.5, dtype=np.float32),
)
_LIKE = BINARY_SIGNALS.index("like")


class Planted(NamedTuple):
    """B states, the slot of each one's liked event (B,), and the right recommendation (B,)."""

    states: np.ndarray
    liked_slot: np.ndarray
    target: np.ndarray


def catalog() -> Catalog:
    """24 videos, two per tag, each with an author of its own."""
    index = np.arange(VIDEOS)
    tags = np.full((VIDEOS, 5), -1, dtype=np.int64)
    tags[:, 0] = index % TAGS
    return Catalog(
        video_id=index + 100,
        author_id=index,
        duration_ms=np.full(VIDEOS, 10_000),
        tags=tags,
        tag_codes=tags + 1,
        video_type_code=np.ones(VIDEOS, dtype=np.int64),
        upload_type_code=np.ones(VIDEOS, dtype=np.int64),
        numeric=np.zeros((VIDEOS, 4), dtype=np.float32),
    )


def draw(rng: np.random.Generator, count: int) -> Planted:
    """Draw ``count`` states with 3 to 8 events of different videos."""
    slots = LAYOUT.history_length
    length = rng.integers(3, slots + 1, size=count)
    liked = (rng.random(count) * length).astype(np.int64)
    rows = np.arange(count)
    events = np.zeros((count, slots, EVENT_SIZE), dtype=np.float32)
    videos = rng.permuted(np.tile(np.arange(VIDEOS), (count, 1)), axis=1)[:, :slots]
    events[..., VIDEO] = videos + 1
    events[..., WATCH_RATIO] = rng.random((count, slots))
    events[..., FEEDBACK] = rng.integers(0, 2, size=(count, slots))  # clicks, without meaning here
    events[rows, liked, FEEDBACK] += 2**_LIKE
    events[..., AGE] = np.sort(10 * rng.random((count, slots)), axis=1)
    events *= (np.arange(slots) < length[:, None])[..., None]
    user = rng.normal(size=(count, USER_SIZE))
    context = rng.random((count, CONTEXT_SIZE))
    target = (videos[rows, liked] + TAGS) % VIDEOS
    return Planted(LAYOUT.pack(user, events, context), liked, target)


def untrained(seed: int = 0) -> IQLNetworks:
    """Networks with random weights."""
    torch.manual_seed(seed)
    config = NetworkConfig(
        num_videos=VIDEOS,
        num_tags=TAGS,
        num_video_types=1,
        num_upload_types=1,
        history_length=LAYOUT.history_length,
        embedding_size=32,
        id_buckets=2 * VIDEOS,
        author_buckets=2 * VIDEOS,
    )
    return IQLNetworks(config, catalog()).eval()


def trained(steps: int = 600) -> IQLNetworks:
    """Train the policy on the planted rule: seconds on two cores.

    Steps that shrink to 0: with large ones to the end the attention grew so sharp that whether an
    attribution converged depended on the order in which a machine's threads add numbers up.
    """
    networks = untrained()
    optimiser = torch.optim.Adam(networks.actor.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        batch = draw(rng, 128)
        logits = networks.actor(networks.features, torch.as_tensor(batch.states))
        loss = F.cross_entropy(logits, torch.as_tensor(batch.target))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return networks

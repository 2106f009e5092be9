"""The best videos by chunks are those of the whole matrix of logits, which is never made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from noetik_rllib.iql import retrieval
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import Actor
from noetik_rllib.iql.retrieval import EmbeddedCatalogue, chunk_size, top_k
from noetik_rllib.iql.video_tower import VideoFeatures
from noetik_rllib.offline.dataset import OfflineDataset


class LargestTensor(TorchDispatchMode):
    """Notes the most elements of any tensor that an operation returns, parameters left out."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            # A view of a table, e.g. its transpose, allocates nothing.
            if isinstance(tensor, Tensor) and not tensor._is_view():
                self.elements = max(self.elements, tensor.numel())
        return result


def _reference(logits: Tensor, k: int, exclude: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sort all logits (B, N), equal ones by index."""
    logits = logits.clone()
    if exclude is not None:
        for row, videos in enumerate(exclude.tolist()):
            logits[row, [video for video in videos if video >= 0]] = -torch.inf
    missing = logits.new_full((len(logits), k), -torch.inf)
    values, videos = torch.cat([logits, missing], 1).sort(dim=1, descending=True, stable=True)
    return videos[:, :k].masked_fill(values[:, :k] == -torch.inf, -1), values[:, :k]


@given(
    seed=st.integers(0, 2**32),
    batch=st.integers(1, 5),
    videos=st.integers(1, 60),
    size=st.integers(1, 70),
    k=st.integers(1, 20),
    excluded=st.integers(0, 30),
    spread=st.integers(1, 4),
)
def test_chunks_give_what_sorting_all_gives(
    seed: int, batch: int, videos: int, size: int, k: int, excluded: int, spread: int
) -> None:
    """Fails on a video lost at a chunk's edge, a tie in another order, or a seen video returned.

    Small whole numbers: sums are exact, and ties are everywhere.
    """
    rng = torch.Generator().manual_seed(seed)

    def whole(*shape: int) -> Tensor:
        return torch.randint(-spread, spread + 1, shape, generator=rng).float()

    catalogue = EmbeddedCatalogue(whole(videos, 2), whole(videos))
    queries = whole(batch, 2)
    exclude = torch.randint(-1, videos, (batch, excluded), generator=rng) if excluded else None
    expected = _reference(queries @ catalogue.videos.T + catalogue.biases, k, exclude)
    found, logits = top_k(queries, catalogue.chunks(size), k, exclude)
    assert torch.equal(found, expected[0])
    assert torch.equal(logits, expected[1])


def test_a_score_that_is_no_number_shows() -> None:
    """Fails if a diverged actor recommends as if nothing were wrong."""
    catalogue = EmbeddedCatalogue(torch.ones(50, 2), torch.zeros(50))
    catalogue.videos[41, 0] = torch.nan
    _, logits = top_k(torch.ones(1, 2), catalogue.chunks(10), 3)
    assert logits.isnan().any()


def test_no_video_is_too_few() -> None:
    """Fails if k = 0, a mistake, returns something."""
    catalogue = EmbeddedCatalogue(torch.ones(5, 2), torch.zeros(5))
    with pytest.raises(ValueError, match="at least 1 video, got k = 0"):
        top_k(torch.ones(1, 2), catalogue.chunks(10), 0)


def _actor(dataset: OfflineDataset, **choices: int) -> tuple[Actor, VideoFeatures]:
    torch.manual_seed(0)
    config = NetworkConfig.for_dataset(dataset.manifest, embedding_size=16, **choices)
    return Actor(config), VideoFeatures(config, dataset.catalog)


@pytest.fixture
def states(tiny_dataset: Path) -> Tensor:
    return torch.tensor(OfflineDataset(tiny_dataset).load("train", ("obs",))["obs"][:40])


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 32 of the 80 videos: three, the last of which is not full."""
    monkeypatch.setattr("noetik_rllib.iql.networks.chunk_size", lambda states: 32)


def test_recommending_is_sorting_the_logits(
    tiny_dataset: Path, states: Tensor, small_chunks: None
) -> None:
    """Fails if ``recommend`` ranks by anything else than the policy's logits."""
    actor, features = _actor(OfflineDataset(tiny_dataset))
    exclude = actor.encoder.layout.unpack(states).video_index
    with torch.no_grad():
        expected = _reference(actor(features, states), 10, exclude)
    kept = actor.embed_catalogue(features)
    for catalogue in (None, kept):
        found, logits = actor.recommend(features, states, 10, exclude, catalogue)
        assert torch.equal(found, expected[0])
        torch.testing.assert_close(logits, expected[1])


def _large(num_videos: int) -> tuple[Actor, VideoFeatures]:
    """An actor over a catalogue whose videos differ by their duration alone."""
    torch.manual_seed(0)
    config = NetworkConfig(
        num_videos=num_videos,
        num_tags=3,
        num_video_types=1,
        num_upload_types=1,
        history_length=2,
        embedding_size=8,
        num_heads=1,
        id_buckets=64,
        author_buckets=64,
        num_negatives=128,
    )
    features = VideoFeatures(config)
    features.numeric.normal_()
    return Actor(config), features


def test_memory_of_a_recommendation_does_not_grow_with_the_batch() -> None:
    """Fails if a matrix of states x videos is made: 64 x 300,000, where a chunk has 2 million."""
    actor, features = _large(300_000)
    states = torch.zeros(64, actor.encoder.layout.size)
    catalogue = actor.embed_catalogue(features)
    with LargestTensor() as largest:
        actor.recommend(features, states, 10, catalogue=catalogue)
    assert largest.elements <= retrieval.CHUNK_LOGITS
    assert chunk_size(64) * 64 <= retrieval.CHUNK_LOGITS


def test_memory_of_a_gradient_step_does_not_grow_with_the_catalogue() -> None:
    """Fails if the likelihood of a logged video, or its gradient, touches every video."""
    actor, features = _large(300_000)
    states = torch.zeros(16, actor.encoder.layout.size)
    videos = torch.arange(16) * 1_000
    with LargestTensor() as largest:
        query = actor.query(actor.encoder(features, states))
        actor.log_prob(features, query, videos).sum().backward()
    # 144 videos with 5 tags of 8 channels each, their largest intermediate result.
    assert largest.elements <= 144 * 5 * 8


def test_likelihood_is_exact_up_to_the_threshold(tiny_dataset: Path, states: Tensor) -> None:
    """Fails if a small catalogue is sampled, or a large one is not, or both differ at N draws."""
    dataset = OfflineDataset(tiny_dataset)
    count = dataset.manifest.num_videos
    videos = torch.arange(len(states)) % count
    exact, features = _actor(dataset, exact_softmax_videos=count)
    every, _ = _actor(dataset, exact_softmax_videos=count - 1, num_negatives=count)
    few, _ = _actor(dataset, exact_softmax_videos=count - 1, num_negatives=8)
    assert exact.sampler is None
    for actor in (every, few):
        actor.load_state_dict(exact.state_dict(), strict=False)
    with torch.no_grad():
        query = exact.query(exact.encoder(features, states))
        expected = exact(features, states).log_softmax(1).gather(1, videos[:, None]).squeeze(1)
        torch.testing.assert_close(exact.log_prob(features, query, videos), expected)
        torch.testing.assert_close(every.log_prob(features, query, videos), expected)
        first, second = (few.log_prob(features, query, videos) for _ in range(2))
    assert not torch.allclose(first, expected)
    assert not torch.equal(first, second)

"""The estimated log-likelihood: exact where it can be, and a better estimate the more is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from noetik_rllib.iql.sampled_softmax import Negatives, Sampler, log_prob, uniforms

VIDEOS = 200


def _popular() -> Tensor:
    """Counts of a log that shows some videos often and a third of them never, (200,)."""
    counts = torch.tensor(3_000.0) / torch.arange(1, VIDEOS + 1)
    counts[::3] = 0
    return counts.long()[torch.randperm(VIDEOS, generator=torch.Generator().manual_seed(5))]


def _sampler(count: int, popular: bool = True, seed: int = 0) -> Sampler:
    torch.manual_seed(seed)
    sampler = Sampler(VIDEOS, count)
    if popular:
        sampler.follow(_popular())
    return sampler


def _logits(rows: int = 4) -> Tensor:
    """Logits (rows, 200) of a policy that follows popularity and tastes."""
    taste = torch.randn(rows, VIDEOS, generator=torch.Generator().manual_seed(6))
    return 0.7 * (_popular() + 3.0).log() + taste


def _estimate(logits: Tensor, videos: Tensor, drawn: Negatives) -> Tensor:
    positive = logits.gather(1, videos[:, None]).squeeze(1)
    return log_prob(positive, videos, logits[:, drawn.videos], drawn)


@pytest.mark.parametrize("popular", [False, True])
def test_everything_drawn_is_the_softmax(popular: bool) -> None:
    """Fails if the logged video counts twice or not at all, or if N draws are corrected."""
    logits = _logits().requires_grad_()
    videos = torch.tensor([0, 7, 7, 199])
    drawn = _sampler(VIDEOS, popular)()
    estimate, exact = _estimate(logits, videos, drawn), logits.log_softmax(1)[range(4), videos]
    torch.testing.assert_close(estimate, exact)
    (mine,) = torch.autograd.grad(estimate.sum(), logits)
    (other,) = torch.autograd.grad(exact.sum(), logits)
    torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("popular", [False, True])
def test_normaliser_is_unbiased(popular: bool) -> None:
    """Fails if the correction is not that of the draws: too many, or too few, of some videos.

    The mean of 2,000 estimates of Z in 4 states is within 4.5 standard errors: by the normal law
    a right estimate fails in 3 of 100,000 runs, and the draws are fixed. Doubling the correction of
    one half of the draws is far off.
    """
    logits, videos = _logits().double(), torch.tensor([0, 7, 7, 199])
    sampler = _sampler(20, popular)
    positive = logits.gather(1, videos[:, None]).squeeze(1)
    totals = torch.stack(
        [(positive - _estimate(logits, videos, sampler())).exp() for _ in range(2_000)]
    )
    error = (totals.mean(0) - logits.exp().sum(1)) / (totals.std(0) / len(totals) ** 0.5)
    assert error.abs().max() < 4.5


def test_expected_counts_are_those_of_the_draws() -> None:
    """Fails if a video is drawn more or less often than its correction says.

    Chi-square over 200 videos with 2,000 batches of 40: stretches make the counts vary less than
    independent draws would, so that the usual limit at 1 in 10,000 is on the safe side.
    """
    sampler = _sampler(40)
    counts, expected = torch.zeros(VIDEOS), torch.zeros(VIDEOS)
    for _ in range(2_000):
        drawn = sampler()
        counts += torch.bincount(drawn.videos, minlength=VIDEOS)
        expected[drawn.videos] = drawn.log_expected.exp()
    assert expected.min() > 0, "a video was never drawn"
    expected *= 2_000
    assert expected.sum() == pytest.approx(40 * 2_000, rel=1e-4)
    assert ((counts - expected).square() / expected).sum() < 280


def test_gradient_bias_shrinks_with_draws() -> None:
    """Fails if more draws do not bring the gradient nearer to the softmax's.

    Bias of the gradient with respect to the logits, over 1,000 batches: 5, 20 and 80 draws of 200.
    It is about 0.16, 0.09 and 0.02 of a gradient of 1.44, measured with standard errors of 0.03,
    0.015 and 0.008.
    Each must be 1.5 times the next; the draws are fixed.
    """
    logits, videos = _logits(2), torch.tensor([3, 50])
    exact = logits.softmax(1)
    biases = []
    for count in (5, 20, 80):
        sampler = _sampler(count)
        total = torch.zeros_like(logits)
        for _ in range(1_000):
            drawn = sampler()
            free = logits.clone().requires_grad_()
            (-_estimate(free, videos, drawn).sum()).backward()
            total += free.grad
        total /= 1_000
        target = exact.clone()
        target[range(2), videos] -= 1
        biases.append((total - target).norm().item())
    assert biases[0] > 1.5 * biases[1] > 1.5**2 * biases[2], biases


@pytest.mark.parametrize("popular", [False, True])
def test_a_drawn_logged_video_does_not_count(popular: bool) -> None:
    """Fails if an accidental hit pushes the logged video down."""
    logits = torch.zeros(1, VIDEOS)
    drawn = _sampler(50, popular)()
    hit, others = drawn.videos[:1], drawn.videos != drawn.videos[0]
    without = Negatives(drawn.videos[others], drawn.log_expected[others])
    torch.testing.assert_close(_estimate(logits, hit, drawn), _estimate(logits, hit, without))


def test_only_the_logged_video_drawn_leaves_a_finite_gradient() -> None:
    """Fails if a row without any negative left spoils the batch with NaN."""
    logits = torch.zeros(2, 3, requires_grad=True)
    drawn = Negatives(torch.tensor([1, 1]), torch.zeros(2))
    _estimate(logits, torch.tensor([1, 0]), drawn).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@given(st.integers(1, 400), st.integers(0, 2**62), st.booleans())
def test_draws_go_on_from_a_saved_state(count: int, seed: int, popular: bool) -> None:
    """Fails if a resumed run draws other videos than it would have, or none of the catalogue's."""
    sampler = _sampler(count, popular, seed)
    first = sampler().videos
    restored = _sampler(count, popular, seed + 1)
    restored.load_state_dict(sampler.state_dict())
    drawn, again = sampler(), restored()
    assert torch.equal(drawn.videos, again.videos)
    assert torch.equal(drawn.log_expected, again.log_expected)
    if 5 < count < VIDEOS:
        assert not torch.equal(drawn.videos, first)
    assert len(drawn.videos) == min(count, VIDEOS)
    assert drawn.videos.min() >= 0
    assert drawn.videos.max() < VIDEOS
    assert drawn.log_expected.isfinite().all()


def test_only_training_uses_up_draws() -> None:
    """Fails if looking at a policy's likelihood changes how its training goes on."""
    sampler = _sampler(20).eval()
    assert torch.equal(sampler().videos, sampler().videos)
    assert sampler.step == 0


@given(st.integers(1, VIDEOS - 1))
def test_uniform_draws_are_spread_over_the_catalogue(count: int) -> None:
    """Fails if a stretch is left out, or another drawn from twice."""
    videos = _sampler(count, popular=False)().videos
    begin = torch.arange(count) * VIDEOS / count
    assert (videos >= begin.floor()).all()
    assert (videos <= begin + VIDEOS / count).all()


def test_numbers_are_splitmix64s() -> None:
    """Fails if the hash is another than the published one, whose quality is known.

    Ten million of its numbers would be needed to see a bias; three say that it is the same code.
    """

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    assert mix(golden) == 0xE220A8397B1DCDAF  # the first number of splitmix64 from seed 0
    begin = mix((mix((11 + golden) % 2**64) + 5) % 2**64)
    expected = [(mix((begin + i * golden) % 2**64) >> 11) / 2**53 for i in (1, 2, 3)]
    np.testing.assert_array_equal(
        uniforms(3, torch.tensor([11]), torch.tensor([5])).numpy(), expected
    )


@pytest.mark.parametrize(
    "counts", [torch.ones(3, dtype=torch.int64), torch.zeros(VIDEOS, dtype=torch.int64)]
)
def test_counts_that_say_nothing_are_refused(counts: Tensor) -> None:
    """Fails if a wrong table of counts is taken, or leads to a division by 0 later."""
    with pytest.raises(ValueError, match="expected counts of"):
        Sampler(VIDEOS, 10).follow(counts)


def test_cross_entropy_is_the_exact_case() -> None:
    """Fails if the sign or the reduction differ from torch's own."""
    logits, videos = _logits(), torch.tensor([0, 7, 7, 199])
    estimate = _estimate(logits, videos, _sampler(VIDEOS)())
    torch.testing.assert_close(-estimate, F.cross_entropy(logits, videos, reduction="none"))

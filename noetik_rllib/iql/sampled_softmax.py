r"""Log-likelihood of a logged video among millions, from some videos that stand for the rest.

With logits :math:`l_j` of N videos and the logged one p, the policy's log-likelihood needs
:math:`Z = \sum_j e^{l_j}`. Of M videos drawn so that video j is expected :math:`n_j` times,

.. math::

    \hat Z = e^{l_p} + \sum_{j \text{ drawn},\, j \neq p} e^{l_j - \log n_j},
    \qquad E[\hat Z] = Z, \qquad \log \hat\pi(p) = l_p - \log \hat Z.

Subtracting :math:`\log n_j` is the logQ correction (Bengio and Senecal 2008; Yi et al. 2019). The
logged video is in the sum with certainty and without a correction, and where it was drawn as well
that draw does not count: its gradient is then :math:`(1 - \hat\pi(p))` times the one over the other
videos, which is the corrected form of Khrylchenko et al. 2025 (arXiv 2507.09331).

:math:`\log \hat Z` is biased although :math:`\hat Z` is not, the less the more videos are drawn.
Two proposals, "uniform" and "mixture" (half uniform, half as often as the log shows a video), by
``benchmarks/sampled_softmax.py --batches 50``: error of a batch's gradient with respect to the
videos' embeddings, as a share of the norm of the exact one, which is the noise of the batch itself
since rows are drawn from the policy; 10,000 videos, 256 rows, 1,024 draws, smallest bias that 50
batches show 0.01:

=========================  ==========================  ==========================
policy                     uniform: bias, deviation    mixture: bias, deviation
=========================  ==========================  ==========================
nearly flat, as untrained  below 0.01, 0.039           below 0.01, 0.040
popularity (Zipf), tastes  0.10, 0.44                  below 0.01, 0.064
more taste, popularity     0.025, 0.29                 below 0.01, 0.13
=========================  ==========================  ==========================

So the mixture is drawn where the log's counts are known. Plain torch, no Ray. Shapes: B rows, M
draws, N videos.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Constants of splitmix64 (Steele, Lea and Flood 2014), as signed numbers.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def _xor_shift(x: Tensor, bits: int) -> Tensor:
    """Return x ^ (x >> bits), the shift being that of an unsigned number."""
    return x ^ ((x >> bits) & ((1 << (64 - bits)) - 1))


def _mix(x: Tensor) -> Tensor:
    """Scramble int64 values, one to one (splitmix64's finaliser); products wrap around."""
    x = _xor_shift(x, 30) * _MIX_1
    x = _xor_shift(x, 27) * _MIX_2
    return _xor_shift(x, 31)


def uniforms(count: int, seed: Tensor, step: Tensor) -> Tensor:
    """Return ``count`` numbers in [0, 1), float64, that depend on ``seed`` and ``step`` alone.

    Both are int64, (1,). A generator's state would have to be saved, and differs between devices;
    these are splitmix64's numbers, whose stream begins at a hash of seed and step.
    """
    places = torch.arange(1, count + 1, device=seed.device)
    begin = _mix(_mix(seed + _GOLDEN) + step)
    bits = (_mix(begin + places * _GOLDEN) >> 11) & ((1 << 53) - 1)
    return bits.double() * 2.0**-53


def _spread(count: int, total: int, randoms: Tensor) -> Tensor:
    """Pick ``count`` of ``total`` places, one in each of ``count`` equal stretches, (count,) int64.

    Each place is expected count / total times, as with independent draws, but the draws are spread
    evenly: a place can repeat only where two stretches meet in it, or where it holds whole ones.
    """
    stretch = torch.arange(count, device=randoms.device) + randoms
    # Rounding may reach the end of the last stretch.
    return (stretch * (total / count)).long().clamp(max=total - 1)


@dataclass(frozen=True)
class Negatives:
    """Videos drawn for a whole batch.

    Attributes:
        videos: (M,) int64; a popular one may be there more than once.
        log_expected: log of how many times each was expected among the M, (M,) float32.
    """

    videos: Tensor
    log_expected: Tensor


class Sampler(nn.Module):
    """Draws videos: half uniformly and half as often as the log shows them, if that is known.

    Its seed, taken from torch's own generator, and the number of draws so far belong to its state:
    a resumed run goes on with the draws that it would have made, and several learners, which start
    from one state, share theirs.

    Args:
        num_videos: N.
        count: M. From N on, every draw is the whole catalogue.
    """

    seed: Tensor
    step: Tensor
    #: Running sum of the log's counts, (N,) int64; empty while they are unknown. Not saved: it
    #: follows from the dataset, and only training needs it.
    cumulative: Tensor

    def __init__(self, num_videos: int, count: int) -> None:
        super().__init__()
        self.num_videos = num_videos
        self.count = min(count, num_videos)
        # Of one element and 31 bits: in the states that RLlib saves, scalars become Python numbers
        # and int64 becomes int32 (ray/rllib/utils/numpy.py, convert_to_numpy's reduce_type).
        self.register_buffer("seed", torch.randint(2**31, (1,)))
        self.register_buffer("step", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("cumulative", torch.zeros(0, dtype=torch.int64), persistent=False)
        self._shown = 0

    def follow(self, counts: Tensor) -> None:
        """Take how often the log shows each video, (N,) integers.

        Raises:
            ValueError: another number of videos, a negative count, or nothing but 0.
        """
        if tuple(counts.shape) != (self.num_videos,):
            raise ValueError(
                f"expected counts of {self.num_videos} videos, got {tuple(counts.shape)}"
            )
        shown = int(counts.sum())
        if shown <= 0 or int(counts.min()) < 0:
            raise ValueError(f"expected counts of 0 or more, not all 0; their sum is {shown}")
        self.cumulative = counts.to(self.cumulative.device).cumsum(0)
        self._shown = shown

    def forward(self) -> Negatives:
        """Draw for one gradient step; in training mode, the next call draws others."""
        drawn = self._draw(uniforms(self.count, self.seed, self.step))
        if self.training:
            self.step += 1
        return drawn

    def _draw(self, randoms: Tensor) -> Negatives:
        """Turn M random numbers into draws.

        Each half takes one video from each of equal stretches (``_spread``); what counts of a video
        is how often it was expected from both together (the balance heuristic of Veach and Guibas
        1995), so that none is weighted above 2 N / M.
        """
        device, n = randoms.device, self.num_videos
        if self.count == n:
            return Negatives(torch.arange(n, device=device), torch.zeros(n, device=device))
        popular = self.count // 2 if self._shown else 0
        plain = self.count - popular
        videos = _spread(plain, n, randoms[:plain])
        expected = torch.full((self.count,), plain / n, dtype=torch.float64, device=device)
        if popular:
            rows = _spread(popular, self._shown, randoms[plain:])
            shown = torch.searchsorted(self.cumulative, rows, right=True)
            videos = torch.cat([videos, shown])
            before = self.cumulative[(videos - 1).clamp(min=0)] * (videos > 0)
            times = self.cumulative[videos] - before  # that the log shows each, (M,)
            expected += times * (popular / self._shown)
        return Negatives(videos, expected.log().float())


def log_prob(
    positive_logits: Tensor, positives: Tensor, negative_logits: Tensor, negatives: Negatives
) -> Tensor:
    """Return the estimated log-likelihood of the logged videos, (B,).

    Args:
        positive_logits: of the logged videos, (B,).
        positives: the logged videos, (B,) int64.
        negative_logits: of the drawn videos in every row, (B, M).
        negatives: the drawn videos.
    """
    corrected = negative_logits - negatives.log_expected
    hit = negatives.videos == positives[:, None]  # (B, M)
    terms = torch.cat([positive_logits[:, None], corrected.masked_fill(hit, -torch.inf)], dim=1)
    return positive_logits - terms.logsumexp(dim=1)

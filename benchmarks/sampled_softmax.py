"""Error of the sampled softmax's gradient against the exact one, by policy and by proposal.

For one policy at a time, over many batches of rows logged by that policy: bias and standard
deviation of the gradient of the mean log-likelihood with respect to the videos' embeddings, as
shares of the norm of the exact gradient; beside them the standard deviation of the exact gradient
itself from batch to batch, which no estimate avoids. Run it from a clone::

    .venv/bin/python benchmarks/sampled_softmax.py
"""

from __future__ import annotations

import json

import click
import torch
from torch import Tensor

from noetik_rllib.cli.errors import run
from noetik_rllib.iql.sampled_softmax import Sampler, log_prob

#: Share of popularity (a Zipf law) in the logits, and their standard deviation by taste.
POLICIES = {"nearly flat": (0.0, 0.3), "popularity": (1.0, 1.0), "tastes": (0.7, 1.5)}
#: Users of whom a batch's rows are drawn, channels of an embedding.
USERS, SIZE = 1_024, 64


class LoggedPolicy:
    """A softmax policy over users and videos, whose own choices are the log.

    Args:
        popularity: exponent of popularity in it.
        taste: standard deviation of the logits by user and video.
        num_videos: N.
    """

    def __init__(self, popularity: float, taste: float, num_videos: int) -> None:
        scale = (taste / SIZE**0.5) ** 0.5
        self.users = torch.randn(USERS, SIZE) * scale
        self.videos = (torch.randn(num_videos, SIZE) * scale).requires_grad_()
        zipf = 1.0 / torch.arange(1, num_videos + 1)[torch.randperm(num_videos)]
        self.bias = popularity * zipf.log()
        with torch.no_grad():
            self.probs = self.logits(torch.arange(USERS)).softmax(dim=1)
        #: How often a log of 100 rows a video shows each.
        self.counts = (100 * num_videos * self.probs.mean(dim=0)).round().long()

    def logits(self, users: Tensor, videos: Tensor | None = None) -> Tensor:
        """Logits of all videos, or of some, for users (B,)."""
        index = slice(None) if videos is None else videos
        return self.users[users] @ self.videos[index].T + self.bias[index]

    def gradients(self, sampler: Sampler, rows: int) -> tuple[Tensor, Tensor]:
        """Return the exact gradient of a batch (N, D), and its estimate."""
        users = torch.randint(USERS, (rows,))
        chosen = torch.multinomial(self.probs[users], 1).squeeze(1)
        logits = self.logits(users)
        positive = logits[torch.arange(rows), chosen]
        exact = (positive - logits.logsumexp(dim=1)).mean()
        drawn = sampler()
        estimate = log_prob(positive, chosen, logits[:, drawn.videos], drawn).mean()
        return (
            torch.autograd.grad(exact, self.videos, retain_graph=True)[0],
            torch.autograd.grad(estimate, self.videos)[0],
        )


def measure(policy: LoggedPolicy, sampler: Sampler, rows: int, batches: int) -> dict[str, float]:
    """Return bias and standard deviations, as shares of the exact gradient's norm."""
    exact_sum = error_sum = torch.zeros_like(policy.videos)
    exact_squares = error_squares = 0.0
    for _ in range(batches):
        exact, estimate = policy.gradients(sampler, rows)
        error = estimate - exact
        exact_sum, error_sum = exact_sum + exact, error_sum + error
        exact_squares += exact.square().sum().item() / batches
        error_squares += error.square().sum().item() / batches

    def moments(total: Tensor, squares: float) -> tuple[float, float]:
        # The mean's square holds 1 / batches of the variance.
        variance = (squares - (total / batches).square().sum().item()) * batches / (batches - 1)
        mean = max(0.0, squares - variance)
        return (mean / exact_squares) ** 0.5, (variance / exact_squares) ** 0.5

    bias, deviation = moments(error_sum, error_squares)
    return {
        "bias": bias,
        "standard_deviation": deviation,
        "of_the_batch": moments(exact_sum, exact_squares)[1],
    }


@click.command()
@click.option("--videos", default=10_000, show_default=True, help="Size of the catalogue.")
@click.option("--rows", default=256, show_default=True, help="Rows of a batch.")
@click.option("--batches", default=100, show_default=True, help="Batches per measurement.")
@click.option("--draws", default=[256, 1_024, 4_096], multiple=True, help="Videos drawn.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(videos: int, rows: int, batches: int, draws: tuple[int, ...], as_json: bool) -> None:
    """Measure the error of the estimated gradient."""
    results = []
    for name, (popularity, taste) in POLICIES.items():
        torch.manual_seed(0)
        policy = LoggedPolicy(popularity, taste, videos)
        for count in draws:
            for proposal in ("uniform", "mixture"):
                torch.manual_seed(1)
                sampler = Sampler(videos, count)
                if proposal == "mixture":
                    sampler.follow(policy.counts)
                errors = measure(policy, sampler, rows, batches)
                results.append({"policy": name, "draws": count, "proposal": proposal, **errors})
                if not as_json:
                    click.echo(
                        f"{name:12} {count:6,} draws, {proposal}: bias {errors['bias']:.4f}, "
                        f"standard deviation {errors['standard_deviation']:.3f} "
                        f"(of the batch: {errors['of_the_batch']:.3f})"
                    )
    if as_json:
        click.echo(json.dumps(results))


if __name__ == "__main__":
    run(main)

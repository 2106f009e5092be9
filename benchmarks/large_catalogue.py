"""Training and recommending with 4.37 million videos against 7,583, in one process, in turn.

A gradient step is that of a bare PyTorch loop: all losses, Adam, Polyak. The top k of a batch of
users is held against the bare product of queries and embeddings, in chunks, with ``torch.topk``.
Features and states are random and in memory: no dataset is needed. Run it from a clone::

    .venv/bin/python benchmarks/large_catalogue.py
"""

from __future__ import annotations

import copy
import json
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle, islice

import click
import torch
from torch import Tensor
from torch.nn import functional as F

from noetik_rllib.cli.errors import run
from noetik_rllib.iql import losses
from noetik_rllib.iql.network_config import NetworkConfig
from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.iql.retrieval import EmbeddedCatalogue
from noetik_rllib.iql.settings import IQLSettings
from noetik_rllib.state import AGE, FEEDBACK, VIDEO, WATCH_RATIO

HISTORY = 16
TAGS = 69
SETTINGS = IQLSettings()


def random_networks(num_videos: int, exact: bool, **sizes: int) -> IQLNetworks:
    """Return networks over a catalogue of random features, shown by a log as a Zipf law says."""
    torch.manual_seed(0)
    config = NetworkConfig(
        num_videos=num_videos,
        num_tags=TAGS,
        num_video_types=2,
        num_upload_types=20,
        history_length=HISTORY,
        exact_softmax_videos=num_videos if exact else 0,
        **sizes,
    )
    networks = IQLNetworks(config)
    features = networks.features
    features.tag_codes.random_(TAGS + 1)
    features.id_bucket.random_(config.id_buckets)
    features.author_bucket.random_(config.author_buckets)
    features.video_type_code.random_(3)
    features.upload_type_code.random_(21)
    features.numeric.normal_()
    if networks.actor.sampler is not None:
        counts = 100 * num_videos / torch.arange(1, num_videos + 1, dtype=torch.float32)
        networks.actor.sampler.follow(counts.long()[torch.randperm(num_videos)])
    return networks


def random_states(networks: IQLNetworks, rows: int) -> Tensor:
    """Return states (rows, state size) with full histories."""
    layout = networks.actor.encoder.layout
    states = torch.randn(rows, layout.size)
    events = torch.empty(rows, HISTORY, 4)
    events[..., VIDEO] = 1 + torch.randint(networks.config.num_videos, (rows, HISTORY))
    events[..., WATCH_RATIO] = torch.rand(rows, HISTORY)
    events[..., FEEDBACK] = torch.randint(256, (rows, HISTORY)).float()
    events[..., AGE] = 10 * torch.rand(rows, HISTORY)
    states[:, layout.history] = events.flatten(1)
    return states


class BareLoop:
    """Gradient steps on random rows, as a script without RLlib would take them."""

    def __init__(self, networks: IQLNetworks, rows: int) -> None:
        self.networks = networks.train()
        self.target_q = copy.deepcopy(networks.q).requires_grad_(False)
        self.signs = torch.tensor(networks.reward.signs)
        # fused, as the learner's: one pass over the embedding tables.
        self.optimizers = [
            torch.optim.Adam(part.parameters(), lr=1e-5, fused=True)
            for part in (networks.actor, networks.q, networks.v)
        ]
        self.batches = cycle([self._random_batch(rows) for _ in range(8)])

    def _random_batch(self, rows: int) -> dict[str, Tensor]:
        return {
            "obs": random_states(self.networks, rows),
            "new_obs": random_states(self.networks, rows),
            "actions": torch.randint(self.networks.config.num_videos, (rows,)),
            "terminateds": (torch.rand(rows) < 0.1).float(),
            "reward_components": torch.randn(rows, len(self.signs)),
        }

    def steps(self, count: int) -> None:
        """Take ``count`` gradient steps."""
        for batch in islice(self.batches, count):
            self._step(batch)

    def _step(self, batch: dict[str, Tensor]) -> None:
        networks, states, videos = self.networks, batch["obs"], batch["actions"]
        features, actor = networks.features, networks.actor
        with torch.no_grad():
            next_v = networks.v(features, batch["new_obs"])
            target_q = losses.smaller_q(self.target_q(features, states, videos), self.signs)
        q, v = networks.q(features, states, videos), networks.v(features, states)
        query = actor.query(actor.encoder(features, states))
        log_prob = actor.log_prob(features, query, videos)
        advantage = losses.total(target_q - v.detach(), self.signs)
        target = losses.td_target(
            batch["reward_components"], batch["terminateds"], next_v, SETTINGS.gamma
        )
        weights = losses.awr_weights(advantage, SETTINGS.beta, SETTINGS.max_weight)
        expectile = losses.expectile_weights(advantage, SETTINGS.expectile)
        loss = (
            losses.expectile_loss(target_q, v, expectile)
            + losses.q_loss(q, target)
            + losses.actor_loss(log_prob, weights)
        )
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        losses.polyak_update(
            list(self.target_q.parameters()), list(networks.q.parameters()), SETTINGS.target_polyak
        )


def bare_top(queries: Tensor, catalogue: EmbeddedCatalogue, k: int, size: int) -> Tensor:
    """Return the top k videos (B, k) by the product and ``torch.topk``, ``size`` videos a time."""
    best, videos = [], []
    for first, (embeddings, biases) in enumerate(catalogue.chunks(size)):
        values, places = F.linear(queries, embeddings, biases).topk(k, dim=1)
        best.append(values)
        videos.append(places + first * size)
    order = torch.cat(best, dim=1).topk(k, dim=1).indices
    return torch.cat(videos, dim=1).gather(1, order)


@dataclass
class Seconds:
    """Seconds of each measurement: by the clock, and of this process's own work.

    Where other processes compute as well, only the latter compares, with one thread.
    """

    clock: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)

    def over(self, other: Seconds) -> dict[str, dict[str, float]]:
        """Return how many times as fast as this the other is, round by round."""
        return {
            "clock": _spread([a / b for a, b in zip(self.clock, other.clock, strict=True)]),
            "work": _spread([a / b for a, b in zip(self.work, other.work, strict=True)]),
        }


def _spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def seconds_in_turn(tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, Seconds]:
    """Run every task once to warm up, then all in turn; return the seconds of each."""
    seconds = {name: Seconds() for name in tasks}
    for round_ in range(rounds + 1):
        for name, task in tasks.items():
            begun, begun_work = time.perf_counter(), time.process_time()
            task()
            if round_:
                seconds[name].clock.append(time.perf_counter() - begun)
                seconds[name].work.append(time.process_time() - begun_work)
    return seconds


@click.command()
@click.option("--videos", default=4_370_000, show_default=True, help="The large catalogue.")
@click.option("--few", default=7_583, show_default=True, help="The small one, KuaiRand-Pure's.")
@click.option("--rows", default=256, show_default=True, help="Rows of a batch, users at a time.")
@click.option("--steps", default=20, show_default=True, help="Gradient steps per measurement.")
@click.option("--rounds", default=5, show_default=True, help="Measurements of each, in turn.")
@click.option("--negatives", default=1_024, show_default=True, help="Videos drawn per step.")
@click.option("--embedding-size", default=64, show_default=True, help="Width of the networks.")
@click.option("--top", default=10, show_default=True, help="Videos recommended to each user.")
def main(
    videos: int,
    few: int,
    rows: int,
    steps: int,
    rounds: int,
    negatives: int,
    embedding_size: int,
    top: int,
) -> None:
    """Measure what a large catalogue costs."""
    sizes = {"num_negatives": negatives, "embedding_size": embedding_size}
    large = random_networks(videos, exact=False, **sizes)
    loops = {
        "few_exact": BareLoop(random_networks(few, exact=True, **sizes), rows),
        "few_sampled": BareLoop(random_networks(few, exact=False, **sizes), rows),
        "large_sampled": BareLoop(large, rows),
    }
    training = seconds_in_turn(
        {name: lambda loop=loop: loop.steps(steps) for name, loop in loops.items()}, rounds
    )
    actor, features = large.actor.eval(), large.features
    begun = time.perf_counter()
    catalogue = actor.embed_catalogue(features)
    embedding = time.perf_counter() - begun
    states = random_states(large, rows)
    with torch.no_grad():
        queries = actor.query(actor.encoder(features, states)) * actor.scale
    # The bare product gets the chunks that suit it best, and its queries for nothing.
    recommending = seconds_in_turn(
        {
            "recommend": lambda: actor.recommend(features, states, top, catalogue=catalogue),
            "bare_8192": lambda: bare_top(queries, catalogue, top, 8_192),
            "bare_65536": lambda: bare_top(queries, catalogue, top, 65_536),
        },
        rounds,
    )
    found, _ = actor.recommend(features, states, top, catalogue=catalogue)
    same = (found == bare_top(queries, catalogue, top, 65_536)).float().mean().item()
    bare = min(
        (recommending["bare_8192"], recommending["bare_65536"]),
        key=lambda each: statistics.median(each.work),
    )
    large_steps = training["large_sampled"]
    result = {
        "videos": videos,
        "few": few,
        "threads": torch.get_num_threads(),
        "ms_per_step": {
            name: {
                "clock": 1000 * statistics.median(each.clock) / steps,
                "work": 1000 * statistics.median(each.work) / steps,
            }
            for name, each in training.items()
        },
        "throughput_over_few_exact": training["few_exact"].over(large_steps),
        "throughput_over_few_sampled": training["few_sampled"].over(large_steps),
        "seconds_to_embed": embedding,
        "seconds_per_batch": {
            name: {"clock": statistics.median(each.clock), "work": statistics.median(each.work)}
            for name, each in recommending.items()
        },
        "top_over_bare": bare.over(recommending["recommend"]),
        "same_videos": same,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }
    click.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    run(main)

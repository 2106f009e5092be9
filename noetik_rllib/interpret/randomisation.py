"""Do attributions depend on what was learnt? The model-randomisation check (Adebayo et al. 2018).

Weights are made random from the output towards the input, stage by stage, and attributions of the
same decisions are taken again. Where they stay alike, they show the input and not the policy.

Random means shuffled: the numbers of each weight change places among themselves, so that every
layer keeps its scale. Weights as they were drawn before training would not do: the networks start
with a query that is the mean of the history, and so as a policy that recommends what is like it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from noetik_rllib.interpret.rank_correlation import MIN_EVENTS, spearman_of_rows
from noetik_rllib.iql.networks import Actor, IQLNetworks

#: Stages, from the output to the input: name -> the parts of the actor that are made random then.
STAGES: dict[str, Callable[[Actor], list[nn.Module]]] = {
    "query": lambda actor: [actor.query, actor.item_bias],
    "transformer": lambda actor: [actor.encoder.blocks, actor.encoder.norm, actor.encoder.refine],
    "tokens": lambda actor: [
        actor.encoder.user,
        actor.encoder.context,
        actor.encoder.answer,
        actor.encoder.recency,
        actor.encoder.weigh,
    ],
    "videos": lambda actor: [actor.tower],
}
#: Random weights that attributions are compared with. Those of one draw may happen to value recent
#: events as the policy does, or the other way round, and are the same for all decisions: so it is
#: draws, and not decisions, that say how far a correlation is from 0.
DRAWS = 8


class StageFigures(BaseModel):
    """Rank correlations of attributions before and after a stage.

    Attributes:
        draws: mean over decisions, for each draw of random weights.
        size: mean over draws of their absolute values; 0 is none, 1 the same order or its reverse.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    draws: list[float]
    size: float


class RandomisationResult(BaseModel):
    """Within-decision rank correlations of attributions before and after, by stage.

    A stage holds those before it; the last is a policy of random weights.

    Attributes:
        decisions: recommendations with three events or more.
        stages: stage -> correlations of the sizes of the events' attributions.
        signed: the same of the attributions with their signs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    decisions: int
    stages: dict[str, StageFigures]
    signed: dict[str, StageFigures]


@torch.no_grad()
def shuffled(networks: IQLNetworks, stages: int, seed: int) -> IQLNetworks:
    """Return a copy of networks in which the actor's first ``stages`` stages are random."""
    generator = torch.Generator().manual_seed(seed)
    result = copy.deepcopy(networks)
    for parts in list(STAGES.values())[:stages]:
        for part in parts(result.actor):
            for weight in part.parameters():
                order = torch.randperm(weight.numel(), generator=generator)
                weight.copy_(weight.flatten()[order.to(weight.device)].view_as(weight))
    return result.eval()


def randomisation(
    networks: IQLNetworks,
    attribute: Callable[[IQLNetworks], np.ndarray],
    present: np.ndarray,
    seed: int,
) -> RandomisationResult:
    """Compare attributions of events with those of ever more random weights.

    Args:
        networks: the policy.
        attribute: returns attributions of the same decisions' events by networks, (B, H).
        present: which slots are taken, (B, H) bool.
        seed: of the random weights.

    Raises:
        ValueError: no decision has events enough to compare their ranks.
    """
    enough = present.sum(axis=1) >= MIN_EVENTS
    if not enough.any():
        raise ValueError(f"no decision has {MIN_EVENTS} events, whose ranks could be compared")
    there, before = present[enough], attribute(networks)[enough]
    sizes, signed = {}, {}
    for place, stage in enumerate(STAGES, start=1):
        found = np.empty((2, DRAWS))
        for draw in range(DRAWS):
            after = attribute(shuffled(networks, place, DRAWS * seed + draw))[enough]
            pairs = ((np.abs(before), np.abs(after)), (before, after))
            for row, (one, other) in enumerate(pairs):
                # Where all events are valued alike, ranks agree with nothing.
                found[row, draw] = np.nan_to_num(spearman_of_rows(one, other, there)).mean()
        sizes[stage], signed[stage] = (
            StageFigures(draws=draws.tolist(), size=float(np.abs(draws).mean())) for draws in found
        )
    return RandomisationResult(decisions=int(enough.sum()), stages=sizes, signed=signed)

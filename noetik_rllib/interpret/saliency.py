"""Other measures of how much an event matters, to hold attributions against.

All are (B, H), 0 at empty slots. Attention and the size of a gradient have no direction: they say
that an event matters, not whether it speaks for or against.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from noetik_rllib.interpret.decisions import Decisions
from noetik_rllib.interpret.scores import Score
from noetik_rllib.iql.interpretability import event_attention

#: States that pass through the network at a time, with their gradients.
_STATES_AT_ONCE = 1_024
#: Tokens before the events: user and context.
_BEFORE_EVENTS = 2


@dataclass(frozen=True)
class Saliency:
    """Measures of B decisions, each (B, H) float64.

    Attributes:
        gradient: norm of the score's gradient with respect to an event's token (Simonyan et al.
            2014).
        gradient_times_input: that gradient times the token, summed up.
        attention: rollout of the attention over the events (Abnar & Zuidema 2020).
        raw_attention: what the last block's user token attends to, averaged over heads; in
            networks of one block, in the order of the rollout.
    """

    gradient: np.ndarray
    gradient_times_input: np.ndarray
    attention: np.ndarray
    raw_attention: np.ndarray


def saliency(score: Score, decisions: Decisions) -> Saliency:
    """Measure how much each event matters for a score, by gradients and by attention."""
    found = [_of_chunk(score, decisions[rows]) for rows in decisions.chunks(_STATES_AT_ONCE)]
    return Saliency(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _of_chunk(score: Score, decisions: Decisions) -> tuple[np.ndarray, ...]:
    states, videos, alternatives = decisions.tensors(score.device)
    with torch.no_grad():
        tokens = score.encoder.embed(score.features, states)
        about = score.about(videos, alternatives)
    events = tokens.events.requires_grad_()
    attention: list[torch.Tensor] = []
    summary = score.encoder.encode(replace(tokens, events=events), attention)
    value = score.of_summary(summary, *about)
    (gradient,) = torch.autograd.grad(value.sum(), events)
    present = tokens.present
    measures = (
        gradient.norm(dim=-1) * present,
        (gradient * events).sum(dim=-1) * present,
        event_attention(attention, present),
        attention[-1].mean(dim=1)[:, 0, _BEFORE_EVENTS:] * present,
    )
    return tuple(measure.detach().double().cpu().numpy() for measure in measures)

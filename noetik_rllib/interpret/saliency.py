"""Gradients as measures of how much an event matters, to hold attributions against.

All are (B, H), 0 at empty slots.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from noetik_rllib.interpret.decisions import Decisions
from noetik_rllib.interpret.scores import Score

#: States that pass through the network at a time, with their gradients.
_STATES_AT_ONCE = 1_024


@dataclass(frozen=True)
class Saliency:
    """Measures of B decisions, each (B, H) float64.

    Attributes:
        gradient: norm of the score's gradient with respect to an event's token (Simonyan et al.
            2014): that an event matters, not whether it speaks for or against.
        gradient_times_input: that gradient times the token, summed up.
    """

    gradient: np.ndarray
    gradient_times_input: np.ndarray


def saliency(score: Score, decisions: Decisions) -> Saliency:
    """Measure how much each event matters for a score, by its gradient."""
    found = [_of_chunk(score, decisions[rows]) for rows in decisions.chunks(_STATES_AT_ONCE)]
    return Saliency(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _of_chunk(score: Score, decisions: Decisions) -> tuple[np.ndarray, ...]:
    states, videos, alternatives = decisions.tensors(score.device)
    with torch.no_grad():
        tokens = score.encoder.embed(score.features, states)
        about = score.about(videos, alternatives)
    events = tokens.events.requires_grad_()
    value = score.of_summary(score.encoder.encode(replace(tokens, events=events)), *about)
    (gradient,) = torch.autograd.grad(value.sum(), events)
    measures = (gradient.norm(dim=-1), (gradient * events).sum(dim=-1))
    return tuple((measure * tokens.present).detach().double().cpu().numpy() for measure in measures)

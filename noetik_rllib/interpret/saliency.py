"""Gradients as measures of how much a part matters, to hold attributions against.

Shapes: B decisions, H history slots, U and C groups of user and context features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from noetik_rllib.interpret.attribution import Attributor, by_group
from noetik_rllib.interpret.decisions import Decisions
from noetik_rllib.interpret.groups import CONTEXT_GROUPS

#: States that pass through the network at a time, with their gradients.
_STATES_AT_ONCE = 1_024


@dataclass(frozen=True)
class Saliency:
    """Measures of B decisions, float64; 0 at empty slots.

    Attributes:
        gradient: norm of the score's gradient with respect to an event's token, (B, H) (Simonyan
            et al. 2014): that an event matters, not whether it speaks for or against.
        gradient_times_input: that gradient times the token, summed up, (B, H).
        user, context: gradient times the difference to the baseline, summed up by group, (B, U)
            and (B, C).
    """

    gradient: np.ndarray
    gradient_times_input: np.ndarray
    user: np.ndarray
    context: np.ndarray

    @property
    def all(self) -> np.ndarray:
        """Gradient times input of every part side by side, (B, H + U + C)."""
        return np.concatenate([self.gradient_times_input, self.user, self.context], axis=1)


def saliency(attributor: Attributor, decisions: Decisions) -> Saliency:
    """Measure how much each part matters for the attributor's score, by its gradient."""
    found = [_of_chunk(attributor, decisions[rows]) for rows in decisions.chunks(_STATES_AT_ONCE)]
    return Saliency(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _of_chunk(attributor: Attributor, decisions: Decisions) -> tuple[np.ndarray, ...]:
    score = attributor.score
    encoder = score.encoder
    states, videos, alternatives = decisions.tensors(score.device)
    parts = encoder.layout.unpack(states)
    with torch.no_grad():
        tokens = encoder.embed(score.features, states)
        about = score.about(videos, alternatives)
    events = tokens.events.requires_grad_()
    user, context = (part.clone().requires_grad_() for part in (parts.user, parts.context))
    moved = replace(
        tokens, events=events, user=encoder.user(user), context=encoder.context(context)
    )
    value = score.of_summary(encoder.encode(moved), *about)
    of_events, of_user, of_context = torch.autograd.grad(value.sum(), (events, user, context))
    start_user, start_context = attributor.baseline
    measures = (
        of_events.norm(dim=-1) * tokens.present,
        (of_events * events).sum(dim=-1) * tokens.present,
        of_user * (user - start_user),
        of_context * (context - start_context),
    )
    gradient, times, profile, situation = (
        measure.detach().double().cpu().numpy() for measure in measures
    )
    return (
        gradient,
        times,
        by_group(profile, attributor.user_groups),
        by_group(situation, CONTEXT_GROUPS),
    )

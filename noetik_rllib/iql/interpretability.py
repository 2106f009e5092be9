r"""The term of the policy's loss for attention that is concentrated and faithful.

Attention explains a decision only if few events carry it, and if those are the events that the
decision rests on. With :math:`\alpha` the rollout of the actor's attention over the n events of a
state (``transformer.attention_rollout``, made to sum to 1 over the events), and :math:`q_k` the
actor's query when only the k most attended events are left,

.. math:: L = \frac{H(\alpha)}{\log n} + \frac{\|q - q_k\|^2}{\|q\|^2}

averaged over a batch, in which states with k events or fewer count 0: there is nothing to leave
out. (A mean over the other states alone would weigh learners' batches unequally.) The first part is
the entropy of attention (Nguyen et al. 2025, arXiv 2501.12775, minimise it): 1 where all events are
attended alike. The second is the insufficiency of those events, in the spirit of ERASER's
sufficiency (DeYoung et al. 2020): every logit is linear in the query, so where it is 0 the k events
alone give the same policy, over a catalogue of any size. Its denominator has no gradient: larger
queries would lower it for nothing. Events are removed through the mask, so that a shortened history
is one that the network knows. First derivatives suffice: fused attention stays in use elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from noetik_rllib.iql.networks import Actor
from noetik_rllib.iql.transformer import Tokens, attention_rollout

#: Tokens before the events: user and context.
_BEFORE_EVENTS = 2


def event_attention(attention: list[Tensor], present: Tensor) -> Tensor:
    """Return the attention rollout over the events alone, (B, H); rows sum to 1, or are all 0.

    Args:
        attention: of every block, as ``StateEncoder.encode`` gives it.
        present: which slots are taken, (B, H) bool.
    """
    events = attention_rollout(attention)[:, _BEFORE_EVENTS:] * present
    return events / events.sum(dim=1, keepdim=True).clamp(min=1e-12)


def most_attended(attention: Tensor, present: Tensor, count: int) -> Tensor:
    """Return which of the events (B, H) are among the ``count`` most attended, (B, H) bool."""
    top = attention.topk(min(count, attention.shape[1]), dim=1).indices
    chosen = torch.zeros_like(present).scatter_(1, top, True)
    return chosen & present


def penalties(
    actor: Actor, tokens: Tokens, query: Tensor, attention: list[Tensor], count: int
) -> tuple[Tensor, Tensor]:
    """Return the mean attention entropy and insufficiency of B states, two scalars.

    Args:
        actor: the policy.
        tokens: of the states.
        query: what the actor makes of them, (B, D).
        attention: on the way there, of every block.
        count: k, the events that should suffice.

    Returns:
        Both 0 where no state has more than k events.
    """
    present = tokens.present
    alpha = event_attention(attention, present)  # (B, H)
    number = present.sum(dim=1)
    counts = (number > count).to(query.dtype)  # (B,)
    entropy = -(alpha * alpha.clamp(min=1e-12).log()).sum(dim=1) / number.clamp(min=2).log()
    kept = most_attended(alpha, present, count)
    reduced = actor.query(actor.encoder.encode(tokens.keeping(kept)))
    change = (query - reduced).square().sum(dim=1) / query.detach().square().sum(dim=1)
    return (entropy * counts).mean(), (change * counts).mean()

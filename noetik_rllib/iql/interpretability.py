r"""The term of the policy's loss for recommendations that rest on few past events.

A recommendation can be explained in a few words only if few events carry it. With :math:`e_j` the
token of event j and :math:`w_j` its weight in the history's mean (``transformer.StateEncoder``),
:math:`W` the part of the actor's query layer that reads that mean, and :math:`e_v - \bar e` the
logged video's embedding less the batch's average one, event j moves the video's log-odds against an
average video, directly and up to a factor that all events share, by

.. math:: a_j = w_j \langle W e_j, e_v - \bar e \rangle
          \qquad L = \frac{H(|a| / \sum_k |a_k|)}{\log n}

with H the entropy and n the number of events, averaged over a batch in which states with fewer than
two events count 0. (A mean over the others alone would weigh learners' batches unequally.) L is 1
where all events move the video alike, and 0 where one event does.

It is the entropy of attributions by gradient times input (Shrikumar et al. 2016) along the direct
path, which is most of them in these networks, at the cost of one product: first derivatives
suffice, and no second pass. Attention's entropy instead (Nguyen et al. 2025, arXiv 2501.12775) made
attention collapse on one event without changing what the policy rests on: attention does not see
which video is asked for, and what an event adds to the mean passes it by (docs/faithfulness.md has
figures).

Shapes: B states, H history slots, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from noetik_rllib.iql.networks import Actor
from noetik_rllib.iql.transformer import Tokens
from noetik_rllib.iql.video_tower import VideoFeatures


def direct_effects(actor: Actor, features: VideoFeatures, tokens: Tokens, videos: Tensor) -> Tensor:
    """Return how much each event moves a video directly, (B, H); 0 at empty slots.

    Args:
        actor: the policy.
        features: of the catalogue.
        tokens: of the states.
        videos: one of each state, (B,) int64.
    """
    embedded, _ = actor.embed(features, videos)
    contrast = embedded - embedded.mean(dim=0)  # (B, D)
    size = contrast.shape[1]
    # <W e, c> = <e, W^T c>: one product a state, not one an event.
    direction = contrast @ actor.query.weight[:, size:]
    return (tokens.events @ direction[:, :, None])[..., 0] * tokens.weight


def effect_entropy(effects: Tensor, present: Tensor) -> Tensor:
    """Return the mean relative entropy of the effects' shares, a scalar in [0, 1].

    Args:
        effects: of the events, (B, H).
        present: which slots are taken, (B, H) bool.
    """
    # In single precision also under autocast: logarithms of small shares.
    size = effects.float().abs() * present
    share = size / size.sum(dim=1, keepdim=True).clamp(min=1e-12)
    entropy = -(share * share.clamp(min=1e-12).log()).sum(dim=1)  # (B,)
    number = present.sum(dim=1)
    relative = entropy / number.clamp(min=2).to(entropy.dtype).log()
    return torch.where(number > 1, relative, 0.0).mean()

"""How much a policy attends to each past event: what is shown beside attributions, never alone.

Attention says where the network looks, not what that does to a choice (Jain & Wallace 2019,
"Attention is not Explanation"); of this network it says less still, as the mean of the events' own
tokens reaches the summary past all attention (``StateEncoder.summary``).

Shapes: B states, H history slots.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from noetik_rllib.iql.networks import IQLNetworks
from noetik_rllib.iql.transformer import attention_rollout

#: Tokens before the events: user and context.
_BEFORE_EVENTS = 2
#: Attention weights of a block that are held at a time: 40 MB.
_WEIGHTS_AT_ONCE = 10_000_000
#: From the attention of every block and the slots that are taken, attention by event (B, H).
_Reading = Callable[[list[Tensor], Tensor], Tensor]


def event_attention(attention: list[Tensor], present: Tensor) -> Tensor:
    """Return the attention rollout over the events alone, (B, H); rows sum to 1, or are all 0.

    Args:
        attention: of every block, as ``StateEncoder.encode`` gives it.
        present: which slots are taken, (B, H) bool.
    """
    events = attention_rollout(attention)[:, _BEFORE_EVENTS:] * present
    return events / events.sum(dim=1, keepdim=True).clamp(min=1e-12)


def event_attention_of(networks: IQLNetworks, states: np.ndarray) -> np.ndarray:
    """Return the rollout of the actor's attention over the events alone (Abnar & Zuidema 2020).

    Args:
        networks: a policy.
        states: (B, state size) float32.

    Returns:
        (B, H) float64, newest event first; rows sum to 1, or are all 0 where there is no event.

    Raises:
        ValueError: the states are of another size than the policy's.
    """
    return _over_chunks(networks, states, event_attention)


def raw_attention_of(networks: IQLNetworks, states: np.ndarray) -> np.ndarray:
    """Return the last block's attention of the user's token, averaged over heads; otherwise alike.

    With a single block it is the rollout: what the residual connection adds is no event's.
    """

    def last_block(attention: list[Tensor], present: Tensor) -> Tensor:
        # Of one block, the rollout over the events is its attention: half, and half of the sum.
        return event_attention(attention[-1:], present)

    return _over_chunks(networks, states, last_block)


def _over_chunks(networks: IQLNetworks, states: np.ndarray, reading: _Reading) -> np.ndarray:
    encoder, features = networks.actor.encoder, networks.features
    device = features.numeric.device
    tokens_of_state = encoder.layout.history_length + 2
    size = max(1, _WEIGHTS_AT_ONCE // (networks.config.num_heads * tokens_of_state**2))
    found = np.empty((len(states), encoder.layout.history_length))
    for first in range(0, len(states), size):
        rows = slice(first, first + size)
        with torch.no_grad():
            # A copy: arrays read from Parquet are read-only, which torch warns about.
            chunk = torch.tensor(np.asarray(states[rows], dtype=np.float32), device=device)
            tokens = encoder.embed(features, chunk)
            attention: list[Tensor] = []
            encoder.encode(tokens, attention)
            found[rows] = reading([one.double() for one in attention], tokens.present).cpu().numpy()
    return found

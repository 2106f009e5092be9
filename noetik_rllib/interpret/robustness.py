"""Infidelity and sensitivity of attributions (Yeh et al. 2019), by captum's own metrics.

Both look at every part that is attributed: events, groups of the profile, groups of the situation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor

from noetik_rllib.interpret.attribution import STEPS, Attributor
from noetik_rllib.interpret.decisions import Decisions
from noetik_rllib.state import AGE, WATCH_RATIO

#: Chance that a part is taken out in a perturbation of ``infidelity_of``.
REMOVAL = 0.5
#: Perturbations of a decision. What is read is a mean over decisions, so few of each suffice.
INFIDELITY_SAMPLES = 20
SENSITIVITY_SAMPLES = 5
#: Largest change of a feature in ``sensitivity_of``, captum's default: features have a spread of
#: about 1.
RADIUS = 0.02
#: Perturbed states that pass through the network at a time.
_STATES_AT_ONCE = 2_048


@dataclass(frozen=True)
class Infidelity:
    """Mean squares over the perturbations of each decision, (B,).

    Attributes:
        scaled: of the difference between the sum of the attributions taken away and the change of
            the score, after the attributions of the decision were scaled to fit best (captum's
            ``normalize``).
        unscaled: the same of the attributions as they are.
        change: of the change of the score alone: what attributions of 0 get.
    """

    scaled: np.ndarray
    unscaled: np.ndarray
    change: np.ndarray


def infidelity_of(
    attributor: Attributor, decisions: Decisions, attributions: np.ndarray, seed: int
) -> Infidelity:
    """How badly attributions foretell what taking parts away does.

    Every perturbation takes out each part with probability 1/2: an event leaves the history, a
    group of features becomes the baseline's.

    Args:
        attributor: of the score.
        decisions: B decisions.
        attributions: of all parts, (B, H + U + C), as ``Attribution.all``.
        seed: of the perturbations.
    """
    score = attributor.score_of_parts(decisions)
    device = attributor.score.device
    parts = torch.ones(attributions.shape, device=device)
    rows = torch.arange(len(parts), device=device)
    most = INFIDELITY_SAMPLES * len(parts)

    def remove(whole: Tensor) -> tuple[Tensor, Tensor]:
        removed = (torch.rand_like(whole) < REMOVAL).to(whole.dtype)
        return removed, whole - removed

    def of(values: np.ndarray, *, normalize: bool) -> np.ndarray:
        torch.manual_seed(seed)  # every time the same perturbations
        found: Tensor = infidelity(
            score,
            remove,
            parts,
            torch.as_tensor(values, dtype=parts.dtype, device=device),
            additional_forward_args=rows,
            n_perturb_samples=INFIDELITY_SAMPLES,
            # captum's unit is a perturbation of every decision.
            max_examples_per_batch=max(len(parts), min(_STATES_AT_ONCE, most)),
            normalize=normalize,
        )
        return np.asarray(found.double().cpu().numpy())

    nothing = np.zeros_like(attributions)
    return Infidelity(
        # Attributions of 0 have no scale to fit.
        scaled=of(attributions, normalize=bool(attributions.any())),
        unscaled=of(attributions, normalize=False),
        change=np.maximum(of(nothing, normalize=False), 1e-12),
    )


def sensitivity_of(
    attributor: Attributor, decisions: Decisions, seed: int, radius: float = RADIUS
) -> np.ndarray:
    """Largest relative change of the attributions when features change a little, (B,).

    The profile, the situation, watched shares and ages each move by up to ``radius``, but for those
    that are exactly 0; which videos were watched, and how they were answered, stays.

    Args:
        attributor: of the score.
        decisions: B decisions.
        seed: of the perturbations.
        radius: largest change of a feature.
    """
    layout = attributor.layout
    moves = np.zeros(layout.size, dtype=np.float32)
    parts = layout.unpack(moves[None])  # views
    parts.user[:], parts.context[:] = 1, 1
    parts.events[..., WATCH_RATIO], parts.events[..., AGE] = 1, 1
    scale = torch.as_tensor(moves)
    generator = torch.Generator().manual_seed(seed)

    def perturb(inputs: Tensor | tuple[Tensor], radius: float) -> Tensor:
        states = inputs if isinstance(inputs, Tensor) else inputs[0]
        noise = 2 * torch.rand(states.shape, generator=generator) - 1
        # An empty slot stays empty: all of it is 0.
        taken = torch.where(states == 0, 0.0, 1.0)
        return states + radius * noise * scale * taken

    # captum repeats what goes by this name for the perturbed states.
    def explain(
        inputs: Tensor | tuple[Tensor], additional_forward_args: Tensor | tuple[Tensor]
    ) -> tuple[Tensor]:
        states = inputs if isinstance(inputs, Tensor) else inputs[0]
        rows = additional_forward_args
        chosen = decisions[(rows if isinstance(rows, Tensor) else rows[0]).numpy()]
        moved = Decisions(states.numpy(), chosen.videos, chosen.alternatives)
        # In a tuple: captum would take a tensor's rows for several inputs.
        return (torch.as_tensor(attributor.attribute(moved, STEPS[:1]).all),)

    found: Tensor = sensitivity_max(
        explain,
        torch.as_tensor(np.array(decisions.states, dtype=np.float32)),
        perturb,
        perturb_radius=radius,
        n_perturb_samples=SENSITIVITY_SAMPLES,
        additional_forward_args=torch.arange(len(decisions)),
    )
    return np.asarray(found.double().numpy())

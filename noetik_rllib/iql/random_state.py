"""The state of a process' random generators, for checkpoints.

The global ones: an RLModule's dropout and sampling draw from them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the state of every generator that RLlib seeds: Python's, NumPy's and torch's.

    And CUDA's of every device, where this process uses one: asking would occupy the others.
    """
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
        "torch": torch.get_rng_state().numpy(),
        "cuda": [state.numpy() for state in cuda],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Make every generator go on from a state of ``random_state``.

    A state from a machine with more GPUs sets those that are here.
    """
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(torch.tensor(state["torch"]))
    for device in range(min(len(state["cuda"]), torch.cuda.device_count())):
        torch.cuda.set_rng_state(torch.tensor(state["cuda"][device]), device)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave every generator as it was, whatever is drawn in this block."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)

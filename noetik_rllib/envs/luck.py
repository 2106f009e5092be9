"""Where the luck of a session comes from: a seed, and the number of a stream of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from noetik_rllib.errors import UserError


def generator(seed: Any, stream: int = 0) -> np.random.Generator:
    """Return the generator of a session.

    Stream 0 of a seed is Gymnasium's own generator of it. Two pairs of seed and stream that differ
    give independent numbers (NumPy's ``SeedSequence`` with the stream for its ``spawn_key``), also
    where their sum is the same.

    Args:
        seed: whole number of 0 or more; None for a fresh one.
        stream: number of the stream.

    Raises:
        UserError: the seed is none.
    """
    key = (stream,) if stream else ()
    return np.random.Generator(
        np.random.PCG64(np.random.SeedSequence(read_seed(seed), spawn_key=key))
    )


def read_seed(seed: Any) -> int | None:
    """Return a seed as Python's own number.

    Raises:
        UserError: it is no whole number of 0 or more.
    """
    if seed is None:
        return None
    if is_whole(seed) and seed >= 0:
        return int(seed)
    raise UserError(f"reset seed: expected a whole number of 0 or more, got {seed!r}")


def is_whole(value: Any) -> bool:
    """Whether a value is one whole number, of Python or NumPy; True and False are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)

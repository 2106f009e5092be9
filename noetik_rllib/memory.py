"""Keeping freed memory in the process, for commands that fill gigabytes piece by piece."""

from __future__ import annotations

import ctypes

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def reuse_freed_memory() -> None:
    """Keep up to 1 GB of freed memory in this process instead of handing it back each time.

    glibc returns blocks of some megabytes to the system as they are freed, and the system clears
    them before it hands them out again: a tenth of the time of ``noetik data prepare``. Does
    nothing where the C library has no ``mallopt``.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, 1 << 30)
        mallopt(_MMAP_THRESHOLD, 32 << 20)  # the most that glibc accepts

"""Memory of this process: its peak, and freed memory that is kept."""

from __future__ import annotations

import ctypes
import resource
import sys


def peak_memory_mb() -> float:
    """The most memory this process has held so far (resident set, MB of 10⁶ bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def keep_freed_memory() -> None:
    """Let the process keep what it frees, up to 512 MB, and take arrays of up to 256 MB from it (glibc only).

    For loops whose arrays of tens of MB come and go at every step: fresh pages for each cost more than the arithmetic.
    Not for arrays of ever new sizes, which would leave holes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 2**28)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**29)  # M_TRIM_THRESHOLD

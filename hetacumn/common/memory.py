"""Memory of this process: its peak, and the reuse of freed memory."""

from __future__ import annotations

import ctypes
import resource
import sys


def peak_memory_mb() -> float:
    """Return the most memory that this process has held so far (resident set, MB of 10⁶ bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def keep_freed_memory() -> None:
    """Let the process keep up to 512 MB of freed memory, and take arrays of up to 256 MB from it (glibc only).

    This helps loops that allocate and free arrays of tens of MB at every step, where fresh pages cost more than the arithmetic.
    Arrays of ever new sizes would leave holes in the kept memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 2**28)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**29)  # M_TRIM_THRESHOLD

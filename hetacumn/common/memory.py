"""Memory of this process: peak use, and reuse of freed memory."""

from __future__ import annotations

import ctypes
import resource
import sys


def peak_memory_mb() -> float:
    """Return the peak resident memory of this process so far, in MB (10⁶ bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def keep_freed_memory() -> None:
    """Keep up to 512 MB of freed memory in the process, and reuse it for arrays of up to 256 MB (glibc only).

    This speeds up loops that allocate and free arrays of tens of MB at every step: fresh pages from the operating system would
    cost more than the arithmetic. Do not use it where array sizes keep changing, which fragments the kept memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 2**28)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**29)  # M_TRIM_THRESHOLD

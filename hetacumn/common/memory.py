"""Peak memory of this process."""

from __future__ import annotations

import resource
import sys


def peak_memory_mb() -> float:
    """Return the peak resident memory of this process so far, in MB (10⁶ bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6

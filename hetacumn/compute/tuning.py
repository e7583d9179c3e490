"""Settings of the process that speed up computations on a CPU without a change of precision."""

from __future__ import annotations

import ctypes

import torch


def tune_cpu() -> None:
    """Speed up the computations of this process on a CPU; call it before a start, a training or a prediction."""
    _keep_freed_memory()
    _multiply_by_onednn()


def _keep_freed_memory() -> None:
    """Keep up to 512 MB of freed memory in the process, and reuse it for arrays of up to 256 MB (glibc only).

    This speeds up loops that allocate and free arrays of tens of MB at every step: fresh pages from the operating system would
    cost more than the arithmetic.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 2**28)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**29)  # M_TRIM_THRESHOLD


def _multiply_by_onednn() -> None:
    """Let oneDNN multiply single-precision matrices if the CPU has AVX-512 but no matrix unit (AMX).

    PyTorch multiplies by MKL otherwise, which takes about twice as long on AMD processors. PyTorch selects oneDNN only if
    bfloat16 is allowed as an internal precision. Without a matrix unit, oneDNN nevertheless multiplies in single precision. A
    matrix unit would round the factors, and rotations need single precision (:mod:`hetacumn.compute.precision`).
    """
    if torch.cpu._is_avx512_supported() and not torch.cpu._is_amx_tile_supported():
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]  # absent from the stub

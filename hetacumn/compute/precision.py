"""The precision of network layers, bfloat16 where the hardware supports it, and of matrix products on a CPU.

Rotations, frequencies, transforms and likelihoods stay in single precision, because poses need it: bfloat16 resolves a
frequency of 20 / box only to 1/16 of 1 / box, and a rotation only to 0.25°. The environment variable
``HETACUMN_LAYERS=float32`` sets the layers to single precision too, so that machines with and without bfloat16 agree up to
rounding errors.
"""

from __future__ import annotations

import os

import torch


@torch.compiler.assume_constant_result
def layer_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the hardware multiplies in it (NVIDIA GPUs since Ampere, CPUs with AVX512-BF16), else float32."""
    if os.environ.get("HETACUMN_LAYERS") == "float32":
        return torch.float32
    if device.type == "cuda":
        helps = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        helps = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if helps else torch.float32


def autocast(device: torch.device) -> torch.autocast:
    """Return the context in which network layers run; the caller converts the results to single precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=layer_dtype(device) == torch.bfloat16)


def multiply_fast(device: torch.device) -> None:
    """Choose the library that multiplies single-precision matrices in this process, for computations on ``device``.

    On a CPU with AVX-512 but without a matrix unit (AMX), oneDNN takes about half the time of MKL on AMD processors. PyTorch
    selects oneDNN only if it may round factors to bfloat16 ("medium"). Without a matrix unit, oneDNN nevertheless multiplies in
    single precision. On all other devices the factors stay in single precision too ("highest"), because rotations need it.
    """
    unit = torch.cpu._is_amx_tile_supported() or not torch.cpu._is_avx512_supported()
    torch.set_float32_matmul_precision("medium" if device.type == "cpu" and not unit else "highest")

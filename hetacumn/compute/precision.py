"""The precision of the layers of networks: bfloat16 where the hardware supports it.

Rotations, frequencies, transforms and likelihoods stay in single precision, which poses need: bfloat16 represents a frequency
of 20 to a sixteenth and a rotation to a quarter of a degree. ``HETACUMN_LAYERS=float32`` in the environment sets the layers to
single precision too, so that machines with and without bfloat16 agree but for rounding.
"""

from __future__ import annotations

import os

import torch


@torch.compiler.assume_constant_result
def layer_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the hardware multiplies it (NVIDIA GPUs since Ampere, CPUs with AVX512-BF16), else float32."""
    if os.environ.get("HETACUMN_LAYERS") == "float32":
        return torch.float32
    if device.type == "cuda":
        helps = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        helps = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if helps else torch.float32


def autocast(device: torch.device) -> torch.autocast:
    """Make the context in which the layers of a network run; the caller converts the results to single precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=layer_dtype(device) == torch.bfloat16)

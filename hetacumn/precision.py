"""Where bfloat16 is enough: in the layers of networks.

Rotations, frequencies, transforms and likelihoods stay in single precision, which poses need: in bfloat16 a frequency of 20
is known to a sixteenth and a rotation to a quarter of a degree. With ``HETACUMN_LAYERS=float32`` in the environment the layers
are in single precision too, so that machines with and without bfloat16 agree but for rounding.
"""

from __future__ import annotations

import os

import torch


@torch.compiler.assume_constant_result
def layer_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it: NVIDIA GPUs since Ampere, CPUs with AVX512-BF16; elsewhere it is slower."""
    if os.environ.get("HETACUMN_LAYERS") == "float32":
        return torch.float32
    if device.type == "cuda":
        helps = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        helps = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if helps else torch.float32


def autocast(device: torch.device) -> torch.autocast:
    """What the layers of a network run under; what comes of them is for the caller to make single again."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=layer_dtype(device) == torch.bfloat16)

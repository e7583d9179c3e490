"""Fourier shell correlation (FSC) of two volumes, and the resolution at which it falls below a threshold.

Volumes are ``(..., z, y, x)`` with an even box. Shells are integer radii of their transforms: shell ``s`` of a volume of
``box`` voxels of ``voxel_A`` Å is at the spatial frequency ``s / (box * voxel_A)`` in 1/Å.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.physics.fourier import fft3c, shells

HALF_MAP_FSC = 0.143  # threshold for half maps (Rosenthal & Henderson 2003)


def fsc(a: Float[Tensor, "*#batch box box box"], b: Float[Tensor, "*#batch other other other"]) -> Float[Tensor, "... box//2"]:
    """Compute the correlation of the transforms of two volumes in each of the ``box // 2`` shells.

    Shell 0 is the mean of the volumes. The curve does not depend on the scale of either volume, nor on a filter that is
    constant over each shell. The correlation is 0 in a shell where either volume has no power. Raises ValueError if the boxes
    differ.
    """
    if a.shape[-3:] != b.shape[-3:]:
        raise ValueError(f"volumes of shapes {tuple(a.shape)} and {tuple(b.shape)}; expected equal boxes")
    box = a.shape[-1]
    first, second = fft3c(a.double()).flatten(-3), fft3c(b.double()).flatten(-3)
    shell = shells(box, 3, a.device).flatten()

    def shell_sum(values: Tensor) -> Tensor:
        sums = values.new_zeros(*values.shape[:-1], int(shell.max()) + 1)
        return sums.index_add(-1, shell, values)[..., : box // 2]

    cross = shell_sum((first * second.conj()).real)
    power = (shell_sum(first.abs().square()) * shell_sum(second.abs().square())).sqrt()
    return torch.where(power > 0, cross / power, 0.0).to(a.dtype)


def shell_frequencies(box: int, voxel_A: float) -> Float[Tensor, " {box//2}"]:
    """Return the spatial frequency of every shell of :func:`fsc`, in 1/Å."""
    return torch.arange(box // 2) / (box * voxel_A)


def first_shell_below(curve: Float[Tensor, " shells"], threshold: float) -> int:
    """Return the first shell from shell 1 on in which a curve is below ``threshold``; the number of shells if there is none."""
    below = (curve[1:] < threshold).nonzero()
    return int(below[0]) + 1 if len(below) else len(curve)


def resolution_A(curve: Float[Tensor, " shells"], voxel_A: float, threshold: float = 0.5) -> float:
    """Return the resolution in Å at which an FSC curve first falls below ``threshold``, interpolated between shells.

    If the curve never falls below the threshold, the sampling limits the resolution, and the function returns the Nyquist
    limit ``2 * voxel_A``. If the curve is below the threshold in shell 1, the function returns the size of the box. Shell 0 is
    ignored.
    """
    box = 2 * len(curve)
    shell = first_shell_below(curve, threshold)
    if shell == len(curve):
        return 2 * voxel_A
    if shell == 1:
        return box * voxel_A
    high, low = float(curve[shell - 1]), float(curve[shell])
    return box * voxel_A / (shell - 1 + (high - threshold) / (high - low))

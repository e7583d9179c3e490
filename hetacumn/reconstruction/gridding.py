"""Gridding: addition of values at arbitrary positions to a Cartesian grid of a Fourier transform.

Each value is spread over the grid points around its position with the weights of a compact kernel. The transform of the kernel
multiplies the volume in real space; :func:`kernel_profile` returns it, and the caller divides by it.

On a CPU, finufft spreads the values with its kernel of four grid points per axis (Barnett, Magland & af Klinteberg 2019). On
other devices, PyTorch spreads them with the trilinear kernel.
"""

from __future__ import annotations

from functools import lru_cache

import finufft
import torch
from jaxtyping import Complex, Float
from torch import Tensor

TOLERANCE = 1e-3  # selects finufft's kernel of four grid points per axis


def spread(
    points: Float[Tensor, "3 p"], values: Complex[Tensor, "v p"], size: int
) -> Complex[Tensor, "v {size} {size} {size}"]:
    """Add values at points to a grid.

    ``points`` are positions (x, y, z) in units of the grid, with the origin at index ``size // 2``. The weights of one value
    add up to 1. The grid is periodic on a CPU; elsewhere all points must be at least one grid point away from its edges.
    """
    return _spread_finufft(points, values, size) if points.device.type == "cpu" else _spread_trilinear(points, values, size)


def kernel_profile(box: int, size: int, device: torch.device) -> Float[Tensor, " {box}"]:
    """Return the transform of the kernel along one axis, at the central ``box`` voxels of a volume of ``size`` voxels."""
    return _finufft_profile(box, size) if device.type == "cpu" else _trilinear_profile(box, size, device)


def _trilinear_profile(box: int, size: int, device: torch.device) -> Float[Tensor, " {box}"]:
    return torch.sinc((torch.arange(box, device=device) - box // 2) / size).square()


def _finufft_profile(box: int, size: int) -> Float[Tensor, " {box}"]:
    k = torch.arange(-4, 5)  # the kernel covers fewer than four grid points on either side
    phase = 2 * torch.pi / size * (torch.arange(box) - box // 2)[:, None] * k
    return (phase.cos() * _kernel()).sum(1)


@lru_cache(maxsize=1)
def _kernel() -> Float[Tensor, " 9"]:
    """Return finufft's kernel at the distances -4 … 4 grid points, with the sum 1."""
    grid = _spread_raw(torch.zeros(3, 1), torch.ones(1, 1, dtype=torch.complex64), 16)[0].real
    line = grid[8, 8, 4:13]
    return line / line.sum()


def _spread_finufft(points: Tensor, values: Tensor, size: int) -> Tensor:
    return _spread_raw(points, values / _total(), size)


@lru_cache(maxsize=1)
def _total() -> float:
    """Return the sum of the weights of finufft's kernel on a grid."""
    return float(_spread_raw(torch.zeros(3, 1), torch.ones(1, 1, dtype=torch.complex64), 16).real.sum())


def _spread_raw(points: Tensor, values: Tensor, size: int) -> Tensor:
    plan = finufft.Plan(1, (size,) * 3, n_trans=len(values), eps=TOLERANCE, isign=1, dtype="complex64", upsampfac=2.0,
                        spreadinterponly=1, nthreads=torch.get_num_threads())  # fmt: skip
    x, y, z = (points * (2 * torch.pi / size)).contiguous().numpy()
    plan.setpts(z, y, x)
    return torch.from_numpy(plan.execute(values.contiguous().numpy())).view(-1, size, size, size)


def _spread_trilinear(points: Tensor, values: Tensor, size: int) -> Tensor:
    corner = points.floor()
    high = points - corner
    x, y, z = corner.long() + size // 2
    sums = torch.zeros(size**3, 2 * len(values), device=points.device)
    columns = torch.view_as_real(values.T.contiguous()).flatten(1)
    for i in range(8):
        ends = [high[axis] if i >> axis & 1 else 1 - high[axis] for axis in range(3)]
        index = ((z + (i >> 2)) * size + y + (i >> 1 & 1)) * size + x + (i & 1)
        sums.index_add_(0, index, columns * (ends[0] * ends[1] * ends[2])[:, None])
    return torch.view_as_complex(sums.view(-1, len(values), 2)).T.reshape(len(values), size, size, size)

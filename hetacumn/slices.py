"""Central slices of volumes: the transform of a projection, read from the transform of the volume.

A volume is ``(..., z, y, x)`` with an even box and its origin at index ``box // 2``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from hetacumn.fourier import crop_volumes, padded_rfft3c, padded_size


def coarsened(volumes: Tensor, reach: float | None) -> Tensor:
    """``(..., box, box, box)`` volumes on the coarsest grid of the same extent whose projections, orthonormal, have the
    transform of before up to ``reach`` (integer frequency); as they are if none is given or no coarser one will do."""
    whole = volumes.shape[-1]
    if reach is None:
        return volumes
    box = 8 * math.ceil((2 * reach + 8) / 8)  # between the frequencies of a grid that ends sharply its edge is felt
    return volumes if box >= whole else crop_volumes(volumes, box) * (whole / box) ** 2


class _Interpolate(torch.autograd.Function):
    """Rows of a table mixed by sparse weights: ``out[p] = Σ_c weights[p, c] table[index[p, c]]``.

    The adjoint scatters. On a CPU that is SciPy's compiled sparse product, some ten times faster than
    ``index_add_``, and deterministic.
    """

    @staticmethod
    def forward(ctx, table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(table, index, weights)
        return torch.nn.functional.embedding_bag(index, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx, gradient: Tensor):
        table, index, weights = ctx.saved_tensors
        to_table = to_weights = None
        if ctx.needs_input_grad[0]:
            if gradient.device.type == "cpu":
                rows = np.arange(0, index.numel() + 1, index.shape[1], dtype=np.int32)
                matrix = scipy.sparse.csr_array(
                    (weights.numpy().ravel(), index.numpy().ravel(), rows), shape=(len(index), len(table))
                )
                to_table = torch.from_numpy(matrix.T @ gradient.contiguous().numpy())
            else:
                spread = weights[:, :, None] * gradient[:, None, :]
                to_table = torch.zeros_like(table).index_add_(0, index.flatten(), spread.flatten(0, 1))
        if ctx.needs_input_grad[2]:
            to_weights = torch.einsum("pcj,pj->pc", table[index], gradient)
        return to_table, None, to_weights


@dataclass(frozen=True)
class Stencil:
    """Where a set of slices reads a transform: eight corners and their weights for each of ``b * m`` points."""

    index: Tensor
    weights: Tensor
    sign: Tensor
    shape: tuple[int, int]

    def narrow(self, m: int) -> Stencil:
        """Only the first ``m`` frequencies of each slice."""
        b, full = self.shape
        if m == full:
            return self
        index, weights, sign = (
            a.unflatten(0, self.shape)[:, :m].flatten(0, 1) for a in (self.index, self.weights, self.sign)
        )
        return Stencil(index, weights, sign, (b, m))


class Slicer:
    """Central slices of real-space volumes, by the projection-slice theorem.

    Volumes are zero-padded by ``padding`` before the transform, and the transform is read trilinearly at
    ``Rᵀ (kx, ky, 0)``: the result is the orthonormal transform of the projection along view z. Only half of the
    transform is kept; the other half is its conjugate.

    ``volumes``: ``(j, box, box, box)``; differentiable in them and in the rotations. ``reach``: the highest frequency
    (integer) that will be asked for, if not all; the transform is no larger than that needs.
    """

    def __init__(self, volumes: Tensor, padding: float = 2.0, reach: float | None = None):
        volumes = coarsened(volumes, reach)
        self.box = volumes.shape[-1]
        self.size = padded_size(self.box, padding)
        self.channels = len(volumes)
        transform = padded_rfft3c(volumes / self.box, self.size)  # (j, kz, ky, kx >= 0)
        self.table = torch.view_as_real(transform.flatten(1).T).flatten(1)  # (voxels, j * 2)

    def stencil(self, rotations: Tensor, k: Tensor) -> Stencil:
        """Corners and weights for ``(b, 3, 3)`` rotations at ``(m, 2)`` integer frequencies; reusable."""
        return make_stencil(rotations, k, self.size, self.box)

    def read(self, stencil: Stencil) -> Tensor:
        """Slices ``(b, m, j)``, complex, at a stencil."""
        values = _Interpolate.apply(self.table, stencil.index, stencil.weights).unflatten(1, (self.channels, 2))
        values = torch.complex(values[..., 0], values[..., 1] * stencil.sign[:, None])
        return values.unflatten(0, stencil.shape)

    def read_mixed(self, stencil: Stencil, mixing: Tensor) -> Tensor:
        """Slices ``(b, m)`` of each image's own mixture ``(b, j)`` of the volumes."""
        values = _Interpolate.apply(self.table, stencil.index, stencil.weights)
        values = values.view(stencil.shape[0], stencil.shape[1], self.channels, 2)
        values = torch.einsum("bmjc,bj->bmc", values, mixing)
        sign = torch.stack([torch.ones_like(stencil.sign), stencil.sign], dim=-1)
        return torch.view_as_complex((values * sign.view(*stencil.shape, 2)).contiguous())

    def __call__(self, rotations: Tensor, k: Tensor) -> Tensor:
        """Slices ``(b, j, m)``, complex, at ``(b, 3, 3)`` rotations and ``(m, 2)`` integer frequencies of the box."""
        return self.read(self.stencil(rotations, k)).transpose(1, 2)


def make_stencil(rotations: Tensor, k: Tensor, size: int, box: int, gain: Tensor | None = None) -> Stencil:
    """The stencil for a transform of ``size`` cubed of volumes of ``box`` cubed voxels, its x half not negative.

    ``gain`` ``(b, m)``: factors of what is read.
    """
    # Long arrays first, of x, y and z each: to multiply pairs and eights along a last dimension takes three times as long.
    axes = rotations[:, :2].permute(2, 0, 1).flatten(0, 1) * (size / box)
    points = (axes @ k.T).view(3, -1)  # Rᵀ (kx, ky, 0), (xyz, b * m)
    sign = torch.where(points[0] < 0, -1.0, 1.0)
    points = points * sign
    corner = points.detach().floor()
    high = points - corner
    low = 1 - high
    x, y, z = corner.int()
    width, half = size // 2 + 1, size // 2
    base = ((z + half) * size + y + half) * width + x
    plane = size * width
    corners = torch.arange(8, device=base.device, dtype=base.dtype)  # made there: to copy it there would be waited for
    offsets = (corners & 1) + (corners >> 1 & 1) * width + (corners >> 2) * plane
    index = base[:, None] + offsets
    ends = torch.stack([low[2], high[2]])
    if gain is not None:
        ends = ends * gain.flatten()
    face = torch.stack([low[1] * low[0], low[1] * high[0], high[1] * low[0], high[1] * high[0]])
    weights = (ends[:, None] * face).flatten(0, 1).T.contiguous()
    return Stencil(index, weights, sign, (len(rotations), len(k)))

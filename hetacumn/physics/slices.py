"""Central slices of volumes: transforms of projections, interpolated from the transform of the volume.

A volume is ``(..., z, y, x)`` with an even box and its origin at index ``box // 2``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from hetacumn.physics.fourier import crop_volumes, padded_rfft3c, padded_size


def coarsened(
    volumes: Float[Tensor, "*batch box box box"], reach: float | None
) -> Float[Tensor, "*batch coarse coarse coarse"]:
    """Resample volumes on the coarsest grid of the same field of view that keeps their slices up to ``reach``.

    ``reach`` is an integer frequency, up to which the orthonormal transforms of projections do not change. The function
    returns the volumes unchanged if ``reach`` is None or no coarser grid suffices.
    """
    whole = volumes.shape[-1]
    if reach is None:
        return volumes
    box = 8 * math.ceil((2 * reach + 8) / 8)  # 8 is a margin: interpolation is less exact at the edge of the grid
    return volumes if box >= whole else crop_volumes(volumes, box) * (whole / box) ** 2


class _Interpolate(torch.autograd.Function):
    """Weighted sums of rows of a table: ``out[p] = Σ_c weights[p, c] table[index[p, c]]``.

    The backward pass scatters gradients to the table. On a CPU it uses SciPy's compiled sparse product, which is deterministic
    and about 10 times faster than ``index_add_``.
    """

    @staticmethod
    def forward(  # PyTorch passes a context object of no public type
        ctx: Any,
        table: Float[Tensor, "rows columns"],
        index: Int[Tensor, "points corners"],
        weights: Float[Tensor, "points corners"],
    ) -> Float[Tensor, "points columns"]:
        ctx.save_for_backward(table, index, weights)
        return torch.nn.functional.embedding_bag(index, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(
        ctx: Any, gradient: Float[Tensor, "points columns"]
    ) -> tuple[Float[Tensor, "rows columns"] | None, None, Float[Tensor, "points corners"] | None]:
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
    """The positions at which ``b`` slices of ``m`` frequencies interpolate a transform, ``b * m`` points in all.

    - ``index``: the 8 grid points around each point, as indices into the flattened half ``kx >= 0`` of the transform.
    - ``weights``: the trilinear weights of these grid points.
    - ``sign``: -1 where the point has ``kx < 0``, so that the conjugate of its Friedel mate is read; 1 elsewhere.
    - ``shape``: ``(b, m)``.
    """

    index: Int[Tensor, "points 8"]
    weights: Float[Tensor, "points 8"]
    sign: Float[Tensor, " points"]
    shape: tuple[int, int]

    def narrow(self, m: int) -> Stencil:
        """Keep only the first ``m`` frequencies of each slice."""
        b, full = self.shape
        if m == full:
            return self
        index, weights, sign = (a.unflatten(0, self.shape)[:, :m].flatten(0, 1) for a in (self.index, self.weights, self.sign))
        return Stencil(index, weights, sign, (b, m))


class Slicer:
    """Central slices of real-space volumes, by the projection-slice theorem.

    The volumes are zero-padded by the factor ``padding`` and transformed. A slice is the transform, interpolated trilinearly
    at ``Rᵀ (kx, ky, 0)``; it is the orthonormal transform of the projection along view z. Only the half ``kx >= 0`` of the
    transform is stored; the other half is its conjugate.

    Slices are differentiable in the volumes and in the rotations. ``reach`` is the highest integer frequency that will be
    read, which limits the size of the transform; None means all frequencies.
    """

    def __init__(self, volumes: Float[Tensor, "j box box box"], padding: float = 2.0, reach: float | None = None) -> None:
        volumes = coarsened(volumes, reach)
        self.box = volumes.shape[-1]
        self.size = padded_size(self.box, padding)
        self.channels = len(volumes)
        transform = padded_rfft3c(volumes / self.box, self.size)  # (j, kz, ky, kx >= 0)
        self.table = torch.view_as_real(transform.flatten(1).T).flatten(1)  # (voxels, j * 2)

    def stencil(self, rotations: Float[Tensor, "b 3 3"], k: Float[Tensor, "m 2"]) -> Stencil:
        """Compute the :class:`Stencil` of slices at ``rotations`` and integer frequencies ``k``, for repeated use."""
        return make_stencil(rotations, k, self.size, self.box)

    def read(self, stencil: Stencil) -> Complex[Tensor, "b m {self.channels}"]:
        """Interpolate the slices of all volumes at the points of a stencil."""
        values = _Interpolate.apply(self.table, stencil.index, stencil.weights).unflatten(1, (self.channels, 2))
        values = torch.complex(values[..., 0], values[..., 1] * stencil.sign[:, None])
        return values.unflatten(0, stencil.shape)

    def read_mixed(self, stencil: Stencil, mixing: Float[Tensor, "b {self.channels}"]) -> Complex[Tensor, "b m"]:
        """Read one slice for each image, of the image's own linear combination of the volumes with weights ``mixing``."""
        values = _Interpolate.apply(self.table, stencil.index, stencil.weights)
        values = values.view(stencil.shape[0], stencil.shape[1], self.channels, 2)
        values = torch.einsum("bmjc,bj->bmc", values, mixing)
        sign = torch.stack([torch.ones_like(stencil.sign), stencil.sign], dim=-1)
        return torch.view_as_complex((values * sign.view(*stencil.shape, 2)).contiguous())

    def __call__(self, rotations: Float[Tensor, "b 3 3"], k: Float[Tensor, "m 2"]) -> Complex[Tensor, "b {self.channels} m"]:
        """Read the slices of all volumes at rotations and integer frequencies (kx, ky) of the box."""
        return self.read(self.stencil(rotations, k)).transpose(1, 2)


def make_stencil(
    rotations: Float[Tensor, "b 3 3"],
    k: Float[Tensor, "m 2"],
    size: int,
    box: int,
    gain: Float[Tensor, "b m"] | None = None,
) -> Stencil:
    """Compute the :class:`Stencil` of central slices at ``rotations`` and integer frequencies ``k``.

    Volumes of ``box`` voxels per side are padded to ``size`` voxels per side, and the stencil points into the half ``kx >= 0``
    of their transform. ``gain`` multiplies the values read.
    """
    # x, y and z are separate long arrays, because products along a last dimension of length 2 or 8 take 3 times as long.
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
    corners = torch.arange(8, device=base.device, dtype=base.dtype)  # created on the device: a copy would wait
    offsets = (corners & 1) + (corners >> 1 & 1) * width + (corners >> 2) * plane
    index = base[:, None] + offsets
    ends = torch.stack([low[2], high[2]])
    if gain is not None:
        ends = ends * gain.flatten()
    face = torch.stack([low[1] * low[0], low[1] * high[0], high[1] * low[0], high[1] * high[0]])
    weights = (ends[:, None] * face).flatten(0, 1).T.contiguous()
    return Stencil(index, weights, sign, (len(rotations), len(k)))

"""Volumes in real space: radii, soft masks and rotation.

A volume is ``(..., z, y, x)`` with an even box and its origin at index ``box // 2``.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def radius_grid(box: int, device: torch.device | str = "cpu") -> Float[Tensor, "{box} {box} {box}"]:
    """Return the distance of every voxel from the origin, in voxels."""
    axis = torch.arange(box, device=device, dtype=torch.float32) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return (z.square() + y.square() + x.square()).sqrt()


def soft_sphere(box: int, edge: float = 2.0, device: torch.device | str = "cpu") -> Float[Tensor, "{box} {box} {box}"]:
    """Return a sphere of radius ``box // 2 - 1`` that falls from 1 to 0 as a cosine over its outer ``edge`` voxels."""
    outside = ((radius_grid(box, device) - (box // 2 - 1 - edge)) / edge).clamp(0, 1)
    return 0.5 + 0.5 * torch.cos(torch.pi * outside)


def rotate(
    volume: Float[Tensor, "box box box"],
    rotation: Float[Tensor, "3 3"],
    mirrored: bool = False,
    shift_px: Float[Tensor, " 3"] | None = None,
) -> Float[Tensor, "box box box"]:
    """Rotate, shift and mirror a volume by trilinear interpolation: ``W(x) = V(±R x + t)``, with ``-`` where ``mirrored``.

    ``shift_px`` is ``t`` (x, y, z) in voxels. ``W`` is 0 where it would read outside the box of ``V``.
    """
    box, half = volume.shape[-1], (volume.shape[-1] - 1) / 2  # grid_sample's unit
    axis = torch.arange(box, device=volume.device, dtype=torch.float32) - box // 2
    x, y, z = (axis[:, None] * column for column in (rotation * (-1.0 if mirrored else 1.0) / half).unbind(-1))  # (box, 3)
    centre = box // 2 / half - 1
    x = x + (centre if shift_px is None else shift_px / half + centre)
    return torch.nn.functional.grid_sample(
        volume[None, None],
        (z[:, None, None] + y[:, None] + x)[None],
        mode="bilinear",
        padding_mode="zeros",
        align_corners=True,
    )[0, 0]

"""Volumes in real space: radii, soft masks and rotation.

A volume is ``(..., z, y, x)`` with an even box and its origin at index ``box // 2``.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.physics.fourier import fft3c, ifft3c

LOW_PASS_EDGE = 1.0  # half-width of the edge of a low-pass filter, in Fourier shells


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


def low_passed(volume: Float[Tensor, "box box box"], radius: float) -> Float[Tensor, "box box box"]:
    """Remove frequencies beyond ``radius`` (integer frequencies), with a cosine edge of two shells."""
    beyond = radius_grid(volume.shape[-1], volume.device) - radius
    ramp = ((beyond + LOW_PASS_EDGE) / (2 * LOW_PASS_EDGE)).clamp(0, 1)
    return ifft3c(fft3c(volume) * (0.5 + 0.5 * torch.cos(torch.pi * ramp)))


def mirror(volumes: Float[Tensor, "*batch box box box"]) -> Float[Tensor, "*batch box box box"]:
    """Mirror volumes at the origin: ``W(x) = V(-x)``. The plane of index 0 along an axis has no mirror plane and stays."""
    return volumes.flip(-3, -2, -1).roll((1, 1, 1), (-3, -2, -1))


def recentred(volumes: Float[Tensor, "*batch box box box"]) -> Float[Tensor, "*batch box box box"]:
    """Shift volumes so that the centre of mass of each volume is at the origin.

    The mass of a voxel is the square of its value, and 0 for a negative value. The square suppresses the noise around the
    object.
    """
    box = volumes.shape[-1]
    axis = torch.arange(box, device=volumes.device, dtype=torch.float32) - box // 2
    mass = volumes.clamp(min=0).square()
    mass = mass / mass.sum(dim=(-3, -2, -1), keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny)
    centres = [(mass.sum(others) * axis).sum(-1)[..., None, None, None] for others in ((-3, -2), (-3, -1), (-2, -1))]  # x, y, z
    x, y, z = (centre * axis.view(shape) for centre, shape in zip(centres, ((1, 1, -1), (1, -1, 1), (-1, 1, 1)), strict=True))
    phase = (x + y + z) * (2 * torch.pi / box)
    return ifft3c(fft3c(volumes) * torch.polar(torch.ones_like(phase), phase))


def centred(volumes: Float[Tensor, "*batch box box box"]) -> Float[Tensor, "*batch box box box"]:
    """Subtract the mean and scale to norm 1, so that the product of two volumes is a correlation."""
    volumes = volumes - volumes.mean((-3, -2, -1), keepdim=True)
    return volumes / volumes.square().sum((-3, -2, -1), keepdim=True).sqrt().clamp_min(1e-12)

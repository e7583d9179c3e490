"""Weighted back-projection of posed images to a volume, and projection of volumes to images.

Back-projection multiplies every coefficient by its CTF and adds the product to the volume's transform at the position of the
slice. It then divides the sum by the sum of the squared CTFs plus a constant (a Wiener filter). Most cryo-EM programs end with
this linear reconstruction. Zero-padding, and division by the transform of the interpolation kernel, keep artefacts small.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Complex, Float, Inexact, Int
from torch import Tensor

from hetacumn.compute.batches import batch_slices
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations
from hetacumn.physics.fourier import ifft3c, padded_size, shells
from hetacumn.physics.slices import Slicer, make_stencil
from hetacumn.physics.volumes import radius_grid


@torch.no_grad()
def back_project(
    data: Observations, poses: Poses, padding: float = 2.0, prior: float = 0.05, batch: int = 1000
) -> Float[Tensor, "box box box"]:
    """Reconstruct a volume from images at their poses; voxel values have the scale of the normalised images.

    ``padding`` is the zero-padding factor. ``prior`` is the constant of the Wiener filter, as a fraction of the sum of squared
    CTFs, averaged over each shell. ``batch`` is the number of images added at a time.
    """
    return back_project_parts(((data[rows], poses[rows]) for rows in batch_slices(len(data), batch)), padding, prior)


@torch.no_grad()
def back_project_parts(
    parts: Iterable[tuple[Observations, Poses]], padding: float = 2.0, prior: float = 0.05
) -> Float[Tensor, "box box box"]:
    """Reconstruct a volume like :func:`back_project`, from parts of the images, with one part in memory at a time.

    Raises:
        ValueError: ``parts`` is empty.
    """
    sums: Float[Tensor, "voxels 3"] | None = None
    for part, poses in parts:
        if sums is None:
            box, device = part.plane.box, part.y.device
            size = padded_size(box, padding)
            voxels = size * size * (size // 2 + 1)
            sums = torch.zeros(voxels, 3, device=device)  # real and imaginary part of Σ C Y, and Σ C²
        stencil = make_stencil(poses.rotations, part.k, size, box)
        centred = part.plane.translate(part.y, -poses.shifts_px) * part.ctf
        values = torch.stack([centred.real.flatten(), centred.imag.flatten() * stencil.sign, part.ctf.square().flatten()], 1)
        for corner in range(8):
            sums.index_add_(0, stencil.index[:, corner], values * stencil.weights[:, corner, None])
    if sums is None:
        raise ValueError("parts is empty; expected at least one part of images")
    signal, weight = _whole(torch.view_as_complex(sums[:, :2].contiguous()), size), _whole(sums[:, 2], size)
    shell = shells(size, 3, device).clamp(max=size // 2)
    mean = torch.bincount(shell.flatten(), weight.flatten()) / torch.bincount(shell.flatten())
    inside = radius_grid(size, device) <= padding * (box // 2 - 1)
    transform = torch.where(inside, signal / (weight + prior * mean[shell] + 1e-6), 0)
    volume = ifft3c(transform) * box
    middle = slice(size // 2 - box // 2, size // 2 - box // 2 + box)
    kernel = torch.sinc((torch.arange(box, device=device) - box // 2) / size).square()  # of trilinear interpolation
    return volume[middle, middle, middle] / (kernel[:, None, None] * kernel[:, None] * kernel)


def _whole(half: Inexact[Tensor, " voxels"], size: int) -> Inexact[Tensor, "{size} {size} {size}"]:
    """Return the full centred transform from its half ``kx >= 0``: each value is also added at the Friedel mate."""
    half = half.view(size, size, size // 2 + 1)
    whole = half.new_zeros(size, size, size)
    whole[:, :, size // 2 :] = half[:, :, : size // 2]
    mate = torch.roll(whole.flip(0, 1, 2), (1, 1, 1), (0, 1, 2))  # -k, about the origin at size // 2
    return whole + (mate.conj() if mate.is_complex() else mate)


@torch.no_grad()
def reproject(
    data: Observations, volumes: Float[Tensor, "k box box box"], classes: Int[Tensor, " n"], poses: Poses
) -> Complex[Tensor, "n m"]:
    """Compute the noise-free coefficients of each image: the slice of its class's volume at its pose, with CTF and shift.

    ``classes`` are indices into ``volumes``, whose voxel values have the scale of the normalised images.
    """
    slices = Slicer(volumes)(poses.rotations, data.k)[torch.arange(len(data)), classes]
    return data.plane.translate(slices * data.ctf, poses.shifts_px)

"""Densities and projections of atoms, as sums of Gaussians in real space.

The density of an atom is an isotropic Gaussian whose integral is the weight of the atom. Densities are in mass per voxel and
images in mass per pixel, so that each sums to the sum of the weights. Neither uses the Fourier slices of the decoder.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.simulation.molecules import Atoms

MIN_WIDTH_PX = 0.6  # at this width, the sum of a Gaussian's samples equals its integral to 0.2 % per axis
OVERSAMPLING = 2  # factor by which the grid of projections is finer than the pixels


def density(atoms: Atoms, box: int, voxel_A: float) -> Float[Tensor, "{box} {box} {box}"]:
    """Compute the density of atoms on a grid (z, y, x), in mass per voxel, with the origin at index ``box // 2``.

    The function samples every Gaussian at the centres of all voxels, so that the sum over z is the projection of the same atoms
    at the identity rotation. For large voxels, compute the density with small voxels and Fourier-crop it.

    Raises:
        HetacumnError: the box is odd, the atoms do not fit into it, or a Gaussian is too narrow for the voxels.
    """
    _check_fit(atoms, box, voxel_A)
    grid = (torch.arange(box, device=atoms.weights.device) - box // 2) * voxel_A
    volume = torch.zeros(box, box * box, device=atoms.weights.device)
    for chunk in torch.arange(len(atoms.weights), device=grid.device).split(1024):
        width = atoms.widths_A[chunk, None]
        offset = grid - atoms.positions_A[chunk].mT[..., None]  # (3, chunk, box)
        x, y, z = torch.exp(-0.5 * (offset / width) ** 2) * (voxel_A / (width * (2 * torch.pi) ** 0.5))
        plane = (y[:, :, None] * x[:, None, :]).flatten(1)
        volume += (atoms.weights[chunk, None] * z).mT @ plane
    return volume.view(box, box, box)


def project_atoms(atoms: Atoms, rotations: Float[Tensor, "b 3 3"], box: int, pixel_A: float) -> Float[Tensor, "b {box} {box}"]:
    """Project atoms along view z into images (y, x), in mass per pixel, with the origin at index ``box // 2``.

    Rotations map object to view. The positions of the atoms are either common to all images or given for each image. The
    function spreads the atoms bilinearly over a grid of pixels that are finer by the factor :data:`OVERSAMPLING`. In Fourier
    space it then multiplies by the Gaussian of each width and divides by the transform of the bilinear kernel.

    Raises:
        HetacumnError: the box is odd, the atoms do not fit into it, or a Gaussian is too narrow for the pixels.
    """
    _check_fit(atoms, box, pixel_A)
    fine = box * OVERSAMPLING
    points = atoms.positions_A @ rotations[:, :2].mT * (OVERSAMPLING / pixel_A) + fine // 2
    middle = torch.arange(box // 2, device=points.device)
    rows = torch.cat([middle, middle + fine - box // 2])  # includes Nyquist in y, which the infinity below sets to 0
    frequency_y = torch.fft.fftfreq(fine, device=points.device)[rows, None]
    frequency_x = torch.fft.rfftfreq(fine, device=points.device)[None, : box // 2]
    bilinear = (torch.sinc(frequency_y) * torch.sinc(frequency_x)) ** 2
    bilinear[box // 2] = torch.inf
    spectrum = torch.zeros(len(rotations), box, box // 2 + 1, dtype=torch.complex64, device=points.device)
    for width in atoms.widths_A.unique():
        chosen = atoms.widths_A == width
        image = _spread(points[:, chosen], atoms.weights[chosen], fine)
        width_px = width * OVERSAMPLING / pixel_A
        blur = torch.exp(-2 * (torch.pi * width_px) ** 2 * (frequency_y**2 + frequency_x**2)) / bilinear
        spectrum[..., :-1] += torch.fft.rfft2(image)[:, rows, : box // 2] * blur
    return torch.fft.irfft2(spectrum, s=(box, box))


def _spread(points: Float[Tensor, "b n 2"], weights: Float[Tensor, " n"], size: int) -> Float[Tensor, "b {size} {size}"]:
    """Spread each weighted point (x, y in pixels) bilinearly over the four pixels around it."""
    corner = points.floor()
    x, y = (points - corner).unbind(-1)
    corner = corner.long()
    index = corner[..., 1] * size + corner[..., 0]
    upper = weights * y
    lower = weights - upper
    lower_right, upper_right = lower * x, upper * x
    values = torch.cat([lower - lower_right, lower_right, upper - upper_right, upper_right], dim=1)
    index = torch.cat([index, index + 1, index + size, index + size + 1], dim=1)
    images = torch.zeros(len(points), size * size, device=points.device)
    return images.scatter_add_(1, index, values).view(-1, size, size)


def _check_fit(atoms: Atoms, box: int, pixel_A: float) -> None:
    if box % 2:
        raise HetacumnError(f"box is {box}; expected an even number of pixels")
    radius = (atoms.positions_A.norm(dim=-1) + 3 * atoms.widths_A).max().item()
    if radius > (box // 2 - 1) * pixel_A:
        raise HetacumnError(
            f"the molecule reaches {radius:.0f} Å from the origin, and a box of {box} × {pixel_A} Å holds "
            f"{(box // 2 - 1) * pixel_A:.0f} Å; expected a larger box or larger pixels"
        )
    narrowest = atoms.widths_A.min().item()
    if narrowest < MIN_WIDTH_PX * pixel_A:
        raise HetacumnError(
            f"pixel_A is {pixel_A} Å, too large for Gaussians {narrowest} Å wide; expected at most "
            f"{narrowest / MIN_WIDTH_PX:.2f} Å (render with smaller pixels, then Fourier-crop)"
        )

"""Centred Fourier transforms of images and volumes; cropping, padding and shells.

Images are ``(..., y, x)`` and volumes ``(..., z, y, x)``, with the origin at index ``box // 2``. An integer frequency ``k`` is
``k / box`` in cycles per pixel. Two-dimensional transforms are orthonormal: white noise of unit variance per pixel has unit
variance per coefficient, and squared distances are equal in both spaces.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Complex, Float, Inexact, Int
from torch import Tensor


def fft2c(images: Inexact[Tensor, "*batch y x"]) -> Complex[Tensor, "*batch y x"]:
    """Compute the orthonormal transform of images about their centre; zero frequency is at index ``box // 2``."""
    shifted = torch.fft.ifftshift(images, dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=(-2, -1))


def ifft2c(coefficients: Complex[Tensor, "*batch y x"]) -> Float[Tensor, "*batch y x"]:
    """Invert :func:`fft2c` and return the real part."""
    shifted = torch.fft.ifftshift(coefficients, dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=(-2, -1)).real


def fft3c(volumes: Inexact[Tensor, "*batch z y x"]) -> Complex[Tensor, "*batch z y x"]:
    """Compute the unnormalised transform of volumes about their centre; zero frequency is at index ``box // 2``."""
    dims = (-3, -2, -1)
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(volumes, dim=dims), dim=dims), dim=dims)


def ifft3c(coefficients: Inexact[Tensor, "*batch z y x"]) -> Float[Tensor, "*batch z y x"]:
    """Invert :func:`fft3c` and return the real part."""
    dims = (-3, -2, -1)
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(coefficients, dim=dims), dim=dims), dim=dims).real


def _centre(size: int, box: int) -> slice:
    start = size // 2 - box // 2
    return slice(start, start + box)


def crop_images(images: Float[Tensor, "*batch size size"], box: int) -> Float[Tensor, "*batch {box} {box}"]:
    """Fourier-crop images to ``box`` pixels per side: same field of view, larger pixels.

    The transform stays orthonormal: white noise keeps its variance per pixel, and the amplitude of the signal per pixel grows
    by the factor ``old box / box``.
    """
    middle = _centre(images.shape[-1], box)
    coefficients = fft2c(images)[..., middle, middle].clone()
    coefficients[..., 0, :] = 0  # cropping removed the Friedel mates of the frequencies at -Nyquist
    coefficients[..., :, 0] = 0
    return ifft2c(coefficients)


def crop_volumes(volumes: Float[Tensor, "*batch size size size"], box: int) -> Float[Tensor, "*batch {box} {box} {box}"]:
    """Fourier-crop volumes to ``box`` voxels per side; the mean density per voxel is kept.

    One matrix product along each axis is as exact as a forward and an inverse transform, and several times faster.
    """
    narrow = _narrowing(volumes.shape[-1], box, volumes.device)
    cropped = narrow @ (volumes @ narrow.T)
    return (narrow @ cropped.flatten(-2)).unflatten(-1, (box, box))


def resize_volumes(volumes: Float[Tensor, "*batch size size size"], box: int) -> Float[Tensor, "*batch {box} {box} {box}"]:
    """Fourier-crop or Fourier-pad volumes to ``box`` voxels per side, over the same field of view; the mean density is kept."""
    size = volumes.shape[-1]
    if box <= size:
        return crop_volumes(volumes, box)
    coefficients = fft3c(volumes)
    for dim in (-3, -2, -1):
        coefficients.select(dim, 0).zero_()  # the frequencies at -Nyquist have no Friedel mates
    return ifft3c(pad_volumes(coefficients, box)) * (box / size) ** 3


def crop_large_volumes(volumes: Float[Tensor, "*batch size size size"], most: int) -> Float[Tensor, "*batch small small small"]:
    """Fourier-crop volumes of more than ``most`` voxels per side to ``most``; return smaller volumes unchanged."""
    return crop_volumes(volumes, most) if volumes.shape[-1] > most else volumes


@lru_cache(maxsize=8)
def _narrowing(size: int, box: int, device: torch.device) -> Float[Tensor, "{box} {size}"]:
    """Return the matrix that resamples ``size`` voxels of an axis to ``box``; it keeps frequencies below the new Nyquist."""
    new, old = ((torch.arange(n, dtype=torch.float64) - n // 2) / n for n in (box, size))
    k = torch.arange(1, (box + 1) // 2)
    angle = 2 * torch.pi * k[:, None, None] * (new[:, None] - old)
    return ((1 + 2 * angle.cos().sum(0)) / size).float().to(device)


def pad_volumes(volumes: Inexact[Tensor, "*batch size size size"], box: int) -> Inexact[Tensor, "*batch {box} {box} {box}"]:
    """Zero-pad volumes, or their transforms, about the centre to ``box`` voxels per side."""
    before = box // 2 - volumes.shape[-1] // 2
    after = box - volumes.shape[-1] - before
    return torch.nn.functional.pad(volumes, (before, after) * 3)


def padded_size(box: int, padding: float) -> int:
    """Return the even box to which volumes of ``box`` voxels per side are padded by the factor ``padding``."""
    return 2 * round(box * padding / 2)


def padded_rfft3c(
    volumes: Float[Tensor, "*batch box box box"], size: int
) -> Complex[Tensor, "*batch {size} {size} {size//2+1}"]:
    """Compute the half ``kx >= 0`` of ``fft3c(pad_volumes(volumes, size))``.

    The function is several times faster than this expression for two reasons. It does not transform lines of zeros. It does
    not roll the arrays to move the origins of real and Fourier space, but multiplies by signs before the transform and by
    phases after it.
    """
    box = volumes.shape[-1]
    signs, phases = _centring(box, size, volumes.device)
    lines = torch.fft.rfft(volumes * signs, n=size, dim=-1)
    return torch.fft.fft(torch.fft.fft(lines, n=size, dim=-2), n=size, dim=-3) * phases


@lru_cache(maxsize=8)
def _centring(
    box: int, size: int, device: torch.device
) -> tuple[Float[Tensor, "{box} {box} 1"], Complex[Tensor, "{size} {size} {size//2+1}"]]:
    """Return signs that put zero frequency at ``size // 2`` in y and z, and phases that put the origin at ``box // 2``."""
    signs = 1.0 - 2 * (torch.arange(box) % 2)
    k = torch.arange(size, dtype=torch.float64) - size // 2
    angle = (2 * torch.pi / size * (box // 2)) * k
    phases = torch.polar(torch.ones_like(angle), angle)
    phases = phases[:, None, None] * phases[:, None] * torch.cat([phases[size // 2 :], phases[:1].conj()])
    return (signs[:, None, None] * signs[:, None]).to(device), phases.to(torch.complex64).to(device)


def shells(box: int, dims: int, device: torch.device | str = "cpu") -> Int[Tensor, " ..."]:
    """Compute the radius of every coefficient of a centred transform, rounded to an integer; shape ``(box,) * dims``."""
    axis = torch.arange(box, device=device, dtype=torch.float32) - box // 2
    grids = torch.meshgrid(*[axis] * dims, indexing="ij")
    squares = sum((grid.square() for grid in grids), start=axis.new_zeros(()))
    return squares.sqrt().round().long()

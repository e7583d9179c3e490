"""Centred Fourier transforms of images and volumes; cropping and padding; shells.

Images are ``(..., y, x)`` with the origin at index ``box // 2``; a frequency is an integer ``k`` with
``k / box`` in cycles per pixel. Two-dimensional transforms are orthonormal, so that white noise of unit
variance per pixel has unit variance per coefficient and squared distances are equal in both spaces.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def fft2c(images: Tensor) -> Tensor:
    """Transform ``(..., y, x)`` images about their centre; complex ``(..., ky, kx)``, zero frequency at ``box // 2``."""
    shifted = torch.fft.ifftshift(images, dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=(-2, -1))


def ifft2c(coefficients: Tensor) -> Tensor:
    """Invert :func:`fft2c`; the real part, ``(..., y, x)``."""
    shifted = torch.fft.ifftshift(coefficients, dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=(-2, -1)).real


def fft3c(volumes: Tensor) -> Tensor:
    """Transform ``(..., z, y, x)`` volumes about their centre, unnormalised; zero frequency at ``box // 2``."""
    dims = (-3, -2, -1)
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(volumes, dim=dims), dim=dims), dim=dims)


def ifft3c(coefficients: Tensor) -> Tensor:
    """Invert :func:`fft3c`; the real part, ``(..., z, y, x)``."""
    dims = (-3, -2, -1)
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(coefficients, dim=dims), dim=dims), dim=dims).real


def _centre(size: int, box: int) -> slice:
    start = size // 2 - box // 2
    return slice(start, start + box)


def crop_images(images: Tensor, box: int) -> Tensor:
    """Fourier-crop ``(..., y, x)`` images to ``box`` pixels: same field of view, larger pixels.

    The transform stays orthonormal: the noise variance per pixel of white noise is kept, and the signal's
    amplitude per pixel grows by ``old box / box``.
    """
    middle = _centre(images.shape[-1], box)
    coefficients = fft2c(images)[..., middle, middle].clone()
    coefficients[..., 0, :] = 0  # the frequencies at -Nyquist have lost their partners
    coefficients[..., :, 0] = 0
    return ifft2c(coefficients)


def crop_volumes(volumes: Tensor, box: int) -> Tensor:
    """Fourier-crop ``(..., z, y, x)`` volumes to ``box`` voxels, keeping density per voxel at its mean value.

    As a matrix product along each axis: exact as well, and several times faster than transforms there and back.
    """
    narrow = _narrowing(volumes.shape[-1], box, volumes.device)
    cropped = narrow @ (volumes @ narrow.T)
    return (narrow @ cropped.flatten(-2)).unflatten(-1, (box, box))


@lru_cache(maxsize=8)
def _narrowing(size: int, box: int, device: torch.device) -> Tensor:
    """The matrix ``(box, size)`` that samples what ``size`` voxels of an axis have below the Nyquist frequency of ``box``."""
    new, old = ((torch.arange(n, dtype=torch.float64) - n // 2) / n for n in (box, size))
    k = torch.arange(1, (box + 1) // 2)
    angle = 2 * torch.pi * k[:, None, None] * (new[:, None] - old)
    return ((1 + 2 * angle.cos().sum(0)) / size).float().to(device)


def pad_volumes(volumes: Tensor, box: int) -> Tensor:
    """Zero-pad ``(..., z, y, x)`` volumes to ``box`` voxels about the centre."""
    before = box // 2 - volumes.shape[-1] // 2
    after = box - volumes.shape[-1] - before
    return torch.nn.functional.pad(volumes, (before, after) * 3)


def padded_size(box: int, padding: float) -> int:
    """The size, even, of a volume of ``box`` padded by so much."""
    return 2 * round(box * padding / 2)


def padded_rfft3c(volumes: Tensor, size: int) -> Tensor:
    """``fft3c(pad_volumes(volumes, size))`` where kx >= 0: ``(..., size, size, size // 2 + 1)``.

    Several times faster: lines of zeros are not transformed, and nothing is rolled about, as signs before the transform
    and phases after it move the origins.
    """
    box = volumes.shape[-1]
    signs, phases = _centring(box, size, volumes.device)
    lines = torch.fft.rfft(volumes * signs, n=size, dim=-1)
    return torch.fft.fft(torch.fft.fft(lines, n=size, dim=-2), n=size, dim=-3) * phases


@lru_cache(maxsize=8)
def _centring(box: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Signs ``(box, box, 1)`` that put zero frequency at ``size // 2`` of y and z; phases of an origin at ``box // 2``."""
    signs = 1.0 - 2 * (torch.arange(box) % 2)
    k = torch.arange(size, dtype=torch.float64) - size // 2
    angle = (2 * torch.pi / size * (box // 2)) * k
    phases = torch.polar(torch.ones_like(angle), angle)
    phases = phases[:, None, None] * phases[:, None] * torch.cat([phases[size // 2 :], phases[:1].conj()])
    return (signs[:, None, None] * signs[:, None]).to(device), phases.to(torch.complex64).to(device)


def shells(box: int, dims: int, device: torch.device | str = "cpu") -> Tensor:
    """Integer radius of every coefficient of a centred transform, ``(box,) * dims``."""
    axis = torch.arange(box, device=device, dtype=torch.float32) - box // 2
    squares = sum(g.square() for g in torch.meshgrid(*[axis] * dims, indexing="ij"))
    return squares.sqrt().round().long()

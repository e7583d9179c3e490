"""Centred Fourier transforms of real images, and the half-plane of coefficients that is independent.

Images are ``(..., y, x)`` with the origin at index ``box // 2``; a frequency is an integer ``k`` with
``k / box`` in cycles per pixel. Two-dimensional transforms are orthonormal, so that white noise of unit
variance per pixel has unit variance per coefficient and squared distances are equal in both spaces.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
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


class HalfPlane:
    """The independent coefficients of a real ``box × box`` image up to a radius, nearest to the origin first.

    Because the order is by radius, the first :meth:`count` coefficients are a coarser image: frequency
    marching is a slice.

    ``k``: ``(m, 2)`` integer frequencies ``(kx, ky)``, as floats.
    ``weight``: ``(m,)``, 2 for a coefficient that stands for its Friedel mate too, 1 at the origin. The
    weighted sum of squared differences is that of the images, restricted to the band.
    """

    def __init__(self, box: int, radius: float | None = None, device: torch.device | str = "cpu"):
        if box % 2:
            raise ValueError(f"the box must be even, not {box}")
        self.box = box
        self.radius = min(radius if radius is not None else box // 2 - 1, box // 2 - 1)
        axis = torch.arange(box) - box // 2
        ky, kx = torch.meshgrid(axis, axis, indexing="ij")
        squares = (kx.square() + ky.square()).flatten()
        keep = ((kx > 0) | ((kx == 0) & (ky >= 0))).flatten() & (squares <= self.radius**2)
        index = keep.nonzero().squeeze(1)
        index = index[torch.argsort(squares[index], stable=True)]
        self.index = index.to(device)
        self.k = torch.stack([kx.flatten()[index], ky.flatten()[index]], dim=1).float().to(device)
        self.weight = torch.where(squares[index] == 0, 1.0, 2.0).to(device)
        self._squares = squares[index]

    def __len__(self) -> int:
        return len(self.index)

    def applied(self, function: Callable[[Tensor], Tensor]) -> HalfPlane:
        """The same with a function applied to its tensors, as modules apply one to move to another device."""
        plane = copy(self)
        plane.index, plane.k, plane.weight = function(self.index), function(self.k), function(self.weight)
        return plane

    def count(self, radius: float) -> int:
        """How many coefficients lie within ``radius`` (in integer frequencies)."""
        return int((self._squares <= radius**2).sum())

    def radial_mean(self, values: Tensor) -> Tensor:
        """Real values ``(..., m)`` averaged over shells of one integer radius, again ``(..., m)``."""
        shell = self._squares.to(values.device)[: values.shape[-1]].sqrt().round().long()
        weight = self.weight[: values.shape[-1]]
        sums = values.new_zeros(*values.shape[:-1], int(shell.max()) + 1).index_add_(-1, shell, values * weight)
        return (sums / torch.bincount(shell, weight).to(values))[..., shell]

    def quarter_turned(self, coefficients: Tensor) -> Tensor:
        """Those of the images turned by 90°, from x to y, ``(..., m)`` within whole shells; real ones (a CTF) are
        taken as even. Exact: the grid turns into itself."""
        kx, ky = self.k[: coefficients.shape[-1]].long().unbind(1)
        before = torch.stack([ky, -kx], dim=1)  # F'(k) = F(Q⁻¹ k)
        sign = torch.where((before[:, 0] > 0) | ((before[:, 0] == 0) & (before[:, 1] >= 0)), 1, -1)
        before = before * sign[:, None]
        place = torch.full((self.box, self.box), -1, device=self.k.device)
        place[ky, kx] = torch.arange(len(kx), device=self.k.device)  # negative frequencies count from the end
        turned = coefficients[..., place[before[:, 1], before[:, 0]]]
        return torch.complex(turned.real, turned.imag * sign) if turned.is_complex() else turned

    def pack(self, images: Tensor) -> Tensor:
        """Real images ``(..., box, box)`` to complex coefficients ``(..., m)``."""
        return fft2c(images).flatten(-2)[..., self.index]

    def unpack(self, coefficients: Tensor) -> Tensor:
        """Coefficients ``(..., m)`` to real images ``(..., box, box)``, zero outside the band."""
        full = coefficients.new_zeros(*coefficients.shape[:-1], self.box * self.box)
        full[..., self.index] = coefficients * self.weight / 2  # the real part halves what has no mate here
        return 2 * ifft2c(full.unflatten(-1, (self.box, self.box)))

    def translate(self, coefficients: Tensor, shifts_px: Tensor) -> Tensor:
        """Move images by ``(..., 2)`` pixels ``(x, y)``: multiply by ``exp(-2πi k·t / box)``."""
        angle = (-2 * torch.pi / self.box) * (shifts_px @ self.k[: coefficients.shape[-1]].T)
        return coefficients * torch.polar(angle.new_ones(()), angle)

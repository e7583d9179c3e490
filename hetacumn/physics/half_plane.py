"""The independent Fourier coefficients of real images: half of the plane, ordered by radius."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import torch
from jaxtyping import Complex, Float, Inexact, Int
from torch import Tensor

from hetacumn.physics.fourier import fft2c, ifft2c


class HalfPlane:
    """The independent Fourier coefficients of a real ``box × box`` image up to a radius, ordered by radius.

    Because of this order, the first :meth:`count` coefficients are the coefficients of a coarser image, and frequency marching
    only needs slices. ``radius`` is in integer frequencies; None means all, up to ``box // 2 - 1``.

    - ``index``: position of each coefficient in the flattened centred transform.
    - ``k``: integer frequencies (kx, ky), as floats.
    - ``weight``: 2 for a coefficient that also represents its Friedel mate, 1 at the origin. The weighted sum of squared
      differences equals the sum of squared differences of the band-limited images.
    """

    index: Int[Tensor, " m"]
    k: Float[Tensor, "m 2"]
    weight: Float[Tensor, " m"]

    def __init__(self, box: int, radius: float | None = None, device: torch.device | str = "cpu") -> None:
        if box % 2:
            raise ValueError(f"box is {box}; expected an even number")
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
        """Return a copy with ``function`` applied to every tensor, as ``torch.nn.Module`` does to change the device."""
        plane = copy(self)
        plane.index, plane.k, plane.weight = function(self.index), function(self.k), function(self.weight)
        return plane

    def count(self, radius: float) -> int:
        """Return the number of coefficients within ``radius`` (in integer frequencies)."""
        return int((self._squares <= radius**2).sum())

    def radial_mean(self, values: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch m"]:
        """Replace each real value by the mean over its shell, weighted by ``weight``; radii are rounded to integers."""
        shell = self._squares.to(values.device)[: values.shape[-1]].sqrt().round().long()
        weight = self.weight[: values.shape[-1]]
        sums = values.new_zeros(*values.shape[:-1], int(shell.max()) + 1).index_add_(-1, shell, values * weight)
        return (sums / torch.bincount(shell, weight).to(values))[..., shell]

    def quarter_turned(self, coefficients: Inexact[Tensor, "*batch m"]) -> Inexact[Tensor, "*batch m"]:
        """Return the coefficients of the images after an in-plane rotation by 90°, from x to y.

        The rotation is exact, because it maps the grid onto itself. The coefficients must be all those within some radius.
        Real values, such as a CTF, are treated as an even function of the frequency.
        """
        kx, ky = self.k[: coefficients.shape[-1]].long().unbind(1)
        before = torch.stack([ky, -kx], dim=1)  # F'(k) = F(Q⁻¹ k)
        sign = torch.where((before[:, 0] > 0) | ((before[:, 0] == 0) & (before[:, 1] >= 0)), 1, -1)
        before = before * sign[:, None]
        place = torch.full((self.box, self.box), -1, device=self.k.device)
        place[ky, kx] = torch.arange(len(kx), device=self.k.device)  # a negative frequency indexes from the end
        turned = coefficients[..., place[before[:, 1], before[:, 0]]]
        return torch.complex(turned.real, turned.imag * sign) if turned.is_complex() else turned

    def pack(self, images: Float[Tensor, "*batch {self.box} {self.box}"]) -> Complex[Tensor, "*batch m"]:
        """Return the independent coefficients of real images."""
        return fft2c(images).flatten(-2)[..., self.index]

    def unpack(self, coefficients: Complex[Tensor, "*batch m"]) -> Float[Tensor, "*batch {self.box} {self.box}"]:
        """Return the real images of coefficients; coefficients outside the band are 0."""
        full = coefficients.new_zeros(*coefficients.shape[:-1], self.box * self.box)
        full[..., self.index] = coefficients * self.weight / 2  # twice the real part below adds the Friedel mates
        return 2 * ifft2c(full.unflatten(-1, (self.box, self.box)))

    def translate(
        self, coefficients: Complex[Tensor, "*#batch m"], shifts_px: Float[Tensor, "*#batch 2"]
    ) -> Complex[Tensor, "... m"]:
        """Shift images by ``t`` (x, y) pixels: multiply their coefficients by ``exp(-2πi k·t / box)``."""
        angle = (-2 * torch.pi / self.box) * (shifts_px @ self.k[: coefficients.shape[-1]].T)
        return coefficients * torch.polar(angle.new_ones(()), angle)

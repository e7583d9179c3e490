"""The independent Fourier coefficients of real images: half of the plane, ordered by radius."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import torch
from jaxtyping import Complex, Float, Inexact, Int
from torch import Tensor

from hetacumn.physics.fourier import fft2c, ifft2c


class HalfPlane:
    """The independent coefficients of a real ``box × box`` image up to a radius, nearest to the origin first.

    The order is by radius, so that the first :meth:`count` coefficients are a coarser image: frequency marching is a
    slice.

    ``k`` holds integer frequencies (kx, ky), as floats; ``index`` their places in a flattened centred transform.
    ``weight`` is 2 for a coefficient that stands for its Friedel mate too, and 1 at the origin: the weighted sum of
    squared differences equals the sum over the images, restricted to the band.
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
        """Copy with a function applied to every tensor, as modules do to move to another device."""
        plane = copy(self)
        plane.index, plane.k, plane.weight = function(self.index), function(self.k), function(self.weight)
        return plane

    def count(self, radius: float) -> int:
        """Count the coefficients within ``radius`` (in integer frequencies)."""
        return int((self._squares <= radius**2).sum())

    def radial_mean(self, values: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch m"]:
        """Replace real values by their mean over the shell of their integer radius."""
        shell = self._squares.to(values.device)[: values.shape[-1]].sqrt().round().long()
        weight = self.weight[: values.shape[-1]]
        sums = values.new_zeros(*values.shape[:-1], int(shell.max()) + 1).index_add_(-1, shell, values * weight)
        return (sums / torch.bincount(shell, weight).to(values))[..., shell]

    def quarter_turned(self, coefficients: Inexact[Tensor, "*batch m"]) -> Inexact[Tensor, "*batch m"]:
        """Return the coefficients of the images turned by 90°, from x to y.

        The coefficients fill whole shells. Real values (a CTF) are taken as even. The turn is exact: the grid turns into
        itself.
        """
        kx, ky = self.k[: coefficients.shape[-1]].long().unbind(1)
        before = torch.stack([ky, -kx], dim=1)  # F'(k) = F(Q⁻¹ k)
        sign = torch.where((before[:, 0] > 0) | ((before[:, 0] == 0) & (before[:, 1] >= 0)), 1, -1)
        before = before * sign[:, None]
        place = torch.full((self.box, self.box), -1, device=self.k.device)
        place[ky, kx] = torch.arange(len(kx), device=self.k.device)  # negative frequencies count from the end
        turned = coefficients[..., place[before[:, 1], before[:, 0]]]
        return torch.complex(turned.real, turned.imag * sign) if turned.is_complex() else turned

    def pack(self, images: Float[Tensor, "*batch {self.box} {self.box}"]) -> Complex[Tensor, "*batch m"]:
        """Transform real images and keep the independent coefficients."""
        return fft2c(images).flatten(-2)[..., self.index]

    def unpack(self, coefficients: Complex[Tensor, "*batch m"]) -> Float[Tensor, "*batch {self.box} {self.box}"]:
        """Make real images of coefficients, zero outside the band."""
        full = coefficients.new_zeros(*coefficients.shape[:-1], self.box * self.box)
        full[..., self.index] = coefficients * self.weight / 2  # the real part halves what has no mate here
        return 2 * ifft2c(full.unflatten(-1, (self.box, self.box)))

    def translate(
        self, coefficients: Complex[Tensor, "*#batch m"], shifts_px: Float[Tensor, "*#batch 2"]
    ) -> Complex[Tensor, "... m"]:
        """Move images by pixels (x, y): multiply by ``exp(-2πi k·t / box)``."""
        angle = (-2 * torch.pi / self.box) * (shifts_px @ self.k[: coefficients.shape[-1]].T)
        return coefficients * torch.polar(angle.new_ones(()), angle)

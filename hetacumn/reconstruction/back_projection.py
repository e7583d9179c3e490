"""Weighted back-projection of posed images to a volume, and projection of volumes to images.

Back-projection multiplies every coefficient by its CTF and adds the product to the volume's transform at the position of the
slice. It then divides the sum by the sum of the squared CTFs plus a constant (a Wiener filter). Most cryo-EM programs end with
this linear reconstruction. Zero-padding, and division by the transform of the gridding kernel, keep artefacts small.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from hetacumn.compute.batches import batch_slices
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations
from hetacumn.physics.fourier import padded_size
from hetacumn.physics.slices import Slicer
from hetacumn.reconstruction.gridding import kernel_profile, spread

HALF_MAP_PRIOR = 0.05  # constant of the Wiener filter where no signal-to-noise ratio is known
PADDING = 1.5  # zero-padding factor; a factor of 2 changes the resolution of maps by less than 0.02 Å
_SMALLEST_WEIGHT = 1e-6  # avoids a division by zero where no image has a coefficient


@dataclass(frozen=True)
class FourierSums:
    """Sums over images on a grid of the volume's transform, of ``size`` points per axis and for ``kx >= 0``.

    - ``signal``: Σ C Y, the sum of the images times their CTFs.
    - ``weight``: Σ C².
    - ``box``: voxels per side of the volume; ``size / box`` is the zero-padding factor.
    """

    signal: Complex[Tensor, "size size half"]
    weight: Float[Tensor, "size size half"]
    box: int

    def __add__(self, other: FourierSums) -> FourierSums:
        """Add the sums of two sets of images."""
        return FourierSums(self.signal + other.signal, self.weight + other.weight, self.box)

    def volume(self, prior: float | Float[Tensor, " shells"] = HALF_MAP_PRIOR) -> Float[Tensor, "box box box"]:
        """Divide the sums and transform them to a volume, in the scale of the normalised images.

        ``prior`` is the constant of the Wiener filter as a fraction of the mean of ``weight`` over each shell: one number, or
        one for each of the ``box // 2`` shells. The optimal constant of a shell is the inverse of its signal-to-noise ratio.
        """
        size, device = len(self.signal), self.signal.device
        transform = self.transform(prior)
        lines = torch.fft.ifftshift(transform, dim=(0, 1))
        whole = torch.fft.fftshift(torch.fft.irfftn(lines, s=(size,) * 3)) * self.box
        middle = slice(size // 2 - self.box // 2, size // 2 - self.box // 2 + self.box)
        profile = kernel_profile(self.box, size, device)
        return whole[middle, middle, middle] / (profile[:, None, None] * profile[:, None] * profile)

    def transform(self, prior: float | Float[Tensor, " shells"] = HALF_MAP_PRIOR) -> Complex[Tensor, "size size half"]:
        """Divide the sums as :meth:`volume` does; return the transform before the correction for the gridding kernel."""
        shells, device = self.box // 2, self.signal.device
        ratio = torch.as_tensor(prior, dtype=torch.float32, device=device).expand(shells)
        constant = ratio * self.shell_sum(self.weight) / self.shell_sum(torch.ones_like(self.weight)) + _SMALLEST_WEIGHT
        transform = torch.zeros_like(self.signal)
        for z, shell in self._planes():
            divisor = self.weight[z] + constant[shell.clamp(max=shells - 1)]
            transform[z] = torch.where(shell < shells, self.signal[z] / divisor, 0)
        return transform

    def shell_sum(self, values: Float[Tensor, "size size half"]) -> Float[Tensor, " shells"]:
        """Add up values on the grid over each of the ``box // 2`` shells."""
        shells = self.box // 2
        total = values.new_zeros(shells + 1)
        for z, shell in self._planes():
            total += torch.bincount(shell.clamp(max=shells).flatten(), values[z].flatten(), minlength=shells + 1)
        return total[:shells]

    @staticmethod
    def by_shell(sums: Sequence[FourierSums], choice: Int[Tensor, " shells"]) -> FourierSums:
        """Combine several sums: each shell comes from the sums with the index ``choice`` of this shell."""
        first = sums[0]
        signal, weight = torch.zeros_like(first.signal), torch.zeros_like(first.weight)
        for z, shell in first._planes():
            chosen = choice.to(shell.device)[shell.clamp(max=len(choice) - 1)]
            for level, one in enumerate(sums):
                here = chosen == level
                signal[z] = torch.where(here, one.signal[z], signal[z])
                weight[z] = torch.where(here, one.weight[z], weight[z])
        return FourierSums(signal, weight, first.box)

    def _planes(self) -> Iterator[tuple[int, Int[Tensor, "size half"]]]:
        """Yield the index of each plane of the grid, and the shell of each of its points in units of the unpadded volume."""
        size, device = len(self.signal), self.signal.device
        axis = (torch.arange(size, device=device) - size // 2) * (self.box / size)
        plane = axis.square()[:, None] + (torch.arange(size // 2 + 1, device=device) * (self.box / size)).square()
        for z in range(size):
            yield z, (plane + axis[z].square()).sqrt().round().long()


class BackProjector:
    """Adds images to the transform of one volume.

    Memory holds the sums on a grid of ``size³`` points, and a buffer of at most :data:`POINTS_AT_ONCE` coefficients per grid
    point, plus one batch.
    """

    POINTS_AT_ONCE = 0.3

    def __init__(self, box: int, device: torch.device, padding: float = PADDING) -> None:
        self.box, self.size = box, padded_size(box, padding)
        shape = (self.size,) * 3
        self._signal = torch.zeros(shape, dtype=torch.complex64, device=device)
        self._weight = torch.zeros(shape, device=device)
        self._waiting: list[tuple[Tensor, Tensor]] = []  # points (3, p) and values (2, p)

    def add(self, data: Observations, poses: Poses) -> None:
        """Add images at their poses."""
        axes = data.axes(poses.rotations)[:, :2].permute(2, 0, 1).flatten(0, 1) * (self.size / self.box)
        points = (axes @ data.k.T).view(3, -1)  # Rᵀ (kx, ky, 0), with the magnification
        signal = data.plane.translate(data.y, -poses.shifts_px) * data.ctf
        weight = data.ctf.square().to(signal.dtype)
        self._waiting.append((points, torch.stack([signal.flatten(), weight.flatten()])))
        if sum(len(points[0]) for points, _ in self._waiting) > self.POINTS_AT_ONCE * self.size**3:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            points, values = (torch.cat(parts, dim=1) for parts in zip(*self._waiting, strict=True))
            self._waiting.clear()
            signal, weight = spread(points, values, self.size)
            self._signal += signal
            self._weight += weight.real

    def sums(self) -> FourierSums:
        """Return the sums over all images added so far."""
        self._flush()
        return FourierSums(_folded(self._signal), _folded(self._weight), self.box)


def _folded(grid: Tensor) -> Tensor:
    """Return the half ``kx >= 0`` of a centred grid, with the values of the other half added at their Friedel mates."""
    size = len(grid)
    positive = torch.nn.functional.pad(grid[:, :, size // 2 :], (0, 1))  # the last column, Nyquist, holds no coefficient
    negative = grid[:, :, : size // 2 + 1].flip(0, 1, 2).roll((1, 1), (0, 1))  # kx = 0 … size // 2, at -k
    return positive + (negative.conj() if negative.is_complex() else negative)


@torch.no_grad()
def back_project(
    data: Observations, poses: Poses, padding: float = PADDING, prior: float = HALF_MAP_PRIOR, batch: int = 1000
) -> Float[Tensor, "box box box"]:
    """Reconstruct a volume from images at their poses; voxel values have the scale of the normalised images.

    ``padding`` is the zero-padding factor, and ``prior`` the constant of the Wiener filter, see :meth:`FourierSums.volume`.
    ``batch`` is the number of images added at a time.
    """
    return back_project_parts(((data[rows], poses[rows]) for rows in batch_slices(len(data), batch)), padding, prior)


@torch.no_grad()
def back_project_parts(
    parts: Iterable[tuple[Observations, Poses]], padding: float = PADDING, prior: float = HALF_MAP_PRIOR
) -> Float[Tensor, "box box box"]:
    """Reconstruct a volume like :func:`back_project`, from parts of the images, with one part in memory at a time.

    Raises:
        ValueError: ``parts`` is empty.
    """
    projector: BackProjector | None = None
    for part, poses in parts:
        projector = projector or BackProjector(part.plane.box, part.y.device, padding)
        projector.add(part, poses)
    if projector is None:
        raise ValueError("parts is empty; expected at least one part of images")
    return projector.sums().volume(prior)


@torch.no_grad()
def reproject(
    data: Observations, volumes: Float[Tensor, "k box box box"], classes: Int[Tensor, " n"], poses: Poses
) -> Complex[Tensor, "n m"]:
    """Compute the noise-free coefficients of each image: the slice of its class's volume at its pose, with CTF and shift.

    ``classes`` are indices into ``volumes``, whose voxel values have the scale of the normalised images.
    """
    slices = Slicer(volumes)(poses.rotations, data.k)[torch.arange(len(data)), classes]
    return data.plane.translate(slices * data.ctf, poses.shifts_px)

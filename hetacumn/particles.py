"""Particles: poses, the metadata record that every stack of particles has, and images in memory beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hetacumn.optics import Optics
from hetacumn.so3 import inplane


@dataclass(frozen=True)
class Poses:
    """The pose of each particle: ``rotations`` ``(n, 3, 3)``, object to view; ``shifts_px`` ``(n, 2)`` (x, y).

    A shift moves the image by ``+t``, in pixels of the images that the poses belong to.
    """

    rotations: Tensor
    shifts_px: Tensor

    def __len__(self) -> int:
        return len(self.rotations)

    def __getitem__(self, rows) -> Poses:
        return Poses(self.rotations[rows], self.shifts_px[rows])

    def to(self, device: torch.device | str) -> Poses:
        """Return the same poses on another device."""
        return Poses(self.rotations.to(device), self.shifts_px.to(device))

    def turned(self, degrees: float) -> Poses:
        """The poses of the images turned in their plane by an angle, from x to y."""
        turn = inplane(torch.full((), -degrees, device=self.rotations.device))
        return Poses(turn @ self.rotations, self.shifts_px @ turn[:2, :2].T)


@dataclass(frozen=True)
class ParticleMetadata:
    """What is known about each particle of a stack, without its image.

    ``names`` are rlnImageName as the file has them. ``optics`` and ``poses`` belong to the images as they are here, after
    centring and cropping; ``poses`` is None where the file has none. ``offsets_A`` ``(n, 2)`` (x, y) is the distance of each
    particle from the middle of its image in the file, by which the image was moved back; None where no image was moved.
    ``noise`` ``(box // 2,)`` is the power of the noise in each shell, one spectrum for the whole stack; None is 1 everywhere.
    """

    names: list[str]
    optics: Optics
    poses: Poses | None = None
    offsets_A: Tensor | None = None
    noise: Tensor | None = None

    @property
    def pixel_A(self) -> float:
        """Pixel size in Å of the images as they are here."""
        return self.optics.pixel_A

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows) -> ParticleMetadata:
        """Select some of the particles: a slice, or an array or tensor of indices or booleans."""
        if not isinstance(rows, slice):
            rows = torch.as_tensor(rows)
        positions = torch.arange(len(self))[rows].tolist()
        poses, offsets_A = (None if column is None else column[rows] for column in (self.poses, self.offsets_A))
        return ParticleMetadata([self.names[i] for i in positions], self.optics[rows], poses, offsets_A, self.noise)

    def shifts_in_source_A(self, shifts_A: Tensor) -> Tensor:
        """Convert shifts ``(n, 2)`` of the images here into shifts of the images in the file."""
        return shifts_A if self.offsets_A is None else shifts_A + self.offsets_A

    def shifts_in_prepared_A(self, shifts_A: Tensor) -> Tensor:
        """Convert shifts ``(n, 2)`` of the images in the file into shifts of the images here."""
        return shifts_A if self.offsets_A is None else shifts_A - self.offsets_A


@dataclass(frozen=True)
class Particles:
    """A stack in memory: ``images`` ``(n, box, box)`` float32, noise of unit variance, protein bright; and its metadata."""

    images: Tensor
    metadata: ParticleMetadata

    @property
    def box(self) -> int:
        """Pixels along a side."""
        return self.images.shape[-1]

    @property
    def pixel_A(self) -> float:
        """Pixel size of the images in Å."""
        return self.metadata.pixel_A

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows) -> Particles:
        """Select some of the particles: a slice, or an array or tensor of indices or booleans."""
        return Particles(self.images[rows if isinstance(rows, slice) else torch.as_tensor(rows)], self.metadata[rows])

"""The metadata of particles, their poses and images, and the columns of a STAR table that hold the metadata."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.io import star
from hetacumn.physics.optics import Optics, Rows
from hetacumn.physics.rotations import from_euler, inplane, to_euler


@dataclass(frozen=True)
class Poses:
    """The pose of each particle: ``rotations`` take object to view, ``shifts_px`` are (x, y).

    A shift moves the image by ``+t``, in pixels of the images that the poses belong to.
    """

    rotations: Float[Tensor, "n 3 3"]
    shifts_px: Float[Tensor, "n 2"]

    def __len__(self) -> int:
        return len(self.rotations)

    def __getitem__(self, rows: Rows) -> Poses:
        return Poses(self.rotations[rows], self.shifts_px[rows])

    def to(self, device: torch.device | str) -> Poses:
        """Return the same poses on another device."""
        return Poses(self.rotations.to(device), self.shifts_px.to(device))

    def turned(self, degrees: float) -> Poses:
        """Return the poses of the images after a turn in their plane by an angle, from x to y."""
        turn = inplane(torch.full((), -degrees, device=self.rotations.device))
        return Poses(turn @ self.rotations, self.shifts_px @ turn[:2, :2].T)


@dataclass(frozen=True)
class ParticleMetadata:
    """The name, the optics and the pose of each particle of a stack, and the noise of the stack, without the images.

    ``names`` are rlnImageName as the file has them. ``optics`` and ``poses`` belong to the images in memory, after centring
    and cropping; ``poses`` is None where the file has none. ``offsets_A`` (x, y) is the distance of each particle from the
    middle of its image in the file, by which the image was moved back; None where no image was moved. ``noise`` is the power
    of the noise in each shell up to ``box // 2``, one spectrum for the whole stack; None stands for a power of 1 everywhere.
    """

    names: list[str]
    optics: Optics
    poses: Poses | None = None
    offsets_A: Float[Tensor, "n 2"] | None = None
    noise: Float[Tensor, " shells"] | None = None

    @property
    def pixel_A(self) -> float:
        """The pixel size in Å of the images in memory."""
        return self.optics.pixel_A

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: Rows) -> ParticleMetadata:
        """Select some of the particles: a slice, or an array or tensor of indices or booleans."""
        if not isinstance(rows, slice):
            rows = torch.as_tensor(rows)
        positions = torch.arange(len(self))[rows].tolist()
        poses = None if self.poses is None else self.poses[rows]
        offsets_A = None if self.offsets_A is None else self.offsets_A[rows]
        return ParticleMetadata([self.names[i] for i in positions], self.optics[rows], poses, offsets_A, self.noise)

    def shifts_in_source_A(self, shifts_A: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
        """Convert shifts of the images in memory into shifts of the images in the file."""
        return shifts_A if self.offsets_A is None else shifts_A + self.offsets_A

    def shifts_in_prepared_A(self, shifts_A: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
        """Convert shifts of the images in the file into shifts of the images in memory."""
        return shifts_A if self.offsets_A is None else shifts_A - self.offsets_A


@dataclass(frozen=True)
class Particles:
    """A stack in memory: ``images`` in float32 with noise of unit variance and bright protein, and their metadata."""

    images: Float[Tensor, "n box box"]
    metadata: ParticleMetadata

    @property
    def box(self) -> int:
        """The number of pixels along a side of an image."""
        return self.images.shape[-1]

    @property
    def pixel_A(self) -> float:
        """The pixel size of the images in Å."""
        return self.metadata.pixel_A

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Rows) -> Particles:
        """Select some of the particles: a slice, or an array or tensor of indices or booleans."""
        return Particles(self.images[rows if isinstance(rows, slice) else torch.as_tensor(rows)], self.metadata[rows])


#: For each field of Optics: RELION's column, the value where the column is missing (None: the column is required), and the
#: range that the value must lie in.
OPTICS_COLUMNS = {
    "defocus_u_A": ("rlnDefocusU", None, -1e6, 1e6),
    "defocus_v_A": ("rlnDefocusV", None, -1e6, 1e6),
    "astigmatism_deg": ("rlnDefocusAngle", None, -1e6, 1e6),
    "voltage_kv": ("rlnVoltage", None, 10, 3000),
    "cs_mm": ("rlnSphericalAberration", None, 0, 100),
    "amplitude_contrast": ("rlnAmplitudeContrast", None, 0, 1),
    "phase_shift_deg": ("rlnPhaseShift", 0.0, -1e6, 1e6),
}


def metadata_of(
    table: star.ParticleTable,
    rows: Int[np.ndarray, " n"],
    pixel_A: float,
    centred: bool,
    noise: Float[Tensor, " shells"] | None = None,
) -> ParticleMetadata:
    """Read the metadata of some rows of a table, for images of this pixel size.

    Args:
        table: the particles of a file.
        rows: the rows in the order of the metadata, counted from 0.
        pixel_A: the pixel size of the images that the metadata describe.
        centred: whether the images were moved by the file's origins, see :func:`offsets_of`.
        noise: the power of the noise in each shell up to ``box // 2``, or None for white noise.
    """
    index = torch.from_numpy(rows)
    offsets_A = offsets_of(table) if centred else None
    poses = poses_of(table, pixel_A, offsets_A)
    return ParticleMetadata(
        names=table.particles["rlnImageName"].iloc[rows].astype(str).tolist(),
        optics=optics_of(table, pixel_A)[index],
        poses=None if poses is None else poses[index],
        offsets_A=None if offsets_A is None else offsets_A[index],
        noise=noise,
    )


def optics_of(table: star.ParticleTable, pixel_A: float | None = None) -> Optics:
    """Read the optics of a table's particles, for images of this pixel size (None: the pixel size of the first image).

    Raises:
        HetacumnError: a value outside the range of microscopes; the message names the row.
    """
    columns = {}
    for name, (column, default, least, most) in OPTICS_COLUMNS.items():
        values = table.numbers(column, default)
        wrong = (values < least) | (values > most)
        if wrong.any():
            row = int(wrong.argmax())
            raise HetacumnError(f"{table.path}: row {row + 1}: {column} is {values[row]:g}; expected {least:g} to {most:g}")
        columns[name] = torch.tensor(values, dtype=torch.float32)
    return Optics(**columns, pixel_A=float(table.pixel_sizes()[0]) if pixel_A is None else pixel_A)


def poses_of(table: star.ParticleTable, pixel_A: float, offsets_A: Float[Tensor, "n 2"] | None = None) -> Poses | None:
    """Read the poses of a table's particles; None where angles are missing.

    Shifts are in pixels of this size, relative to ``offsets_A``.
    """
    if not all(table.has(column) for column in star.ANGLES):
        return None
    angles = np.stack([table.numbers(column) for column in star.ANGLES], axis=1)
    shifts_A = _shifts_A(table) - (0 if offsets_A is None else offsets_A.numpy())
    return Poses(from_euler(torch.from_numpy(angles)).float(), torch.from_numpy(shifts_A / pixel_A).float())


def offsets_of(table: star.ParticleTable) -> Float[Tensor, "n 2"] | None:
    """Read how far the particles of a table lie from the middle of their images, in Å and whole pixels of the file.

    The result is None where the table has no origins, or all are zero.
    """
    if not all(table.has(column) for column in star.ORIGINS):
        return None
    sizes_A = table.pixel_sizes()[:, None]
    offsets_A = np.round(_shifts_A(table) / sizes_A) * sizes_A
    return torch.from_numpy(offsets_A).float() if offsets_A.any() else None


def _shifts_A(table: star.ParticleTable) -> Float[np.ndarray, "n 2"]:
    return -np.stack([table.numbers(column, 0.0) for column in star.ORIGINS], axis=1)


def write_star(
    path: Path | str,
    metadata: ParticleMetadata,
    box: int,
    classes: Int[Tensor, " n"] | None = None,
    shifts_A: Float[Tensor, "n 2"] | None = None,
) -> None:
    """Write a RELION 3.1 STAR file atomically, with names, CTF, and poses and classes where given.

    ``metadata`` and ``box`` belong to the *stack* that the names point into; its ``poses.shifts_px`` are in pixels of that
    stack. ``classes`` counts from 0, rlnClassNumber from 1. Angles are in degrees, origins (minus the shifts) in Å.
    ``shifts_A`` gives origins without angles, where ``metadata`` has no poses.
    """
    optics, poses = metadata.optics, metadata.poses
    columns = {column: getattr(optics, name).double().numpy() for name, (column, *_) in OPTICS_COLUMNS.items()}
    particles = pd.DataFrame({"rlnImageName": metadata.names, **columns})
    particles["rlnImagePixelSize"] = optics.pixel_A
    particles["rlnImageSize"] = box
    if poses is not None:
        set_poses(particles, poses.rotations, poses.shifts_px * optics.pixel_A)
    elif shifts_A is not None:
        set_origins(particles, shifts_A)
    if classes is not None:
        particles["rlnClassNumber"] = np.asarray(classes) + 1
    groups, particles = star.group_optics(Path(path), particles)
    star.write_table(path, particles, groups)


def set_poses(particles: pd.DataFrame, rotations: Float[Tensor, "n 3 3"], shifts_A: Float[Tensor, "n 2"]) -> None:
    """Set a table's RELION columns of angles and origins from rotations and shifts in Å."""
    particles[star.ANGLES] = to_euler(rotations.double()).cpu().numpy()
    set_origins(particles, shifts_A)


def set_origins(particles: pd.DataFrame, shifts_A: Float[Tensor, "n 2"]) -> None:
    """Set a table's RELION columns of origins from shifts in Å; origins are minus the shifts."""
    particles[star.ORIGINS] = -shifts_A.double().cpu().numpy()

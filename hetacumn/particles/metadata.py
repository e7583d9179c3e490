"""Metadata and images of particles, and their conversion from and to the columns of STAR tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.io import star
from hetacumn.physics.optics import Optics, Rows, tilt_to_odd
from hetacumn.physics.rotations import from_euler


@dataclass(frozen=True)
class Poses:
    """The pose of each particle.

    - ``rotations``: rotations that map object to view.
    - ``shifts_px``: shifts ``t`` (x, y), in pixels of the images that the poses belong to; a shift moves the image by ``+t``.
    """

    rotations: Float[Tensor, "n 3 3"]
    shifts_px: Float[Tensor, "n 2"]

    def __len__(self) -> int:
        return len(self.rotations)

    def __getitem__(self, rows: Rows) -> Poses:
        return Poses(self.rotations[rows], self.shifts_px[rows])

    def to(self, device: torch.device | str) -> Poses:
        """Copy to another device."""
        return Poses(self.rotations.to(device), self.shifts_px.to(device))


@dataclass(frozen=True)
class ParticleMetadata:
    """The name, optics and pose of each particle of a stack, and the noise of the stack, without the images.

    - ``names``: rlnImageName in the file.
    - ``optics``: CTF parameters and pixel size of the images in memory.
    - ``poses``: poses of the images in memory, after centring and cropping; None where the file has none.
    - ``offsets_A``: offset (x, y) of each particle from the middle of its image in the file, in Å. Centring moved the image by
      minus this offset; None where no image was moved.
    - ``noise``: noise power in each of the ``box // 2`` shells, one spectrum for the whole stack; None means white noise of
      power 1.
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
        """Convert shifts in the centred images in memory to shifts in the raw images of the file, in Å."""
        return shifts_A if self.offsets_A is None else shifts_A + self.offsets_A

    def shifts_in_prepared_A(self, shifts_A: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
        """Convert shifts in the raw images of the file to shifts in the centred images in memory, in Å."""
        return shifts_A if self.offsets_A is None else shifts_A - self.offsets_A


@dataclass(frozen=True)
class Particles:
    """A stack in memory: ``images`` in float32, with noise of unit variance and bright protein, and their metadata."""

    images: Float[Tensor, "n box box"]
    metadata: ParticleMetadata

    @property
    def box(self) -> int:
        """The number of pixels per side of an image."""
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


LARGEST_TILT_MRAD, LARGEST_ZERNIKE_RAD = 100.0, 1e7  # larger values are errors of the file
SMALLEST_STRETCH, LARGEST_STRETCH = 1e-6, 0.2  # deviations from the identity: ignored, and an error

#: For each field of Optics: RELION's column, the value for a missing column (None: required), and the allowed range.
OPTICS_COLUMNS = {
    "defocus_u_A": ("rlnDefocusU", None, -1e6, 1e6),
    "defocus_v_A": ("rlnDefocusV", None, -1e6, 1e6),
    "astigmatism_deg": ("rlnDefocusAngle", None, -1e6, 1e6),
    "voltage_kv": ("rlnVoltage", None, 10, 3000),
    "cs_mm": ("rlnSphericalAberration", None, 0, 100),
    "amplitude_contrast": ("rlnAmplitudeContrast", None, 0, 1),
    "phase_shift_deg": ("rlnPhaseShift", 0.0, -1e6, 1e6),
    "scale": ("rlnCtfScalefactor", 1.0, 1e-3, 1e3),
    "b_factor_A2": ("rlnCtfBfactor", 0.0, -1e3, 1e5),
}
DAMPING = ("scale", "b_factor_A2")  # fields that are None if all values are equal to the value for a missing column


def metadata_of(
    table: star.ParticleTable,
    rows: Int[np.ndarray, " n"],
    pixel_A: float,
    centred: bool,
    noise: Float[Tensor, " shells"] | None = None,
) -> ParticleMetadata:
    """Read the metadata of some rows of a table.

    Args:
        table: the particle table.
        rows: the rows to read, counted from 0, in the order of the metadata.
        pixel_A: the pixel size in Å of the images that the metadata describe.
        centred: whether the images were centred by the origins in the table, see :func:`offsets_of`.
        noise: the noise power in each of the ``box // 2`` shells, or None for white noise.
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
    """Read the optics of all particles of a table, for images of ``pixel_A`` Å (None: the pixel size of the first row).

    Raises:
        HetacumnError: a column is missing, or a value is outside its range in :data:`OPTICS_COLUMNS`.
    """
    if not table.has("rlnAmplitudeContrast"):
        expected = "it for every particle, or the setting stack.amplitude_contrast (0.1 is usual)"
        raise HetacumnError(f"{table.path}: no column rlnAmplitudeContrast; expected {expected}")
    columns: dict[str, Any] = {name: _column(table, *specified) for name, specified in OPTICS_COLUMNS.items()}
    columns |= {name: None for name in DAMPING if (columns[name] == OPTICS_COLUMNS[name][1]).all()}
    pixel_A = float(table.pixel_sizes()[0]) if pixel_A is None else pixel_A
    odd = _added(_zernike_coefficients(table, "rlnOddZernike"), _beam_tilt(table, columns["voltage_kv"], columns["cs_mm"]))
    even = _zernike_coefficients(table, "rlnEvenZernike")
    return Optics(**columns, pixel_A=pixel_A, odd_rad=odd, even_rad=even, magnification=_magnification(table))


def _column(table: star.ParticleTable, column: str, default: float | None, least: float, most: float) -> Float[Tensor, " n"]:
    """Read a column of numbers; raise :class:`HetacumnError` if a value is out of range."""
    values = table.numbers(column, default)
    wrong = (values < least) | (values > most)
    if wrong.any():
        row = int(wrong.argmax())
        raise HetacumnError(f"{table.path}: row {row + 1}: {column} is {values[row]:g}; expected {least:g} to {most:g}")
    return torch.tensor(values, dtype=torch.float32)


def _zernike_coefficients(table: star.ParticleTable, column: str) -> Float[Tensor, "n c"] | None:
    """Read lists of Zernike coefficients; return None if the column is missing or all coefficients are 0."""
    if not table.has(column):
        return None
    lists = table.lists(column)
    values = np.zeros((len(lists), max(map(len, lists))))
    for row, numbers in enumerate(lists):
        values[row, : len(numbers)] = numbers
    _refuse_large(table, column, values, LARGEST_ZERNIKE_RAD)
    return torch.from_numpy(values).float() if values.any() else None


def _refuse_large(table: star.ParticleTable, name: str, values: Float[np.ndarray, "n c"], largest: float) -> None:
    row = int(np.abs(values).max(1, initial=0.0).argmax())
    if (np.abs(values[row]) > largest).any():
        raise HetacumnError(f"{table.path}: row {row + 1}: {name} is {values[row].tolist()}; expected values up to {largest:g}")


def _beam_tilt(
    table: star.ParticleTable, voltage_kv: Float[Tensor, " n"], cs_mm: Float[Tensor, " n"]
) -> Float[Tensor, "n 6"] | None:
    tilt_mrad = np.stack([table.numbers(f"rlnBeamTilt{axis}", 0.0) for axis in "XY"], axis=1)
    _refuse_large(table, "the beam tilt", tilt_mrad, LARGEST_TILT_MRAD)
    return tilt_to_odd(torch.from_numpy(tilt_mrad).float(), voltage_kv, cs_mm) if tilt_mrad.any() else None


def _added(first: Float[Tensor, "n a"] | None, second: Float[Tensor, "n b"] | None) -> Float[Tensor, "n c"] | None:
    """Add two lists of coefficients; the shorter list is padded with zeros."""
    if first is None or second is None:
        return second if first is None else first
    most = max(first.shape[1], second.shape[1])
    padded = [torch.nn.functional.pad(one, (0, most - one.shape[1])) for one in (first, second)]
    return padded[0] + padded[1]


def _magnification(table: star.ParticleTable) -> Float[Tensor, "n 2 2"] | None:
    """Read the matrices of anisotropic magnification; return None if all are the identity."""
    values = [[table.numbers(f"rlnMagMat{i}{j}", float(i == j)) for j in range(2)] for i in range(2)]
    matrices = np.array(values).transpose(2, 0, 1)
    stretch = np.abs(matrices - np.eye(2)).max((1, 2))
    if stretch.max(initial=0.0) > LARGEST_STRETCH:
        row = int(stretch.argmax())
        raise HetacumnError(
            f"{table.path}: row {row + 1}: magnification matrix {matrices[row].tolist()}; expected the identity, "
            f"up to deviations of {LARGEST_STRETCH:g}"
        )
    return torch.from_numpy(matrices).float() if stretch.max(initial=0.0) > SMALLEST_STRETCH else None


def poses_of(table: star.ParticleTable, pixel_A: float, offsets_A: Float[Tensor, "n 2"] | None = None) -> Poses | None:
    """Read the poses of all particles of a table; return None if a column of angles is missing.

    The shifts in Å are minus the origins, minus ``offsets_A`` if given. The function returns them in pixels of ``pixel_A`` Å. A
    missing column of origins counts as 0.
    """
    if not all(table.has(column) for column in star.ANGLES):
        return None
    angles = np.stack([table.numbers(column) for column in star.ANGLES], axis=1)
    shifts_A = _shifts_A(table) - (0 if offsets_A is None else offsets_A.numpy())
    return Poses(from_euler(torch.from_numpy(angles)).float(), torch.from_numpy(shifts_A / pixel_A).float())


def offsets_of(table: star.ParticleTable) -> Float[Tensor, "n 2"] | None:
    """Return the offset (x, y) from the middle of each raw image to its particle, in Å, rounded to whole raw pixels.

    The result is None if the table has no origins, or if all offsets are 0.
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
    """Write a RELION 3.1 STAR file atomically, with the names and optics of images, and with poses and classes if given.

    Args:
        path: the file to write.
        metadata: the names (number@stack), optics and poses of the images; shifts are in pixels of these images.
        box: the box of the images, in pixels.
        classes: the class of each particle, counted from 0; rlnClassNumber counts from 1.
        shifts_A: shifts (x, y) in Å. If ``metadata`` has no poses, the origins are computed from these shifts, without angles.
    """
    optics, poses = metadata.optics, metadata.poses
    given = {column: getattr(optics, name) for name, (column, *_) in OPTICS_COLUMNS.items()}
    columns = {column: values.double().numpy() for column, values in given.items() if values is not None}
    particles = pd.DataFrame({"rlnImageName": metadata.names, **columns})
    particles["rlnImagePixelSize"] = optics.pixel_A
    particles["rlnImageSize"] = box
    star.set_aberrations(particles, optics)
    if poses is not None:
        star.set_poses(particles, poses.rotations, poses.shifts_px * optics.pixel_A)
    elif shifts_A is not None:
        star.set_origins(particles, shifts_A)
    if classes is not None:
        particles["rlnClassNumber"] = np.asarray(classes) + 1
    groups, particles = star.group_optics(Path(path), particles)
    star.write_table(path, particles, groups)

"""Conversion between particle tables (RELION columns) and optics, poses and offsets; writing of STAR files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hetacumn import star
from hetacumn.errors import HetacumnError
from hetacumn.optics import Optics
from hetacumn.particles import ParticleMetadata, Poses
from hetacumn.so3 import from_euler, to_euler

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
    table: star.ParticleTable, rows: np.ndarray, pixel_A: float, centred: bool, noise: Tensor | None = None
) -> ParticleMetadata:
    """Read the metadata of some rows of a table, for images of this pixel size.

    Args:
        table: the particles of a file.
        rows: ``(n,)``, counted from 0, in the order of the metadata.
        pixel_A: the pixel size of the images that the metadata go with.
        centred: whether the images were moved by the file's origins, see :func:`offsets_of`.
        noise: ``(box // 2,)``, the power of the noise in each shell, or None for white noise.
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


def poses_of(table: star.ParticleTable, pixel_A: float, offsets_A: Tensor | None = None) -> Poses | None:
    """Read the poses of a table's particles; None where angles are missing.

    Shifts are in pixels of this size, relative to ``offsets_A`` ``(n, 2)``.
    """
    if not all(table.has(column) for column in star.ANGLES):
        return None
    angles = np.stack([table.numbers(column) for column in star.ANGLES], axis=1)
    shifts_A = _shifts_A(table) - (0 if offsets_A is None else offsets_A.numpy())
    return Poses(from_euler(torch.from_numpy(angles)).float(), torch.from_numpy(shifts_A / pixel_A).float())


def offsets_of(table: star.ParticleTable) -> Tensor | None:
    """Read how far the particles of a table lie from the middle of their images: ``(n, 2)`` in Å, whole pixels of the file.

    None where the table has no origins, or all are zero.
    """
    if not all(table.has(column) for column in star.ORIGINS):
        return None
    sizes_A = table.pixel_sizes()[:, None]
    offsets_A = np.round(_shifts_A(table) / sizes_A) * sizes_A
    return torch.from_numpy(offsets_A).float() if offsets_A.any() else None


def _shifts_A(table: star.ParticleTable) -> np.ndarray:
    return -np.stack([table.numbers(column, 0.0) for column in star.ORIGINS], axis=1)


def write_star(
    path: Path | str, metadata: ParticleMetadata, box: int, classes: Tensor | None = None, shifts_A: Tensor | None = None
) -> None:
    """Write a RELION 3.1 STAR file, atomically: names, CTF, and poses and classes where given.

    ``metadata`` and ``box`` belong to the *stack* that the names point into; its ``poses.shifts_px`` are in pixels of that
    stack. ``classes`` ``(n,)`` counts from 0, rlnClassNumber from 1. Angles are in degrees, origins (minus the shifts) in Å.
    ``shifts_A`` ``(n, 2)`` gives origins without angles, where ``metadata`` has no poses.
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


def set_poses(particles: pd.DataFrame, rotations: Tensor, shifts_A: Tensor) -> None:
    """Set a table's RELION columns of angles and origins from ``(n, 3, 3)`` rotations and ``(n, 2)`` shifts in Å."""
    particles[star.ANGLES] = to_euler(rotations.double()).cpu().numpy()
    set_origins(particles, shifts_A)


def set_origins(particles: pd.DataFrame, shifts_A: Tensor) -> None:
    """Set a table's RELION columns of origins from ``(n, 2)`` shifts in Å: origins are minus the shifts."""
    particles[star.ORIGINS] = -shifts_A.double().cpu().numpy()

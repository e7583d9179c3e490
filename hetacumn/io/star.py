"""Particle tables: reading of RELION 3.1 and 3.0 STAR and of cryoSPARC .cs files, writing of RELION 3.1 STAR.

The table in memory always has RELION 3.1's form and column names: one row per particle, one row per optics group, origins in Å.
Error messages count rows from 1.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.io.cryosparc import find_passthrough, read_cs
from hetacumn.io.particle_table import GROUP, ParticleTable, finite
from hetacumn.io.stacks import read_layout
from hetacumn.io.star_text import read_blocks, write_blocks
from hetacumn.physics.optics import Optics
from hetacumn.physics.rotations import from_euler, to_euler

ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
ORIGINS = ["rlnOriginXAngst", "rlnOriginYAngst"]
PIXEL_ORIGINS = ["rlnOriginX", "rlnOriginY"]  # RELION 3.0, in pixels
PIXEL = "rlnImagePixelSize"
GROUP_COLUMNS = ["rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"]  # RELION 3.1: one value per optics group
ABERRATIONS = ["rlnBeamTiltX", "rlnBeamTiltY", "rlnOddZernike", "rlnEvenZernike",
               *(f"rlnMagMat{i}{j}" for i in range(2) for j in range(2))]  # also one value per optics group  # fmt: skip
STACK_SUFFIXES = (".mrcs", ".mrc")
SAME_PIXEL = 0.01  # largest relative difference of two pixel sizes that count as equal
SAME_ORIGIN_A = 0.01  # largest difference of two origins that count as equal

#: CTF corrections that a table may declare. They cannot be undone, and the likelihood needs uncorrected images.
CORRECTIONS = {
    "rlnCtfDataAreCtfPremultiplied": "CTF-premultiplied",
    "rlnCtfDataAreCtfCorrected": "CTF-corrected",
    "rlnCtfDataArePhaseFlipped": "phase-flipped",
}  # fmt: skip


def read_table(path: Path | str) -> ParticleTable:
    """Read a particle table from a RELION 3.1 or 3.0 STAR file, a cryoSPARC .cs file, or a bare stack (by suffix).

    RELION 3.0 states origins in pixels, and the pixel size as rlnPixelSize or as the ratio of rlnDetectorPixelSize and
    rlnMagnification. The function converts these columns to those of RELION 3.1, even if the file has an optics table. All
    other columns keep the text of the file. A bare stack (``x.mrcs``) needs a CSV table of the same name in the same folder
    (``x.csv``): one line per image, in the order of the stack, with RELION's column names (rlnDefocusU, …, rlnImagePixelSize).

    Raises:
        HetacumnError: the file is missing, is not a particle table, or lacks a column; an optics group has two rows; or the
            table marks images as CTF-premultiplied, CTF-corrected or phase-flipped.
    """
    table = _read(Path(path))
    for column, correction in CORRECTIONS.items():
        wrong = table.numbers(column, 0.0) != 0
        if wrong.any():
            row = int(wrong.argmax()) + 1
            raise HetacumnError(
                f"{path}: row {row}: {column} marks the image as {correction}; expected images without CTF correction"
            )
    return table


def table_files(path: Path) -> list[Path]:
    """Return the files that :func:`read_table` reads: the table or the CSV table of a bare stack, and any passthrough file."""
    if path.suffix in STACK_SUFFIXES:
        return [path.with_suffix(".csv")]
    beside = find_passthrough(path) if path.suffix == ".cs" else None
    return [path] if beside is None else [path, beside]


def _read(path: Path) -> ParticleTable:
    if not path.is_file():
        raise HetacumnError(f"{path}: no such file; expected a STAR or .cs file of particles")
    if path.suffix == ".csg":
        raise HetacumnError(
            f"{path}: lists the files of a cryoSPARC group; expected a STAR or .cs file, such as a .cs file in this list"
        )
    if path.suffix in (".cs", *STACK_SUFFIXES):
        flat = read_cs(path) if path.suffix == ".cs" else _read_bare_stack(path)
        optics, particles = group_optics(path, _with_rows(path, flat))
        return ParticleTable(path, particles, optics)
    blocks = read_blocks(path)
    named = [block for block in blocks if "rlnImageName" in block.table]
    if not named:
        raise HetacumnError(f"{path}: no column rlnImageName; expected a STAR file of particles")
    groups = [block for block in blocks if block.name == "optics"]
    if len(named) > 1 or len(groups) > 1:
        raise HetacumnError(
            f"{path}: {len(named)} tables of particles and {len(groups)} tables of optics groups; expected one of each "
            "(relion_star_handler --combine joins files)"
        )
    particles = _with_rows(path, named[0].table)
    if not groups:
        optics, particles = group_optics(path, _from_relion30(path, particles))
        return ParticleTable(path, particles, optics)
    for column in (GROUP, PIXEL):
        if column not in groups[0].table:
            raise HetacumnError(f"{path}: no column {column} in the optics table; expected it as in RELION 3.1")
    table = ParticleTable(path, particles, _one_row_per_group(path, groups[0].table))
    if not set(particles) & {PIXEL, *PIXEL_ORIGINS, *_STATED_PIXELS}:
        return table
    pixel_A = table.pixel_sizes()
    _warn_of_pixel_sizes(path, particles, pixel_A)
    return replace(table, particles=_with_origins_A(path, particles, pixel_A))


def _with_rows(path: Path, particles: pd.DataFrame) -> pd.DataFrame:
    """Return a table unchanged; raise :class:`HetacumnError` if it is empty."""
    if len(particles) == 0:
        raise HetacumnError(f"{path}: no rows; expected one row for each particle")
    return particles


def _one_row_per_group(path: Path, optics: pd.DataFrame) -> pd.DataFrame:
    """Remove repeated rows of the optics table; raise :class:`HetacumnError` if two rows of a group differ."""
    optics = optics.drop_duplicates(ignore_index=True)
    groups = pd.Series(finite(optics[GROUP], f"{path}: optics table, row"))
    if groups.duplicated().any():
        row = int(groups.duplicated().argmax())
        other = optics.iloc[int((groups == groups[row]).argmax())]
        column = next(name for name in optics.columns if optics[name].iloc[row] != other[name])
        raise HetacumnError(
            f"{path}: optics table, row {row + 1}: optics group {groups[row]:g} has {column} {optics[column].iloc[row]}, and "
            f"{other[column]} in an earlier row; expected one row for each group"
        )
    return optics


def write_table(path: Path | str, particles: pd.DataFrame, optics: pd.DataFrame) -> None:
    """Write a RELION 3.1 STAR file atomically, the optics table first; see :func:`~hetacumn.io.star_text.write_blocks`."""
    write_blocks(path, {"optics": optics, "particles": particles})


def group_optics(path: Path, particles: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Divide a flat table into RELION 3.1's tables ``(optics, particles)``.

    Particles with equal voltage, Cs, amplitude contrast, pixel size, image size, CTF corrections, aberrations and group number
    form one optics group. These columns move to the optics table. All columns except voltage and Cs may be missing.

    Raises:
        HetacumnError: one of these columns is missing or contains a value that is not a finite number.
    """
    for column in GROUP_COLUMNS[:2]:
        if column not in particles:
            raise HetacumnError(f"{path}: no column {column}; expected it for every particle")
    shared = [name for name in [*GROUP_COLUMNS, PIXEL, "rlnImageSize"] if name in particles]
    for column in shared:
        finite(particles[column], f"{path}: row")
    shared += [name for name in [*CORRECTIONS, *ABERRATIONS] if name in particles]
    by = [*shared, *([GROUP] if GROUP in particles else [])]
    codes = particles.groupby(by, sort=False, dropna=False).ngroup().to_numpy() + 1
    first = ~pd.Series(codes).duplicated().to_numpy()
    optics = particles.loc[first, shared].reset_index(drop=True)
    optics.insert(0, GROUP, codes[first])
    optics.insert(1, "rlnOpticsGroupName", [f"opticsGroup{g}" for g in codes[first]])
    optics["rlnImageDimensionality"] = 2
    rest = particles.drop(columns=[*shared, GROUP], errors="ignore").copy()
    rest[GROUP] = codes
    return optics, rest


def _read_bare_stack(path: Path) -> pd.DataFrame:
    """Return one row per image of a bare stack, with the optics from the CSV table of the same name."""
    beside, count = path.with_suffix(".csv"), read_layout(path).shape[0]
    if not beside.is_file():
        raise HetacumnError(
            f"{beside}: no such file; expected the optics of {path.name}, one line for each image, with "
            f"columns rlnDefocusU, rlnDefocusV, rlnDefocusAngle, {', '.join(GROUP_COLUMNS)}, "
            "rlnImagePixelSize"
        )
    try:
        table = pd.read_csv(beside)
    except (ValueError, UnicodeDecodeError) as error:
        raise HetacumnError(f"{beside}: not a table ({' '.join(str(error).split())})") from error
    if len(table) != count:
        raise HetacumnError(f"{beside}: {len(table)} rows; expected {count}, one for each image of {path.name}")
    if PIXEL not in table:
        raise HetacumnError(f"{beside}: no column {PIXEL}; expected it for every image")
    table["rlnImageName"] = [f"{i + 1:06d}@{path.name}" for i in range(count)]
    return table


#: Columns that state the pixel size, by the first column, in the order of precedence for a table without optics groups.
_STATED_PIXELS = {
    PIXEL: [PIXEL],
    "rlnPixelSize": ["rlnPixelSize"],
    "rlnDetectorPixelSize": ["rlnDetectorPixelSize", "rlnMagnification"],
}


def _stated_pixels_A(path: Path, particles: pd.DataFrame) -> dict[str, Float[np.ndarray, " n"]]:
    """Return the pixel sizes in Å that the particle table states, by the keys of ``_STATED_PIXELS``."""
    stated = {}
    for name, columns in _STATED_PIXELS.items():
        if all(column in particles for column in columns):
            values = [finite(particles[column], f"{path}: row") for column in columns]
            with np.errstate(divide="ignore", invalid="ignore"):
                stated[name] = values[0] if len(values) == 1 else values[0] * 1e4 / values[1]  # rlnDetectorPixelSize is in µm
    return stated


def _warn_of_pixel_sizes(path: Path, particles: pd.DataFrame, pixel_A: Float[np.ndarray, " n"]) -> None:
    """Warn if a column of the particle table states another pixel size than ``pixel_A``, which the program uses."""
    for name, stated_A in _stated_pixels_A(path, particles).items():
        if (apart := ~(np.abs(stated_A - pixel_A) <= SAME_PIXEL * pixel_A)).any():
            row = int(apart.argmax())
            warnings.warn(
                f"{path}: row {row + 1}: pixel size {stated_A[row]:g} Å from {' and '.join(_STATED_PIXELS[name])}, and "
                f"{pixel_A[row]:g} Å from other columns; using {pixel_A[row]:g} Å",
                stacklevel=5,
            )


def _from_relion30(path: Path, particles: pd.DataFrame) -> pd.DataFrame:
    """Convert the pixel size and the origins from RELION 3.0's to RELION 3.1's columns."""
    stated = _stated_pixels_A(path, particles)
    if not stated:
        raise HetacumnError(
            f"{path}: no optics table (RELION 3.1), and no columns rlnMagnification and "
            "rlnDetectorPixelSize (RELION 3.0); expected the pixel size in one of these ways"
        )
    source, pixel_A = next(iter(stated.items()))
    _warn_of_pixel_sizes(path, particles, pixel_A)
    if source != PIXEL:
        particles = particles.assign(**{PIXEL: pixel_A})
    old = [column for name, columns in _STATED_PIXELS.items() if name != PIXEL for column in columns]
    return _with_origins_A(path, particles.drop(columns=old, errors="ignore"), pixel_A)


def _with_origins_A(path: Path, particles: pd.DataFrame, pixel_A: Float[np.ndarray, " n"]) -> pd.DataFrame:
    """Replace origins in pixels by origins in Å. If a table has both, keep the origins in Å, and warn if the two differ."""
    for old, new in zip(PIXEL_ORIGINS, ORIGINS, strict=True):
        if old not in particles:
            continue
        origins_A = finite(particles[old], f"{path}: row") * pixel_A
        if new not in particles:
            particles = particles.assign(**{new: origins_A})
        elif (apart := np.abs(finite(particles[new], f"{path}: row") - origins_A) > SAME_ORIGIN_A).any():
            row = int(apart.argmax())
            warnings.warn(
                f"{path}: row {row + 1}: {old} is {origins_A[row]:g} Å, but {new} is {particles[new].iloc[row]}; using {new}",
                stacklevel=5,
            )
        particles = particles.drop(columns=old)
    return particles


def set_aberrations(particles: pd.DataFrame, optics: Optics) -> None:
    """Set the RELION columns of Zernike coefficients (rad) and magnification matrices, if the optics have them."""
    for column, coefficients in (("rlnOddZernike", optics.odd_rad), ("rlnEvenZernike", optics.even_rad)):
        if coefficients is not None:
            particles[column] = ["[" + ",".join(f"{value:.8g}" for value in row) + "]" for row in coefficients.tolist()]
    if optics.magnification is not None:
        for i in range(2):
            for j in range(2):
                particles[f"rlnMagMat{i}{j}"] = optics.magnification[:, i, j].double().numpy()


def set_poses(particles: pd.DataFrame, rotations: Float[Tensor, "n 3 3"], shifts_A: Float[Tensor, "n 2"]) -> None:
    """Set the RELION columns of angles and origins in a table from rotations and shifts in Å."""
    particles[ANGLES] = to_euler(rotations.double()).cpu().numpy()
    set_origins(particles, shifts_A)


def expanded(particles: pd.DataFrame, group: Float[Tensor, "g 3 3"]) -> pd.DataFrame:
    """Repeat each row at its equivalent poses ``R g``, for the rotations ``g`` of a point group."""
    angles = torch.from_numpy(particles[ANGLES].to_numpy(dtype=np.float64))
    copies = from_euler(angles)[:, None] @ group.double()
    repeated = particles.loc[particles.index.repeat(len(group))].reset_index(drop=True)
    if len(group) > 1:
        repeated[ANGLES] = to_euler(copies.flatten(0, 1)).numpy()
    return repeated


def set_origins(particles: pd.DataFrame, shifts_A: Float[Tensor, "n 2"]) -> None:
    """Set the RELION columns of origins in a table from shifts in Å; origins are minus the shifts."""
    particles[ORIGINS] = -shifts_A.double().cpu().numpy()

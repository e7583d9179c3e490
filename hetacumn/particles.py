"""Particles: images with their optics, names and perhaps poses; read from STAR or .cs, written as STAR."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from hetacumn import star
from hetacumn.errors import HetacumnError
from hetacumn.fourier import crop_images
from hetacumn.optics import Optics
from hetacumn.so3 import from_euler, inplane, to_euler
from hetacumn.stacks import StackReader

#: RELION's column for each of ours, and what it is where the column is missing (None: it must be there).
OPTICS_COLUMNS = {
    "defocus_u_A": ("rlnDefocusU", None),
    "defocus_v_A": ("rlnDefocusV", None),
    "astigmatism_deg": ("rlnDefocusAngle", None),
    "voltage_kv": ("rlnVoltage", None),
    "cs_mm": ("rlnSphericalAberration", None),
    "amplitude_contrast": ("rlnAmplitudeContrast", None),
    "phase_shift_deg": ("rlnPhaseShift", 0.0),
}
CONTRAST_SAMPLE = 500  # particles of a file that its contrast is judged by
WEAK_EVIDENCE = 5.0  # standard errors of the mean brightness, below which the contrast is a guess


@dataclass(frozen=True)
class Poses:
    """How each particle lies: ``rotations`` ``(n, 3, 3)``, object to view; ``shifts_px`` ``(n, 2)`` (x, y).

    A shift moves the image by ``+t``, in pixels of the images that the poses belong to.
    """

    rotations: Tensor
    shifts_px: Tensor

    def __len__(self) -> int:
        return len(self.rotations)

    def __getitem__(self, rows) -> Poses:
        return Poses(self.rotations[rows], self.shifts_px[rows])

    def turned(self, degrees: float) -> Poses:
        """Those of the images turned in their plane, from x to y."""
        turn = inplane(torch.tensor(-degrees, device=self.rotations.device))
        return Poses(turn @ self.rotations, self.shifts_px @ turn[:2, :2].T)


@dataclass(frozen=True)
class Particles:
    """A stack in memory: ``images`` ``(n, box, box)`` float32, noise of unit variance, protein bright.

    ``names`` are rlnImageName as the file has them; ``poses`` is None where the file has none.
    """

    images: Tensor
    optics: Optics
    names: list[str]
    poses: Poses | None = None

    @property
    def box(self) -> int:
        """Pixels along a side."""
        return self.images.shape[-1]

    @property
    def pixel_A(self) -> float:
        """Pixel size in Å, of these images (after cropping)."""
        return self.optics.pixel_A

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows) -> Particles:
        """Some of the particles: a slice, or an array or tensor of indices or booleans."""
        if not isinstance(rows, slice):
            rows = torch.as_tensor(rows)
        positions = torch.arange(len(self))[rows].tolist()
        poses = None if self.poses is None else self.poses[rows]
        return Particles(self.images[rows], self.optics[rows], [self.names[i] for i in positions], poses)


def read_particles(
    path: Path | str,
    box: int | None = None,
    contrast: str = "auto",
    data_dir: Path | str | None = None,
    rows: Sequence[int] | np.ndarray | Tensor | None = None,
    progress: bool = True,
) -> Particles:
    """Read the images that a STAR (RELION 3.1, 3.0) or .cs file names, normalised and Fourier-cropped.

    Images are read by chunks: memory is that of the cropped stack. Each image is normalised by the pixels
    outside its inscribed circle to mean 0 and standard deviation 1, then cropped; the transform is
    orthonormal, so that white noise keeps unit variance per pixel (coloured noise does not: the cropped band
    has its own). The optics' pixel size and the poses' shifts are those of the cropped images.

    Args:
        path: the STAR or .cs file.
        box: even, pixels after cropping; None keeps the stack's.
        contrast: what protein is in the file, "white" or "black"; images come out with it bright. "auto"
            compares the middle of some images of the file with their background (whatever ``rows`` is), and
            warns where that says little.
        data_dir: the folder that stacks are named from; None looks in the STAR's folder and those around it.
        rows: which particles, counted from 0, in this order; None is all.

    Raises:
        HetacumnError: naming the file, the row (counted from 1) and what was expected.
    """
    table = star.read_table(path)
    if contrast not in ("auto", "white", "black"):
        raise HetacumnError(f"contrast is '{contrast}'; expected auto, white or black")
    rows = _check_rows(table, rows)
    optics = optics_of(table)[rows]
    poses = poses_of(table)
    reader = StackReader(table, rows, data_dir)
    box = reader.box if box is None else box
    if box % 2 or not 2 <= box <= reader.box:
        raise HetacumnError(f"box {box} to crop to: expected an even number up to {reader.box}, the box of "
                            f"{table.path}'s images")
    images = torch.empty(len(rows), box, box)
    with tqdm(total=len(rows), desc="reading particles", unit="", disable=not progress) as bar:
        for positions, chunk in reader.chunks():
            chunk = _normalise(chunk, table.path, rows[positions])
            images[torch.from_numpy(positions)] = chunk if box == reader.box else crop_images(chunk, box)
            bar.update(len(positions))
    middles = _sample_middles(table, data_dir) if contrast == "auto" else _middles(images)
    if _is_black(middles, contrast, table.path):
        images.neg_()
    if poses is not None:
        scale = box / reader.box
        poses = Poses(poses.rotations[rows], poses.shifts_px[rows] * scale)
    names = table.particles["rlnImageName"].iloc[rows].astype(str).tolist()
    return Particles(images, optics.binned(reader.box, box), names, poses)


def count_particles(path: Path | str) -> int:
    """How many particles a STAR or .cs file names."""
    return len(star.read_table(path))


def optics_of(table: star.ParticleTable) -> Optics:
    """The optics of a table's particles, at the pixel size of its stacks."""
    columns = {
        name: torch.tensor(table.numbers(column, default), dtype=torch.float32)
        for name, (column, default) in OPTICS_COLUMNS.items()
    }
    return Optics(**columns, pixel_A=table.pixel_A())


def poses_of(table: star.ParticleTable) -> Poses | None:
    """The poses of a table's particles, shifts in pixels of its stacks; None where angles are missing."""
    if not all(table.has(column) for column in star.ANGLES):
        return None
    angles = np.stack([table.numbers(column) for column in star.ANGLES], axis=1)
    origins_A = np.stack([table.numbers(column, 0.0) for column in star.ORIGINS], axis=1)
    shifts_px = torch.from_numpy(-origins_A / table.pixel_A()).float()
    return Poses(from_euler(torch.from_numpy(angles)).float(), shifts_px)


def write_star(
    path: Path | str,
    names: list[str],
    optics: Optics,
    box: int,
    poses: Poses | None = None,
    classes: Tensor | None = None,
) -> None:
    """Write RELION 3.1 STAR, atomically: names, CTF, and poses and classes where given.

    ``optics`` and ``box`` are those of the *stack* that the names point into; ``poses.shifts_px`` are in its
    pixels. ``classes`` ``(n,)`` counts from 0, rlnClassNumber from 1. Angles in degrees, origins (minus the
    shifts) in Å.
    """
    columns = {column: getattr(optics, name).double().numpy() for name, (column, _) in OPTICS_COLUMNS.items()}
    particles = pd.DataFrame({"rlnImageName": names, **columns})
    particles["rlnImagePixelSize"] = optics.pixel_A
    particles["rlnImageSize"] = box
    if poses is not None:
        set_poses(particles, poses.rotations, poses.shifts_px * optics.pixel_A)
    if classes is not None:
        particles["rlnClassNumber"] = np.asarray(classes) + 1
    groups, particles = star.group_optics(Path(path), particles)
    star.write_table(path, particles, groups)


def set_poses(particles: pd.DataFrame, rotations: Tensor, shifts_A: Tensor) -> None:
    """Put ``(n, 3, 3)`` rotations and ``(n, 2)`` shifts in Å into a table's columns, as RELION has them."""
    particles[star.ANGLES] = to_euler(rotations.double()).cpu().numpy()
    particles[star.ORIGINS] = -shifts_A.double().cpu().numpy()


def _check_rows(table: star.ParticleTable, rows) -> np.ndarray:
    rows = np.arange(len(table)) if rows is None else np.asarray(rows, dtype=np.int64)
    if len(rows) == 0 or rows.min() < 0 or rows.max() >= len(table):
        raise HetacumnError(f"{table.path}: {len(rows)} rows asked for, of {len(table)}; expected at least "
                            f"one, each from 0 to {len(table) - 1}")
    return rows


def _outside_circle(box: int, radius: float) -> Tensor:
    axis = torch.arange(box) - box // 2
    return axis.square()[:, None] + axis.square() > radius**2


def _normalise(images: np.ndarray, path: Path, rows: np.ndarray) -> Tensor:
    """Subtract the background's mean and divide by its standard deviation, image by image; in place."""
    chunk = torch.from_numpy(images)
    background = chunk[:, _outside_circle(chunk.shape[-1], chunk.shape[-1] // 2)]
    std, mean = torch.std_mean(background, dim=1)
    if (std <= 0).any():
        row = int(rows[int((std <= 0).int().argmax())]) + 1
        raise HetacumnError(f"{path}: row {row}: the image is constant outside its inscribed circle; "
                            "expected noise there (an unmasked particle)")
    return chunk.sub_(mean[:, None, None]).div_(std[:, None, None])


def _middles(images: Tensor) -> Tensor:
    """Mean brightness ``(n,)`` of the middle of normalised images ``(n, box, box)``."""
    return images[:, ~_outside_circle(images.shape[-1], images.shape[-1] / 4)].mean(1)


def _sample_middles(table: star.ParticleTable, data_dir: Path | str | None) -> Tensor:
    """The same of particles spread evenly over the whole file, so that every part is judged alike."""
    rows = np.linspace(0, len(table) - 1, min(len(table), CONTRAST_SAMPLE)).astype(np.int64)
    chunks = StackReader(table, rows, data_dir).chunks()
    return torch.cat([_middles(_normalise(chunk, table.path, rows[some])) for some, chunk in chunks])


def _is_black(middles: Tensor, contrast: str, path: Path) -> bool:
    """Is protein dark in the file? Warns of weak evidence, and of evidence to the contrary."""
    evidence = float(middles.mean() / (middles.std() / len(middles) ** 0.5)) if len(middles) > 1 else 0.0
    seen = "black" if middles.mean() < 0 else "white"
    weak = abs(evidence) < WEAK_EVIDENCE
    why = f"brightness of the middle: {evidence:+.1f} standard errors"
    if contrast == "auto" and weak:
        warnings.warn(f"{path}: protein taken as {seen} on weak evidence ({why}); set contrast to white or "
                      "black if you know it", stacklevel=3)
    if contrast not in ("auto", seen) and not weak:
        warnings.warn(f"{path}: contrast is {contrast}, but protein looks {seen} ({why})", stacklevel=3)
    return (seen if contrast == "auto" else contrast) == "black"

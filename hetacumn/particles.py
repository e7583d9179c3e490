"""Particles: images with their optics, names and perhaps poses; read from STAR or .cs, written as STAR."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from hetacumn import star
from hetacumn.errors import HetacumnError
from hetacumn.optics import Optics
from hetacumn.preprocess import (
    SCALE_RANGE,
    WEAK_EVIDENCE,
    Preprocessing,
    evidence_of_white,
    finish,
    flaws,
    is_white,
    middles,
    noise_power,
    normalise,
    roll,
    soft_circle,
)
from hetacumn.reading import StackReader
from hetacumn.so3 import from_euler, inplane, to_euler

#: RELION's column for each of ours, what it is where the column is missing (None: it must be there), and
#: between what it must be.
OPTICS_COLUMNS = {
    "defocus_u_A": ("rlnDefocusU", None, -1e6, 1e6),
    "defocus_v_A": ("rlnDefocusV", None, -1e6, 1e6),
    "astigmatism_deg": ("rlnDefocusAngle", None, -1e6, 1e6),
    "voltage_kv": ("rlnVoltage", None, 10, 3000),
    "cs_mm": ("rlnSphericalAberration", None, 0, 100),
    "amplitude_contrast": ("rlnAmplitudeContrast", None, 0, 1),
    "phase_shift_deg": ("rlnPhaseShift", 0.0, -1e6, 1e6),
}
SURVEYED = 500  # particles of a file that its contrast and its noise are judged by
CONSTANT_BACKGROUND = "is constant outside the particle's circle (masked?)"
OUTSIDE = "does not hold its particle: the origin is more than half a box from the middle"


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

    def to(self, device: torch.device | str) -> Poses:
        """The same on another device."""
        return Poses(self.rotations.to(device), self.shifts_px.to(device))

    def turned(self, degrees: float) -> Poses:
        """Those of the images turned in their plane, from x to y."""
        turn = inplane(torch.full((), -degrees, device=self.rotations.device))
        return Poses(turn @ self.rotations, self.shifts_px @ turn[:2, :2].T)


@dataclass(frozen=True)
class Particles:
    """A stack in memory: ``images`` ``(n, box, box)`` float32, noise of unit variance, protein bright.

    ``names`` are rlnImageName as the file has them; ``poses`` is None where the file has none. ``noise`` ``(box // 2,)`` is
    the power of the noise in each shell; None is 1 everywhere. ``offsets_A`` ``(n, 2)`` (x, y): how far each particle was off
    the middle in the file, and was moved back; ``poses`` are those of the images as they are here.
    """

    images: Tensor
    optics: Optics
    names: list[str]
    poses: Poses | None = None
    noise: Tensor | None = None
    offsets_A: Tensor | None = None

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
        poses, offsets_A = (None if of_each is None else of_each[rows] for of_each in (self.poses, self.offsets_A))
        names = [self.names[i] for i in positions]
        return Particles(self.images[rows], self.optics[rows], names, poses, self.noise, offsets_A)


@dataclass(frozen=True)
class Survey:
    """What a sample of a file says of all of it: is protein dark in it; the noise's spectrum ``(box // 2,)`` by which
    to whiten, or None; the usual standard deviation of a background, in the file's units; evidence for the contrast, in
    standard errors (positive: bright)."""

    black: bool
    noise: Tensor | None
    usual_std: float
    evidence: float


@dataclass(frozen=True)
class Batch:
    """Preprocessed images ``(b, box, box)``, which of the rows asked for they are, what is wrong with each (or None), and
    how many pixels of each were replaced."""

    positions: np.ndarray
    images: Tensor
    flaws: list[str | None]
    outliers: Tensor


class ParticleReader:
    """The particles of a file, preprocessed: the whole file surveyed once by a sample, then read by parts.

    Images of several pixel sizes are brought to the smallest field of view (of the rows asked for and of the sample) and
    from there to one box, so that their pixels agree to within one in the box; ``pixel_A`` is that size.

    Raises:
        HetacumnError: as :func:`read_particles` does, but for images that are no good: these are told in each batch.
    """

    def __init__(self, table: star.ParticleTable, rows: np.ndarray, settings: Preprocessing,
                 data_dir: Path | str | None = None):
        self.table, self.settings, self.rows = table, settings, rows
        self.stacks = StackReader(table, rows, data_dir)
        # A sample spread evenly over the whole file, so that every part is judged alike whatever is asked for.
        spread = np.linspace(0, len(table) - 1, min(len(table), SURVEYED)).astype(np.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said already, of the rows asked for
            sample = StackReader(table, spread, data_dir)
        self._field_A = min(self.stacks.field_A, sample.field_A)
        largest = self._field_px(max(self.stacks.coarsest_A(), sample.coarsest_A()))
        self.box = largest if settings.box is None else settings.box
        if self.box % 2 or not 2 <= self.box <= largest:
            raise HetacumnError(f"box {self.box} to crop to: expected an even number up to {largest}, the box of "
                                f"{table.path}'s images")
        self.pixel_A = self._field_A / self.box
        self.optics = optics_of(table, self.pixel_A)
        self.offsets_A = offsets_of(table) if settings.centre else None
        self.survey = self._survey(sample)

    def batches(self) -> Iterator[Batch]:
        """Every row once, in the order of the stacks."""
        for batch, std in self._read(self.stacks, self.settings):
            far = (std > SCALE_RANGE * self.survey.usual_std) | (std < self.survey.usual_std / SCALE_RANGE)
            for i in far.nonzero().squeeze(1).tolist():
                batch.flaws[i] = batch.flaws[i] or (
                    f"has noise of {std[i]:.3g}; expected within {SCALE_RANGE:g} times the usual {self.survey.usual_std:.3g}")
            if self.survey.black:
                batch.images.neg_()
            yield batch

    def particles(self, images: Tensor, chosen: np.ndarray) -> Particles:
        """The images of the rows ``chosen`` (positions among those asked for), with their names, optics and poses."""
        rows = self.rows[chosen]
        names = self.table.particles["rlnImageName"].iloc[rows].astype(str).tolist()
        index = torch.from_numpy(rows)
        poses = poses_of(self.table, self.pixel_A, self.offsets_A)
        offsets_A = None if self.offsets_A is None else self.offsets_A[index]
        poses = None if poses is None else poses[index]
        return Particles(images, self.optics[index], names, poses, self.survey.noise, offsets_A)

    def _read(self, stacks: StackReader, settings: Preprocessing) -> Iterator[tuple[Batch, Tensor]]:
        """Batches, protein as in the file, and the background's standard deviation ``(b,)`` of each image."""
        for chunk in stacks.chunks():
            found = flaws(chunk.images)
            images = torch.from_numpy(chunk.images)
            images[[flaw is not None for flaw in found]] = 0
            if self.offsets_A is not None:
                offsets_px = (self.offsets_A[torch.from_numpy(stacks.rows[chunk.positions])] / chunk.pixel_A).round()
                far = offsets_px.abs().amax(1) > images.shape[-1] / 2
                found = [flaw or (OUTSIDE if out else None) for flaw, out in zip(found, far.tolist(), strict=True)]
                images = roll(images, -torch.where(far[:, None], 0, offsets_px).long())
            std, outliers = normalise(images, settings.radius_px(images.shape[-1], chunk.pixel_A), settings.outlier_std)
            empty = (std <= 0).tolist()
            found = [flaw or (CONSTANT_BACKGROUND if none else None) for flaw, none in zip(found, empty, strict=True)]
            field_px = self._field_px(chunk.pixel_A)
            images = finish(images, settings, field_px, self.box, chunk.pixel_A)
            yield Batch(chunk.positions, images, found, outliers), std

    def _field_px(self, pixel_A: float) -> int:
        """Even number of pixels of this size nearest to the common field of view."""
        return 2 * round(self._field_A / pixel_A / 2)

    def _survey(self, sample: StackReader) -> Survey:
        parts, stds = [], []
        for batch, std in self._read(sample, replace(self.settings, mask=False)):
            good = torch.tensor([flaw is None for flaw in batch.flaws])
            parts.append(batch.images[good])
            stds.append(std[good])
        images, stds = torch.cat(parts), torch.cat(stds)
        if len(images) == 0:
            raise HetacumnError(f"{self.table.path}: none of {len(sample.rows)} images looked at is any good: the first "
                                f"{batch.flaws[0]}; expected images with noise")
        evidence = evidence_of_white(middles(images))
        return Survey(self._is_black(evidence, middles(images)), self._noise(images), float(stds.median()), evidence)

    def _is_black(self, evidence: float, brightness: Tensor) -> bool:
        """Is protein dark in the file? Warns of weak evidence, and of evidence to the contrary."""
        path, contrast = self.table.path, self.settings.contrast
        seen = "black" if brightness.mean() < 0 else "white"
        weak = abs(evidence) < WEAK_EVIDENCE
        why = f"brightness of the middle: {evidence:+.1f} standard errors"
        if contrast == "auto" and weak:
            warnings.warn(f"{path}: protein taken as {seen} on weak evidence ({why}); set contrast to white or "
                          "black if you know it", stacklevel=4)
        if contrast not in ("auto", seen) and not weak:
            warnings.warn(f"{path}: contrast is {contrast}, but protein looks {seen} ({why})", stacklevel=4)
        return (seen if contrast == "auto" else contrast) == "black"

    def _noise(self, images: Tensor) -> Tensor | None:
        if self.settings.whiten is False:
            return None
        radius = self.settings.radius_px(self.box, self.pixel_A)
        power, error = noise_power(images, radius)
        if self.settings.mask:
            power = power * soft_circle(self.box, radius).square().mean()
        return None if self.settings.whiten == "auto" and is_white(power, error) else power


def read_particles(
    path: Path | str,
    rows: Sequence[int] | np.ndarray | Tensor | None = None,
    data_dir: Path | str | None = None,
    progress: bool = True,
    **settings,
) -> Particles:
    """Read the images that a STAR (RELION 3.1, 3.0) or .cs file names, or a bare stack's, preprocessed, into memory.

    Images are read by chunks: memory is that of the cropped stack. Each image is normalised by its background to mean 0
    and standard deviation 1, then cropped; the transform is orthonormal, so that white noise keeps unit variance per pixel
    (coloured noise does not: the cropped band has its own, see ``Particles.noise``). The optics' pixel size and the poses'
    shifts are those of the cropped images.

    Args:
        path: the STAR or .cs file, or the .mrcs with a .csv beside it.
        rows: which particles, counted from 0, in this order; None is all.
        data_dir: the folder that stacks are named from; None looks in the STAR's folder and those around it.
        settings: fields of :class:`Preprocessing`: ``box``, ``contrast`` and more.

    Raises:
        HetacumnError: naming the file, the row (counted from 1) and what was expected.
    """
    table = star.read_table(path)
    reader = ParticleReader(table, _check_rows(table, rows), Preprocessing(**settings), data_dir)
    images = torch.empty(len(reader.rows), reader.box, reader.box)
    with tqdm(total=len(images), desc="reading particles", unit="", disable=not progress) as bar:
        for batch in reader.batches():
            for position, flaw in zip(batch.positions, batch.flaws, strict=True):
                if flaw:
                    raise HetacumnError(f"{reader.stacks.place(position)} {flaw}; expected an image with noise")
            images[torch.from_numpy(batch.positions)] = batch.images
            bar.update(len(batch.positions))
    return reader.particles(images, np.arange(len(images)))


def optics_of(table: star.ParticleTable, pixel_A: float | None = None) -> Optics:
    """The optics of a table's particles, for images of this pixel size (None: that of its first image).

    Raises:
        HetacumnError: a value that no microscope has, its row named.
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
    """The poses of a table's particles, shifts in pixels of this size and from ``offsets_A`` ``(n, 2)`` on; None where angles
    are missing."""
    if not all(table.has(column) for column in star.ANGLES):
        return None
    angles = np.stack([table.numbers(column) for column in star.ANGLES], axis=1)
    shifts_A = _shifts_A(table) - (0 if offsets_A is None else offsets_A.numpy())
    return Poses(from_euler(torch.from_numpy(angles)).float(), torch.from_numpy(shifts_A / pixel_A).float())


def offsets_of(table: star.ParticleTable) -> Tensor | None:
    """How far off the middle ``(n, 2)`` in Å the particles of a table are, in whole pixels; None where no origins are."""
    if not all(table.has(column) for column in star.ORIGINS):
        return None
    sizes_A = table.pixel_sizes()[:, None]
    offsets_A = np.round(_shifts_A(table) / sizes_A) * sizes_A
    return torch.from_numpy(offsets_A).float() if offsets_A.any() else None


def _shifts_A(table: star.ParticleTable) -> np.ndarray:
    return -np.stack([table.numbers(column, 0.0) for column in star.ORIGINS], axis=1)


def write_star(
    path: Path | str,
    names: list[str],
    optics: Optics,
    box: int,
    poses: Poses | None = None,
    classes: Tensor | None = None,
    shifts_A: Tensor | None = None,
) -> None:
    """Write RELION 3.1 STAR, atomically: names, CTF, and poses and classes where given.

    ``optics`` and ``box`` are those of the *stack* that the names point into; ``poses.shifts_px`` are in its
    pixels. ``classes`` ``(n,)`` counts from 0, rlnClassNumber from 1. Angles in degrees, origins (minus the
    shifts) in Å. ``shifts_A`` ``(n, 2)``: origins without angles, where no poses are given.
    """
    columns = {column: getattr(optics, name).double().numpy() for name, (column, *_) in OPTICS_COLUMNS.items()}
    particles = pd.DataFrame({"rlnImageName": names, **columns})
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
    """Put ``(n, 3, 3)`` rotations and ``(n, 2)`` shifts in Å into a table's columns, as RELION has them."""
    particles[star.ANGLES] = to_euler(rotations.double()).cpu().numpy()
    set_origins(particles, shifts_A)


def set_origins(particles: pd.DataFrame, shifts_A: Tensor) -> None:
    """Put ``(n, 2)`` shifts in Å into a table's columns, as RELION has them: origins are minus the shifts."""
    particles[star.ORIGINS] = -shifts_A.double().cpu().numpy()


def _check_rows(table: star.ParticleTable, rows) -> np.ndarray:
    rows = np.arange(len(table)) if rows is None else np.asarray(rows, dtype=np.int64)
    if len(rows) == 0 or rows.min() < 0 or rows.max() >= len(table):
        raise HetacumnError(f"{table.path}: {len(rows)} rows asked for, of {len(table)}; expected at least "
                            f"one, each from 0 to {len(table) - 1}")
    return rows

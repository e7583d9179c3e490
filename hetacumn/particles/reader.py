"""Reading of particles: a survey of a sample of the images of a file, then preprocessing in batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from hetacumn.common.errors import HetacumnError
from hetacumn.io import star
from hetacumn.io.stack_reader import StackReader
from hetacumn.particles.metadata import Particles, metadata_of, offsets_of, optics_of
from hetacumn.particles.preprocessing import (
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

SURVEYED = 500  # particles in the sample from which the contrast and the noise of a file are estimated
CONSTANT_BACKGROUND = "is constant outside the particle's circle (masked?)"
OUTSIDE = "does not hold its particle: the origin is more than half a box from the middle"


@dataclass(frozen=True)
class Survey:
    """Properties of a whole file, estimated from a sample of its images.

    - ``black``: whether protein is dark in the file.
    - ``noise``: noise power spectrum for whitening, or None for no whitening.
    - ``usual_std``: median standard deviation of the background of the images, in the units of the file.
    - ``evidence``: mean brightness of the middle of the images, in standard errors; positive for bright protein in the file.
    """

    black: bool
    noise: Float[Tensor, " shells"] | None
    usual_std: float
    evidence: float


@dataclass(frozen=True)
class Batch:
    """A batch of preprocessed images.

    - ``positions``: their positions among the requested rows.
    - ``images``: the preprocessed images.
    - ``flaws``: why each image is unusable, or None for a usable image.
    - ``outliers``: number of replaced pixels of each image.
    """

    positions: Int[np.ndarray, " b"]
    images: Float[Tensor, "b box box"]
    flaws: list[str | None]
    outliers: Int[Tensor, " b"]


class ParticleReader:
    """Preprocesses the particles of a file: estimates contrast and noise from a sample, then reads the images in batches.

    Images of different pixel sizes are cut to the smallest field of view among the requested rows and the sample, rounded to
    an even number of pixels, and then Fourier-cropped to one box. Because of the rounding, their pixel sizes agree only to
    within a fraction ``1 / box``. ``box`` and ``pixel_A`` describe the resulting images.

    Raises:
        HetacumnError: an error of :func:`read_particles`, except for unusable images, which ``Batch.flaws`` reports.
    """

    def __init__(
        self,
        table: star.ParticleTable,
        rows: Int[np.ndarray, " n"],
        settings: Preprocessing,
        data_dir: Path | str | None = None,
    ) -> None:
        self.table, self.settings, self.rows, self._data_dir = table, settings, rows, data_dir
        self.stacks = StackReader(table, rows, data_dir)
        # The sample is spread evenly over the whole file, so that the result does not depend on the requested rows.
        spread = np.linspace(0, len(table) - 1, min(len(table), SURVEYED)).astype(np.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the reader of the requested rows has already issued the same warnings
            sample = StackReader(table, spread, data_dir)
        self._field_A = min(self.stacks.field_A, sample.field_A)
        largest = self._field_px(max(self.stacks.coarsest_A(), sample.coarsest_A()))
        self.box = largest if settings.box is None else settings.box
        if self.box % 2 or not 2 <= self.box <= largest:
            raise HetacumnError(
                f"box is {self.box}; expected an even number up to {largest}, the box of the images in {table.path}"
            )
        self.pixel_A = self._field_A / self.box
        optics_of(table)  # raises an error for impossible values before any image is read
        self.offsets_A = offsets_of(table) if settings.centre else None
        self.survey = self._survey(sample)

    def select(self, rows: Int[np.ndarray, " m"]) -> ParticleReader:
        """Return a reader of some of the rows, with the box, the field of view and the estimates of this reader."""
        other = copy(self)
        other.rows, other.stacks = rows, StackReader(self.table, rows, self._data_dir)
        return other

    def batches(self) -> Iterator[Batch]:
        """Yield the images of the requested rows, each once, in the order of the stacks."""
        for batch, std in self._read(self.stacks, self.settings):
            far = (std > SCALE_RANGE * self.survey.usual_std) | (std < self.survey.usual_std / SCALE_RANGE)
            for i in far.nonzero().squeeze(1).tolist():
                batch.flaws[i] = batch.flaws[i] or (
                    f"has noise of {std[i]:.3g}; expected {self.survey.usual_std:.3g}, the median of the file, within a factor "
                    f"of {SCALE_RANGE:g}"
                )
            if self.survey.black:
                batch.images.neg_()
            yield batch

    def _read(self, stacks: StackReader, settings: Preprocessing) -> Iterator[tuple[Batch, Float[Tensor, " b"]]]:
        """Yield batches with the contrast of the file, and the standard deviation of the background of each image."""
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
        """Return the common field of view in pixels of ``pixel_A`` Å, rounded to an even number."""
        return 2 * round(self._field_A / pixel_A / 2)

    def _survey(self, sample: StackReader) -> Survey:
        """Estimate the contrast and the noise from a sample of the images."""
        parts, spreads = [], []
        for batch, std in self._read(sample, replace(self.settings, mask=False)):
            good = torch.tensor([flaw is None for flaw in batch.flaws])
            parts.append(batch.images[good])
            spreads.append(std[good])
        images, stds = torch.cat(parts), torch.cat(spreads)
        if len(images) == 0:
            raise HetacumnError(
                f"{self.table.path}: none of {len(sample.rows)} sampled images is usable: the first image "
                f"{batch.flaws[0]}; expected images with noise"
            )
        evidence = evidence_of_white(middles(images))
        return Survey(self._is_black(evidence, middles(images)), self._noise(images), float(stds.median()), evidence)

    def _is_black(self, evidence: float, brightness: Float[Tensor, " n"]) -> bool:
        """Return whether protein is dark in the file; warn if the evidence is weak or contradicts the setting."""
        path, contrast = self.table.path, self.settings.contrast
        seen = "black" if brightness.mean() < 0 else "white"
        weak = abs(evidence) < WEAK_EVIDENCE
        why = f"brightness of the middle: {evidence:+.1f} standard errors"
        if contrast == "auto" and weak:
            warnings.warn(
                f"{path}: weak evidence that protein is {seen} ({why}); set contrast to white or black if you know it",
                stacklevel=4,
            )
        if contrast not in ("auto", seen) and not weak:
            warnings.warn(f"{path}: contrast is {contrast}, but protein looks {seen} ({why})", stacklevel=4)
        return (seen if contrast == "auto" else contrast) == "black"

    def _noise(self, images: Float[Tensor, "n box box"]) -> Float[Tensor, " shells"] | None:
        """Estimate the noise spectrum for whitening; return None if the settings or the spectrum require no whitening."""
        if self.settings.whiten is False:
            return None
        radius = self.settings.radius_px(self.box, self.pixel_A)
        power, error = noise_power(images, radius)
        if self.settings.mask:
            power = power * soft_circle(self.box, radius).square().mean()
        return None if self.settings.whiten == "auto" and is_white(power, error) else power


def read_particles(
    path: Path | str,
    rows: Sequence[int] | Int[np.ndarray, " n"] | Int[Tensor, " n"] | None = None,
    data_dir: Path | str | None = None,
    progress: bool = True,
    **settings: Any,
) -> Particles:
    """Read the images of a particle table into memory and preprocess them.

    The function reads images in chunks, so that memory holds only the cropped stack. It normalises the background of each image
    to mean 0 and standard deviation 1, and then Fourier-crops the image. Fourier cropping keeps unit variance per pixel for
    white noise, but not for coloured noise; ``ParticleMetadata.noise`` is the spectrum of the noise in the cropped band. The
    returned pixel size is the pixel size of the cropped images, and the returned shifts are in these pixels.

    Args:
        path: a STAR file (RELION 3.1 or 3.0), a .cs file, or a .mrcs stack with a .csv table of the same name.
        rows: the particles to read, counted from 0, in this order; None for all.
        data_dir: the folder to which stack names are relative; None searches the folder of the table and its parents.
        progress: whether to show a progress bar.
        settings: fields of :class:`Preprocessing`, such as ``box`` and ``contrast``.

    Raises:
        HetacumnError: a file, a row or an image is unusable. The message names the file, the row (counted from 1) and the
            expected value.
    """
    preprocessing = Preprocessing(**settings)
    table = star.read_table(path).with_default("rlnAmplitudeContrast", preprocessing.amplitude_contrast)
    reader = ParticleReader(table, _check_rows(table, rows), preprocessing, data_dir)
    images = torch.empty(len(reader.rows), reader.box, reader.box)
    with tqdm(total=len(images), desc="reading particles", unit="", disable=not progress) as bar:
        for batch in reader.batches():
            for position, flaw in zip(batch.positions, batch.flaws, strict=True):
                if flaw:
                    raise HetacumnError(f"{reader.stacks.place(position)} {flaw}; expected an image with noise")
            images[torch.from_numpy(batch.positions)] = batch.images
            bar.update(len(batch.positions))
    return Particles(images, metadata_of(table, reader.rows, reader.pixel_A, reader.settings.centre, reader.survey.noise))


def _check_rows(
    table: star.ParticleTable, rows: Sequence[int] | Int[np.ndarray, " n"] | Int[Tensor, " n"] | None
) -> Int[np.ndarray, " n"]:
    """Return the requested rows as an array; raise :class:`HetacumnError` if there is none or one is out of range."""
    rows = np.arange(len(table)) if rows is None else np.asarray(rows, dtype=np.int64)
    if len(rows) == 0 or rows.min() < 0 or rows.max() >= len(table):
        outside = int(((rows < 0) | (rows >= len(table))).sum())
        raise HetacumnError(
            f"{table.path}: {len(rows)} rows requested, {outside} of them out of range; expected at least one row, each from 0 "
            f"to {len(table) - 1}"
        )
    return rows

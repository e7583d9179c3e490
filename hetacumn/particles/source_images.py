"""The raw images of a prepared stack, preprocessed again at another box: for reconstruction at the full resolution."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.io import star
from hetacumn.particles.metadata import Particles, Poses, metadata_of
from hetacumn.particles.prepared_stack import PreparedStack, table_digest
from hetacumn.particles.reader import ParticleReader
from hetacumn.physics.fourier import crop_images

LEAST_BOX = 8  # pixels
CHECKED_EVERY = 16  # one of this number of images is compared with the prepared image
TOLERANCE = 0.01  # largest difference of a pixel from the prepared image, in standard deviations of the noise


class SourceImages:
    """The particles of a prepared stack, read from its source at ``box`` pixels per side.

    The preprocessing equals that of the prepared stack except for the box. Rows are positions in the prepared stack, from 0.
    ``box`` is an even number; None stands for the box of the files. ``metadata`` describes the images of all rows.
    ``half_sets`` is the half set, 1 or 2, of each row in the source (rlnRandomSubset); None if the source has none.

    Raises:
        HetacumnError: the box is odd or larger than that of the files, or a stack of images is missing.
    """

    def __init__(self, stack: PreparedStack, box: int | None = None) -> None:
        if box is not None and box < LEAST_BOX:
            raise HetacumnError(f"box is {box}; expected an even number of at least {LEAST_BOX}")
        self.stack = stack
        table = star.read_table(stack.source).with_default("rlnAmplitudeContrast", stack.settings.amplitude_contrast)
        settings = replace(stack.settings, box=box, contrast="black" if stack.black else "white")
        self._reader = ParticleReader(table, stack.rows, settings, stack.data_dir or None)
        self.box, self.pixel_A = self._reader.box, self._reader.pixel_A
        self.half_sets = _half_sets(table, stack.rows)
        self.metadata = metadata_of(table, stack.rows, self.pixel_A, settings.centre, self._reader.survey.noise)

    def __len__(self) -> int:
        return len(self.metadata)

    def chunks(self, rows: Int[np.ndarray, " m"]) -> Iterator[tuple[Int[np.ndarray, " b"], Particles]]:
        """Read particles in chunks, each row once, in the order of the files; yield the rows and the particles of each chunk.

        Raises:
            HetacumnError: a stack of images is missing, an image is unusable, or one of every :data:`CHECKED_EVERY` images
                differs from the prepared image.
        """
        if not len(rows):
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the reader of all rows has already issued the same warnings
            reader = self._reader.select(self.stack.rows[rows])
        for batch in reader.batches():
            chosen = rows[batch.positions]
            for position, flaw in zip(batch.positions, batch.flaws, strict=True):
                if flaw:
                    raise HetacumnError(f"{reader.stacks.place(position)} {flaw}; expected the prepared image")
            for checked in range(0, len(chosen), CHECKED_EVERY):
                self._check(batch.images[checked], int(chosen[checked]))
            yield chosen, Particles(batch.images, self.metadata[chosen])

    def check(self, rows: Int[np.ndarray, " m"]) -> None:
        """Read some rows and raise the errors of :meth:`chunks`."""
        for _ in self.chunks(rows):
            pass

    def identity(self) -> object:
        """Return values that identify the images: files, their lengths and times of change, preprocessing and box."""
        files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in self._reader.stacks.stacks]
        return (
            table_digest(self.stack.source),
            files,
            self.stack.settings,
            self.stack.black,
            self.box,
            self.stack.rows.tobytes(),
        )

    def poses(self, rotations: Float[Tensor, "n 3 3"], shifts_A: Float[Tensor, "n 2"]) -> Poses:
        """Convert rotations and shifts in the raw images (Å) of all rows to poses of the images of this box."""
        return Poses(rotations, self.metadata.shifts_in_prepared_A(shifts_A) / self.pixel_A)

    def _check(self, image: Float[Tensor, "box box"], row: int) -> None:
        """Raise :class:`HetacumnError` if an image differs from the prepared image of its row."""
        prepared = torch.from_numpy(np.array(self.stack.images[row], dtype=np.float32))
        box = min(len(image), len(prepared))
        same = [one if len(one) == box else crop_images(one, box) for one in (image, prepared)]
        if (same[0] - same[1]).abs().max() > TOLERANCE:
            raise HetacumnError(
                f"{self.stack.metadata.names[row]} in {self.stack.source}: not the image that {self.stack.folder} was made "
                "from; expected unchanged images; prepare and predict the particles again"
            )


def _half_sets(table: star.ParticleTable, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"] | None:
    """Read the half set of each row; raise :class:`HetacumnError` if one is neither 1 nor 2."""
    if not table.has("rlnRandomSubset"):
        return None
    subsets = table.numbers("rlnRandomSubset")[rows]
    wrong = ~np.isin(subsets, (1, 2))
    if wrong.any():
        row = int(rows[wrong.argmax()]) + 1
        raise HetacumnError(f"{table.path}: row {row}: rlnRandomSubset is {subsets[wrong.argmax()]:g}; expected 1 or 2")
    return subsets.astype(int)

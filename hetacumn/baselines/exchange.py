"""The same images for every program: a cropped, normalised stack as a STAR and one .mrcs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hetacumn.particles import read_particles, write_star
from hetacumn.stacks import new_stack


@dataclass(frozen=True)
class Exported:
    """A stack written for other programs: ``star`` beside its ``.mrcs``; ``names`` are those of the source's rows."""

    star: Path
    names: list[str]
    box: int
    pixel_A: float

    @property
    def stack(self) -> Path:
        """The images."""
        return self.star.with_suffix(".mrcs")


def export_stack(source: Path | str, folder: Path | str, box: int, rows: np.ndarray, contrast: str = "auto") -> Exported:
    """Write particles of a STAR or .cs file, cropped to ``box`` pixels as training sees them: noise of unit variance,
    protein bright, CTF parameters unchanged, no poses. ``rows`` count from 0.
    """
    folder = Path(folder)
    particles = read_particles(source, box, contrast, rows=rows)
    star = folder / "particles.star"
    with new_stack(star.with_suffix(".mrcs"), len(particles), box, particles.pixel_A) as stack:
        stack[:] = particles.images.numpy()
    write_star(star, [f"{i + 1:06d}@particles.mrcs" for i in range(len(particles))], particles.optics, box)
    return Exported(star, particles.names, box, particles.pixel_A)

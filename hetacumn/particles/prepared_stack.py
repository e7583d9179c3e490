"""A prepared stack: preprocessed images on disk and their metadata, as :mod:`hetacumn.particles.preparation` writes them.

``prepared.json`` in the stack's folder names the source table, the settings and the files that the stack was made from.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import isclose
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Num

from hetacumn.common.errors import HetacumnError
from hetacumn.common.run_files import read_json
from hetacumn.io import star
from hetacumn.io.stacks import open_stack, read_layout
from hetacumn.particles.metadata import ParticleMetadata, Particles, metadata_of
from hetacumn.particles.preprocessing import Preprocessing

NOTE, STACK, TABLE = "prepared.json", "particles.mrcs", "particles.star"


@dataclass(frozen=True)
class PreparedStack:
    """The stack that :func:`~hetacumn.particles.preparation.prepare_stack` left in ``folder``.

    ``metadata`` describes the prepared images, in order, with the names of the source; ``box`` is their side in pixels.
    ``source`` is the table of the raw images, ``data_dir`` the folder that the table names its stacks from (empty: looked
    for), ``settings`` the preprocessing, and ``rows`` the rows of the particles in the source, from 0. ``black`` tells whether
    protein is dark in the source, ``evidence`` how much the images speak for bright protein, in standard errors; ``outliers``
    counts replaced pixels, ``dropped`` the unusable particles.
    """

    folder: Path
    metadata: ParticleMetadata
    box: int
    source: Path
    data_dir: str
    settings: Preprocessing
    rows: Int[np.ndarray, " n"]
    black: bool
    evidence: float
    outliers: int
    dropped: int

    @classmethod
    def of(cls, folder: Path, source: Path, table: star.ParticleTable, content: dict) -> PreparedStack:
        """Build the record of a folder from its source table and the content of ``prepared.json``."""
        rows = np.delete(np.arange(len(table)), content["dropped_rows"])
        settings, power = Preprocessing(**content["made_from"]["settings"]), content["noise_power"]
        noise = None if power is None else torch.tensor(power)
        return cls(
            folder=folder,
            metadata=metadata_of(table, rows, content["pixel_A"], settings.centre, noise),
            box=read_layout(folder / STACK).shape[-1],
            source=source,
            data_dir=content["made_from"]["data_dir"],
            settings=settings,
            rows=rows,
            black=content["protein_in_file"] == "black",
            evidence=content["evidence_of_white"],
            outliers=content["outlier_pixels"],
            dropped=len(content["dropped_rows"]),
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def star(self) -> Path:
        """The table of the prepared images."""
        return self.folder / TABLE

    @property
    def stack(self) -> Path:
        """The file of the prepared images."""
        return self.folder / STACK

    @property
    def images(self) -> Num[np.ndarray, "n {self.box} {self.box}"]:
        """The prepared images, memory-mapped."""
        return open_stack(self.stack)

    @property
    def pixel_A(self) -> float:
        """The pixel size of the prepared images in Å."""
        return self.metadata.pixel_A

    def read(self, positions: Int[np.ndarray, " m"] | slice = slice(None), pinned: bool = False) -> Particles:
        """Read some of the particles into memory, by their positions among the prepared ones.

        ``pinned`` asks for page-locked memory, from which a CUDA device copies by itself.
        """
        chosen = np.arange(len(self))[positions]
        images = torch.from_numpy(np.asarray(self.images[chosen], dtype=np.float32))
        return Particles(images.pin_memory() if pinned else images, self.metadata[chosen])


def reopen(folder: Path | str) -> PreparedStack:
    """Open the prepared stack of a folder; the raw images of the source may be gone.

    Raises:
        HetacumnError: the folder holds no prepared stack, or another one; the source's table is gone, or has changed.
    """
    folder = Path(folder)
    note = folder / NOTE
    if not note.is_file():
        raise HetacumnError(f"{note}: no such file; expected the prepared particles of a training")
    content = _read_note(note)
    source = Path(content["made_from"]["files"][0][0])
    table, length = star.read_table(source), content["particles"] + len(content["dropped_rows"])
    if len(table) != length:
        raise HetacumnError(
            f"{source}: {len(table)} particles; expected {length}, the particles in {folder}; prepare the table again"
        )
    if content["made_from"].get("table", now := table_digest(source)) != now:  # older notes have no digest
        raise HetacumnError(f"{source}: changed since {folder} was made from it; prepare the table again")
    stack = folder / STACK
    if not holds(stack, content):
        raise HetacumnError(f"{stack}: not the images that {note} describes; prepare the table again")
    return PreparedStack.of(folder, source, table, content)


def read_made_from(folder: Path | str) -> dict | None:
    """Read what a prepared stack was made from: settings, files and the digest of the table; None if there is no stack."""
    note = Path(folder) / NOTE
    return _read_note(note)["made_from"] if note.is_file() else None


def _read_note(note: Path) -> dict:
    content = read_json(note, "the note of prepared particles")
    if "made_from" not in content:
        raise HetacumnError(f"{note}: no made_from; expected the note of prepared particles: delete it and prepare again")
    return content


def is_made_from(folder: Path | str, source: Path | str) -> bool:
    """Tell whether a folder holds a prepared stack of the table ``source``."""
    made_from = read_made_from(folder)
    return made_from is not None and made_from["files"][0][0] == str(Path(source).resolve())


def holds(stack: Path, content: dict) -> bool:
    """Tell whether a stack has as many images, of the box and the pixel size, as ``prepared.json`` says."""
    layout = read_layout(stack)
    box = content.get("box", layout.shape[-1])  # older notes have no box
    return layout.shape == (content["particles"], box, box) and isclose(layout.pixel_A, content["pixel_A"], rel_tol=1e-3)


def table_digest(source: Path) -> str:
    """Hash the bytes of a table; a bare stack has its table beside it."""
    path = source.with_suffix(".csv") if source.suffix in star.STACK_SUFFIXES else source
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]

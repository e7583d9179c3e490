"""A prepared stack: preprocessed images on disk and their metadata, as :mod:`hetacumn.particles.preparation` writes them.

``prepared.json`` in the folder of the stack records the source table, the settings and the raw image files.
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
from hetacumn.io.stack_reader import find_stack
from hetacumn.io.stacks import open_stack, read_layout
from hetacumn.particles.metadata import ParticleMetadata, Particles, metadata_of
from hetacumn.particles.preprocessing import Preprocessing

NOTE, STACK, TABLE = "prepared.json", "particles.mrcs", "particles.star"


@dataclass(frozen=True)
class PreparedStack:
    """The stack that :func:`~hetacumn.particles.preparation.prepare_stack` wrote to ``folder``.

    - ``folder``: folder of the prepared stack.
    - ``metadata``: metadata of the prepared images, in their order, with the names in the source table.
    - ``box``: pixels per side of the prepared images.
    - ``source``: table of the raw images.
    - ``data_dir``: folder to which stack names in the table are relative; empty if preparation searched for the stacks.
    - ``settings``: preprocessing of the images.
    - ``rows``: row of each particle in the source table, counted from 0.
    - ``black``: whether protein is dark in the raw images.
    - ``evidence``: mean brightness of the middle of the raw images, in standard errors; positive for bright protein.
    - ``outliers``: number of replaced pixels.
    - ``dropped``: number of unusable particles.
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
        """Build the object from the source table and the content of ``prepared.json``."""
        rows = np.delete(np.arange(len(table)), content["dropped_rows"])
        settings, power = Preprocessing(**content["made_from"]["settings"]), content["noise_power"]
        table = table.with_default("rlnAmplitudeContrast", settings.amplitude_contrast)
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
        """The STAR file of the prepared images."""
        return self.folder / TABLE

    @property
    def stack(self) -> Path:
        """The image stack file of the prepared images."""
        return self.folder / STACK

    @property
    def stack_folder(self) -> Path:
        """The folder to which the names of the raw stacks are relative; the folder of the source if no stack is found."""
        name = self.metadata.names[0].partition("@")[2]
        found = find_stack(name, self.source, self.data_dir or None)
        if found is None or Path(name).is_absolute():
            return Path(self.data_dir) if self.data_dir else self.source.parent
        return found.parents[len(Path(name).parts) - 1]

    @property
    def images(self) -> Num[np.ndarray, "n {self.box} {self.box}"]:
        """The prepared images, memory-mapped."""
        return open_stack(self.stack)

    @property
    def pixel_A(self) -> float:
        """The pixel size of the prepared images in Å."""
        return self.metadata.pixel_A

    def read(self, positions: Int[np.ndarray, " m"] | slice = slice(None), pinned: bool = False) -> Particles:
        """Read the particles at ``positions`` of the prepared stack into memory.

        If ``pinned`` is true, the images are in page-locked memory, from which CUDA copies asynchronously.
        """
        chosen = np.arange(len(self))[positions]
        images = torch.from_numpy(np.asarray(self.images[chosen], dtype=np.float32))
        return Particles(images.pin_memory() if pinned else images, self.metadata[chosen])


def reopen(folder: Path | str) -> PreparedStack:
    """Open the prepared stack in a folder. The source table must still exist, but not the raw images.

    Raises:
        HetacumnError: the folder contains no prepared stack, the images are not those that ``prepared.json`` describes, or the
            source table is missing or has changed.
    """
    folder = Path(folder)
    note = folder / NOTE
    if not note.is_file():
        raise HetacumnError(f"{note}: no such file; expected the prepared particles of a training run")
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
    """Return the settings, the files and the table digest of a prepared stack; None if the folder contains no stack."""
    note = Path(folder) / NOTE
    return _read_note(note)["made_from"] if note.is_file() else None


def _read_note(note: Path) -> dict:
    content = read_json(note, "the record of prepared particles")
    if "made_from" not in content:
        raise HetacumnError(
            f"{note}: no entry made_from; expected the record of prepared particles; delete it and prepare again"
        )
    return content


def is_made_from(folder: Path | str, source: Path | str) -> bool:
    """Return whether a folder contains a prepared stack of the table ``source``."""
    made_from = read_made_from(folder)
    return made_from is not None and Path(made_from["files"][0][0]).resolve() == Path(source).resolve()


def holds(stack: Path, content: dict) -> bool:
    """Return whether a stack has the number of images, the box and the pixel size that ``prepared.json`` states."""
    layout = read_layout(stack)
    box = content.get("box", layout.shape[-1])  # older notes have no box
    return layout.shape == (content["particles"], box, box) and isclose(layout.pixel_A, content["pixel_A"], rel_tol=1e-3)


def table_digest(source: Path) -> str:
    """Return the first 16 hex digits of the SHA-256 of the files of a table (:func:`~hetacumn.io.star.table_files`)."""
    digest = hashlib.sha256()
    for path in star.table_files(source):
        with open(path, "rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()[:16]

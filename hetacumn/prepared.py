"""A stack read once: preprocessed images in a file of their own, which training, prediction and other programs share.

Reading raw images is the dearest part of most runs: hundreds of gigabytes, of which inference sees the low frequencies.
:func:`prepare` leaves in a folder

- ``particles.mrcs``, ``particles.star``: the images that are any good, cropped and normalised, protein bright, with their
  optics (and poses, if the source has any), readable by any program of the field;
- ``dropped.csv``: the others, and why (columns row, particle, reason; rows counted from 1);
- ``prepared.json``: what it was made from and how, by which a later run knows that it need not be made again.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict, dataclass
from math import isclose
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from hetacumn import star
from hetacumn.errors import HetacumnError
from hetacumn.optics import Optics
from hetacumn.particles import ParticleReader, Particles, Poses, offsets_of, optics_of, poses_of, write_star
from hetacumn.preprocess import Preprocessing
from hetacumn.project import atomic_path, write_json
from hetacumn.stacks import chunk_length, let_go, new_stack, open_stack, read_layout

MANY_DROPPED = 0.1  # of the particles, from which on it is said aloud
MAGNIFICATION = {"rlnMagMat00": 1.0, "rlnMagMat01": 0.0, "rlnMagMat10": 0.0, "rlnMagMat11": 1.0}
STRETCH = 0.001  # of a matrix, from which on it is said aloud


@dataclass(frozen=True)
class Prepared:
    """A prepared stack of ``n`` particles: what :func:`prepare` left in ``folder``.

    ``data_dir`` is the folder that ``source`` names its stacks from, empty where it was looked for; ``settings`` are what it
    was prepared with; ``rows`` ``(n,)`` of the source, from 0; ``names`` as the source has them;
    ``noise`` and ``offsets_A`` as in :class:`~hetacumn.particles.Particles`; ``black`` whether protein was dark there,
    ``evidence`` for bright in standard errors; ``outliers`` pixels replaced; ``dropped`` how many particles.
    """

    folder: Path
    source: Path
    data_dir: str
    settings: Preprocessing
    rows: np.ndarray
    names: list[str]
    optics: Optics
    poses: Poses | None
    offsets_A: Tensor | None
    noise: Tensor | None
    black: bool
    evidence: float
    outliers: int
    dropped: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def star(self) -> Path:
        """Its own table, of the prepared images."""
        return self.folder / "particles.star"

    @property
    def stack(self) -> Path:
        """The file of the prepared images."""
        return self.folder / "particles.mrcs"

    @property
    def images(self) -> np.ndarray:
        """``(n, box, box)``, memory-mapped."""
        return open_stack(self.stack)

    @property
    def box(self) -> int:
        """Pixels along a side."""
        return self.images.shape[-1]

    @property
    def pixel_A(self) -> float:
        """Pixel size of the prepared images in Å."""
        return self.optics.pixel_A

    def shifts_in_source_A(self, shifts_A: Tensor) -> Tensor:
        """Shifts ``(n, 2)`` of the prepared images as those of the source's."""
        return shifts_A if self.offsets_A is None else shifts_A + self.offsets_A

    def shifts_in_prepared_A(self, shifts_A: Tensor) -> Tensor:
        """Shifts ``(n, 2)`` of the source's images as those of the prepared ones."""
        return shifts_A if self.offsets_A is None else shifts_A - self.offsets_A

    def read(self, positions: np.ndarray | slice = slice(None), pinned: bool = False) -> Particles:
        """Some of the particles, by their positions among the prepared ones, into memory; ``pinned``, into that from which a
        CUDA device copies by itself."""
        chosen = np.arange(len(self))[positions]
        index = torch.from_numpy(chosen)
        images = torch.from_numpy(np.asarray(self.images[chosen], dtype=np.float32))
        images = images.pin_memory() if pinned else images
        poses, offsets_A = (None if of_each is None else of_each[index] for of_each in (self.poses, self.offsets_A))
        return Particles(images, self.optics[index], [self.names[i] for i in chosen], poses, self.noise, offsets_A)


def prepare(
    source: Path | str, folder: Path | str, settings: Preprocessing, data_dir: Path | str | None = None, progress: bool = True
) -> Prepared:
    """Preprocess all particles of a STAR, .cs or .mrcs file into ``folder``, or open what an earlier call left there.

    It is made again where the settings or any of the files (by name, length and time of change) are not those of
    ``prepared.json``. Memory is that of a chunk of images, and a few numbers a particle.

    Raises:
        HetacumnError: naming the file, the row and what was expected; an image in two rows; where no particle is any good;
            where the source itself would be written over.
    """
    source, folder = Path(source), Path(folder)
    table = star.read_table(source)
    names = table.names()
    _say_what_is_ignored(table)
    made, note = folder / "particles.mrcs", folder / "prepared.json"
    wanted = {"settings": asdict(settings), "data_dir": str(data_dir or "")}
    if note.exists() and made.exists():
        earlier = json.loads(note.read_text())
        made_from, files = earlier["made_from"], earlier["made_from"]["files"]
        as_wanted = {name: made_from[name] for name in wanted} == wanted and is_made_from(folder, source)
        if as_wanted and _unchanged(files) and _holds(made, earlier):
            return _open(folder, source, table, earlier)
    reader = ParticleReader(table, np.arange(len(table)), settings, data_dir)
    files = [_identity(path) for path in (source.resolve(), *reader.stacks.stacks)]
    read = {Path(name).resolve() for name, *_ in files}
    for path in (made, folder / "particles.star"):
        if path.resolve() in read:
            raise HetacumnError(f"{path}: is what is to be prepared, and would be written over; expected another folder")
    note.unlink(missing_ok=True)
    flaws: list[str | None] = [None] * len(table)
    outliers = 0
    with new_stack(made, len(table), reader.box, reader.pixel_A) as images:
        with tqdm(total=len(table), desc="preparing particles", unit="", disable=not progress, mininterval=5) as bar:
            for batch in reader.batches():
                images[batch.positions] = batch.images.numpy()
                let_go(images)
                outliers += int(batch.outliers.sum())
                for position, flaw in zip(batch.positions, batch.flaws, strict=True):
                    flaws[position] = flaw
                bar.update(len(batch.positions))
    kept = np.array([i for i, flaw in enumerate(flaws) if flaw is None], dtype=np.int64)
    if len(kept) == 0:
        made.unlink()
        raise HetacumnError(f"{source}: row 1 {flaws[0]}, and no other particle is any better; expected images with noise")
    if len(kept) < len(table):
        _keep(made, kept, reader.pixel_A)
    dropped = pd.DataFrame([(i + 1, names[i], flaw) for i, flaw in enumerate(flaws) if flaw],
                           columns=["row", "particle", "reason"])  # fmt: skip
    with atomic_path(folder / "dropped.csv") as temporary:
        dropped.to_csv(temporary, index=False)
    if len(dropped) > MANY_DROPPED * len(table):
        warnings.warn(f"{source}: {len(dropped)} of {len(table)} particles are dropped, see {folder / 'dropped.csv'}; "
                      f"the first {dropped['reason'].iloc[0]}", stacklevel=2)
    noise = reader.survey.noise
    content = {
        "made_from": {**wanted, "files": files, "table": _fingerprint(source)},
        "particles": len(kept), "dropped_rows": (dropped["row"] - 1).tolist(), "outlier_pixels": outliers,
        "box": reader.box, "pixel_A": reader.pixel_A, "protein_in_file": "black" if reader.survey.black else "white",
        "evidence_of_white": reader.survey.evidence, "noise_power": None if noise is None else noise.tolist(),
    }  # fmt: skip
    stack = _open(folder, source, table, content)
    write_star(stack.star, [f"{i + 1:06d}@particles.mrcs" for i in range(len(stack))], stack.optics, reader.box, stack.poses)
    write_json(note, content)
    return stack


def is_made_from(folder: Path | str, source: Path | str) -> bool:
    """Whether what :func:`prepare` left in a folder, if anything, is of the table ``source``."""
    note = Path(folder) / "prepared.json"
    return note.is_file() and json.loads(note.read_text())["made_from"]["files"][0][0] == str(Path(source).resolve())


def reopen(folder: Path | str) -> Prepared:
    """What :func:`prepare` left in a folder, whatever became of its source's images since.

    Raises:
        HetacumnError: nothing prepared there, or another stack; the source's table gone, or changed.
    """
    folder = Path(folder)
    note = folder / "prepared.json"
    if not note.is_file():
        raise HetacumnError(f"{note}: no such file; expected prepared particles, which training leaves there")
    content = json.loads(note.read_text())
    source = Path(content["made_from"]["files"][0][0])
    table, length = star.read_table(source), content["particles"] + len(content["dropped_rows"])
    if len(table) != length:
        raise HetacumnError(f"{source}: {len(table)} particles; expected {length}, as {folder} was made of; prepare it again")
    if content["made_from"].get("table", now := _fingerprint(source)) != now:  # which notes of before did not tell
        raise HetacumnError(f"{source}: changed since {folder} was made of it; prepare it again")
    stack = folder / "particles.mrcs"
    if not _holds(stack, content):
        raise HetacumnError(f"{stack}: not the images that {note} is of; prepare them again")
    return _open(folder, source, table, content)


def _holds(stack: Path, content: dict) -> bool:
    """Whether a stack is as large, and its pixels too, as ``prepared.json`` says."""
    layout = read_layout(stack)
    box = content.get("box", layout.shape[-1])  # which notes of before did not tell
    return layout.shape == (content["particles"], box, box) and isclose(layout.pixel_A, content["pixel_A"], rel_tol=1e-3)


def _open(folder: Path, source: Path, table: star.ParticleTable, content: dict) -> Prepared:
    rows = np.delete(np.arange(len(table)), content["dropped_rows"])
    names, index = table.particles["rlnImageName"].iloc[rows].astype(str).tolist(), torch.from_numpy(rows)
    pixel_A, noise = content["pixel_A"], content["noise_power"]
    offsets_A = offsets_of(table) if content["made_from"]["settings"]["centre"] else None
    poses = poses_of(table, pixel_A, offsets_A)
    return Prepared(
        folder, source, content["made_from"]["data_dir"], Preprocessing(**content["made_from"]["settings"]),
        rows, names, optics_of(table, pixel_A)[index],
        poses=None if poses is None else poses[index],
        offsets_A=None if offsets_A is None else offsets_A[index],
        noise=None if noise is None else torch.tensor(noise),
        black=content["protein_in_file"] == "black",
        evidence=content["evidence_of_white"],
        outliers=content["outlier_pixels"],
        dropped=len(content["dropped_rows"]),
    )


def _say_what_is_ignored(table: star.ParticleTable) -> None:
    for name, wanted in MAGNIFICATION.items():
        worst = float(np.abs(table.numbers(name, wanted) - wanted).max(initial=0.0))
        if worst > STRETCH:
            warnings.warn(f"{table.path}: {name} is up to {worst:.3g} off {wanted:g}, and magnification matrices are ignored; "
                          "correct the images for them first", stacklevel=3)


def _fingerprint(source: Path) -> str:
    """Of the table's bytes; that of a bare stack is beside it."""
    path = source.with_suffix(".csv") if source.suffix in star.STACK_SUFFIXES else source
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _identity(path: Path) -> list:
    facts = path.stat()
    return [str(path), facts.st_size, facts.st_mtime_ns]


def _unchanged(files: list) -> bool:
    return all(Path(path).is_file() and _identity(Path(path)) == [path, *facts] for path, *facts in files)


def _keep(path: Path, kept: np.ndarray, pixel_A: float) -> None:
    """Rewrite a stack with some of its images."""
    whole = open_stack(path)
    length = chunk_length(whole.shape[-1])
    with new_stack(path, len(kept), whole.shape[-1], pixel_A) as images:
        for start in range(0, len(kept), length):
            images[start : start + length] = whole[kept[start : start + length]]
            let_go(images)
            let_go(whole)

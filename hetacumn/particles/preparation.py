"""Preparation of a stack: preprocessed images in a separate file, for training, prediction and other programs.

Reading raw images is the slowest part of most runs: they may have hundreds of GB, of which inference uses only the low
frequencies. :func:`prepare_stack` therefore writes a small stack once. It writes to a folder

- ``particles.mrcs``, ``particles.star``: the usable images, cropped and normalised, with bright protein and with their optics
  (and poses, if the source has any); other cryo-EM programs can read them;
- ``dropped.csv``: the unusable images and the reasons (columns row, particle, reason; rows counted from 1);
- ``prepared.json``: the source, the settings and the files, from which a later run decides whether to prepare again.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int
from tqdm import tqdm

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path, make_folder, write_json
from hetacumn.compute.batches import batch_slices
from hetacumn.io import star
from hetacumn.io.stacks import chunk_length, new_stack, open_stack, release_pages
from hetacumn.particles.metadata import DAMPING, OPTICS_COLUMNS, write_star
from hetacumn.particles.prepared_stack import NOTE, STACK, TABLE, PreparedStack, holds, is_made_from, table_digest
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.particles.reader import ParticleReader

MANY_DROPPED = 0.1  # fraction of dropped particles above which a warning is issued
MAGNIFICATION = {"rlnMagMat00": 1.0, "rlnMagMat01": 0.0, "rlnMagMat10": 0.0, "rlnMagMat11": 1.0}
STRETCH = 0.001  # deviation from the identity above which a warning is issued


def prepare_stack(
    source: Path | str, folder: Path | str, settings: Preprocessing, data_dir: Path | str | None = None, progress: bool = True
) -> PreparedStack:
    """Preprocess all particles of a table and write them to ``folder``, or open the stack of an earlier call.

    The function prepares the stack again if the settings or any of the files (name, length, time of change) differ from
    ``prepared.json``. Memory holds one chunk of images, and a few numbers per particle.

    Args:
        source: a STAR or .cs file, or an .mrcs stack with a .csv table, see :func:`hetacumn.io.star.read_table`.
        folder: the folder for the prepared stack.
        settings: the preprocessing.
        data_dir: the folder to which stack names are relative; None searches the folder of the table and its parents.
        progress: whether to show a progress bar.

    Raises:
        HetacumnError: a file is unusable, an image is named in two rows, no particle is usable, or the prepared stack would
            overwrite the source. The message names the file, the row and the expected value.
    """
    source, folder = Path(source), Path(folder)
    table = star.read_table(source).with_default("rlnAmplitudeContrast", settings.amplitude_contrast)
    names = table.names()
    _warn_of_magnification(table)
    _warn_of_damping(table)
    made, note = folder / STACK, folder / NOTE
    requested = {"settings": asdict(settings), "data_dir": str(data_dir or "")}
    if note.exists() and made.exists():
        earlier = json.loads(note.read_text())
        made_from = earlier["made_from"]
        same = {name: made_from[name] for name in requested} == requested and is_made_from(folder, source)
        if same and _unchanged(made_from["files"]) and holds(made, earlier):
            return PreparedStack.of(folder, source, table, earlier)
    reader = ParticleReader(table, np.arange(len(table)), settings, data_dir)
    read_files = dict.fromkeys([Path(os.path.abspath(path)) for path in (source, *star.table_files(source))])
    files = [_identity(path) for path in (*read_files, *reader.stacks.stacks)]
    read = {Path(name).resolve() for name, *_ in files}
    for path in (made, folder / TABLE):
        if path.resolve() in read:
            raise HetacumnError(f"{path}: preparation would overwrite the source images; expected another folder")
    make_folder(folder)
    note.unlink(missing_ok=True)
    flaws, outliers = _write_images(made, reader, progress)
    kept = np.array([i for i, flaw in enumerate(flaws) if flaw is None], dtype=np.int64)
    if len(kept) == 0:
        made.unlink()
        raise HetacumnError(f"{source}: no usable particle: row 1 {flaws[0]}; expected images with noise")
    if len(kept) < len(table):
        _keep(made, kept, reader.pixel_A)
    dropped = pd.DataFrame([(i + 1, names[i], flaw) for i, flaw in enumerate(flaws) if flaw],
                           columns=["row", "particle", "reason"])  # fmt: skip
    with atomic_path(folder / "dropped.csv") as temporary:
        dropped.to_csv(temporary, index=False)
    if len(dropped) > MANY_DROPPED * len(table):
        warnings.warn(
            f"{source}: {len(dropped)} of {len(table)} particles are dropped, see {folder / 'dropped.csv'}; "
            f"the first image {dropped['reason'].iloc[0]}",
            stacklevel=2,
        )
    noise = reader.survey.noise
    content = {
        "made_from": {**requested, "files": files, "table": table_digest(source)},
        "particles": len(kept), "dropped_rows": (dropped["row"] - 1).tolist(), "outlier_pixels": outliers,
        "box": reader.box, "pixel_A": reader.pixel_A, "protein_in_file": "black" if reader.survey.black else "white",
        "evidence_of_white": reader.survey.evidence, "noise_power": None if noise is None else noise.tolist(),
    }  # fmt: skip
    stack = PreparedStack.of(folder, source, table, content)
    own_names = [f"{i + 1:06d}@{STACK}" for i in range(len(stack))]
    write_star(stack.star, replace(stack.metadata, names=own_names), stack.box)
    write_json(note, content)
    return stack


def _write_images(path: Path, reader: ParticleReader, progress: bool) -> tuple[list[str | None], int]:
    """Write every image of a reader; return the flaw of each image (None: usable) and the number of replaced pixels."""
    flaws: list[str | None] = [None] * len(reader.rows)
    outliers = 0
    with new_stack(path, len(flaws), reader.box, reader.pixel_A) as images:
        with tqdm(total=len(flaws), desc="preparing particles", unit="", disable=not progress, mininterval=5) as bar:
            for batch in reader.batches():
                images[batch.positions] = batch.images.numpy()
                release_pages(images)
                outliers += int(batch.outliers.sum())
                for position, flaw in zip(batch.positions, batch.flaws, strict=True):
                    flaws[position] = flaw
                bar.update(len(batch.positions))
    return flaws, outliers


def _warn_of_magnification(table: star.ParticleTable) -> None:
    """Warn if magnification matrices differ from the identity, because pose search and network ignore them."""
    for name, expected in MAGNIFICATION.items():
        worst = float(np.abs(table.numbers(name, expected) - expected).max(initial=0.0))
        if worst > STRETCH:
            warnings.warn(
                f"{table.path}: {name} deviates from {expected:g} by up to {worst:.3g}; exhaustive pose search and the "
                "network ignore magnification matrices, hetacumn reconstruct applies them",
                stacklevel=3,
            )


def _warn_of_damping(table: star.ParticleTable) -> None:
    """Warn if columns of a table scale or damp the CTF: few files have such columns, and they change the scale of volumes."""
    for column, neutral, *_ in (OPTICS_COLUMNS[name] for name in DAMPING):
        values = table.numbers(column, neutral)
        if (values != neutral).any():
            warnings.warn(
                f"{table.path}: {column} is {values.min():g} to {values.max():g}; the CTF includes it, as in RELION",
                stacklevel=3,
            )


def _identity(path: Path) -> list:
    """Return the name, the length and the time of change of a file."""
    facts = path.stat()
    return [str(path), facts.st_size, facts.st_mtime_ns]


def _unchanged(files: list) -> bool:
    """Return whether every file still has the length and the time of change in its earlier :func:`_identity`."""
    return all(Path(path).is_file() and _identity(Path(path)) == [path, *facts] for path, *facts in files)


def _keep(path: Path, kept: Int[np.ndarray, " n"], pixel_A: float) -> None:
    """Rewrite a stack so that it contains only the images ``kept``."""
    whole = open_stack(path)
    box = whole.shape[-1]
    with new_stack(path, len(kept), box, pixel_A) as images:
        for rows in batch_slices(len(kept), chunk_length(box)):
            images[rows] = whole[kept[rows]]
            release_pages(images)
            release_pages(whole)

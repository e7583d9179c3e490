"""Default folders and files of a run, for the parameters of a notebook that are empty.

A dataset of ``params.yaml`` has its folder in ``results/``: the particles in ``results/<dataset>/particles``, the prepared
images, which all methods share, in ``results/<dataset>/prepared``, and one folder per method beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hetacumn.common.errors import HetacumnError
from hetacumn.particles.prepared_stack import is_made_from

RESULTS = Path("results")


@dataclass(frozen=True)
class RunPaths:
    """The files of a run: the ``source`` table of particles, and the folders of prepared images, model and output."""

    source: Path
    prepared: Path
    model: Path
    out: Path


def training_paths(dataset: str, particles: Path | str, prepared: Path | str, out: Path | str) -> RunPaths:
    """Find the files of a training, whose model is written to ``out``; empty names take their defaults.

    The prepared images of a dataset lie beside the folder of its particles; a user's own images lie in ``out``.

    Raises:
        HetacumnError: neither a dataset nor particles are named.
    """
    source = source_table(dataset, particles)
    return RunPaths(source, Path(prepared or _prepared_by_default(dataset, source, Path(out))), Path(out), Path(out))


def prediction_paths(dataset: str, particles: Path | str, prepared: Path | str, model: Path | str, out: Path | str) -> RunPaths:
    """Find the files of a prediction; an empty ``particles``, ``prepared`` or ``model`` takes its default.

    The model is in ``out`` by default. The images that training prepared are used again where they were made from this source;
    otherwise the defaults of :func:`training_paths` hold.

    Raises:
        HetacumnError: neither a dataset nor particles are named.
    """
    source, model = source_table(dataset, particles), Path(model or out)
    owner = model if is_made_from(model / "prepared", source) else Path(out)
    return RunPaths(source, Path(prepared or _prepared_by_default(dataset, source, owner)), model, Path(out))


def source_table(dataset: str, particles: Path | str = "") -> Path:
    """Find the table of particles: ``particles`` if it is named, else the table of the dataset.

    Raises:
        HetacumnError: neither is named.
    """
    if not (dataset or particles):
        raise HetacumnError(
            "neither dataset nor particles is given; expected a name in params.yaml, or a STAR, .cs or .mrcs file"
        )
    return Path(particles) if particles else particles_folder(dataset) / "particles.star"


def particles_folder(dataset: str, given: Path | str = "") -> Path:
    """Return the folder of a dataset's particles and truth, unless another folder is given."""
    return Path(given or RESULTS / dataset / "particles")


def evaluation_folder(dataset: str, given: Path | str = "") -> Path:
    """Return the folder of a dataset's scores, unless another folder is given; particles and methods lie beside it."""
    return Path(given or RESULTS / dataset / "evaluation")


def prepared_beside(source: Path | str, given: Path | str = "") -> Path:
    """Return the folder ``prepared`` beside the folder of a particle table, unless another folder is given."""
    return Path(given or Path(source).parent.parent / "prepared")


def program_paths(dataset: str, program: str, particles: Path | str = "", out: Path | str = "") -> tuple[Path, Path]:
    """Return the table that another program gets in the benchmark, and the folder of its answer; empty names take defaults."""
    folder = RESULTS / "benchmark" / dataset
    return Path(particles or folder / "particles" / "particles.star"), Path(out or folder / program)


def _prepared_by_default(dataset: str, source: Path, owner: Path) -> Path:
    """Return the folder that the methods of a dataset share; a user's own images belong to the run."""
    return prepared_beside(source) if dataset else owner / "prepared"


def folder_beside(particles: Path, box: int | None) -> Path:
    """Return the folder beside a table for its images prepared at a box of pixels; None is the box of the files."""
    return particles.with_name(f"{particles.stem}_{'full' if box is None else f'{box}px'}")

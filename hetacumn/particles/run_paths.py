"""Default folders and files of a run, which replace empty parameters of a notebook.

The folder ``results/<dataset>`` of a dataset in ``params.yaml`` contains the folder ``particles``, the folder ``prepared`` with
the prepared images that all methods share, and one output folder for each method.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from hetacumn.common.errors import HetacumnError
from hetacumn.common.run_files import read_run
from hetacumn.particles.prepared_stack import NOTE, is_made_from, read_made_from
from hetacumn.particles.preprocessing import Preprocessing

RESULTS = Path("results")


@dataclass(frozen=True)
class RunPaths:
    """The paths of a run: the ``source`` table of particles, and the folders of prepared images, model and output."""

    source: Path
    prepared: Path
    model: Path
    out: Path


def training_paths(dataset: str, particles: Path | str, prepared: Path | str, out: Path | str) -> RunPaths:
    """Return the paths of a training run, whose model is written to ``out``; defaults replace empty names.

    By default, the prepared images of a dataset are in the folder ``prepared`` next to the folder of its particles. Prepared
    images of particles outside a dataset are in ``out/prepared``.

    Raises:
        HetacumnError: neither ``dataset`` nor ``particles`` is given.
    """
    source = source_table(dataset, particles)
    return RunPaths(source, Path(prepared or _prepared_by_default(dataset, source, Path(out))), Path(out), Path(out))


def prediction_paths(
    dataset: str,
    particles: Path | str,
    prepared: Path | str,
    model: Path | str,
    out: Path | str,
    settings: Preprocessing | None = None,
) -> RunPaths:
    """Return the paths of a prediction; defaults replace an empty ``particles``, ``prepared`` or ``model``.

    By default, the model is in ``out``, and the prepared images of a dataset are in the folder of :func:`training_paths`. For
    particles outside a dataset, the prepared images in the folder of the model are used if they were made from the same source
    and with the preprocessing ``settings`` (if given). Otherwise the images are prepared in ``out/prepared``.

    Raises:
        HetacumnError: neither ``dataset`` nor ``particles`` is given.
    """
    source, model = source_table(dataset, particles), Path(model or out)
    made_from = read_made_from(model / "prepared") if is_made_from(model / "prepared", source) else None
    same = made_from is not None and (settings is None or made_from.get("settings") == asdict(settings))
    owner = model if same else Path(out)
    return RunPaths(source, Path(prepared or _prepared_by_default(dataset, source, owner)), model, Path(out))


def source_table(dataset: str, particles: Path | str = "") -> Path:
    """Return the table of particles: ``particles`` if given, else the table of the dataset.

    Raises:
        HetacumnError: neither is given.
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
    """Return the folder of a dataset's scores, next to its particles and methods, unless another folder is given."""
    return Path(given or RESULTS / dataset / "evaluation")


def prepared_beside(source: Path | str, given: Path | str = "") -> Path:
    """Return the folder ``prepared`` next to the folder of a particle table, unless another folder is given."""
    return Path(given or Path(source).parent.parent / "prepared")


def program_paths(dataset: str, program: str, particles: Path | str = "", out: Path | str = "") -> tuple[Path, Path]:
    """Return the input table and the output folder of another program in the benchmark; defaults replace empty names."""
    folder = RESULTS / "benchmark" / dataset
    return Path(particles or folder / "particles" / "particles.star"), Path(out or folder / program)


def _prepared_by_default(dataset: str, source: Path, owner: Path) -> Path:
    """Return the folder that all methods of a dataset share; outside a dataset, the folder ``prepared`` of the run."""
    return prepared_beside(source) if dataset else owner / "prepared"


def folder_beside(particles: Path, box: int | None) -> Path:
    """Return the folder, next to a table, for its images prepared at ``box`` pixels (None: the box of the raw images)."""
    return particles.with_name(f"{particles.stem}_{'full' if box is None else f'{box}px'}")


def find_prepared(folder: Path) -> Path:
    """Find the folder of the prepared images that ``run.json`` names.

    A relative path is tried from the working directory and from each parent of ``folder``. The last candidate is
    ``<folder>/prepared``. If no candidate holds a prepared stack, the function returns the path in ``run.json`` unchanged.
    """
    named = read_run(folder).get("prepared", "prepared")
    places = [Path(named), *(above / named for above in folder.resolve().parents), folder / "prepared"]
    return next((place for place in places if (place / NOTE).is_file()), Path(named))

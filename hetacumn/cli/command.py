"""Functions that the commands share: settings, notebooks, and the last lines of the output."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

import hetacumn
from hetacumn.common.errors import HetacumnError

if TYPE_CHECKING:
    from hetacumn.prediction.answer import Answer

#: Sections of the settings that training reads.
TRAINING_SECTIONS = ("seed", "classes", "stack", "initial", "train", "methods.hetacumn")
#: Path of the notebook of each command, relative to the folder of notebooks.
NOTEBOOKS = {
    "simulate": "pipeline/1_simulate.ipynb",
    "train": "pipeline/2_train.ipynb",
    "predict": "pipeline/3_predict.ipynb",
    "reconstruct": "pipeline/4_reconstruct.ipynb",
    "motion": "real/5_motion.ipynb",
    "prepare": "real/2_prepare.ipynb",
    "report": "real/3_report.ipynb",
    "compare": "real/4_compare.ipynb",
    "explore": "explore.ipynb",
}


def collect_settings(config: Path | None, assignments: list[str] | None, options: dict, sections: tuple[str, ...]) -> dict:
    """Merge and check the user's settings; ``sections`` are the sections that the command reads."""
    from hetacumn.common.project import read_params
    from hetacumn.run.settings import check_values, collect

    found = collect(config, assignments or [], options, sections)
    check_values(read_params(found, settings=""))
    return found


def pipeline_settings() -> tuple[str, Path | None]:
    """Return the settings file of the main pipeline and its data folder.

    The function looks for the project around the working directory, and then in the checkout of this package. If there is
    neither, it returns ``("", None)``.
    """
    from hetacumn.common.project import PIPELINE_SETTINGS, find_project

    folder = find_project()
    if folder is not None:
        return PIPELINE_SETTINGS, folder / "data"
    checkout = Path(hetacumn.__file__).resolve().parents[1]
    if (checkout / PIPELINE_SETTINGS).is_file():
        return str(checkout / PIPELINE_SETTINGS), checkout / "data"
    return "", None


def open_answer(folder: Path, prepared: Path | None) -> Answer:
    """Read the predictions in a folder."""
    from hetacumn.prediction.answer import Answer

    return Answer.open(folder, prepared or "")


def export_particles(
    answer: Answer, to: Path, rows: Path | None, number: int | None, least_gain: float | None, symmetry: str = "C1"
) -> list[Path]:
    """Export selected particles with their volume, and return the files.

    Either ``rows``, a text file of row numbers, selects the particles, or the class ``number`` and the least gain in nats.
    The point group ``symmetry`` expands the STAR table.
    """
    import numpy as np

    from hetacumn.common.files import make_folder
    from hetacumn.io.particle_table import read_row_numbers

    found = answer.predictions
    chosen = np.arange(len(found)) if rows is None else read_row_numbers(rows, len(found))
    for some in (None if number is None else found.rows_of_class(number),
                 None if least_gain is None else found.rows_with_gain(least_gain)):  # fmt: skip
        chosen = chosen if some is None else np.intersect1d(chosen, some)
    if not len(chosen):
        raise HetacumnError(f"class {number} has no particle with a gain of {least_gain:g} nats; expected a lower --min-gain")
    make_folder(to.parent)
    paths = answer.export(chosen, to, symmetry)
    print(f"exported {len(chosen)} of {len(found)} particles: {', '.join(map(str, paths))}")
    return paths


def prepared_folder(particles: Path, settings: dict) -> Path:
    """Return the default folder of the prepared images of a table, equal to that of :func:`hetacumn.prepare`."""
    from hetacumn.common.project import read_params
    from hetacumn.particles.run_paths import folder_beside

    return folder_beside(particles, read_params(settings, settings="")["stack"]["box"])


def notebook_of(command: str) -> Path:
    """Return the notebook of a command, in the installed package or in the checkout around it."""
    package = Path(hetacumn.__file__).resolve().parent
    installed, checkout = package / "notebooks", package.parent / "notebooks"
    return (installed if installed.is_dir() else checkout) / NOTEBOOKS[command]


def execute(notebook: Path, given: dict, output: Path | None = None) -> None:
    """Run a notebook, and end the command with its exit status if it fails."""
    try:
        from hetacumn.run.notebook import exit_status, run_notebook
    except ModuleNotFoundError as error:
        raise HetacumnError(
            f"no module {error.name}; expected the packages for notebooks: run pip install 'hetacumn[notebooks]'"
        ) from None
    status = exit_status(lambda: run_notebook(notebook, given, output))
    if status:
        raise typer.Exit(status)


def say_next(out: Path, follows: list) -> None:
    """Print the folder of the results and the command that usually follows."""
    print(f"results: {out}\nnext: hetacumn {shlex.join(map(str, follows))}", flush=True)


def run_notebook_command(words: list[str]) -> int:
    """Run the command line of :mod:`hetacumn.run`; return the exit status."""
    from hetacumn.run.notebook import main

    try:
        return main(words, "hetacumn run")
    except SystemExit as end:  # argparse has printed the error or the help
        return int(end.code or 0)

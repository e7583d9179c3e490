"""Run a notebook from the command line, with given parameters.

    python -m hetacumn.run notebooks/pipeline/2_train.ipynb -p particles my/particles.star -p out results/mine

This command runs the notebook in the working directory, and writes the executed copy to the folder of the parameter `out`, or
to the file of `-o`. It prints the output of the notebook line by line.

Exit status: 0 for success; 1 if the notebook raised an exception (see the traceback and `<name>.failed.ipynb`); 2 for a user
error, reported in one line; 130 after an interruption by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import ast
import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from papermill.translators import PythonTranslator

from hetacumn.common import errors
from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path, make_folder
from hetacumn.common.settings import suggestion
from hetacumn.run.lock import hold
from hetacumn.run.terminal import LineWriter

WIDGET = "application/vnd.jupyter.widget-view+json"
LEFT_BY_INTERRUPTION = ("checkpoint.pt", "start_under_way")  # files from which training resumes
# The kernel runs this line first.
WARNINGS_IN_LINES = "__import__('hetacumn.common.warning_lines').common.warning_lines.print_warnings_in_lines()"


def run_notebook(notebook: Path, given: Mapping[str, object], output: Path | None = None) -> Path:
    """Run a notebook with the given parameters and write the executed copy.

    During the run the folder of the parameter `out` is locked, so that a second run in the folder fails.

    Args:
        notebook: the .ipynb file; its cell tagged `parameters` lists the parameters and their defaults.
        given: name → value; `parse_value` converts strings, other values are used unchanged.
        output: path of the executed copy; None for the name of the notebook in the folder of the parameter `out`.

    Returns:
        the path of the executed copy.

    Raises:
        HetacumnError: the notebook does not exist, a parameter is unknown, no output path is given, another run uses the
            folder, or the notebook raised a HetacumnError.
        PapermillExecutionError: the notebook raised another exception; `<name>.failed.ipynb` keeps the executed cells.
        KeyboardInterrupt: the run was interrupted; the message names the checkpoint, if any, from which the command resumes.
    """
    defaults = notebook_parameters(notebook)
    unknown = [name for name in given if name not in defaults]
    if unknown:
        near = suggestion(unknown[0], defaults)
        known = f"; its parameters are {', '.join(defaults)}" if near.startswith("did") else ""
        raise HetacumnError(f"{notebook} has no parameter {', '.join(unknown)}{known}; {near}")
    values = {name: parse_value(value, defaults[name]) if isinstance(value, str) else value for name, value in given.items()}

    out = values["out"] if "out" in values else _literal(defaults.get("out", "None"))
    folder = Path(out) if isinstance(out, str) and out else None
    if output is None:
        if folder is None:
            raise HetacumnError(
                f"{notebook}: no path for the executed copy; expected -o FILE.ipynb, or -p out FOLDER if the notebook has a "
                "parameter out"
            )
        output = folder / notebook.name
    if output.resolve() == notebook.resolve():
        raise HetacumnError(f"{output}: the executed copy would overwrite the notebook; expected another path")
    make_folder(output.parent)
    with nullcontext() if folder is None else hold(folder):
        try:
            _execute(notebook, values, output)
        except KeyboardInterrupt:
            left = [folder / name for name in LEFT_BY_INTERRUPTION if folder is not None and (folder / name).exists()]
            raise KeyboardInterrupt(f"interrupted: the same command resumes from {left[0]}" if left else "") from None
    return output


def _execute(notebook: Path, values: dict[str, object], output: Path) -> None:
    failed = output.with_name(output.stem + ".failed.ipynb")
    _use_own_kernel()
    with atomic_path(output) as temporary:
        printed, progress = LineWriter(sys.stdout), LineWriter(sys.stderr)
        try:
            papermill.execute_notebook(
                notebook,
                temporary,
                parameters=values,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                stdout_file=printed,
                stderr_file=progress,
                extra_arguments=["--log-level=CRITICAL", f"--IPKernelApp.exec_lines={WARNINGS_IN_LINES}"],
            )
        except PapermillExecutionError as error:
            if is_users_mistake(error.ename):
                raise HetacumnError(" ".join(error.evalue.split())) from None
            os.replace(temporary, failed)
            raise
        except DeadKernelError:
            raise HetacumnError(
                f"{notebook}: the kernel was killed, probably because memory ran out; run the command again to resume training"
            ) from None
        finally:
            printed.close()
            progress.close()
        nbformat.write(without_traces(nbformat.read(temporary, as_version=4)), temporary)
    failed.unlink(missing_ok=True)


def write_with_parameters(notebook: Path, values: Mapping[str, object], path: Path) -> None:
    """Write a copy of a notebook with other parameter values, without executing it."""
    copy = parameterize_notebook(load_notebook_node(str(notebook)), dict(values), kernel_name="python3", language="python")
    make_folder(path.parent)
    with atomic_path(path) as temporary:
        nbformat.write(without_traces(copy), temporary)


def notebook_parameters(notebook: Path) -> dict[str, str]:
    """Read the parameters of a notebook, as a dict from names to default values (source text).

    Raises:
        HetacumnError: the file does not exist or is not a notebook.
    """
    if not notebook.is_file():
        raise HetacumnError(f"{notebook}: no such notebook; expected an .ipynb file")
    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except (ValueError, AttributeError, nbformat.ValidationError):
        raise HetacumnError(f"{notebook}: not a Jupyter notebook; expected an .ipynb file") from None
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    return {found.name: found.default for cell in tagged[:1] for found in PythonTranslator.inspect(cell)}


def parse_value(text: str, default: str = "None") -> object:
    """Convert text from the command line to a value: true, false, null, a Python number or list; other text stays text.

    If the default in the notebook (as source text) is a string, the value stays text, because "6e10" may be a PDB entry and
    not a number. The text "null" always becomes None.
    """
    words = {"true": True, "false": False, "null": None}
    if text == "null":
        return None
    if isinstance(_literal(default), str):
        return text
    if text.lower() in words:
        return words[text.lower()]
    value = _literal(text)
    return value if isinstance(value, int | float | list) else text


def is_users_mistake(exception_name: str) -> bool:
    """Return whether an exception of this name is HetacumnError or one of its subclasses in `hetacumn.common.errors`."""
    kind = getattr(errors, exception_name, None)
    return isinstance(kind, type) and issubclass(kind, HetacumnError)


def without_traces(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove the parts of an executed notebook that differ between identical runs.

    These parts are times, random ids, widgets and the error stream; the terminal has shown the progress and warnings of the
    error stream. Consecutive pieces of printed text are joined.
    """
    for name in ("papermill", "widgets"):
        notebook.metadata.pop(name, None)
    for cell in notebook.cells:
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"
        if cell.cell_type != "code":
            continue
        kept: list[nbformat.NotebookNode] = []
        for output in cell.outputs:
            is_stream = output.output_type == "stream"
            if (is_stream and output.name == "stderr") or WIDGET in output.get("data", {}):
                continue
            if is_stream and kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
            else:
                kept.append(output)
        cell.outputs = kept
    return notebook


def exit_status(work: Callable[[], object]) -> int:
    """Call ``work``, report an exception on the error stream, and return the exit status of the command."""
    try:
        work()
    except HetacumnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except PapermillExecutionError as error:
        print("\n".join(error.traceback) or error, file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        logging.getLogger("asyncio").disabled = True  # at exit it would report pending tasks of the notebook client
        print(str(interruption) or "interrupted", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports a wrong command line in one line, like other user errors."""

    def error(self, message: str) -> NoReturn:
        raise HetacumnError(f"{self.prog}: {message}; expected {self.format_usage().split(maxsplit=1)[1].strip()}")


def main(arguments: list[str] | None = None, program: str = "python -m hetacumn.run") -> int:
    """Run the command line and return the exit status."""
    parser = _Parser(prog=program, description="Run a notebook with the given parameters.")
    parser.add_argument("notebook", type=Path, help="path of the notebook")
    parser.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="value of a parameter of the notebook; repeatable",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE.ipynb",
        help="path of the executed copy (default: name of the notebook, in the folder of the parameter `out`)",
    )

    def run() -> None:
        options = parser.parse_args(arguments)
        run_notebook(options.notebook, dict(options.parameter), options.output)

    return exit_status(run)


def _literal(source: str) -> object:
    """Evaluate a Python literal; return None for other expressions."""
    try:
        return ast.literal_eval(source)
    except (ValueError, SyntaxError):
        return None


def _use_own_kernel() -> None:
    """Use the running interpreter for the kernel "python3", and not a kernel that the user has installed."""
    os.environ.pop("JUPYTER_PATH", None)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    # Threads that sleep instead of spin at a barrier are several times faster if other programs use the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

"""Run a notebook from the command line, with parameters of one's own.

    python -m hetacumn.run notebooks/pipeline/2_train.ipynb -p particles my/particles.star -p out results/mine

runs the notebook in the working directory and leaves the executed copy in its `out` folder, or where `-o`
says. What the notebook prints appears by the line. Exit status: 0 done; 1 the notebook raised, and the
traceback and `<name>.failed.ipynb` tell where; 2 the user's own mistake, told in one line; 130 interrupted, by Ctrl-C or
SIGTERM.
"""

import argparse
import ast
import logging
import os
import signal
import sys
import time
from io import TextIOBase
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.translators import PythonTranslator

from hetacumn import errors
from hetacumn.errors import HetacumnError
from hetacumn.project import atomic_path

WIDGET = "application/vnd.jupyter.widget-view+json"
PROGRESS_EVERY_SECONDS = 10.0


def run_notebook(notebook: Path, given: dict[str, str], output: Path | None = None) -> Path:
    """Run a notebook with the given parameters (name → text) and write the executed copy.

    Args:
        notebook: the .ipynb file; its cell tagged `parameters` names the parameters and their defaults.
        given: values as typed on a command line, read as `parse_value` says.
        output: the executed copy; `<out>/<notebook's name>` of the parameter `out` where it is None.

    Returns:
        the path of the executed copy.

    Raises:
        HetacumnError: no such notebook, an unknown parameter, nowhere to write, or the notebook's own
            HetacumnError.
        PapermillExecutionError: the notebook raised anything else; `<name>.failed.ipynb` is kept.
    """
    defaults = notebook_parameters(notebook)
    unknown = [name for name in given if name not in defaults]
    if unknown:
        raise HetacumnError(f"{notebook} has no parameter {', '.join(unknown)}; "
                            f"it knows {', '.join(defaults) or 'none'}")
    values = {name: parse_value(text, defaults[name]) for name, text in given.items()}

    if output is None:
        out = values["out"] if "out" in values else _literal(defaults.get("out", "None"))
        if not isinstance(out, str) or not out:
            raise HetacumnError(f"{notebook}: nowhere to write the executed copy: give -p out FOLDER "
                                "(if the notebook has that parameter) or -o FILE.ipynb")
        output = Path(out) / notebook.name
    if output.resolve() == notebook.resolve():
        raise HetacumnError(f"{output}: the executed copy would overwrite the notebook itself")

    failed = output.with_name(output.stem + ".failed.ipynb")
    _use_own_kernel()
    with atomic_path(output) as temporary:
        printed, progress = LineWriter(sys.stdout), LineWriter(sys.stderr)
        try:
            papermill.execute_notebook(
                notebook, temporary, parameters=values, kernel_name="python3", language="python",
                progress_bar=False, stdout_file=printed, stderr_file=progress,
                extra_arguments=["--log-level=CRITICAL"])
        except PapermillExecutionError as error:
            if is_users_mistake(error.ename):
                raise HetacumnError(" ".join(error.evalue.split())) from None
            os.replace(temporary, failed)
            raise
        except DeadKernelError:
            raise HetacumnError(f"{notebook}: its process was killed, most likely as memory ran out; run again, it goes on "
                                "where it was") from None
        finally:
            printed.close()
            progress.close()
        nbformat.write(without_traces(nbformat.read(temporary, as_version=4)), temporary)
    failed.unlink(missing_ok=True)
    return output


def notebook_parameters(notebook: Path) -> dict[str, str]:
    """Name → default, as source text, of every parameter of a notebook.

    Raises:
        HetacumnError: no such file, or not a notebook.
    """
    if not notebook.is_file():
        raise HetacumnError(f"{notebook}: no such notebook")
    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except (ValueError, AttributeError, nbformat.ValidationError):
        raise HetacumnError(f"{notebook}: not a Jupyter notebook") from None
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    return {found.name: found.default for cell in tagged[:1] for found in PythonTranslator.inspect(cell)}


def parse_value(text: str, default: str = "None") -> object:
    """A command line's text as a value: true, false, null, a Python number or list; else the text itself.

    Where the notebook's default (as source text) is a string, the text stays one, whatever it looks like
    ("6e10" is a PDB entry, not a number); "null" is None all the same.
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
    """Whether an exception of this class name is a HetacumnError, by the classes of `hetacumn.errors`."""
    kind = getattr(errors, exception_name, None)
    return isinstance(kind, type) and issubclass(kind, HetacumnError)


def without_traces(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Take from an executed notebook all that differs between identical runs.

    That is times, ids that are drawn at random, widgets, and the error stream (progress and warnings were
    shown on the terminal). Printed text that came in pieces is joined.
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
        kept = []
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


class LineWriter:
    """Passes whole lines on to a terminal or log; of a progress bar, the last state and one each ten seconds.

    A bar redraws itself after a carriage return, which would fill a log with thousands of copies.
    """

    def __init__(self, target: TextIOBase):
        self.target = target
        self.pending = ""  # what came since the last line's end or carriage return
        self.printed_at = time.monotonic()

    def write(self, text: str) -> None:
        *lines, rest = (self.pending + text).split("\n")
        for line in lines:
            self._print(line)
        self.pending = rest[rest.rfind("\r", 0, -1) + 1:]
        if "\r" in text and time.monotonic() - self.printed_at > PROGRESS_EVERY_SECONDS:
            self._print(self.pending)

    def flush(self) -> None:
        self.target.flush()

    def close(self) -> None:
        """Print what came without a line's end."""
        if self.pending.strip():
            self._print(self.pending)
        self.pending = ""

    def _print(self, line: str) -> None:
        print(line.rstrip("\r").rpartition("\r")[2], file=self.target, flush=True)
        self.printed_at = time.monotonic()


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m hetacumn.run", description="Run a notebook with parameters of your own.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                        help="set a parameter of the notebook (repeatable)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.ipynb",
                        help="the executed copy (default: in the folder that the parameter `out` names)")
    options = parser.parse_args(arguments)
    try:
        run_notebook(options.notebook, dict(options.parameter), options.output)
    except HetacumnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except PapermillExecutionError as error:
        print("\n".join(error.traceback) or error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        logging.getLogger("asyncio").disabled = True  # at exit it would tell of what the notebook's client left undone
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _literal(source: str) -> object:
    """The value of a Python literal; None for any other expression."""
    try:
        return ast.literal_eval(source)
    except (ValueError, SyntaxError):
        return None


def _use_own_kernel() -> None:
    """Let "python3" name the kernel of the running interpreter, not one that the user has installed."""
    os.environ.pop("JUPYTER_PATH", None)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    # Threads that sleep, not spin, at a barrier: several times faster where other programs share the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's; it would leave the kernel to die unasked
    sys.exit(main())

"""Checks of a command's input before the kernel of a notebook starts."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from hetacumn.common.errors import HetacumnError

ANSWER_FILES = ("predictions.star",)
FEW_PARTICLES = 500  # with fewer an ab initio start is a matter of luck
SMALL_TABLE_BYTES = 5_000_000  # a table up to this length is read whole
HEADER_BYTES = 100_000


def check_is_file(path: Path, what: str) -> None:
    """Raise :class:`HetacumnError` where ``path`` is not a file; ``what`` describes the expected file."""
    if not path.is_file():
        raise HetacumnError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; expected {what}")


def check_holds(folder: Path, names: tuple[str, ...], what: str, command: str) -> None:
    """Raise :class:`HetacumnError` where a folder holds none of the files ``names``; ``command`` makes them."""
    if not any((folder / name).is_file() for name in names):
        raise HetacumnError(f"{folder}: no {' or '.join(names)}; expected the folder of {what}; see {command}")


def check_particles(path: Path, data_dir: Path | None, warn_of_few: bool = False) -> None:
    """Refuse a particle table that cannot be read, and warn of a small one if asked to.

    A small table is read whole, and the headers of its stacks; of a large one only the labels.

    Raises:
        HetacumnError: not a table of particles; a column, a row or a stack is wrong.
    """
    if path.suffix == ".star" and path.stat().st_size > SMALL_TABLE_BYTES:
        with open(path, errors="replace") as file:
            if "_rlnImageName" not in file.read(HEADER_BYTES):
                raise HetacumnError(
                    f"{path}: no column rlnImageName in its first {HEADER_BYTES} bytes; expected a STAR file of particles"
                )
        return
    import numpy as np

    from hetacumn.io.stack_reader import StackReader
    from hetacumn.io.star import read_table

    table = read_table(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notebook repeats them
        StackReader(table, np.arange(len(table)), data_dir)
    if warn_of_few and len(table) < FEW_PARTICLES:
        print(f"warning: {path}: {len(table)} particles are few; expected {FEW_PARTICLES} or more for a reliable "
              "ab initio start", file=sys.stderr)  # fmt: skip


def check_devices(device: str, devices: int) -> None:
    """Raise :class:`HetacumnError` where this machine has no such device, or not so many."""
    from hetacumn.compute.launching import DeviceRequest

    try:
        DeviceRequest(device or None, devices).check()
    except HetacumnError as error:  # it begins with the name of the option
        raise HetacumnError(f"--{error}") from None


def check_model(folder: Path, grade: str) -> None:
    """Raise :class:`HetacumnError` for an unknown grade of prediction, or where a folder lacks the model that it needs."""
    from hetacumn.common.settings import suggestion
    from hetacumn.prediction.request import GRADES

    if grade not in GRADES:
        raise HetacumnError(f"--grade is {grade!r}; {suggestion(grade, GRADES)}")
    if grade == "searched":
        check_holds(folder, ("start.safetensors",), "an ab initio start", "hetacumn train, or give --model")
    else:
        check_holds(folder, ("model.safetensors",), "a trained model", "hetacumn train, or give --model")

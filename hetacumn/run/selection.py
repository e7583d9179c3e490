"""Particles that a user selects: a class, or the rows of a text file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hetacumn.common.errors import HetacumnError
from hetacumn.particles.predictions import Predictions


def rows_of_class(predictions: Predictions, number: int) -> np.ndarray:
    """Find the rows, from 0, of the particles of a class, which is counted from 1.

    Raises:
        HetacumnError: no particle is of that class.
    """
    rows = (predictions.classes == number - 1).numpy().nonzero()[0]
    if not len(rows):
        last = int(predictions.classes.max()) + 1
        raise HetacumnError(f"class {number} has no particles; expected one of the classes 1 to {last}")
    return rows


def rows_of_file(path: Path, count: int) -> np.ndarray:
    """Read row numbers of ``count`` rows from a text file, counted from 1; return them sorted, counted from 0.

    Spaces or line ends separate the numbers.

    Raises:
        HetacumnError: not a text file of row numbers; a row number out of range or named twice.
    """
    try:
        words = path.read_text().split()
    except (OSError, ValueError):
        raise HetacumnError(f"{path}: not a text file; expected row numbers from 1 to {count}") from None
    for word in words:
        if not word.isdecimal() or not 1 <= int(word) <= count:
            raise HetacumnError(f"{path}: {word!r} is not a row number; expected row numbers from 1 to {count}")
    rows = np.array(sorted(int(word) - 1 for word in words), dtype=np.int64)
    if not len(rows):
        raise HetacumnError(f"{path}: no rows; expected row numbers from 1 to {count}")
    twice = rows[1:][np.diff(rows) == 0]
    if len(twice):
        raise HetacumnError(f"{path}: row {twice[0] + 1} is named twice; expected every row once")
    return rows

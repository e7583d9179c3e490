"""Numbers in text: lists of numbers, and files of row numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Int

from hetacumn.common.errors import HetacumnError


def read_row_numbers(path: Path, count: int) -> Int[np.ndarray, " m"]:
    """Read row numbers, counted from 1, from a text file; return the rows sorted and counted from 0.

    ``count`` is the number of rows in the table. Spaces or line ends separate the numbers.

    Raises:
        HetacumnError: the file is not a text file of row numbers, or a row number is out of range or occurs twice.
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
        raise HetacumnError(f"{path}: row {twice[0] + 1} occurs twice; expected each row once")
    return rows


def parse_numbers(text: str) -> list[float] | None:
    """Parse numbers such as ``[0.1,-0.2]``; return None if the text is anything else, or a number is not finite."""
    inner = text.strip()
    inner = inner[1:-1] if inner.startswith("[") and inner.endswith("]") else inner
    try:
        numbers = [float(word) for word in inner.split(",")] if inner.strip() else []
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None

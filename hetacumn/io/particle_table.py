"""A particle table in memory, in the form of RELION 3.1, and text files with row numbers of such a table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from hetacumn.common.errors import HetacumnError

GROUP = "rlnOpticsGroup"
LARGEST_PIXEL_A = 1e4  # a larger pixel size is an error in the file


@dataclass(frozen=True)
class ParticleTable:
    """A particle table in RELION 3.1's form. Columns from a STAR file contain the text of the file.

    - ``path``: file that the table was read from, for messages.
    - ``particles``: one row per particle.
    - ``optics``: one row per optics group.
    """

    path: Path
    particles: pd.DataFrame
    optics: pd.DataFrame

    def __len__(self) -> int:
        return len(self.particles)

    def has(self, column: str) -> bool:
        """Return whether the particles or the optics groups have a column."""
        return column in self.particles or column in self.optics

    def with_default(self, column: str, value: float | None) -> ParticleTable:
        """Return the table with a column that contains ``value`` for every optics group; a table with the column is unchanged.

        None as ``value`` also leaves the table unchanged.
        """
        if value is None or self.has(column):
            return self
        return replace(self, optics=self.optics.assign(**{column: value}))

    def numbers(self, column: str, default: float | None = None) -> Float[np.ndarray, " n"]:
        """Return the values of a column as float64, one for each particle.

        Values of the optics table are looked up by optics group. ``default`` replaces a missing column.

        Raises:
            HetacumnError: the column is missing and has no default, or a value is not a finite number.
        """
        if not self.has(column):
            if default is None:
                raise HetacumnError(f"{self.path}: no column {column}; expected it for every particle")
            return np.full(len(self), float(default))
        if column in self.particles:
            return finite(self.particles[column], f"{self.path}: row")
        values = finite(self.optics[column], f"{self.path}: optics table, row")
        return values[self._group_rows()]

    def lists(self, column: str) -> list[list[float]]:
        """Return lists of numbers, such as ``[0.1,-0.2]``, one for each particle; the column must exist.

        Raises:
            HetacumnError: a value is not a list of finite numbers.
        """
        own = column in self.particles
        texts = [str(value) for value in (self.particles if own else self.optics)[column]]
        where, parsed = "row" if own else "optics table, row", {text: _parse_numbers(text) for text in set(texts)}
        for row, text in enumerate(texts):
            if parsed[text] is None:
                raise HetacumnError(f"{self.path}: {where} {row + 1}: {column} is {text}; expected numbers, such as [0.1,-0.2]")
        found = [parsed[text] or [] for text in texts]
        return found if own else [found[group] for group in self._group_rows()]

    def _group_rows(self) -> Int[np.ndarray, " n"]:
        """Return the row of the optics table for each particle."""
        if GROUP not in self.particles:
            raise HetacumnError(f"{self.path}: no column {GROUP}; expected it for every particle beside an optics table")
        groups, group_of = finite(self.optics[GROUP], f"{self.path}: optics table, row"), self.numbers(GROUP)
        unknown = ~np.isin(group_of, groups)
        if unknown.any():
            row = int(unknown.argmax())
            raise HetacumnError(
                f"{self.path}: row {row + 1}: optics group {group_of[row]:g} is not in the optics "
                f"table; expected one of {', '.join(f'{group:g}' for group in groups)}"
            )
        order = np.argsort(groups)
        return order[np.searchsorted(groups, group_of, sorter=order)]

    def first_of_each_group(self) -> list[int | None]:
        """Return the row, from 0, of the first particle of each optics group; None for a group without particles."""
        rows, first = np.unique(self._group_rows(), return_index=True)
        found = dict(zip(rows.tolist(), first.tolist(), strict=True))
        return [found.get(row) for row in range(len(self.optics))]

    def pixel_sizes(self) -> Float[np.ndarray, " n"]:
        """Return the pixel size of each image in Å. As in RELION, it is the pixel size of the optics group of the image.

        Raises:
            HetacumnError: a value is out of range.
        """
        sizes = finite(self.optics["rlnImagePixelSize"], f"{self.path}: optics table, row")[self._group_rows()]
        wrong = (sizes <= 0) | (sizes > LARGEST_PIXEL_A)
        if wrong.any():
            row = int(wrong.argmax())
            raise HetacumnError(
                f"{self.path}: row {row + 1}: pixel size {sizes[row]:g} Å; expected more than 0, up to {LARGEST_PIXEL_A:g}"
            )
        return sizes

    def names(self) -> pd.Index:
        """Return the rlnImageName of each image. Raises HetacumnError if two rows have the same name."""
        names = pd.Index(self.particles["rlnImageName"].astype(str))
        if not names.is_unique:
            row = int(names.duplicated().argmax())
            raise HetacumnError(f"{self.path}: row {row + 1}: {names[row]} is named twice; expected every image once")
        return names

    def images(self) -> tuple[Shaped[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Return the stack name of each image, as written in the table, and the image's index in the stack, from 0.

        Raises:
            HetacumnError: a value of rlnImageName does not have the form number@stack.
        """
        names = self.particles["rlnImageName"].astype(str)
        parts = names.str.extract(r"^([0-9]{1,12})@(.+)$")
        wrong = parts[0].isna().to_numpy()
        if wrong.any():
            row = int(wrong.argmax())
            raise HetacumnError(
                f"{self.path}: row {row + 1}: rlnImageName is {names.iloc[row]!r}; "
                "expected number@stack, such as 000001@particles.mrcs"
            )
        return parts[1].to_numpy(dtype=object), parts[0].astype(np.int64).to_numpy() - 1


def finite(column: pd.Series, where: str) -> Float[np.ndarray, " n"]:
    """Convert a column to float64. Raises HetacumnError, beginning with ``where``, if a value is not a finite number."""
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~np.isfinite(values)
    if wrong.any():
        row = int(wrong.argmax())
        raise HetacumnError(f"{where} {row + 1}: {column.name} is {column.iloc[row]}; expected a finite number")
    return values


def _parse_numbers(text: str) -> list[float] | None:
    """Parse numbers such as ``[0.1,-0.2]``; return None if the text is anything else, or a number is not finite."""
    inner = text.strip()
    inner = inner[1:-1] if inner.startswith("[") and inner.endswith("]") else inner
    try:
        numbers = [float(word) for word in inner.split(",")] if inner.strip() else []
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


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

"""Reading of raw images by the rows of a particle table, wherever their stacks lie, in chunks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped

from hetacumn.common.errors import HetacumnError
from hetacumn.compute.batches import batch_slices
from hetacumn.io.stacks import chunk_length, open_stack, read_layout
from hetacumn.io.star import ParticleTable


def find_stack(name: str, star: Path, data_dir: Path | str | None = None) -> Path | None:
    """Find the stack that a STAR file names; None if it is nowhere.

    The search looks under ``data_dir`` if given, else in the STAR's folder and the folders around it (RELION names stacks
    from the project's folder); then from the working directory.
    """
    here = star.resolve().parent
    folders = [here, *here.parents] if data_dir is None else [Path(data_dir)]
    return next((folder / name for folder in [*folders, Path()] if (folder / name).is_file()), None)


@dataclass(frozen=True)
class _Part:
    """Images of one stack: their ``positions`` among the requested rows, their box and pixel size."""

    path: Path
    positions: Int[np.ndarray, " b"]
    box: int
    pixel_A: float


@dataclass(frozen=True)
class Chunk:
    """Some images in float32 with the values of the file, and their ``positions`` among the requested rows."""

    positions: Int[np.ndarray, " b"]
    images: Float[np.ndarray, "b box box"]
    pixel_A: float


class StackReader:
    """Reads the images that a table names, wherever they lie, and checks the header of every stack at the beginning.

    ``field_A`` is the smallest field of view among the images.

    Raises:
        HetacumnError: a stack is missing or broken, a row lies beyond its stack (the message names the row), a box is odd, or
            a stated box is not the box of the stack.
    """

    def __init__(self, table: ParticleTable, rows: Int[np.ndarray, " n"], data_dir: Path | str | None = None) -> None:
        self.star = table.path
        self.rows = rows
        names, index = table.images()
        sizes_A = table.pixel_sizes()[rows]
        self._index = index[rows]
        self._stated = table.numbers("rlnImageSize") if table.has("rlnImageSize") else None
        self._parts: list[_Part] = []
        self._misstated: list[tuple[Path, float, float]] = []  # stack, pixel size of its header, of the table
        for (name, pixel_A), positions in _positions(names[rows], sizes_A).items():
            path = find_stack(name, table.path, data_dir)
            if path is None:
                raise HetacumnError(
                    f"{table.path}: row {rows[positions[0]] + 1}: no stack {name!r} under "
                    f"{data_dir or table.path.parent}; expected it there (or give data_dir)"
                )
            self._parts.append(self._open(path, positions, pixel_A))
        self._warn_of_misstated()
        self.field_A = min(part.box * part.pixel_A for part in self._parts)

    def coarsest_A(self) -> float:
        """Return the largest pixel size of the images, in Å."""
        return max(part.pixel_A for part in self._parts)

    @property
    def stacks(self) -> list[Path]:
        """The files of the images, in order of appearance."""
        return list(dict.fromkeys(part.path for part in self._parts))

    def _open(self, path: Path, positions: Int[np.ndarray, " b"], pixel_A: float) -> _Part:
        """Check the header of a stack against the rows that name its images."""
        layout = read_layout(path)
        count, height, width = layout.shape
        rows, index = self.rows[positions] + 1, self._index[positions]  # rows as messages have them
        if height != width or height % 2:
            raise HetacumnError(
                f"{path}: images of {width} × {height} pixels (row {rows[0]} of "
                f"{self.star}); expected square images with an even box"
            )
        if self._stated is not None:
            stated = self._stated[rows - 1].astype(int)
            if (stated != height).any():
                at = int((stated != height).argmax())
                raise HetacumnError(
                    f"{self.star}: row {rows[at]}: rlnImageSize is {stated[at]}, but {path} has box {height}; expected one box"
                )
        beyond = (index >= count) | (index < 0)
        if beyond.any():
            at = int(beyond.argmax())
            raise HetacumnError(
                f"{self.star}: row {rows[at]} names image {index[at] + 1} of {path}, which holds {count}; expected 1 to {count}"
            )
        if abs(layout.pixel_A - pixel_A) > 0.01 * pixel_A:
            self._misstated.append((path, layout.pixel_A, pixel_A))
        return _Part(path, positions, height, pixel_A)

    def _warn_of_misstated(self) -> None:
        if self._misstated:
            path, header_A, table_A = self._misstated[0]
            others = f" and {len(self._misstated) - 1} more stacks" if len(self._misstated) > 1 else ""
            warnings.warn(
                f"{path}{others}: pixel size {header_A:g} Å in the header, {table_A:g} Å in {self.star}; using {table_A:g} Å",
                stacklevel=2,
            )

    def chunks(self) -> Iterator[Chunk]:
        """Yield the images of all rows, one stack after the other."""
        for part in self._parts:
            for chosen in batch_slices(len(part.positions), chunk_length(part.box)):
                positions = part.positions[chosen]
                stack = open_stack(part.path)  # opened anew: the pages of an open stack would add up in memory
                images = np.array(stack[self._index[positions]], dtype=np.float32)
                yield Chunk(positions, images, part.pixel_A)

    def place(self, position: int | np.integer) -> str:
        """Name the image at a position for messages: its stack, number and row."""
        path = next(part.path for part in self._parts if position in part.positions)
        return f"{path}: image {self._index[position] + 1} (row {self.rows[position] + 1} of {self.star})"


def _positions(
    names: Shaped[np.ndarray, " n"], sizes_A: Float[np.ndarray, " n"]
) -> dict[tuple[str, float], Int[np.ndarray, " _"]]:
    """Group positions by distinct pairs of stack and pixel size, in order of appearance."""
    seen: dict[tuple[str, float], list[int]] = {}
    for position, pair in enumerate(zip(names, sizes_A.tolist(), strict=True)):
        seen.setdefault(pair, []).append(position)
    return {pair: np.array(positions) for pair, positions in seen.items()}

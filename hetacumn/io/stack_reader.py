"""Reading of the raw images of the rows of a particle table, in chunks, from the stacks that the table names."""

from __future__ import annotations

import os
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
    """Find the stack ``name`` of a STAR file; return None if there is no such file.

    The function searches ``data_dir`` if given, else the folder of the STAR file and all its parent folders (RELION's stack
    names are relative to the project folder). If the STAR file is a symbolic link, it also searches the folders of the target.
    It then searches the working directory. If the file of an absolute name is missing, the function removes one leading folder
    after the other from the name, and searches ``data_dir`` for the rest.
    """
    if data_dir is None:
        places = dict.fromkeys((Path(os.path.abspath(star)).parent, star.resolve().parent))
        folders = [folder for place in places for folder in (place, *place.parents)]
        names = [Path(name)]
    else:
        folders, parts = [Path(data_dir)], Path(name).parts
        names = [Path(name), *(Path(*parts[first:]) for first in range(1, len(parts)) if Path(name).is_absolute())]
    tried = [folder / one for one in names for folder in [*folders, Path()]]
    return next((path for path in tried if path.is_file()), None)


@dataclass(frozen=True)
class _Part:
    """The requested images of one stack and pixel size; ``positions`` are their positions among the requested rows."""

    path: Path
    positions: Int[np.ndarray, " b"]
    box: int
    pixel_A: float


@dataclass(frozen=True)
class Chunk:
    """Some raw images.

    - ``positions``: their positions among the requested rows.
    - ``images``: float32, with the values of the file.
    - ``pixel_A``: their pixel size in Å.
    """

    positions: Int[np.ndarray, " b"]
    images: Float[np.ndarray, "b box box"]
    pixel_A: float


class StackReader:
    """Reads the images of the given rows (counted from 0) of a table; the constructor checks the header of every stack.

    ``field_A`` is the smallest field of view among these images, in Å. The constructor warns if the pixel size in the header
    of a stack differs from the table by more than 1 %; the pixel size of the table is used.

    Raises:
        HetacumnError: a stack is missing or damaged, an image is not square or has an odd box, a row names an image that
            its stack does not contain, two rows name the same image, or rlnImageSize is not the box of the stack. The message
            names the file or the row.
    """

    def __init__(self, table: ParticleTable, rows: Int[np.ndarray, " n"], data_dir: Path | str | None = None) -> None:
        self.star = table.path
        self.rows = rows
        names, index = table.images()
        sizes_A = table.pixel_sizes()[rows]
        self._index = index[rows]
        self._stated = table.numbers("rlnImageSize") if table.has("rlnImageSize") else None
        self._parts: list[_Part] = []
        self._misstated: list[tuple[Path, float, float]] = []  # stack, pixel size in its header, pixel size in the table
        for (name, pixel_A), positions in _positions(names[rows], sizes_A).items():
            path = find_stack(name, table.path, data_dir)
            if path is None:
                raise HetacumnError(
                    f"{table.path}: row {rows[positions[0]] + 1}: no stack {name!r} under "
                    f"{data_dir or table.path.parent}; expected the stack there, or its folder as data_dir"
                )
            self._parts.append(self._open(path, positions, pixel_A))
        self._refuse_repeated()
        self._warn_of_misstated()
        self.field_A = min(part.box * part.pixel_A for part in self._parts)

    def coarsest_A(self) -> float:
        """Return the largest pixel size of the images, in Å."""
        return max(part.pixel_A for part in self._parts)

    @property
    def stacks(self) -> list[Path]:
        """The stack files of the images, in order of appearance."""
        return list(dict.fromkeys(part.path for part in self._parts))

    def _open(self, path: Path, positions: Int[np.ndarray, " b"], pixel_A: float) -> _Part:
        """Check the header of a stack against the rows that name its images; return the images as a part."""
        layout = read_layout(path)
        count, height, width = layout.shape
        rows, index = self.rows[positions] + 1, self._index[positions]  # messages count rows from 1
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
                    f"{self.star}: row {rows[at]}: rlnImageSize is {stated[at]}; expected {height}, the box of {path}"
                )
        beyond = (index >= count) | (index < 0)
        if beyond.any():
            at = int(beyond.argmax())
            raise HetacumnError(
                f"{self.star}: row {rows[at]} names image {index[at] + 1} of {path}, which holds {count}; expected 1 to {count}"
            )
        layout.refuse_longer(path)
        if abs(layout.pixel_A - pixel_A) > 0.01 * pixel_A:
            self._misstated.append((path, layout.pixel_A, pixel_A))
        return _Part(path, positions, height, pixel_A)

    def _refuse_repeated(self) -> None:
        """Raise :class:`HetacumnError` if two rows name the same image, even by different names of its stack."""
        files = {path: number for number, path in enumerate(dict.fromkeys(path.resolve() for path in self.stacks))}
        places = np.concatenate([part.positions for part in self._parts])
        stacks = np.concatenate([np.full(len(part.positions), files[part.path.resolve()]) for part in self._parts])
        index, rows = self._index[places], self.rows[places]
        order = np.lexsort((rows, index, stacks))
        stacks, index, rows = stacks[order], index[order], rows[order]
        again = (np.diff(stacks) == 0) & (np.diff(index) == 0) & (np.diff(rows) != 0)
        if again.any():
            at = int(again.argmax())
            raise HetacumnError(
                f"{self.star}: row {rows[at + 1] + 1} names image {index[at] + 1} of {list(files)[stacks[at]]}, as "
                f"row {rows[at] + 1} does; expected every image once"
            )

    def _warn_of_misstated(self) -> None:
        if self._misstated:
            path, header_A, table_A = self._misstated[0]
            others = f" and {len(self._misstated) - 1} more stacks" if len(self._misstated) > 1 else ""
            warnings.warn(
                f"{path}{others}: pixel size {header_A:g} Å in the header, {table_A:g} Å in {self.star}; using {table_A:g} Å",
                stacklevel=2,
            )

    def chunks(self) -> Iterator[Chunk]:
        """Yield the images of all rows in chunks, one stack after another."""
        for part in self._parts:
            for chosen in batch_slices(len(part.positions), chunk_length(part.box)):
                positions = part.positions[chosen]
                stack = open_stack(part.path)  # opened for each chunk, so that its pages do not accumulate in memory
                images = np.array(stack[self._index[positions]], dtype=np.float32)
                yield Chunk(positions, images, part.pixel_A)

    def place(self, position: int | np.integer) -> str:
        """Return the stack, number and row of the image at a position, for messages."""
        path = next(part.path for part in self._parts if position in part.positions)
        return f"{path}: image {self._index[position] + 1} (row {self.rows[position] + 1} of {self.star})"


def _positions(
    names: Shaped[np.ndarray, " n"], sizes_A: Float[np.ndarray, " n"]
) -> dict[tuple[str, float], Int[np.ndarray, " _"]]:
    """Group positions by stack and pixel size, in order of appearance."""
    seen: dict[tuple[str, float], list[int]] = {}
    for position, pair in enumerate(zip(names, sizes_A.tolist(), strict=True)):
        seen.setdefault(pair, []).append(position)
    return {pair: np.array(positions) for pair, positions in seen.items()}

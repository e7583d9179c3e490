"""Image stacks on disk: find, open without loading, read by chunks, create by chunks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mrcfile
import numpy as np

from hetacumn.errors import HetacumnError
from hetacumn.project import atomic_path
from hetacumn.star import ParticleTable

CHUNK_BYTES = 32 * 2**20  # of images as float32: what is held at once while a stack is read or written


def chunk_length(box: int) -> int:
    """How many images of a box are handled at once."""
    return max(1, CHUNK_BYTES // (4 * box * box))


def open_stack(path: Path | str) -> np.ndarray:
    """The images ``(n, y, x)`` of an MRC stack, memory-mapped and read-only, in the file's own dtype.

    Headers without the MRC signature (older programs) are accepted.

    Raises:
        HetacumnError: no such file, not MRC, not real numbers, shorter than its header says.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # missing signature
            with mrcfile.open(path, header_only=True, permissive=True) as mrc:
                header = mrc.header
                dtype = mrcfile.utils.data_dtype_from_header(header)
                shape = (int(header.nz), int(header.ny), int(header.nx))
                offset = 1024 + int(header.nsymbt)
    except FileNotFoundError:
        raise HetacumnError(f"{path}: no such file; expected a stack of images") from None
    except (OSError, ValueError) as error:
        raise HetacumnError(f"{path}: not an MRC stack ({error})") from error
    if dtype.kind == "c" or min(shape) < 1:
        raise HetacumnError(f"{path}: header of {shape[0]} images {shape[2]} × {shape[1]}, {dtype}; "
                            "expected a stack of real images")
    expected = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    actual = path.stat().st_size
    if actual < expected:
        whole = max(0, actual - offset) // (shape[1] * shape[2] * dtype.itemsize)
        raise HetacumnError(f"{path}: truncated: {actual} bytes hold {whole} whole images; expected {shape[0]} images "
                            f"in {expected} bytes, as its header says")
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)


class StackReader:
    """The images that a table names, wherever they lie; every stack's header is checked at once.

    A stack's name is looked for under ``data_dir`` if given, else in the STAR's folder and the folders
    around it (RELION names stacks from the project's folder), else from the working directory.

    Raises:
        HetacumnError: a stack missing or broken, a row beyond its stack (row named), odd or unequal boxes.
    """

    def __init__(self, table: ParticleTable, rows: np.ndarray, data_dir: Path | str | None = None):
        self.star = table.path
        self.rows = rows
        names, index = table.images()
        self._index = index[rows]
        self._stacks: list[tuple[Path, np.ndarray]] = []  # a stack, and the positions in rows of its images
        self.box = 0
        for name, positions in _positions(names[rows]).items():
            path = self._find(name, int(rows[positions[0]]), data_dir)
            shape = open_stack(path).shape
            self._check(path, shape, positions, table)
            self._stacks.append((path, positions))

    def _find(self, name: str, row: int, data_dir: Path | str | None) -> Path:
        parents = self.star.resolve().parent
        folders = [Path(data_dir)] if data_dir is not None else [parents, *parents.parents]
        for folder in [*folders, Path()]:
            if (folder / name).is_file():
                return folder / name
        raise HetacumnError(f"{self.star}: row {row + 1}: no stack '{name}' under {folders[0]}; "
                            "expected it there (give data_dir if it is elsewhere)")

    def _check(self, path: Path, shape: tuple[int, ...], positions: np.ndarray, table: ParticleTable) -> None:
        count, height, width = shape
        row = int(self.rows[positions[0]]) + 1
        if height != width or height % 2:
            raise HetacumnError(f"{path}: images of {width} × {height} pixels (row {row} of {self.star}); "
                                "expected square images with an even box")
        if self.box and height != self.box:
            raise HetacumnError(f"{path}: box {height} (row {row} of {self.star}); expected {self.box}, as in "
                                f"{self._stacks[0][0]}")
        self.box = height
        if table.has("rlnImageSize"):
            stated = table.numbers("rlnImageSize")[self.rows[positions]].astype(int)
            if (stated != height).any():
                at = int((stated != height).argmax())
                raise HetacumnError(f"{self.star}: row {self.rows[positions[at]] + 1}: rlnImageSize is {stated[at]}, but "
                                    f"{path} has box {height}; expected the same")
        index = self._index[positions]
        beyond = (index >= count) | (index < 0)
        if beyond.any():
            at = int(beyond.argmax())
            raise HetacumnError(f"{self.star}: row {self.rows[positions[at]] + 1} names image {index[at] + 1} of {path}, "
                                f"which holds {count}; expected 1 to {count}")

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield ``(positions, images)`` until every row was read: positions in ``rows``, images float32.

        Raises:
            HetacumnError: an image with NaN or infinity, or constant (row named).
        """
        length = chunk_length(self.box)
        for path, positions in self._stacks:
            stack = open_stack(path)
            for start in range(0, len(positions), length):
                part = positions[start : start + length]
                images = np.array(stack[self._index[part]], dtype=np.float32)
                self._check_values(path, part, images)
                yield part, images

    def _check_values(self, path: Path, part: np.ndarray, images: np.ndarray) -> None:
        low, high = images.min((1, 2)), images.max((1, 2))  # NaN passes through both
        bad = ~(np.isfinite(low) & np.isfinite(high)) | (low == high)
        if bad.any():
            at = int(bad.argmax())
            what = "is constant" if low[at] == high[at] else "holds NaN or infinity"
            raise HetacumnError(f"{path}: image {self._index[part[at]] + 1} (row {self.rows[part[at]] + 1} of {self.star}) "
                                f"{what}; expected an image with noise")


@contextmanager
def new_stack(path: Path | str, n: int, box: int, pixel_A: float) -> Iterator[np.ndarray]:
    """Yield ``(n, box, box)`` float32 on disk to be filled by parts; the file has its name once it is whole."""
    with atomic_path(path) as temporary:
        with mrcfile.new_mmap(temporary, shape=(n, box, box), mrc_mode=2, overwrite=True) as mrc:
            mrc.set_image_stack()
            mrc.voxel_size = pixel_A
            yield mrc.data
            mrc.update_header_stats()


def _positions(names: np.ndarray) -> dict[str, np.ndarray]:
    """Distinct names in order of appearance, and the positions of each."""
    seen: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        seen.setdefault(name, []).append(position)
    return {name: np.array(positions) for name, positions in seen.items()}

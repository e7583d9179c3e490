"""Image stacks on disk: find, open without loading, read by chunks, create by chunks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from hetacumn.errors import HetacumnError
from hetacumn.project import atomic_path
from hetacumn.star import ParticleTable

HEADER_BYTES = 1024  # of an MRC file, before its extended header
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
        with open(path, "rb") as file:
            layout = Layout.parse(file.read(HEADER_BYTES), str(path))
    except FileNotFoundError:
        raise HetacumnError(f"{path}: no such file; expected a stack of images") from None
    except OSError as error:
        raise HetacumnError(f"{path}: not an MRC stack ({error})") from error
    actual = path.stat().st_size
    if actual < layout.end:
        whole = max(0, actual - layout.offset) // layout.image_bytes
        raise HetacumnError(f"{path}: truncated: {actual} bytes hold {whole} whole images; expected "
                            f"{layout.shape[0]} images in {layout.end} bytes, as its header says")
    return np.memmap(path, dtype=layout.dtype, mode="r", offset=layout.offset, shape=layout.shape)


@dataclass(frozen=True)
class Layout:
    """What an MRC header says: ``shape`` ``(n, y, x)``, the images' dtype, and the byte at which the first begins."""

    header: np.void
    shape: tuple[int, int, int]
    dtype: np.dtype
    offset: int

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return self.shape[1] * self.shape[2] * self.dtype.itemsize

    @property
    def end(self) -> int:
        """Bytes of the whole file, at least."""
        return self.offset + self.shape[0] * self.image_bytes

    @classmethod
    def parse(cls, raw: bytes, where: str) -> Layout:
        """Of the first :data:`HEADER_BYTES` of a file, of either byte order.

        Raises:
            HetacumnError: naming ``where``: not MRC, not real numbers.
        """
        try:
            header, order = _parse_header(raw)
            dtype = mrcfile.utils.dtype_from_mode(header["mode"]).newbyteorder(order)
        except ValueError as error:
            raise HetacumnError(f"{where}: not an MRC stack ({error})") from error
        shape = (int(header["nz"]), int(header["ny"]), int(header["nx"]))
        if dtype.kind == "c" or min(shape) < 1:
            raise HetacumnError(f"{where}: header of {shape[0]} images {shape[2]} × {shape[1]}, {dtype}; "
                                "expected a stack of real images")
        return cls(header, shape, dtype, HEADER_BYTES + int(header["nsymbt"]))


def _parse_header(raw: bytes) -> tuple[np.void, str]:
    """The MRC header and its byte order, "<" or ">". Raises ValueError where there is none."""
    if len(raw) < HEADER_BYTES:
        raise ValueError(f"{len(raw)} bytes, less than a header")
    for order in "<>":
        header = np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order))[0]
        if 0 <= header["mode"] <= 12:
            return header, order
    raise ValueError(f"mode {header['mode']}")


def find_stack(name: str, star: Path, data_dir: Path | str | None = None) -> Path | None:
    """Where the stack is that a STAR file names, or None.

    Looked for under ``data_dir`` if given, else in the STAR's folder and the folders around it (RELION names
    stacks from the project's folder); then from the working directory.
    """
    here = star.resolve().parent
    folders = [here, *here.parents] if data_dir is None else [Path(data_dir)]
    return next((folder / name for folder in [*folders, Path()] if (folder / name).is_file()), None)


class StackReader:
    """The images that a table names, wherever they lie; every stack's header is checked at once.

    Raises:
        HetacumnError: a stack missing or broken, a row beyond its stack (row named), odd or unequal boxes.
    """

    def __init__(self, table: ParticleTable, rows: np.ndarray, data_dir: Path | str | None = None):
        self.star = table.path
        self.rows = rows
        names, index = table.images()
        self._index = index[rows]
        self._stacks: list[tuple[Path, np.ndarray]] = []  # a stack, and the positions in rows of its images
        self._stated = table.numbers("rlnImageSize") if table.has("rlnImageSize") else None
        self.box = 0
        for name, positions in _positions(names[rows]).items():
            path = find_stack(name, table.path, data_dir)
            if path is None:
                raise HetacumnError(f"{table.path}: row {rows[positions[0]] + 1}: no stack '{name}' under "
                                    f"{data_dir or table.path.parent}; expected it there (or give data_dir)")
            shape = open_stack(path).shape
            self._check(path, shape, positions)
            self._stacks.append((path, positions))

    def _check(self, path: Path, shape: tuple[int, ...], positions: np.ndarray) -> None:
        count, height, width = shape
        rows, index = self.rows[positions] + 1, self._index[positions]  # rows as messages have them
        if height != width or height % 2:
            raise HetacumnError(f"{path}: images of {width} × {height} pixels (row {rows[0]} of "
                                f"{self.star}); expected square images with an even box")
        if self.box and height != self.box:
            raise HetacumnError(f"{path}: box {height} (row {rows[0]} of {self.star}); expected {self.box}, "
                                f"as in {self._stacks[0][0]}")
        self.box = height
        if self._stated is not None:
            stated = self._stated[rows - 1].astype(int)
            if (stated != height).any():
                at = int((stated != height).argmax())
                raise HetacumnError(f"{self.star}: row {rows[at]}: rlnImageSize is {stated[at]}, but {path} "
                                    f"has box {height}; expected the same")
        beyond = (index >= count) | (index < 0)
        if beyond.any():
            at = int(beyond.argmax())
            raise HetacumnError(f"{self.star}: row {rows[at]} names image {index[at] + 1} of {path}, which "
                                f"holds {count}; expected 1 to {count}")

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
            row = self.rows[part[at]] + 1
            raise HetacumnError(f"{path}: image {self._index[part[at]] + 1} (row {row} of {self.star}) "
                                f"{what}; expected an image with noise")


@contextmanager
def new_stack(path: Path | str, n: int, box: int, pixel_A: float) -> Iterator[np.ndarray]:
    """Yield ``(n, box, box)`` float32 on disk, to be filled by parts; the file has its name once it is whole.

    The header holds neither date nor statistics: equal images make equal bytes, in one pass.
    """
    with atomic_path(path) as temporary:
        with mrcfile.new_mmap(temporary, shape=(n, box, box), mrc_mode=2, overwrite=True) as mrc:
            mrc.set_image_stack()
            mrc.voxel_size = pixel_A
            mrc.header.label[0] = "hetacumn"
            yield mrc.data


def _positions(names: np.ndarray) -> dict[str, np.ndarray]:
    """Distinct names in order of appearance, and the positions of each."""
    seen: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        seen.setdefault(name, []).append(position)
    return {name: np.array(positions) for name, positions in seen.items()}

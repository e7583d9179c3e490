"""Image stacks on disk: MRC headers, memory-mapped reading, and writing in chunks."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
from jaxtyping import Float, Num, Shaped
from mrcfile.dtypes import HEADER_DTYPE

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path, refuse_pointer

HEADER_BYTES = 1024  # the header of an MRC file, without its extended header
HIGHEST_MODE, ENDS = 12, ("little", "big")
IMOD_OFFSET, IMOD_STAMP = 152, 1146047817  # position and value of the stamp of the program IMOD; its flags follow
MAXIMUM_SIGNED = 127  # largest signed byte
CHUNK_BYTES = 32 * 2**20  # size of the float32 images in memory at once while a stack is read or written


def chunk_length(box: int) -> int:
    """Return how many images of ``box`` pixels per side to read or write at once, at least 1."""
    return max(1, CHUNK_BYTES // (4 * box * box))


def open_stack(path: Path | str) -> Num[np.ndarray, "n y x"]:
    """Open the images of an MRC stack as a read-only memory map, in the dtype of the file.

    Headers without the MRC signature, which older programs write, are accepted.

    Raises:
        HetacumnError: the file is missing, is not an MRC stack of real numbers, or is shorter than its header states.
    """
    layout = read_layout(path)
    return np.memmap(path, dtype=layout.dtype, mode="r", offset=layout.offset, shape=layout.shape)


def read_layout(path: Path | str) -> Layout:
    """Read the header of an MRC stack and check it against the length of the file; see :func:`open_stack` for the errors."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            layout = Layout.parse(file.read(HEADER_BYTES), str(path))
    except FileNotFoundError:
        raise HetacumnError(f"{path}: no such file; expected a stack of images") from None
    except OSError as error:
        raise HetacumnError(f"{path}: not an MRC stack ({error})") from error
    except HetacumnError:
        refuse_pointer(path, "an MRC stack")
        raise
    actual = path.stat().st_size
    if actual < layout.end:
        whole = max(0, actual - layout.offset) // layout.image_bytes
        raise HetacumnError(
            f"{path}: truncated: {actual} bytes hold {whole} whole images; expected "
            f"{layout.shape[0]} images in {layout.end} bytes, as its header says"
        )
    return layout


@dataclass(frozen=True)
class Layout:
    """The layout of an MRC stack.

    - ``header``: MRC header.
    - ``shape``: number of images and their pixels, (n, y, x).
    - ``dtype``: type and byte order of the pixel values.
    - ``offset``: byte at which the first image begins.
    """

    header: np.void
    shape: tuple[int, int, int]
    dtype: np.dtype
    offset: int

    @property
    def image_bytes(self) -> int:
        """The size of one image in bytes."""
        return self.shape[1] * self.shape[2] * self.dtype.itemsize

    @property
    def pixel_A(self) -> float:
        """The pixel size in Å according to the header; 0 where the header states none."""
        return float(self.header["cella"]["x"]) / max(1, int(self.header["mx"]))

    @property
    def end(self) -> int:
        """The byte after the last image: the smallest valid length of the file."""
        return self.offset + self.shape[0] * self.image_bytes

    def refuse_longer(self, path: Path) -> None:
        """Raise :class:`HetacumnError` if the file ``path`` is longer than its header states.

        The first image may then begin later than the header states.
        """
        if (actual := path.stat().st_size) > self.end:
            raise HetacumnError(
                f"{path}: {actual} bytes; expected {self.end} for the {self.shape[0]} images of its header, which does not "
                "count an extended header (nsymbt) or more images (nz)"
            )

    @classmethod
    def parse(cls, raw: bytes, where: str) -> Layout:
        """Parse the first :data:`HEADER_BYTES` bytes of a file, in either byte order.

        Raises:
            HetacumnError: the bytes are not the header of an MRC stack of real numbers; the message names ``where``.
        """
        try:
            header, order = _parse_header(raw)
            dtype = _dtype(header, raw, order)
        except ValueError as error:
            raise HetacumnError(f"{where}: not an MRC stack ({error})") from error
        shape = (int(header["nz"]), int(header["ny"]), int(header["nx"]))
        if dtype.kind == "c" or min(shape) < 1:
            raise HetacumnError(
                f"{where}: header of {shape[0]} images {shape[2]} × {shape[1]}, {dtype}; expected real-valued images"
            )
        return cls(header, shape, dtype, HEADER_BYTES + int(header["nsymbt"]))


def _parse_header(raw: bytes) -> tuple[np.void, str]:
    """Return the MRC header and its byte order, "<" or ">". Raises ValueError if the bytes are not a header.

    Mode 0 is the same in both byte orders. The function then selects the order with the smaller image width.
    """
    if len(raw) < HEADER_BYTES:
        raise ValueError(f"{len(raw)} bytes, less than a header")
    headers = {order: np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order))[0] for order in "<>"}
    possible = [order for order, header in headers.items() if 0 <= header["mode"] <= HIGHEST_MODE]
    if not possible:
        modes = " or ".join(f"{header['mode']} ({name}-endian)" for header, name in zip(headers.values(), ENDS, strict=True))
        raise ValueError(f"mode {modes}; expected 0, 1, 2, 6 or 12")
    order = min(possible, key=lambda one: abs(int(headers[one]["nx"])))
    return headers[order], order


def _dtype(header: np.void, raw: bytes, order: str) -> np.dtype:
    """Return the type of the pixel values. Raises ValueError for an unknown mode.

    In the MRC standard of 2014, bytes (mode 0) are signed. The function reads unsigned bytes if the header states a maximum
    above 127, or has the stamp of IMOD without the flag for signed bytes.
    """
    stamp, flags = np.frombuffer(raw, f"{order}i4", count=2, offset=IMOD_OFFSET)
    if header["mode"] == 0 and (MAXIMUM_SIGNED < header["dmax"] <= 255 or (stamp == IMOD_STAMP and not flags & 1)):
        return np.dtype(np.uint8)
    return mrcfile.utils.dtype_from_mode(header["mode"]).newbyteorder(order)


def release_pages(stack: Shaped[np.ndarray, "n y x"]) -> None:
    """Release the pages of a memory-mapped stack from the memory of this process; written data are kept."""
    mapped = getattr(stack, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _reserve_disk_space(path: Path) -> None:
    """Reserve disk space for the whole file, because a write to a memory map crashes the process when the disk is full."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


@contextmanager
def new_stack(path: Path | str, n: int, box: int, pixel_A: float) -> Iterator[Float[np.ndarray, "n box box"]]:
    """Yield a memory-mapped float32 stack to be filled in parts; the file gets its final name when the block ends.

    The header contains neither a date nor statistics, so that equal images give equal files without a second pass.
    """
    with atomic_path(path) as temporary:
        with mrcfile.new_mmap(temporary, shape=(n, box, box), mrc_mode=2, overwrite=True) as mrc:
            mrc.set_image_stack()
            mrc.voxel_size = pixel_A
            mrc.header.label[0] = "hetacumn"
            _reserve_disk_space(temporary)
            yield mrc.data

"""Volumes in MRC files, single or as a numbered series in a folder, and a ChimeraX script that plays a series as a morph."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import mrcfile
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path, make_folder

Position = tuple[float, float, float]  # x, y, z


def write_mrc(path: Path | str, volume: Float[Tensor, "z y x"], voxel_A: float, origin_A: Position | None = None) -> None:
    """Write a volume as an MRC file, atomically.

    ``origin_A`` is the position (x, y, z) of the first voxel in Å; None places the position (0, 0, 0) at index ``box // 2``.
    The header contains no date, so that equal volumes give equal files.
    """
    with atomic_path(path) as temporary, mrcfile.new(temporary, overwrite=True) as mrc:
        mrc.set_data(volume.detach().cpu().float().numpy())
        mrc.voxel_size = voxel_A
        mrc.header.label[0] = "hetacumn"
        mrc.header.origin = origin_A or (-(volume.shape[-1] // 2) * voxel_A,) * 3


def read_mrc(path: Path | str) -> tuple[Float[Tensor, "z y x"], float]:
    """Read a volume and its voxel size in Å. Raises :class:`HetacumnError` if the file is missing or is not MRC."""
    try:
        with mrcfile.open(path) as mrc:
            return torch.from_numpy(np.array(mrc.data, dtype=np.float32)), float(mrc.voxel_size.x)
    except (OSError, ValueError) as error:
        raise HetacumnError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); expected an MRC volume"
        ) from error


def read_origin_A(path: Path | str) -> Position:
    """Read the position (x, y, z) of the first voxel in Å, as ChimeraX reads it: the origin, or else the start in voxels.

    Raises:
        HetacumnError: the file is missing or is not MRC.
    """
    try:
        with mrcfile.open(path, header_only=True) as mrc:
            header, voxel = mrc.header, mrc.voxel_size
            origin = [float(header.origin[axis]) for axis in "xyz"]
            start = [float(header[f"n{axis}start"]) * float(voxel[axis]) for axis in "xyz"]
    except (OSError, ValueError) as error:
        raise HetacumnError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); expected an MRC volume"
        ) from error
    x, y, z = origin if any(origin) else start
    return x, y, z


def write_volumes(folder: Path | str, volumes: Float[Tensor, "k z y x"], stem: str, voxel_A: float) -> None:
    """Write volumes as ``<stem>1.mrc``, ``<stem>2.mrc``, … in a folder; ten or more have numbers of equal length, from 01 on.

    The function removes other numbered files, which an earlier run with more or fewer volumes left.
    """
    folder, digits = make_folder(folder), len(str(len(volumes)))
    paths = [folder / f"{stem}{i:0{digits}d}.mrc" for i in range(1, len(volumes) + 1)]
    for path, volume in zip(paths, volumes, strict=True):
        write_mrc(path, volume, voxel_A)
    numbered = re.compile(re.escape(stem) + r"\d+\.mrc")
    for path in set(folder.iterdir()) - set(paths):
        if numbered.fullmatch(path.name):
            path.unlink()


def read_volumes(folder: Path | str, stem: str) -> tuple[Float[Tensor, "k z y x"], float]:
    """Read the volumes that :func:`write_volumes` wrote, and their voxel size in Å.

    The numbers may have zeros in front. Raises :class:`HetacumnError` if there is no volume, or a number is missing.
    """
    numbered = re.compile(re.escape(stem) + r"(\d+)\.mrc")
    found = sorted((int(name[1]), path) for path in Path(folder).glob("*.mrc") if (name := numbered.fullmatch(path.name)))
    if not found or [number for number, _ in found] != list(range(1, len(found) + 1)):
        raise HetacumnError(f"{Path(folder) / stem}1.mrc: {len(found)} volumes; expected volumes numbered from 1 without gaps")
    volumes, sizes_A = zip(*(read_mrc(path) for _, path in found), strict=True)
    return torch.stack(volumes), sizes_A[0]


def write_morph(path: Path | str, volumes: Sequence[Path | str], level: float) -> None:
    """Write a ``.cxc`` script that opens volumes (paths relative to the script) at one contour level and plays a morph."""
    path, count = Path(path), len(volumes)
    lines = [
        "# Open with ChimeraX: a morph between the volumes along a path through the latent space.",
        *(f"open {volume}" for volume in volumes),
        f"volume #1-{count} level {level:.6g} color #0072B2",
        f"volume morph #1-{count} playStep 0.02 slider true",
        f"hide #1-{count} models",
        "view",
    ]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")

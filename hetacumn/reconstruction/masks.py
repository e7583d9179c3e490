"""Soft masks: of a molecule, of the voxels above a threshold, or of a sphere.

A mask is 1 in a region and near it, and falls to 0 over a soft edge with the shape of a cosine. Volumes are ``(z, y, x)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.common.settings import check_fields
from hetacumn.io.mrc import read_origin_A, write_mrc
from hetacumn.physics.fsc import shell_frequencies
from hetacumn.physics.volumes import radius_grid
from hetacumn.reconstruction.postprocessing import filter_shells
from hetacumn.search.reference import read_cube

MASK_RESOLUTION_A = 15.0  # the map is low-passed to this resolution before its mask is made
SOLVENT_DEVIATIONS = 4.0  # a voxel belongs to the molecule if it exceeds the solvent by this number of standard deviations
LEAST_DENSITY = 0.1  # a voxel of the molecule also exceeds this fraction of the largest density
LEAST_PART = 0.1  # connected parts smaller than this fraction of the largest part do not enter the mask
EXTENSION, EDGE = 0.03, 0.05  # extension and soft edge of the mask of a molecule, as fractions of the box

Region = Bool[np.ndarray, "z y x"]


@dataclass(frozen=True)
class MaskSettings:
    """The region of a mask, and its edge.

    - ``threshold``: the region contains the voxels of the map above this density; None for no threshold.
    - ``sphere``: the region contains the voxels in this sphere: x, y and z of its centre and its radius, in Å, in the
      coordinates of the map that ChimeraX shows; None for no sphere. With a threshold, the region is the intersection.
    - ``extension_A``: the mask is 1 up to this distance from the region, in Å.
    - ``edge_A``: width of the soft edge in Å; 0 for a sharp edge.
    """

    threshold: float | None = None
    sphere: tuple[float, float, float, float] | None = None
    extension_A: float = 0.0
    edge_A: float = 10.0

    def __post_init__(self) -> None:
        check_fields(
            self,
            sphere=(self.sphere is None or self.sphere[3] > 0, "x, y, z and a radius above 0 Å"),
            extension_A=(self.extension_A >= 0, "a distance of at least 0 Å"),
            edge_A=(self.edge_A >= 0, "a width of at least 0 Å"),
        )
        if self.threshold is None and self.sphere is None:
            raise HetacumnError("neither threshold nor sphere is given; expected at least one of them")


def soft_mask(region: Region, extension_px: float, edge_px: float) -> Float[Tensor, "z y x"]:
    """Return a mask that is 1 up to ``extension_px`` from a region, and 0 beyond a cosine edge of ``edge_px`` voxels."""
    distance = torch.from_numpy(ndimage.distance_transform_edt(~region)).float()
    ramp = ((distance - extension_px) / max(edge_px, 1e-6)).clamp(0, 1)
    return 0.5 + 0.5 * torch.cos(torch.pi * ramp)


def make_mask(volume: Float[Tensor, "box box box"], voxel_A: float) -> Float[Tensor, "box box box"]:
    """Make a soft mask, from 0 to 1, around the molecule in a map.

    A voxel belongs to the molecule if its low-passed density exceeds the level of the solvent and 10 % of the largest density.
    The solvent is the region outside the largest sphere in the box. If no voxel qualifies, the mask is this sphere.
    """
    box = volume.shape[-1]
    frequency = shell_frequencies(box, voxel_A).to(volume.device)
    smooth = filter_shells(volume, torch.exp(-0.5 * (frequency * MASK_RESOLUTION_A).square()))
    outside = radius_grid(box, volume.device) > box // 2
    solvent = smooth[outside]
    level = max(float(solvent.mean() + SOLVENT_DEVIATIONS * solvent.std()), LEAST_DENSITY * float(smooth.max()))
    inside = ((smooth > level) & ~outside).cpu().numpy()
    labels, parts = ndimage.label(inside)
    if parts == 0:
        inside = ~outside.cpu().numpy()
    else:
        sizes = np.bincount(labels.ravel())[1:]
        inside = np.isin(labels, 1 + np.flatnonzero(sizes >= LEAST_PART * sizes.max()))
    return soft_mask(inside, EXTENSION * box, EDGE * box).to(volume.device)


def mask_of_map(
    path: Path | str, settings: MaskSettings
) -> tuple[Float[Tensor, "box box box"], float, tuple[float, float, float]]:
    """Make a mask of a region of a map; return the mask, its voxel size in Å, and the position of its first voxel in Å.

    Raises:
        HetacumnError: the file is not an MRC cube or has no voxel size, or the region is empty.
    """
    (volume, voxel_A), origin_A = read_cube(path), read_origin_A(path)
    region = np.ones(volume.shape, dtype=bool)
    if settings.threshold is not None:
        region &= (volume > settings.threshold).numpy()
        if not region.any():
            raise HetacumnError(
                f"{path}: no voxel above {settings.threshold:g}; expected a threshold below the largest density, "
                f"{float(volume.max()):g}"
            )
    if settings.sphere is not None:
        region &= _in_sphere(len(volume), voxel_A, origin_A, settings.sphere)
        if not region.any():
            ends = [" ".join(f"{start + voxel_A * at:.4g}" for start in origin_A) for at in (0, len(volume) - 1)]
            raise HetacumnError(
                f"{path}: no voxel of the region in the sphere {' '.join(f'{x:g}' for x in settings.sphere)}; expected "
                f"a sphere around density; the map reaches from {ends[0]} to {ends[1]} Å (x y z)"
            )
    return soft_mask(region, settings.extension_A / voxel_A, settings.edge_A / voxel_A), voxel_A, origin_A


def write_mask(path: Path | str, settings: MaskSettings, out: Path | str) -> float:
    """Write the mask of a region of the map in ``path`` to ``out``, at the same position; return the volume inside it in Å³."""
    mask, voxel_A, origin_A = mask_of_map(path, settings)
    write_mrc(out, mask, voxel_A, origin_A)
    return float(mask.sum()) * voxel_A**3


def _in_sphere(box: int, voxel_A: float, origin_A: tuple[float, float, float], sphere: tuple[float, ...]) -> Region:
    """Return which voxels are in a sphere; ``origin_A`` is the position (x, y, z) of the first voxel."""
    x, y, z = (start + voxel_A * np.arange(box) - centre for start, centre in zip(origin_A, sphere, strict=False))
    return z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= sphere[3] ** 2

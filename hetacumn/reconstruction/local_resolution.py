"""Local resolution of a map: the FSC of its half maps in soft spherical windows (Cardone, Heymann & Steven 2013)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from hetacumn.physics.fsc import fsc, resolution_A
from hetacumn.physics.volumes import soft_sphere

WINDOW = 7.0  # diameter of a window in units of the resolution of the whole map
SMALLEST_WINDOW = 12  # voxels
STEPS = 4  # windows overlap: their centres are a fraction 1 / STEPS of a window apart
THRESHOLD = 0.5  # a window has few coefficients, and an FSC of 0.143 would be noise
AT_ONCE = 64  # windows whose FSC is computed at once


@torch.no_grad()
def local_resolution(
    first: Float[Tensor, "box box box"],
    second: Float[Tensor, "box box box"],
    mask: Float[Tensor, "box box box"],
    voxel_A: float,
    resolution: float,
) -> Float[Tensor, "box box box"]:
    """Compute the local resolution in Å at every voxel of a map from its half maps.

    The FSC of a window falls below 0.5 at its resolution. The function computes it on a grid of windows whose centres are
    inside the mask, and interpolates. Outside the mask the value is that of the nearest window.

    Args:
        first: the first half map.
        second: the second half map.
        mask: the soft mask of the map.
        voxel_A: voxel size in Å.
        resolution: resolution of the whole map in Å, which sets the size of the windows.
    """
    box = len(first)
    size = min(box, max(SMALLEST_WINDOW, 2 * round(WINDOW * resolution / voxel_A / 2)))
    axis = np.arange(0, box, max(1, size // STEPS))
    centres = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    inside = mask.cpu().numpy()[tuple(centres.reshape(-1, 3).T)].reshape(centres.shape[:3]) > 0.5
    if not inside.any():
        return torch.full_like(first, resolution)
    padded = [torch.nn.functional.pad(half, (size // 2, size - size // 2) * 3) for half in (first, second)]
    window, values = soft_sphere(size, edge=size / 6, device=first.device), np.zeros(centres.shape[:3])
    chosen, found = centres[inside], []
    for start in range(0, len(chosen), AT_ONCE):
        corners = chosen[start : start + AT_ONCE].tolist()
        cubes = [torch.stack([half[z : z + size, y : y + size, x : x + size] for z, y, x in corners]) for half in padded]
        curves = fsc(cubes[0] * window, cubes[1] * window)
        found += [resolution_A(curve, voxel_A, THRESHOLD) for curve in curves]
    values[inside] = found
    nearest = distance_transform_edt(~inside, return_distances=False, return_indices=True)
    filled = values[tuple(nearest)]
    grid = RegularGridInterpolator((axis, axis, axis), filled, bounds_error=False, fill_value=None)
    line = np.arange(box).clip(0, axis[-1])
    points = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1)
    return torch.from_numpy(grid(points.reshape(-1, 3)).reshape(box, box, box)).to(first)

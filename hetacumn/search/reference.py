"""A reference map for pose searches: reading, resampling to the training box, low-pass filter, and scale of the images.

The images do not determine the hand: the projections of a map and of its mirror image are equal at mirrored poses. A start from
a reference therefore keeps the hand of the reference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.io.mrc import read_mrc
from hetacumn.particles.observations import Observations, signal_power
from hetacumn.physics.fourier import crop_volumes, resize_volumes
from hetacumn.physics.rotations import random_rotations
from hetacumn.physics.slices import Slicer
from hetacumn.physics.volumes import low_passed, radius_grid, recentred, soft_sphere
from hetacumn.search.grid import PoseGrid, search_grid

VIEWS = 200  # random slices from which the power of a map is estimated
FAR_OFF = 0.05  # a map is centred if its centre of mass is farther from the origin than this fraction of the box


@dataclass(frozen=True)
class Reference:
    """A reference map at the box and the pixel size of the images.

    - ``volume``: the map, in any scale.
    - ``radius``: radius of the low-pass filter for the map, in integer frequencies.
    - ``name``: name of the map in messages.
    """

    volume: Float[Tensor, "box box box"]
    radius: float
    name: str

    @classmethod
    def read(cls, path: str, lowpass_A: float, box: int, pixel_A: float) -> Reference:
        """Read a map from an MRC file, see :func:`read_map`; ``lowpass_A`` is the resolution in Å of its low-pass filter."""
        return cls(read_map(path, box, pixel_A), box * pixel_A / lowpass_A, path)

    def resized(self, box: int) -> Reference:
        """Return the reference for images of ``box`` pixels over the same field of view."""
        return self if box == len(self.volume) else replace(self, volume=resize_volumes(self.volume, box))


def read_map(path: Path | str, box: int, pixel_A: float) -> Float[Tensor, "{box} {box} {box}"]:
    """Read a map from an MRC file and resample it to ``box`` voxels of ``pixel_A`` Å per side, about the middle of the map.

    The result is 0 outside the map.

    Raises:
        HetacumnError: see :func:`read_cube`.
    """
    return resampled(*read_cube(path), box, pixel_A)


def read_cube(path: Path | str) -> tuple[Float[Tensor, "size size size"], float]:
    """Read a map and its voxel size in Å.

    Raises:
        HetacumnError: the file is not an MRC volume, not a cube, has no voxel size, or has a voxel that is not finite.
    """
    volume, voxel_A = read_mrc(path)
    if volume.ndim != 3 or len(set(volume.shape)) != 1:
        raise HetacumnError(f"{path}: {tuple(volume.shape)} voxels; expected a cube")
    if not voxel_A > 0:
        raise HetacumnError(f"{path}: voxel size {voxel_A:g} Å; expected a voxel size above 0 in the header")
    if bad := int((~volume.isfinite()).sum()):
        raise HetacumnError(f"{path}: {bad} voxels are NaN or infinite; expected finite densities")
    return volume, voxel_A


def resampled(
    volume: Float[Tensor, "size size size"], voxel_A: float, box: int, pixel_A: float
) -> Float[Tensor, "{box} {box} {box}"]:
    """Resample a volume by trilinear interpolation, after Fourier cropping if its voxels are finer than half the new size."""
    size = len(volume)
    finer = 2 * round(size * voxel_A / pixel_A)
    if 0 < finer < size:
        volume, voxel_A, size = crop_volumes(volume, finer), voxel_A * size / finer, finer
    index = (torch.arange(box) - box // 2) * (pixel_A / voxel_A) + size // 2
    axis = 2 * index / (size - 1) - 1
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = torch.stack([x, y, z], dim=-1)
    return torch.nn.functional.grid_sample(
        volume[None, None], points[None], mode="bilinear", padding_mode="zeros", align_corners=True
    )[0, 0]


def prepare_reference(volume: Float[Tensor, "box box box"], radius: float, data: Observations) -> Float[Tensor, "box box box"]:
    """Prepare a map as the reference of a pose search: subtract the background, centre and low-pass the map, and scale it.

    The background is the mean outside the largest sphere in the box. The function centres the map only if its centre of mass is
    far from the origin. The scale is such that the slices of the map have the power of the signal in the images, within
    ``radius`` (integer frequencies).
    """
    box = volume.shape[-1]
    volume = volume.to(data.y.device)
    outside = radius_grid(box, volume.device) > box // 2
    volume = (volume - volume[outside].mean()) * soft_sphere(box, device=volume.device)
    if offset_px(volume) > FAR_OFF * box:
        volume = recentred(volume) * soft_sphere(box, device=volume.device)
    volume = low_passed(volume, radius)
    band = data.within(radius)
    rotations = random_rotations(VIEWS, torch.Generator().manual_seed(0)).to(volume.device)
    power = Slicer(volume[None])(rotations, band.k)[:, 0].abs().square().mean(0)
    shown = signal_power(data)[: len(power)]
    inside = band.weight * (band.k.norm(dim=1) > 0)  # the mean of an image depends on its estimated background
    return volume * ((shown * inside).sum() / (power * inside).sum().clamp(min=1e-12)).sqrt()


def offset_px(volume: Float[Tensor, "box box box"]) -> float:
    """Return the distance of the centre of mass from the origin, in voxels; see :func:`~hetacumn.physics.volumes.recentred`."""
    box = volume.shape[-1]
    axis = torch.arange(box, device=volume.device) - box // 2
    mass = volume.clamp(min=0).square()
    centre = torch.stack([(mass.sum(others) * axis).sum() for others in ((0, 1), (0, 2), (1, 2))]) / mass.sum().clamp(min=1e-12)
    return float(centre.norm())


def explained_share(
    data: Observations,
    reference: Float[Tensor, "box box box"],
    consensus: Float[Tensor, "box box box"],
    radius: float,
    grid: PoseGrid,
) -> float:
    """Return the mean evidence of images under a reference, divided by the mean evidence under the consensus volume.

    The evidence is the log of the mean likelihood over all poses of a ``grid`` of rotations and shifts, minus the
    log-likelihood without a molecule, within ``radius`` (integer frequencies). The result is near 1 for a right reference. It
    is 1 if the consensus volume has no positive evidence.
    """
    band = data.within(radius)

    def evidence(volume: Float[Tensor, "box box box"]) -> float:
        return float(search_grid(band, low_passed(volume, radius)[None], *grid).log_evidence.mean())

    of_consensus = evidence(consensus)
    return evidence(reference) / of_consensus if of_consensus > 0 else 1.0

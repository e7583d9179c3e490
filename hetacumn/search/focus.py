"""Focus: conformations inside a mask, with the variation outside the mask integrated out.

The components of a focused subspace are of two kinds:

    V(z, u) = V_0 + Σ_j z_j m V_j + Σ_k u_k (1 - m) U_k,   z ~ N(0, I), u ~ N(0, I),

where ``m`` is a soft mask from 0 to 1. The components inside the mask describe the conformation z. The components outside the
mask describe all other variation. A fit determines both kinds together. A motion outside the mask is therefore no unexplained
signal where its projection overlaps with the mask. The posterior of z and u is normal. The first coordinates of its mean are
therefore the posterior mean of z with u integrated out. Classes, maps and tables contain z alone. The mean volume has no mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.io.mrc import read_mrc, write_mrc
from hetacumn.physics.volumes import soft_sphere
from hetacumn.search.initial import InitialSettings
from hetacumn.search.reference import read_cube, resampled
from hetacumn.search.subspace import LatentPosterior

MASK = "mask.mrc"  # the mask at the training box, in the folder of a run
SAME_FIELD = 0.01  # largest relative difference between two fields of view that count as equal
LEAST_INSIDE = 8  # smallest number of voxels of a mask above 0.5, at the box at which it is used
ROUNDING = 1e-3  # values of a mask may exceed 0 and 1 by this number


@dataclass(frozen=True)
class Focus:
    """The region in which the conformation varies.

    - ``mask``: a soft mask at the box of the volumes, from 0 to 1; None for the whole volume.
    - ``outside``: number of components outside the mask, which follow the components inside.
    """

    mask: Float[Tensor, "box box box"] | None = None
    outside: int = 0

    @classmethod
    def of_run(cls, out: Path | str) -> Focus:
        """Read the focus of the model in the folder ``out``; its ``config.json``, if present, tells whether it has a mask."""
        initial = InitialSettings.of_run(out) if (Path(out) / "config.json").is_file() else InitialSettings()
        return cls(read_mrc(Path(out) / MASK)[0], initial.outside_components) if initial.mask else cls()

    def write(self, out: Path, voxel_A: float) -> None:
        """Write the mask, if there is one, into the folder of a run."""
        if self.mask is not None:
            write_mrc(out / MASK, self.mask, voxel_A)

    def support(
        self, volumes: int, box: int, device: torch.device | str = "cpu"
    ) -> Float[Tensor, "{volumes} {box} {box} {box}"]:
        """Return the factor of each volume of a basis: the soft sphere, times the mask or its complement for components."""
        sphere = soft_sphere(box, device=device)
        if self.mask is None:
            return sphere.expand(volumes, -1, -1, -1)
        inside = self.mask.to(device)
        factors = [torch.ones_like(inside), *[inside] * (volumes - 1 - self.outside), *[1 - inside] * self.outside]
        return sphere * torch.stack(factors)

    def inside(self, latents: Float[Tensor, "n all"]) -> Float[Tensor, "n q"]:
        """Return the coordinates z of latents that also contain the coordinates outside the mask."""
        return latents[:, : latents.shape[1] - self.outside]

    def padded(self, z: Float[Tensor, "n q"]) -> Float[Tensor, "n all"]:
        """Return latents with the coordinates z, and 0 for the components outside the mask."""
        return torch.nn.functional.pad(z, (0, self.outside))

    def marginal(self, posterior: LatentPosterior) -> LatentPosterior:
        """Return the posterior of z, with the coordinates outside the mask integrated out."""
        q = posterior.mean.shape[1] - self.outside
        own, cross, other = posterior.precision[:, :q, :q], posterior.precision[:, :q, q:], posterior.precision[:, q:, q:]
        precision = own - cross @ torch.linalg.solve(other, cross.mT)
        return LatentPosterior(posterior.mean[:, :q], precision, posterior.log_evidence)


WHOLE = Focus()  # no mask


def check_mask(path: Path | str, field_A: float | None = None) -> tuple[Float[Tensor, "size size size"], float]:
    """Read a mask and its voxel size in Å; ``field_A`` is its expected field of view in Å, None for any.

    Raises:
        HetacumnError: the file is not an MRC cube, has no voxel size, has another field of view or values outside 0 to 1, or is
            empty.
    """
    mask, voxel_A = read_cube(path)
    low, high, inside = float(mask.min()), float(mask.max()), int((mask > 0.5).sum())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise HetacumnError(f"{path}: values from {low:g} to {high:g}; expected a mask from 0 to 1, as hetacumn mask writes it")
    if not inside:
        raise HetacumnError(f"{path}: no voxel above 0.5; expected a mask around a part of the molecule")
    if field_A is not None and abs(len(mask) * voxel_A / field_A - 1) > SAME_FIELD:
        raise HetacumnError(
            f"{path}: {len(mask)} voxels of {voxel_A:.4g} Å, a field of view of {len(mask) * voxel_A:.4g} Å; expected "
            f"{field_A:.4g} Å, the field of view of the particle images"
        )
    return mask, voxel_A


def read_mask(path: Path | str, box: int, pixel_A: float) -> Float[Tensor, "{box} {box} {box}"]:
    """Read a mask of any box and voxel size, and resample it to ``box`` voxels of ``pixel_A`` Å over the same field of view.

    Raises:
        HetacumnError: see :func:`check_mask`; or the mask is empty after resampling.
    """
    mask, voxel_A = check_mask(path, box * pixel_A)
    found = mask if len(mask) == box else resampled(mask, voxel_A, box, pixel_A)
    found = found.clamp(0, 1)
    if (inside := int((found > 0.5).sum())) < LEAST_INSIDE:
        raise HetacumnError(
            f"{path}: {inside} voxels above 0.5 at {box} voxels per side; expected at least {LEAST_INSIDE}: a larger mask, or "
            "a larger box"
        )
    return found

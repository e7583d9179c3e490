"""A finished run, read back from its folder: what was predicted of which particles, and the volumes of any selection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hetacumn import star
from hetacumn.backprojection import back_project_parts
from hetacumn.errors import HetacumnError
from hetacumn.landscape import LatentAxes, latent_axes
from hetacumn.mrc import read_volumes, write_mrc
from hetacumn.observations import Observations, observe
from hetacumn.particles import Poses
from hetacumn.predictions import Predictions
from hetacumn.prepared import Prepared, reopen
from hetacumn.run_folder import read_run
from hetacumn.subspace import volumes_at
from hetacumn.volumes import soft_sphere

MOTIONS = 2
READ_AT_ONCE = 1000  # images of a reconstruction


def _prepared_of(folder: Path) -> Path:
    """Where a run says its prepared images are, from the working directory or from a folder that the run is in; or its own."""
    said = read_run(folder).get("prepared", "prepared")
    places = [Path(said), *(above / said for above in folder.resolve().parents), folder / "prepared"]
    return next((place for place in places if (place / "prepared.json").is_file()), Path(said))


@dataclass(frozen=True)
class Finished:
    """A finished run: what was predicted of the particles of ``stack``; ``basis`` ``(1 + q, box, box, box)`` of V(z)."""

    folder: Path
    stack: Prepared
    found: Predictions
    basis: Tensor
    voxel_A: float
    motions: LatentAxes

    @classmethod
    def open(cls, folder: Path | str, prepared: Path | str = "") -> Finished:
        """The run of a folder that `3_predict` wrote; ``prepared`` where its images are, if not where the run says.

        Raises:
            HetacumnError: a file missing, or images that are not those of the predictions.
        """
        folder = Path(folder)
        stack = reopen(prepared or _prepared_of(folder))
        found = Predictions.read(folder)
        if found.names != stack.names:
            raise HetacumnError(f"{stack.folder}: not the particles of {folder / 'predictions.star'}; expected the images that "
                                "these predictions are of")
        basis, voxel_A = read_volumes(folder / "volumes", "basis_")
        return cls(folder, stack, found, basis, voxel_A, latent_axes(found.latents, MOTIONS, basis))

    def volume(self, z: Tensor) -> Tensor:
        """V(z) ``(box, box, box)`` of one latent ``(q,)``."""
        return volumes_at(z[None], self.basis)[0]

    def places(self, axes: str) -> np.ndarray:
        """Where the particles lie ``(n, 2)``: by principal axes, independent motions, or UMAP (McInnes et al. 2018)."""
        z = self.found.latents
        if axes == "independent motions":
            two = self.motions.coordinates
        elif axes == "UMAP":
            from umap import UMAP

            two = torch.from_numpy(UMAP(random_state=0).fit_transform(z.numpy()))
        else:
            centred = z - z.mean(0)
            two = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
        return torch.nn.functional.pad(two, (0, 2 - min(2, two.shape[1])))[:, :2].numpy()

    def posed(self, rows: np.ndarray) -> tuple[Observations, Poses]:
        """Some particles as the likelihood sees them, and their predicted poses."""
        index = torch.from_numpy(rows)
        shifts_px = self.stack.shifts_in_prepared_A(self.found.shifts_A)[index] / self.stack.pixel_A
        return observe(self.stack.read(rows)), Poses(self.found.rotations[index], shifts_px)

    def reconstruct(self, rows: np.ndarray) -> Tensor:
        """The volume of some particles, by weighted back-projection at their poses."""
        parts = (self.posed(rows[start : start + READ_AT_ONCE]) for start in range(0, len(rows), READ_AT_ONCE))
        volume = back_project_parts(parts)
        return volume * soft_sphere(volume.shape[-1])

    def half_maps(self, rows: np.ndarray, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Volumes of two random halves of some particles.

        The poses come from one model of the whole stack: the FSC of these maps tells how well the images agree at these poses,
        and not, as that of independent refinements would, whether the poses themselves fit noise.
        """
        order = np.random.default_rng(seed).permutation(len(rows))
        first, second = (self.reconstruct(rows[np.sort(half)]) for half in np.array_split(order, 2))
        return first, second

    def export(self, rows: np.ndarray, stem: Path | str) -> tuple[Path, Path]:
        """Write ``<stem>.star``, the predictions of some particles for RELION and others, and their volume ``<stem>.mrc``."""
        table, paths = star.read_table(self.folder / "predictions.star"), [Path(f"{stem}.{kind}") for kind in ("star", "mrc")]
        star.write_table(paths[0], table.particles.iloc[rows].reset_index(drop=True), table.optics)
        write_mrc(paths[1], self.reconstruct(rows), self.voxel_A)
        return paths[0], paths[1]

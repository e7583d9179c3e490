"""The result of a prediction: the predictions, their stack, and reconstructions of any selection of particles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path
from hetacumn.common.run_files import read_run
from hetacumn.common.settings import read_settings
from hetacumn.compute.batches import batch_slices
from hetacumn.compute.devices import pick_device
from hetacumn.io import star
from hetacumn.io.cryosparc import load_rows, write_rows
from hetacumn.io.mrc import read_volumes, write_mrc
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations, observe
from hetacumn.particles.predictions import CRYOSPARC, Predictions
from hetacumn.particles.prepared_stack import PreparedStack, reopen
from hetacumn.particles.run_paths import find_prepared
from hetacumn.physics.symmetry import symmetry_rotations
from hetacumn.physics.volumes import soft_sphere
from hetacumn.prediction.landscape import LatentAxes, density_path, latent_axes
from hetacumn.prediction.trust import TRUST, ClassTrust
from hetacumn.reconstruction.back_projection import back_project_parts
from hetacumn.reconstruction.maps import MAPS, TABLE, Reconstruction
from hetacumn.reconstruction.motion_maps import LatentPath, PathMaps, reconstruct_path
from hetacumn.reconstruction.reconstruct import SELECTION, Execution, ReconstructionSettings, choose_groups, reconstruct_groups
from hetacumn.search.subspace import volumes_at

MOTIONS = 2
READ_AT_ONCE = 1000  # images in memory at a time during a reconstruction
RATE = "predict_particles_per_second"  # key in run.json


@dataclass(frozen=True)
class Answer:
    """The predictions for the particles of ``stack``, with their volumes; ``folder`` holds the files.

    - ``class_volumes``: one volume per class.
    - ``path_volumes``: volumes along the first principal axis of the latent space.
    - ``basis``: the mean volume and the components of V(z).
    - ``voxel_A``: voxel size of all volumes in Å.
    - ``particles_per_second``: rate of inference; NaN if ``run.json`` does not contain the rate.
    - ``trust``: reliability of each class; empty if ``run.json`` of an earlier version does not contain it.
    """

    folder: Path
    stack: PreparedStack
    predictions: Predictions
    class_volumes: Float[Tensor, "k box box box"]
    path_volumes: Float[Tensor, "p box box box"]
    basis: Float[Tensor, "j box box box"]
    voxel_A: float
    particles_per_second: float
    trust: tuple[ClassTrust, ...] = ()

    @classmethod
    def open(cls, folder: Path | str, prepared: Path | str = "") -> Answer:
        """Read the predictions in a folder.

        ``prepared`` is the folder of the prepared images; if it is empty, the function uses the folder named in ``run.json``.

        Raises:
            HetacumnError: a file is missing, or the prepared images are not those of the predicted particles.
        """
        folder = Path(folder)
        if not (folder / "predictions.star").is_file():
            raise HetacumnError(f"{folder}: no predictions.star; expected a folder that hetacumn predict has written")
        stack = reopen(prepared or find_prepared(folder))
        predictions = Predictions.read(folder)
        if predictions.names != stack.metadata.names:
            raise HetacumnError(
                f"{stack.folder}: holds other particles than {folder / 'predictions.star'}; expected the predicted particles"
            )
        class_volumes, path_volumes = (read_volumes(folder / "volumes", stem)[0] for stem in ("class_", "path_"))
        basis, voxel_A = read_volumes(folder / "volumes", "basis_")
        run = read_run(folder)
        rate, trust = run.get(RATE, float("nan")), tuple(ClassTrust(**facts) for facts in run.get(TRUST, []))
        return cls(folder, stack, predictions, class_volumes, path_volumes, basis, voxel_A, rate, trust)

    @cached_property
    def motions(self) -> LatentAxes:
        """The independent motions of the particles, computed at the first access."""
        return latent_axes(self.predictions.latents, MOTIONS, self.basis)

    def path(self, motion: int, points: int) -> Float[Tensor, "points q"]:
        """Return equally spaced latents on the straight path along an independent motion, counted from 1.

        Raises:
            HetacumnError: there is no such motion.
        """
        _check_points(points)
        return self._axes_with(motion).path(motion - 1, points)

    def ends(self, motion: int) -> Float[Tensor, "2 q"]:
        """Return the ends of an independent motion, counted from 1.

        The ends are the median latents of the tenth of the particles with the lowest coordinates along the motion, and of the
        tenth with the highest coordinates.

        Raises:
            HetacumnError: there is no such motion.
        """
        order = self._axes_with(motion).coordinates[:, motion - 1].argsort()
        count = max(1, len(order) // 10)
        return torch.stack([self.predictions.latents[some].median(0).values for some in (order[:count], order[-count:])])

    def density_path(self, ends: Float[Tensor, "2 q"], points: int) -> Float[Tensor, "points q"]:
        """Return latents along a path between two ends that follows the density of the particles.

        See :func:`~hetacumn.prediction.landscape.density_path`; :meth:`ends` returns the ends of a motion.
        """
        _check_points(points)
        return density_path(self.predictions.latents, ends, points, self.basis[1:])

    def _axes_with(self, motion: int) -> LatentAxes:
        """Return independent motions, including the motion with the number ``motion``."""
        if not self.predictions.latents.shape[1]:
            raise HetacumnError(f"{self.folder}: no latents; expected predictions with a latent space")
        axes = self.motions if motion <= MOTIONS else latent_axes(self.predictions.latents, motion, self.basis)
        found = axes.coordinates.shape[1]
        if not 1 <= motion <= found:
            raise HetacumnError(f"motion {motion}: no such motion; expected 1 to {found}")
        return axes

    def refined_predictions(self) -> Predictions:
        """Return the predictions with the poses and half sets in the folder ``maps``.

        The method returns the predictions unchanged if this folder has no reconstruction, or one of other predictions.
        """
        own, folder = self.predictions, self.folder / MAPS
        if not (folder / TABLE).is_file():
            return own
        refined = Predictions.read(folder)
        same = refined.names == own.names and refined.classes.equal(own.classes) and refined.latents.equal(own.latents)
        return refined if same else own

    def volume(self, z: Float[Tensor, " q"]) -> Float[Tensor, "box box box"]:
        """Compute the volume V(z) at one latent z."""
        return volumes_at(z[None], self.basis)[0]

    def coordinates(self, axes: str, z: Float[Tensor, "m q"] | None = None) -> Float[np.ndarray, "m 2"]:
        """Compute two coordinates of each particle, or of each latent in ``z``, for a plot of the latent space.

        ``axes`` is ``"independent motions"``, ``"UMAP"`` (McInnes et al. 2018), or any other text for the principal axes. For
        UMAP, a latent in ``z`` has the coordinates of the nearest particle. If the latent space has one dimension, the
        second coordinate is 0.
        """
        own = self.predictions.latents
        asked = own if z is None else z
        if axes == "independent motions":
            two = self.motions.place(asked)
        elif axes == "UMAP":
            two = self._umap if z is None else self._umap[torch.cdist(z, own).argmin(1)]
        else:
            centre = own.mean(0)
            two = (asked - centre) @ torch.linalg.svd(own - centre, full_matrices=False).Vh[:2].T
        return torch.nn.functional.pad(two, (0, 2 - min(2, two.shape[1])))[:, :2].numpy()

    @cached_property
    def _umap(self) -> Float[Tensor, "n 2"]:
        from umap import UMAP

        return torch.from_numpy(UMAP(random_state=0).fit_transform(self.predictions.latents.numpy()))

    def posed(self, rows: Int[np.ndarray, " m"], device: torch.device | str = "cpu") -> tuple[Observations, Poses]:
        """Read particles as :class:`Observations` on a device, with their predicted poses.

        ``rows`` are positions among the predicted particles, from 0.

        Raises:
            HetacumnError: ``rows`` is empty, or a row is out of range.
        """
        index = torch.from_numpy(self._existing(rows))
        shifts_px = self.stack.metadata.shifts_in_prepared_A(self.predictions.shifts_A)[index] / self.stack.pixel_A
        return observe(self.stack.read(rows), device), Poses(self.predictions.rotations[index], shifts_px).to(device)

    def reconstruct(self, rows: np.ndarray | None = None) -> Tensor:
        """Reconstruct a volume ``(box, box, box)`` from particles by weighted back-projection at the predicted poses.

        ``rows`` ``(m,)`` are positions among the predicted particles, from 0; None selects all particles.
        """
        rows = np.arange(len(self.predictions)) if rows is None else self._existing(rows)
        parts = (self.posed(rows[some]) for some in batch_slices(len(rows), READ_AT_ONCE))
        volume = back_project_parts(parts)
        return volume * soft_sphere(volume.shape[-1])

    def maps(
        self,
        box: int | None = None,
        rows: Int[np.ndarray, " m"] | None = None,
        out: Path | str | None = None,
        device: str | None = None,
        progress: bool = True,
        **settings: Any,
    ) -> Reconstruction:
        """Reconstruct maps of the classes, or of one selection, from the raw images: half maps, FSC, filter, mask, sharpening.

        See :mod:`hetacumn.reconstruction.maps` for the files, and :mod:`hetacumn.reconstruction.class_maps` for the meaning of
        the FSC.

        Args:
            box: voxels per side of the maps, even; None for the box of the image files.
            rows: positions among the predicted particles, from 0; None for one map per class.
            out: folder for the files; None for ``maps``, or ``maps_selection``, in the folder of the predictions.
            device: cpu, cuda or cuda:N; None for CUDA if available, else the CPU.
            progress: whether to show a progress bar.
            settings: further fields of :class:`~hetacumn.reconstruction.reconstruct.ReconstructionSettings`: ``refine``,
                ``mask``, ``seed`` and ``local_resolution``.

        Raises:
            HetacumnError: ``rows`` is empty or out of range, a setting is unknown, the raw images are missing or have changed,
                the box is larger than that of the files, or the mask does not fit the maps.
        """
        groups = choose_groups(self.predictions) if rows is None else {SELECTION: self._existing(rows)}
        complete = read_settings(ReconstructionSettings, {"box": box, **settings}, "maps.")
        folder = self.folder / (MAPS if rows is None else f"{MAPS}_{SELECTION}") if out is None else Path(out)
        execution = Execution(pick_device(device), progress)
        return reconstruct_groups(self.stack, self.predictions, groups, folder, complete, execution)

    def path_maps(
        self,
        path: Float[Tensor, "p q"],
        out: Path | str,
        box: int | None = None,
        seed: int = 0,
        device: str | None = None,
        progress: bool = True,
    ) -> PathMaps:
        """Reconstruct maps at the latents of a path from the raw images, with poses and half sets from ``maps`` if they exist.

        :mod:`hetacumn.reconstruction.motion_maps` lists the files in the folder ``out``. ``seed`` is the seed of the half sets.
        :meth:`maps` explains the other arguments and the errors.
        """
        settings, execution = ReconstructionSettings(box, refine=False, seed=seed), Execution(pick_device(device), progress)
        points = LatentPath(path, self.basis)
        return reconstruct_path(self.stack, self.refined_predictions(), points, out, settings, execution)

    def half_maps(
        self, rows: Int[np.ndarray, " m"], seed: int = 0
    ) -> tuple[Float[Tensor, "box box box"], Float[Tensor, "box box box"]]:
        """Reconstruct one volume from each of two random halves of the particles in ``rows``.

        One model predicted the poses of both halves. The FSC of the half maps therefore measures how well the images agree at
        these poses. Unlike the FSC of independent refinements, it does not detect poses that are fitted to noise.
        """
        order = np.random.default_rng(seed).permutation(len(rows))
        first, second = (self.reconstruct(rows[np.sort(half)]) for half in np.array_split(order, 2))
        return first, second

    def export(self, rows: Int[np.ndarray, " m"], stem: Path | str, symmetry: str = "C1") -> list[Path]:
        """Write the predictions of the particles in ``rows`` and their reconstruction for other programs; return the files.

        - ``<stem>.star``: the predictions, for RELION 3.1. Names of stacks are relative to ``stack.stack_folder``. With a point
          group ``symmetry``, each particle has one row for each equivalent pose, as from relion_particle_symmetry_expand.
        - ``<stem>.mrc``: the reconstruction. ``<stem>_rows.txt``: the rows of ``predictions.star``, counted from 1.
        - ``<stem>.cs``: the predictions for cryoSPARC, if the source is a .cs file.

        Raises:
            HetacumnError: ``rows`` is empty, a row is out of range, or the export would overwrite a file of the predictions, of
                the prepared stack or of the source.
        """
        rows = self._existing(rows)
        own, aligned = self.folder / "predictions.star", self.folder / CRYOSPARC
        paths = [Path(f"{stem}{end}") for end in (".star", ".mrc", "_rows.txt", *([".cs"] if aligned.is_file() else []))]
        sources = {path.resolve() for path in (own, aligned, self.stack.star, self.stack.source)}
        for path in paths:
            if path.resolve() in sources:
                raise HetacumnError(f"{path}: would overwrite a particle table of these predictions; expected another name")
        table = star.read_table(own)
        star.write_table(paths[0], star.expanded(table.particles.iloc[rows], symmetry_rotations(symmetry)), table.optics)
        write_mrc(paths[1], self.reconstruct(rows), self.voxel_A)
        with atomic_path(paths[2]) as temporary:
            temporary.write_text("".join(f"{row + 1}\n" for row in rows.tolist()))
        if aligned.is_file():
            write_rows(paths[3], load_rows(aligned)[rows])
        return paths

    def _existing(self, rows: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
        rows, count = np.asarray(rows, dtype=np.int64), len(self.predictions)
        if not len(rows) or rows.min() < 0 or rows.max() >= count:
            wrong = rows[(rows < 0) | (rows >= count)].tolist()[:5]
            raise HetacumnError(f"rows are {wrong or 'empty'}; expected at least one row, each from 0 to {count - 1}")
        return rows


def _check_points(points: int) -> None:
    """Raise :class:`HetacumnError` if a path has fewer than two points."""
    if points < 2:
        raise HetacumnError(f"points is {points}; expected at least 2")

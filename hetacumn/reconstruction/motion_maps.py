"""Full-box maps along a path through the latent space, such as an independent motion; the files they are written to.

The folder contains ``volumes/point_01.mrc``, ``volumes/point_02.mrc``, … (filtered maps), ``points.csv`` with the latent, the
numbers of particles and the resolution of each point, and ``morph.cxc``, which opens the maps as a morph in ChimeraX. An
interrupted reconstruction continues with the first point that is not finished.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from hetacumn.common.files import write_json, write_table
from hetacumn.common.run_files import read_json
from hetacumn.common.settings import check_seed
from hetacumn.io.mrc import read_mrc, write_morph, write_mrc
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.prepared_stack import PreparedStack
from hetacumn.particles.source_images import SourceImages
from hetacumn.physics.fourier import crop_large_volumes
from hetacumn.reconstruction.kernel_maps import FEWEST, KernelRegression, nearest_particles
from hetacumn.reconstruction.maps import VOLUMES, OutputFolder, check_particles, digest_of, read_csv
from hetacumn.reconstruction.reconstruct import Execution, ReconstructionSettings, show

POINTS, MORPH = "points.csv", "morph.cxc"
FEW_FOR_MOTION = 8 * FEWEST  # with fewer particles, the maps of different points share most of their images
SAME_LATENT = 1e-3  # largest difference of two latents that count as equal
SURFACE_LEVEL = 0.25  # contour level of the morph, as a fraction of the largest density


@dataclass(frozen=True)
class LatentPath:
    """Points of a latent space, and the volumes that define the distance of latents.

    - ``points``: latents of the points.
    - ``basis``: mean volume and components of V(z).
    """

    points: Float[Tensor, "p q"]
    basis: Float[Tensor, "channels small small small"]


@dataclass(frozen=True)
class PathMaps:
    """Finished maps at the points of a path, in ``folder``.

    - ``table``: one row per point, with the columns point, particles_low and particles_high (numbers of particles at low and at
      high frequency), resolution_A, and the latent z1, z2, ….
    """

    folder: Path
    table: pd.DataFrame

    @classmethod
    def open(cls, folder: Path | str) -> PathMaps:
        """Read the table of finished maps. Raises :class:`HetacumnError` if there is none."""
        return cls(Path(folder), read_csv(Path(folder) / POINTS, "the points of a path"))

    @classmethod
    def find(cls, folder: Path | str, path: Callable[[int], Float[Tensor, "p q"]]) -> PathMaps | None:
        """Return the finished maps in a folder if they are those of a path; None if they are not, or if there are none.

        ``path`` returns the latents of the path for a number of points.
        """
        if not (Path(folder) / POINTS).is_file():
            return None
        found = cls.open(folder)
        return found if found._are_at(path(len(found.table))) else None

    @property
    def morph(self) -> Path:
        """The ChimeraX script that plays the maps as a morph."""
        return self.folder / MORPH

    def read(self, most: int | None = None) -> tuple[Float[Tensor, "p box box box"], float]:
        """Read the filtered maps and their voxel size in Å, Fourier-cropped to at most ``most`` voxels per side.

        Raises:
            HetacumnError: a map is missing.
        """
        names, maps = self.table["point"].tolist(), []
        for name in names:
            volume, voxel_A = read_mrc(self.folder / VOLUMES / f"{name}.mrc")
            maps.append(crop_large_volumes(volume, most or len(volume)))
        return torch.stack(maps), voxel_A * len(volume) / len(maps[0])

    def _are_at(self, points: Float[Tensor, "_p _q"]) -> bool:
        own = torch.from_numpy(self.table.filter(regex=r"^z\d+$").to_numpy()).float()
        return own.shape == points.shape and own.allclose(points, rtol=SAME_LATENT, atol=SAME_LATENT)


def reconstruct_path(
    stack: PreparedStack,
    predictions: Predictions,
    path: LatentPath,
    out: Path | str,
    settings: ReconstructionSettings,
    execution: Execution = Execution(),  # noqa: B008  # frozen
) -> PathMaps:
    """Reconstruct the maps at the points of a path by kernel regression, and write them to ``out``.

    Args:
        stack: the prepared stack; its source must still exist.
        predictions: predictions for all particles of the stack. Their half sets are used; particles without a half set are
            split at random.
        path: latents of the points, and the basis of V(z).
        out: folder for the files.
        settings: box and seed. The function does not refine poses and makes a mask for each map.
        execution: device, and whether to show a progress bar.

    Raises:
        HetacumnError: the predictions are not those of the stack, the images are missing or have changed, the box is larger
            than that of the files, or ``out`` holds other results.
    """
    device, images = torch.device(execution.device), SourceImages(stack, settings.box)
    check_seed(settings.seed)
    check_particles(images, predictions)
    if len(images) < FEW_FOR_MOTION:
        message = f"{len(images)} particles; maps along a motion need at least {FEW_FOR_MOTION} to differ"
        warnings.warn(message, stacklevel=2)
    if predictions.half_sets is not None:
        images.half_sets = predictions.half_sets.numpy()
    names = [f"point_{i + 1:02d}" for i in range(len(path.points))]
    digest = digest_of(images.identity(), settings.seed, path.points, path.basis, images.half_sets, *(
        getattr(predictions, name) for name in ("rotations", "shifts_A", "latents")
    ))  # fmt: skip
    images.check(np.arange(1))
    folder = OutputFolder(Path(out), "motion", [*(f"{VOLUMES}/{name}.mrc" for name in names), MORPH, POINTS])
    finished = folder.begin(digest)
    poses = images.poses(predictions.rotations, predictions.shifts_A)
    with tqdm(desc="maps along the path", unit=" images", disable=not execution.progress or finished, mininterval=1) as bar:
        regression = KernelRegression(images, poses, settings.seed, device, partial(show, bar))
        for name, z in zip(names, path.points, strict=True):
            note, map_file = folder.part(f"{name}.json"), folder.path / VOLUMES / f"{name}.mrc"
            if finished or (note.is_file() and map_file.is_file()):
                continue
            found = regression.map_of(nearest_particles(predictions.latents, z, path.basis[1:]))
            write_mrc(map_file, found.maps.filtered, images.pixel_A)
            write_json(note, {
                "point": name, "particles_low": int(found.particles[1]), "particles_high": int(found.particles[-1]),
                "resolution_A": found.maps.resolution_A, **{f"z{j + 1}": float(value) for j, value in enumerate(z)},
            })  # fmt: skip
    if not finished:
        highest = max(float(read_mrc(folder.path / VOLUMES / f"{name}.mrc")[0].max()) for name in names)
        write_morph(folder.path / MORPH, [f"{VOLUMES}/{name}.mrc" for name in names], SURFACE_LEVEL * highest)
        rows = [read_json(folder.part(f"{name}.json"), "a point of a path") for name in names]
        write_table(folder.path / POINTS, pd.DataFrame(rows))  # written last: it marks the path as finished
        folder.end()
    return PathMaps.open(folder.path)

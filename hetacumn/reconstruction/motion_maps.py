"""Full-box maps along a path through the latent space, such as an independent motion; the files they are written to.

The folder contains ``volumes/point_01.mrc``, ``volumes/point_02.mrc``, … (filtered maps), ``points.csv`` with the latent, the
numbers of particles and the resolution of each point, and ``morph.cxc``, which opens the maps as a morph in ChimeraX. An
interrupted reconstruction continues with the first point that is not finished.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from hetacumn.common.files import make_folder, write_json, write_table
from hetacumn.common.run_files import read_json
from hetacumn.io.chimerax import write_morph
from hetacumn.io.mrc import read_mrc, write_mrc
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.prepared_stack import PreparedStack
from hetacumn.particles.source_images import SourceImages
from hetacumn.reconstruction.kernel_maps import KernelRegression
from hetacumn.reconstruction.maps import VOLUMES
from hetacumn.reconstruction.reconstruct import UNDER_WAY, ReconstructionSettings, begin, identity_of, show

POINTS = "points.csv"
SURFACE_LEVEL = 0.25  # contour level of the morph, as a fraction of the largest density


def reconstruct_path(
    stack: PreparedStack,
    predictions: Predictions,
    basis: Float[Tensor, "channels small small small"],
    path: Float[Tensor, "p q"],
    out: Path | str,
    settings: ReconstructionSettings,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> tuple[Float[Tensor, "p box box box"], pd.DataFrame]:
    """Reconstruct the maps at the points of a path by kernel regression, and write them to ``out``.

    Args:
        stack: the prepared stack; its source must still exist.
        predictions: predictions for all particles of the stack; their half sets are used if every particle has one.
        basis: mean volume and components of V(z), which define the distance of latents.
        path: latents of the points.
        out: folder for the files.
        settings: box and seed. The function does not refine poses and makes a mask for each map.
        device: device of the computation.
        progress: whether to show a progress bar.

    Returns:
        The filtered maps, and the table of the points: point, particles_low and particles_high (numbers of particles at low
        and at high frequency), resolution_A, and the latent z1, z2, ….

    Raises:
        HetacumnError: the images are missing or have changed, or the box is larger than that of the files.
    """
    out, device = make_folder(out), torch.device(device)
    images = SourceImages(stack, settings.box)
    if predictions.half_sets is not None and set(predictions.half_sets.tolist()) == {1, 2}:
        images.half_sets = predictions.half_sets.numpy()
    names = [f"point_{i + 1:02d}" for i in range(len(path))]
    finished = begin(out, identity_of(stack, predictions, path.tolist(), settings), out / POINTS)
    poses = images.poses(predictions.rotations, predictions.shifts_A)
    with tqdm(desc="maps along the path", unit=" images", disable=not progress or finished, mininterval=1) as bar:
        regression = KernelRegression(images, poses, predictions.latents, basis[1:], settings.seed, device, partial(show, bar))
        for name, z in zip(names, path, strict=True):
            note = out / UNDER_WAY / f"{name}.json"
            if finished or note.is_file():
                continue
            found = regression.at(z)
            write_mrc(out / VOLUMES / f"{name}.mrc", found.maps.filtered, images.pixel_A)
            write_json(note, {
                "point": name, "particles_low": int(found.particles[1]), "particles_high": int(found.particles[-1]),
                "resolution_A": found.maps.resolution_A, **{f"z{j + 1}": float(value) for j, value in enumerate(z)},
            })  # fmt: skip
    maps = torch.stack([read_mrc(out / VOLUMES / f"{name}.mrc")[0] for name in names])
    if not finished:
        write_morph(out / "morph.cxc", [f"{VOLUMES}/{name}.mrc" for name in names], SURFACE_LEVEL * float(maps.max()))
        rows = [read_json(out / UNDER_WAY / f"{name}.json", "a point of a path") for name in names]
        write_table(out / POINTS, pd.DataFrame(rows))  # written last: it marks the path as finished
        shutil.rmtree(out / UNDER_WAY)
    return maps, pd.read_csv(out / POINTS)

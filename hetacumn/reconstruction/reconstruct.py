"""Reconstruction of predicted classes, or of a selection of particles, at the full box.

:mod:`hetacumn.reconstruction.maps` lists the files. An interrupted reconstruction continues with the first group that is not
finished.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path, write_json, write_table
from hetacumn.common.point_groups import group_name
from hetacumn.common.run_files import read_json
from hetacumn.common.settings import check_seed
from hetacumn.io.mrc import write_mrc
from hetacumn.io.particle_table import read_row_numbers
from hetacumn.particles.metadata import Poses
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.prepared_stack import PreparedStack
from hetacumn.particles.source_images import SourceImages
from hetacumn.physics.fsc import shell_frequencies
from hetacumn.physics.rotations import distance_deg
from hetacumn.reconstruction.class_maps import ClassMap, ClassReconstruction, Rows, split_halves
from hetacumn.reconstruction.local_resolution import local_resolution
from hetacumn.reconstruction.maps import (
    MAPS,
    TABLE,
    VOLUMES,
    GroupResult,
    OutputFolder,
    Reconstruction,
    check_particles,
    digest_of,
)
from hetacumn.search.focus import read_mask

SELECTION = "selection"  # name of the group of selected particles
FEW_PARTICLES = 100  # a map of fewer particles is not reliable
LEAST_MASK = 1e-3  # smallest fraction of the voxels inside a mask


@dataclass(frozen=True)
class ReconstructionSettings:
    """Settings of a reconstruction.

    - ``box``: voxels per side of the maps, even; None for the box of the image files.
    - ``refine``: whether to refine the poses at this box.
    - ``mask``: MRC file of a soft mask, from 0 to 1, over the field of view of the images, of any box; empty to make one from
      each map.
    - ``seed``: seed of the split into halves, if the particle table has no rlnRandomSubset.
    - ``local_resolution``: whether to write maps of the local resolution, in Å.
    - ``symmetry``: point group that is imposed on maps and half maps (:mod:`hetacumn.physics.symmetry`).
    """

    box: int | None = None
    refine: bool = True
    mask: str = ""
    seed: int = 0
    local_resolution: bool = False
    symmetry: str = "C1"

    def __post_init__(self) -> None:
        object.__setattr__(self, "symmetry", group_name(self.symmetry))


@dataclass(frozen=True)
class Execution:
    """How a reconstruction runs: the ``device`` of the computation, and whether to show a ``progress`` bar."""

    device: torch.device | str = "cpu"
    progress: bool = True


def choose_groups(
    predictions: Predictions, number: int | None = None, rows: Path | str = ""
) -> dict[str, Int[np.ndarray, " m"]]:
    """Return the rows of each class by its name, ``class_1``, …; or of one class, or of one selection.

    Args:
        predictions: the predictions.
        number: only this class, counted from 1.
        rows: a text file of row numbers, counted from 1, whose particles form one group, ``selection``.

    Raises:
        HetacumnError: the class has no particles, or the file is not a text file of row numbers.
    """
    if rows:
        return {SELECTION: read_row_numbers(Path(rows), len(predictions))}
    numbers = (predictions.classes.unique() + 1).tolist() if number is None else [number]
    return {f"class_{one}": predictions.rows_of_class(one) for one in numbers}


def reconstruct_groups(
    stack: PreparedStack,
    predictions: Predictions,
    groups: Mapping[str, Int[np.ndarray, " m"]],
    out: Path | str,
    settings: ReconstructionSettings,
    execution: Execution = Execution(),  # noqa: B008  # frozen
) -> Reconstruction:
    """Reconstruct groups of particles from their raw images at the predicted poses; write the maps to ``out``.

    The function reads the images in chunks, with the preprocessing of ``stack`` except for the box. If ``out`` holds an
    unfinished reconstruction with equal settings, the function continues it; otherwise it replaces the files.

    Args:
        stack: the prepared stack; its source must still exist.
        predictions: predictions for all particles of the stack.
        groups: rows of each group, from 0; a row belongs to at most one group.
        out: folder for the files.
        settings: box, refinement, mask and seed.
        execution: device, and whether to show a progress bar.

    Raises:
        HetacumnError: the predictions are not those of the stack, the images are missing or have changed, the box is larger
            than that of the files, the mask has another box or voxel size, or ``out`` holds other results. A group of fewer
            than 100 particles causes a warning.
    """
    device, images = torch.device(execution.device), SourceImages(stack, settings.box)
    check_seed(settings.seed)
    check_particles(images, predictions)
    for group, rows in groups.items():
        if not len(rows):
            raise HetacumnError(f"{group}: no particles; expected at least one")
    mask = _read_mask(settings.mask, images.box, images.pixel_A) if settings.mask else None
    known = images.half_sets if predictions.half_sets is None else predictions.half_sets.numpy()
    digest = digest_of(images.identity(), settings, predictions.rotations, predictions.shifts_A, predictions.half_sets, mask,
                       *(value for item in groups.items() for value in item))  # fmt: skip
    images.check(np.array([rows[0] for rows in groups.values()]))
    ends = ["", "_mask", "_half1_unfil", "_half2_unfil"]
    ends += ["_masked"] * bool(settings.mask) + ["_locres"] * settings.local_resolution
    files = [f"{VOLUMES}/{group}{end}.mrc" for group in groups for end in ends]
    folder = OutputFolder(Path(out), MAPS, [*files, "fsc.csv", "predictions.star", "latents.csv", TABLE])
    if folder.begin(digest):
        return Reconstruction.open(folder.path)
    poses = images.poses(predictions.rotations, predictions.shifts_A)
    rotations, shifts_px = poses.rotations.clone(), poses.shifts_px.clone()
    half_sets = torch.zeros(len(images), dtype=torch.long)
    for number, (group, rows) in enumerate(groups.items(), 1):
        halves = split_halves(rows, known, settings.seed)
        for half, some in enumerate(halves, 1):
            half_sets[torch.from_numpy(some)] = half
        found = _finished_poses(folder, group)
        if found is None:
            if len(rows) < FEW_PARTICLES:
                message = f"{group}: {len(rows)} particles; a map of fewer than {FEW_PARTICLES} is not reliable"
                warnings.warn(message, stacklevel=2)
            with tqdm(
                desc=f"{group} ({number} of {len(groups)})", unit=" images", disable=not execution.progress, mininterval=1
            ) as bar:
                one = ClassReconstruction(images, halves, mask, device, partial(show, bar), settings.symmetry)
                found = _reconstruct_group(folder, group, one, poses, rows, settings)
        rotations[rows], shifts_px[rows] = found.rotations, found.shifts_px
    shifts_A = images.metadata.shifts_in_source_A(shifts_px * images.pixel_A)
    refined = replace(predictions, rotations=rotations, shifts_A=shifts_A, half_sets=half_sets)
    return _finish(folder, refined, stack, list(groups))


def show(bar: tqdm, what: str, count: int) -> None:
    """Advance a progress bar by ``count`` images, and show the name of the step."""
    bar.set_postfix_str(what, refresh=False)
    bar.update(count)


def _reconstruct_group(
    folder: OutputFolder, group: str, one: ClassReconstruction, poses: Poses, rows: Rows, settings: ReconstructionSettings
) -> Poses:
    """Reconstruct one group, write its files, and return the poses of its rows."""
    before, maps = poses[rows], one.back_project(poses)
    after = before
    if settings.refine:
        refined, maps = one.refine(poses, maps)
        after = refined[rows]
    voxel_A, b_factor = maps.voxel_A, maps.b_factor_A2
    volumes = {f"{group}_half{half}_unfil": volume for half, volume in enumerate(maps.halves, 1)}
    volumes |= {group: maps.sharpened(), f"{group}_mask": maps.mask}
    if settings.mask:
        volumes[f"{group}_masked"] = volumes[group] * maps.mask
    if settings.local_resolution:
        volumes[f"{group}_locres"] = local_resolution(*maps.halves, maps.mask, voxel_A, maps.resolution_A)
    for name, volume in volumes.items():
        write_mrc(folder.path / VOLUMES / f"{name}.mrc", volume, voxel_A)
    _write_curves(folder.part(f"{group}.csv"), group, maps)
    turned = distance_deg(before.rotations, after.rotations)
    moved_A = (after.shifts_px - before.shifts_px).norm(dim=1) * voxel_A
    result = GroupResult(group, len(rows), maps.resolution_A, b_factor, float(turned.median()), float(moved_A.median()))
    with atomic_path(folder.part(f"{group}.safetensors")) as path:
        save_file({"rotations": after.rotations.contiguous(), "shifts_px": after.shifts_px.contiguous()}, path)
    write_json(folder.part(f"{group}.json"), asdict(result))  # written last: it marks the group as finished
    return after


def _finished_poses(folder: OutputFolder, group: str) -> Poses | None:
    """Return the poses of a finished group; None if a file of the group is missing or damaged."""
    files = [folder.path / name for name in folder.files if name.startswith((f"{VOLUMES}/{group}.", f"{VOLUMES}/{group}_"))]
    if not all(path.is_file() for path in (*files, folder.part(f"{group}.json"), folder.part(f"{group}.csv"))):
        return None
    try:
        return Poses(**load_file(folder.part(f"{group}.safetensors")))
    except (OSError, SafetensorError):
        return None


def _write_curves(path: Path, group: str, maps: ClassMap) -> None:
    frequencies = shell_frequencies(len(maps.mask), maps.voxel_A).tolist()
    curves = {name: curve.cpu().tolist() for name, curve in vars(maps.curves).items()}
    write_table(path, pd.DataFrame({"group": group, "frequency_per_A": frequencies} | curves))


def _finish(folder: OutputFolder, predictions: Predictions, stack: PreparedStack, groups: list[str]) -> Reconstruction:
    """Write the tables of all groups and the predictions."""
    curves = pd.concat([pd.read_csv(folder.part(f"{group}.csv")) for group in groups], ignore_index=True)
    write_table(folder.path / "fsc.csv", curves)
    predictions.write(folder.path, stack.source, data_dir=stack.data_dir or None)
    results = [read_json(folder.part(f"{group}.json"), "the numbers of a map") for group in groups]
    write_table(folder.path / TABLE, pd.DataFrame(results))  # written last: it marks the reconstruction as finished
    folder.end()
    return Reconstruction.open(folder.path)


def _read_mask(path: str, box: int, voxel_A: float) -> Float[Tensor, "box box box"]:
    """Read a mask at the box of the maps. Raises :class:`HetacumnError` if it does not fit the maps or is too small."""
    mask = read_mask(path, box, voxel_A)
    inside = int((mask > 0.5).sum())
    if inside < LEAST_MASK * mask.numel():
        raise HetacumnError(
            f"{path}: {inside} voxels above 0.5 at {box} voxels per side; expected at least {LEAST_MASK:.1%} of all voxels"
        )
    return mask

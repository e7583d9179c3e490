"""Reconstruction of predicted classes, or of a selection of particles, at the full box.

:mod:`hetacumn.reconstruction.maps` lists the files. An interrupted reconstruction continues with the first group that is not
finished.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path, make_folder, write_json, write_table
from hetacumn.common.provenance import provenance
from hetacumn.common.run_files import read_json
from hetacumn.io.mrc import read_mrc, write_mrc
from hetacumn.io.row_numbers import read_row_numbers
from hetacumn.particles.metadata import Poses
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.prepared_stack import PreparedStack, table_digest
from hetacumn.particles.source_images import SourceImages
from hetacumn.physics.fsc import shell_frequencies
from hetacumn.physics.rotations import distance_deg
from hetacumn.reconstruction.class_maps import ClassMap, ClassReconstruction, split_halves
from hetacumn.reconstruction.maps import NOTE, TABLE, VOLUMES, GroupResult, Reconstruction

SELECTION = "selection"  # name of the group of selected particles
UNDER_WAY = "under_way"  # folder of the poses and the curves of finished groups, until all groups are finished
FEW_PARTICLES = 100  # a map of fewer particles is not reliable
SAME_VOXEL = 0.01  # largest relative difference of two voxel sizes that count as equal


@dataclass(frozen=True)
class ReconstructionSettings:
    """Settings of a reconstruction.

    - ``box``: voxels per side of the maps, even; None for the box of the image files.
    - ``refine``: whether to refine the poses at this box.
    - ``mask``: MRC file of a soft mask, from 0 to 1, of this box and voxel size; empty to make one from each map.
    - ``seed``: seed of the split into halves, if the particle table has no rlnRandomSubset.
    """

    box: int | None = None
    refine: bool = True
    mask: str = ""
    seed: int = 0


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
    device: torch.device | str = "cpu",
    progress: bool = True,
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
        device: device of the computation.
        progress: whether to show a progress bar.

    Raises:
        HetacumnError: the images are missing or have changed, the box is larger than that of the files, or the mask has another
            box or voxel size. A group of fewer than 100 particles causes a warning.
    """
    out, device = make_folder(out), torch.device(device)
    images = SourceImages(stack, settings.box)
    mask = _read_mask(settings.mask, images.box, images.pixel_A) if settings.mask else None
    parts = {group: [len(rows), int(rows.sum())] for group, rows in groups.items()}
    if begin(out, identity_of(stack, predictions, parts, settings), out / TABLE):
        return Reconstruction.open(out)
    poses = images.poses(predictions.rotations, predictions.shifts_A)
    rotations, shifts_px = poses.rotations.clone(), poses.shifts_px.clone()
    half_sets = torch.zeros(len(images), dtype=torch.long)
    for number, (group, rows) in enumerate(groups.items(), 1):
        halves = split_halves(rows, images.half_sets, settings.seed)
        for half, some in enumerate(halves, 1):
            half_sets[torch.from_numpy(some)] = half
        found = _finished_poses(out, group)
        if found is None:
            if len(rows) < FEW_PARTICLES:
                warnings.warn(
                    f"{group}: {len(rows)} particles; a map of fewer than {FEW_PARTICLES} is not reliable", stacklevel=2
                )
            with tqdm(desc=f"{group} ({number} of {len(groups)})", unit=" images", disable=not progress, mininterval=1) as bar:
                one = ClassReconstruction(images, halves, mask, device, partial(show, bar))
                found = _reconstruct_group(out, group, one, poses, rows, settings.refine)
        rotations[rows], shifts_px[rows] = found.rotations, found.shifts_px
    shifts_A = images.metadata.shifts_in_source_A(shifts_px * images.pixel_A)
    refined = replace(predictions, rotations=rotations, shifts_A=shifts_A, half_sets=half_sets)
    return _finish(out, refined, stack, list(groups))


def show(bar: tqdm, what: str, count: int) -> None:
    """Advance a progress bar by ``count`` images, and show the name of the step."""
    bar.set_postfix_str(what, refresh=False)
    bar.update(count)


def _reconstruct_group(
    out: Path, group: str, one: ClassReconstruction, poses: Poses, rows: Int[np.ndarray, " m"], refine: bool
) -> Poses:
    """Reconstruct one group, write its files, and return the poses of its rows."""
    before, maps = poses[rows], one.back_project(poses)
    after = before
    if refine:
        refined, maps = one.refine(poses, maps)
        after = refined[rows]
    voxel_A, b_factor = maps.voxel_A, maps.b_factor_A2
    volumes = {f"{group}_half{half}_unfil": volume for half, volume in enumerate(maps.halves, 1)}
    volumes |= {group: maps.sharpened(), f"{group}_mask": maps.mask}
    for name, volume in volumes.items():
        write_mrc(out / VOLUMES / f"{name}.mrc", volume, voxel_A)
    _write_curves(out, group, maps)
    turned = distance_deg(before.rotations, after.rotations)
    moved_A = (after.shifts_px - before.shifts_px).norm(dim=1) * voxel_A
    result = GroupResult(group, len(rows), maps.resolution_A, b_factor, float(turned.median()), float(moved_A.median()))
    with atomic_path(_poses_path(out, group)) as path:
        save_file({"rotations": after.rotations.contiguous(), "shifts_px": after.shifts_px.contiguous()}, path)
    write_json(_result_path(out, group), asdict(result))  # written last: it marks the group as finished
    return after


def _result_path(out: Path, group: str) -> Path:
    return out / UNDER_WAY / f"{group}.json"


def _poses_path(out: Path, group: str) -> Path:
    return out / UNDER_WAY / f"{group}.safetensors"


def _finished_poses(out: Path, group: str) -> Poses | None:
    if not (_result_path(out, group).is_file() and _poses_path(out, group).is_file()):
        return None
    return Poses(**load_file(_poses_path(out, group)))


def _write_curves(out: Path, group: str, maps: ClassMap) -> None:
    frequencies = shell_frequencies(len(maps.mask), maps.voxel_A).tolist()
    curves = {name: curve.cpu().tolist() for name, curve in vars(maps.curves).items()}
    write_table(out / UNDER_WAY / f"{group}.csv", pd.DataFrame({"group": group, "frequency_per_A": frequencies} | curves))


def identity_of(stack: PreparedStack, predictions: Predictions, parts: object, settings: ReconstructionSettings) -> dict:
    """Return numbers that identify the input of a reconstruction; ``parts`` identifies the groups, or the points of a path."""
    sums = [float(values.double().sum()) for values in (predictions.rotations, predictions.shifts_A)]
    return {"source": str(stack.source), "table": table_digest(stack.source), "poses": sums, "parts": parts, **asdict(settings)}


def begin(out: Path, identity: dict, table: Path) -> bool:
    """Record the input in ``out``, and remove the files of another input; return whether the last file, ``table``, exists."""
    note = out / NOTE
    if note.is_file():
        if read_json(note, "the record of a reconstruction").get("made_from") == identity:
            return table.is_file()
        table.unlink(missing_ok=True)
        for folder in (VOLUMES, UNDER_WAY):
            shutil.rmtree(out / folder, ignore_errors=True)
    write_json(note, {"made_from": identity, **provenance()})
    return False


def _finish(out: Path, predictions: Predictions, stack: PreparedStack, groups: list[str]) -> Reconstruction:
    """Write the tables of all groups and the predictions."""
    curves = pd.concat([pd.read_csv(out / UNDER_WAY / f"{group}.csv") for group in groups], ignore_index=True)
    write_table(out / "fsc.csv", curves)
    predictions.write(out, stack.source, data_dir=stack.data_dir or None)
    results = [read_json(_result_path(out, group), "the numbers of a map") for group in groups]
    write_table(out / TABLE, pd.DataFrame(results))  # written last: it marks the reconstruction as finished
    shutil.rmtree(out / UNDER_WAY)
    return Reconstruction.open(out)


def _read_mask(path: str, box: int, voxel_A: float) -> Float[Tensor, "box box box"]:
    """Read a mask. Raises :class:`HetacumnError` if it does not fit the maps or has values outside 0 to 1."""
    mask, own_A = read_mrc(path)
    if mask.shape != (box,) * 3:
        raise HetacumnError(
            f"{path}: {' × '.join(map(str, mask.shape))} voxels; expected {box} × {box} × {box}, the box of the maps"
        )
    if abs(own_A - voxel_A) > SAME_VOXEL * voxel_A:
        raise HetacumnError(f"{path}: voxels of {own_A:g} Å; expected {voxel_A:g} Å, the voxel size of the maps")
    if float(mask.min()) < 0 or float(mask.max()) > 1 or not float(mask.max()) > 0:
        raise HetacumnError(f"{path}: values from {float(mask.min()):g} to {float(mask.max()):g}; expected a mask from 0 to 1")
    return mask

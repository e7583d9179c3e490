"""Resolution of full-box maps against the true volumes, beside the bound: maps of all images of a state at their true poses.

The FSC is computed inside a soft mask around the true volume, and the resolution is read at 0.5. An FSC of 0.143 between half
maps corresponds to an FSC of 0.5 between the map of all images and the true volume (Rosenthal & Henderson 2003).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.common.files import atomic_path, write_table
from hetacumn.evaluation.dataset import SimulatedDataset, tabulate_curves
from hetacumn.evaluation.scores import Score, match_classes, pose_errors
from hetacumn.particles.prepared_stack import reopen
from hetacumn.particles.source_images import SourceImages
from hetacumn.physics.alignment import place_volume
from hetacumn.physics.fourier import crop_volumes
from hetacumn.physics.fsc import fsc, resolution_A
from hetacumn.reconstruction.class_maps import ClassReconstruction, split_halves
from hetacumn.reconstruction.maps import MAPS, TABLE, Reconstruction
from hetacumn.reconstruction.masks import make_mask

SHOWN_BOX = 96  # largest box of the aligned maps that are kept for figures
TRUE_POSES = "true poses"  # method of the curves at true poses and labels
COLUMNS = ["dataset", "method", "state", "particles", "box", "pixel_A", "resolution_training_box_A", "resolution_full_A",
           "resolution_true_poses_A", "half_map_resolution_A"]  # fmt: skip


@dataclass(frozen=True)
class FullBoxScores:
    """Scores of full-box maps.

    - ``table``: one row per method and true state (from 1), with the columns :data:`COLUMNS`.
    - ``curves``: dataset, method, state, frequency_per_A and fsc; the method ``true poses`` is the bound.
    - ``maps``: masked maps of each method in the frame of the truth, and ``truth``, in at most :data:`SHOWN_BOX` voxels.
    - ``voxel_A``: voxel size of ``maps`` in Å.
    """

    table: pd.DataFrame
    curves: pd.DataFrame
    maps: dict[str, Float[Tensor, "k box box box"]]
    voxel_A: float

    def write(self, out: Path | str) -> None:
        """Write ``resolution.csv``, ``full_fsc.csv`` and ``full_maps.npz`` to a folder."""
        out = Path(out)
        write_table(out / "resolution.csv", self.table)
        write_table(out / "full_fsc.csv", self.curves)
        with atomic_path(out / "full_maps.npz") as path:
            maps = {name: volumes.numpy() for name, volumes in self.maps.items()}
            np.savez(path, voxel_A=self.voxel_A, **maps)  # type: ignore[arg-type]  # numpy's stub types every keyword as bool


@dataclass(frozen=True)
class FullBoxResults:
    """The files of :meth:`FullBoxScores.write` for several datasets; ``maps`` and ``voxels_A`` are indexed by dataset."""

    table: pd.DataFrame
    curves: pd.DataFrame
    maps: dict[str, dict[str, Float[np.ndarray, "_k _z _y _x"]]]
    voxels_A: dict[str, float]

    def first_maps(self, dataset: str, method: str = "hetacumn-refined") -> tuple[Float[np.ndarray, "z y x"], ...]:
        """Return the map of the first state by a method, and the true volume."""
        return self.maps[dataset][method][0], self.maps[dataset]["truth"][0]


def read_full_box(results: Path | str, datasets: list[str]) -> FullBoxResults:
    """Read the scores of full-box maps of ``datasets`` from the folder ``results``."""
    folders = {dataset: Path(results) / dataset / "evaluation" for dataset in datasets}
    table, curves = (
        pd.concat([pd.read_csv(folder / name) for folder in folders.values()], ignore_index=True)
        for name in ("resolution.csv", "full_fsc.csv")
    )
    stored = {dataset: dict(np.load(folder / "full_maps.npz")) for dataset, folder in folders.items()}
    voxels_A = {dataset: float(arrays.pop("voxel_A")) for dataset, arrays in stored.items()}
    return FullBoxResults(table, curves, stored, voxels_A)


def find_reconstructions(dataset: SimulatedDataset, methods: list[str]) -> dict[str, Reconstruction]:
    """Read the reconstruction in the folder ``maps`` of each method that has one."""
    folders = {method: dataset.folder / method / MAPS for method in methods}
    return {method: Reconstruction.open(folder) for method, folder in folders.items() if (folder / TABLE).is_file()}


def score_full_box(
    dataset: SimulatedDataset, found: Mapping[str, Reconstruction], scores: Mapping[str, Score]
) -> FullBoxScores:
    """Score reconstructions against the truth.

    All reconstructions must have one box. ``scores`` are the scores of the same methods at the training box.
    """
    some = next(iter(found.values()))
    box, voxel_A = next(iter(some.maps.values())).shape[-1], some.voxel_A
    volumes = crop_volumes(dataset.volumes, box)
    masks = torch.stack([make_mask(volume, voxel_A) for volume in volumes])
    bound = fsc(_at_true_poses(dataset, box) * masks, volumes * masks)
    rows, curves, maps = [], [tabulate_curves(dataset.name, TRUE_POSES, bound, voxel_A, "state")], {"truth": volumes}
    for method, reconstruction in found.items():
        aligned, own_masks, results = _aligned(dataset, reconstruction, volumes)
        own = fsc(aligned * masks, volumes * masks)
        curves.append(tabulate_curves(dataset.name, method, own, voxel_A, "state"))
        maps[method] = aligned * own_masks
        trained = scores[method].fsc
        trained_A = dataset.voxel_A * dataset.volumes.shape[-1] / (2 * trained.shape[-1])
        for k, (particles, half_map_A) in enumerate(results):
            limits = resolution_A(trained[k], trained_A), resolution_A(own[k], voxel_A), resolution_A(bound[k], voxel_A)
            rows.append((dataset.name, method, k + 1, particles, box, voxel_A, *limits, half_map_A))
    shown = min(box, SHOWN_BOX)
    cropped = {name: crop_volumes(some, shown) for name, some in maps.items()}
    return FullBoxScores(
        pd.DataFrame(rows, columns=COLUMNS), pd.concat(curves, ignore_index=True), cropped, voxel_A * box / shown
    )


def _aligned(
    dataset: SimulatedDataset, reconstruction: Reconstruction, volumes: Float[Tensor, "k box box box"]
) -> tuple[Float[Tensor, "k box box box"], Float[Tensor, "k box box box"], list[tuple[int, float]]]:
    """Align the map of each true state and its mask to the truth; return also the particles and half-map resolutions in Å.

    A state without a map has zero density, 0 particles and the resolution NaN.
    """
    predictions, truth = dataset.match(reconstruction.predictions)
    matching = match_classes(predictions.classes, truth.classes)
    _, frame = pose_errors(predictions.rotations, truth.rotations)
    aligned, masks, results = torch.zeros_like(volumes), torch.zeros_like(volumes), []
    by_group = {one.group: one for one in reconstruction.results}
    for k, label in enumerate(np.argsort(matching)[: len(volumes)]):
        one = by_group.get(f"class_{label + 1}")
        if one is not None:
            estimate = reconstruction.maps[one.group]
            place = place_volume(estimate, volumes[k], frame)
            aligned[k], masks[k] = place.apply(estimate), place.apply(reconstruction.masks[one.group])
        results.append((one.particles, one.resolution_A) if one else (0, float("nan")))
    return aligned, masks, results


def _at_true_poses(dataset: SimulatedDataset, box: int) -> Float[Tensor, "k box box box"]:
    """Reconstruct each true state from its images, without junk, at their true poses."""
    stack = reopen(dataset.folder / "prepared")
    images, truth = SourceImages(stack, box), dataset.truth[stack.rows]
    poses = images.poses(truth.rotations, truth.shifts_A)
    maps = []
    for k in range(len(dataset.volumes)):
        rows = ((truth.classes == k) & (truth.junk == 0)).numpy().nonzero()[0]
        one = ClassReconstruction(images, split_halves(rows, images.half_sets, 0))
        maps.append(one.back_project(poses).filtered)
    return torch.stack(maps)

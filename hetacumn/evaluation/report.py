"""The report of a prediction without known truth: half maps and their FSC, independent motions, volumes along the motions.

The report also shows the maps at the full box that ``hetacumn reconstruct`` has written. If the particles are simulated,
:func:`compare_with_truth` compares the report with the truth.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hetacumn.common.files import write_table
from hetacumn.common.project import project_root
from hetacumn.common.run_files import read_run
from hetacumn.evaluation.bound import TrueMixture, bayes_bound
from hetacumn.evaluation.dataset import dampen, envelope_of, scale_to_images
from hetacumn.evaluation.scores import motion_correlations, pose_errors
from hetacumn.io.mrc import read_volumes, write_morph, write_mrc
from hetacumn.particles.metadata import Poses
from hetacumn.particles.run_paths import RESULTS
from hetacumn.physics.fourier import crop_large_volumes
from hetacumn.physics.fsc import HALF_MAP_FSC, fsc, resolution_A, shell_frequencies
from hetacumn.prediction.answer import Answer
from hetacumn.prediction.landscape import LatentAxes, latent_axes
from hetacumn.prediction.trust import class_names
from hetacumn.reconstruction.back_projection import reproject
from hetacumn.reconstruction.maps import MAPS, VOLUMES, Reconstruction
from hetacumn.reconstruction.motion_maps import PathMaps
from hetacumn.search.subspace import volumes_at
from hetacumn.simulation.structures import load_motion
from hetacumn.simulation.truth import Truth

PATH_POINTS = 10
SHOWN_CLASSES = 8  # classes in the figures of volumes
SHOWN_BOX = 96  # largest box of the maps in figures
SURFACE_LEVEL = 0.25  # contour level, as a fraction of the largest density along a path
BOUND_PARTICLES = 1500  # particles in the pose search with the true volumes


@dataclass(frozen=True)
class ReportPaths:
    """The folders of a report: the ``predictions``, the trained ``model``, and ``out`` for the figures."""

    predictions: Path
    model: Path
    out: Path

    @classmethod
    def of_dataset(cls, name: str, predictions: Path | str = "", out: Path | str = "") -> ReportPaths:
        """Return the folders of a dataset in ``results/``. Empty ``predictions`` or ``out`` stand for the defaults."""
        folder = RESULTS / name
        return cls(Path(predictions or folder / "refined"), folder / "hetacumn", Path(out or Path("figures") / name))


@dataclass(frozen=True)
class Report:
    """Half maps and motions of one prediction.

    - ``half_maps``, ``curves``: half maps and their FSC by group. The groups are ``all`` (all particles), ``class 1``, ….
      Classes with fewer than two particles are left out.
    - ``axes``: the independent motions.
    - ``paths``: latents along each independent motion, on a path that follows the density of the particles.
    - ``path_volumes``: volumes at these latents.
    - ``path_maps``: maps at the full box along the same paths; None where ``hetacumn reconstruct --motion`` has made none.
    - ``maps``: maps of the classes at the full box; None if ``hetacumn reconstruct`` has made none of these predictions.
    """

    run: Answer
    half_maps: dict[str, tuple[Float[Tensor, "box box box"], Float[Tensor, "box box box"]]]
    curves: dict[str, Float[Tensor, " shells"]]
    axes: LatentAxes
    paths: list[Float[Tensor, "_p q"]]
    path_volumes: list[Float[Tensor, "_p box box box"]]
    path_maps: list[PathMaps | None]
    maps: Reconstruction | None

    def class_volumes(self) -> dict[str, Float[np.ndarray, "box box box"]]:
        """Return the volumes of the largest classes, at most :data:`SHOWN_CLASSES`, by the names of :meth:`class_names`."""
        names = self.class_names()
        return {names[k]: self.run.class_volumes[k].numpy() for k in self._largest_classes()}

    def full_box_maps(self) -> tuple[dict[str, Float[np.ndarray, "small small small"]], float]:
        """Return the masked maps of the largest classes at the full box, by name, and their voxel size in Å.

        Maps of more than :data:`SHOWN_BOX` voxels per side are Fourier-cropped to this box.
        """
        names, maps = self.class_names(), self.maps
        if maps is None:
            return {}, self.run.voxel_A
        groups = {names[k]: f"class_{k + 1}" for k in self._largest_classes() if f"class_{k + 1}" in maps.maps}
        shown = {name: crop_large_volumes(maps.maps[group] * maps.masks[group], SHOWN_BOX) for name, group in groups.items()}
        voxel_A = self.run.stack.box * self.run.voxel_A / len(next(iter(shown.values())))
        return {name: volume.numpy() for name, volume in shown.items()}, voxel_A

    def full_box_table(self) -> pd.DataFrame:
        """Tabulate the maps at the full box: particles, resolution and B-factor of each class, and the fault of its poses."""
        names = [name.partition("\n")[2] for name in self.class_names()]
        rows = [] if self.maps is None else self.maps.results
        return pd.DataFrame(
            {"particles": one.particles, "resolution (Å)": one.resolution_A, "B-factor (Å²)": one.b_factor_A2,
             "warning": names[int(one.group.removeprefix("class_")) - 1]} for one in rows
        ).set_axis([one.group.replace("_", " ") for one in rows])  # fmt: skip

    def class_names(self) -> list[str]:
        """Return the name of each class; a second line warns of poses that are not determined or not tested."""
        return class_names(self.run.trust, len(self.run.class_volumes))

    def _largest_classes(self) -> list[int]:
        sizes = self.run.predictions.classes.bincount(minlength=len(self.run.class_volumes))
        return sorted(sizes.argsort(descending=True, stable=True)[:SHOWN_CLASSES].tolist())

    def movie_volumes(self, motion: int) -> tuple[Float[np.ndarray, "p small small small"], float]:
        """Return the volumes along a motion, from 0, and their voxel size in Å: maps at the full box if they exist."""
        maps = self.path_maps[motion]
        volumes, voxel_A = (self.path_volumes[motion], self.run.voxel_A) if maps is None else maps.read(SHOWN_BOX)
        return volumes.numpy(), voxel_A

    def resolutions_A(self) -> dict[str, float]:
        """Compute the resolution of each group in Å, at which the FSC of its half maps falls to 0.143."""
        return {group: resolution_A(curve, self.run.voxel_A, HALF_MAP_FSC) for group, curve in self.curves.items()}

    def draw_particles(self, count: int = 6) -> tuple[Float[Tensor, "m box box"], Float[Tensor, "m box box"]]:
        """Render noise-free images of the first ``count`` particles; return these images and the whitened particle images."""
        rows = np.arange(min(count, len(self.run.stack)))
        data, poses = self.run.posed(rows)
        rendered = reproject(data, self.run.class_volumes, self.run.predictions.classes[:count], poses)
        return data.plane.unpack(rendered), data.plane.unpack(data.y)


def make_report(run: Answer, motions: int = 2) -> Report:
    """Reconstruct half maps of all particles and of each class, and compute the independent motions of the particles."""
    groups = {"all": np.arange(len(run.predictions))}
    groups |= {f"class {k + 1}": (run.predictions.classes == k).numpy().nonzero()[0] for k in range(len(run.class_volumes))}
    half_maps = {group: run.half_maps(rows) for group, rows in groups.items() if len(rows) > 1}
    curves = {group: fsc(first[None], second[None])[0] for group, (first, second) in half_maps.items()}
    axes = latent_axes(run.predictions.latents, motions, run.basis)
    ways = [partial(run.density_path, run.ends(i + 1)) for i in range(axes.coordinates.shape[1])]
    path_maps = [PathMaps.find(run.folder / f"motion_{i}", way) for i, way in enumerate(ways, 1)]
    paths = [way(PATH_POINTS if maps is None else len(maps.table)) for way, maps in zip(ways, path_maps, strict=True)]
    maps = None if run.refined_predictions() is run.predictions else Reconstruction.open(run.folder / MAPS)
    volumes = [volumes_at(path, run.basis) for path in paths]
    return Report(run, half_maps, curves, axes, paths, volumes, path_maps, maps)


def write_report(report: Report) -> None:
    """Write half maps, ``fsc.csv``, volumes along each motion and a ChimeraX script per motion into the predictions folder.

    A script opens maps at the full box where they exist, and volumes at the training box otherwise. The function first removes
    the half maps, volumes, scripts and movies of an earlier report, which may have more classes or motions.
    """
    folder, voxel_A = report.run.folder, report.run.voxel_A
    stale = ("halves/*.mrc", "paths/*.mrc", "motion_*.cxc", "motion_*.gif")
    for old in [path for pattern in stale for path in folder.glob(pattern)]:
        old.unlink()
    for group, halves in report.half_maps.items():
        stem = group.replace(" ", "_")
        for i, half in enumerate(halves):
            write_mrc(folder / "halves" / f"{stem}_half{i + 1}.mrc", half, voxel_A)
        write_mrc(folder / "halves" / f"{stem}.mrc", sum(halves, torch.zeros(())) / 2, voxel_A)
    frequencies = shell_frequencies(report.run.stack.box, voxel_A).tolist()
    curves = {group: curve.tolist() for group, curve in report.curves.items()}
    write_table(folder / "fsc.csv", pd.DataFrame({"frequency_per_A": frequencies} | curves))
    for i, volumes in enumerate(report.path_volumes):
        files = [f"paths/motion_{i + 1}_{k + 1:02d}.mrc" for k in range(len(volumes))]
        for file, volume in zip(files, volumes, strict=True):
            write_mrc(folder / file, volume, voxel_A)
        highest, maps = float(volumes.max()), report.path_maps[i]
        if maps is not None:
            files = [f"{maps.folder.name}/{VOLUMES}/{point}.mrc" for point in maps.table["point"]]
            highest = float(maps.read()[0].max())
        write_morph(folder / f"motion_{i + 1}.cxc", files, SURFACE_LEVEL * highest)


def describe_resolutions(report: Report) -> dict[str, str]:
    """Describe the resolution of each group of half maps; if it is at Nyquist, the text recommends a larger box."""
    nyquist_A = 2 * report.run.voxel_A
    hints = {True: " (Nyquist; a larger stack.box may resolve more)", False: ""}
    return {group: f"{value:.1f} Å{hints[value <= nyquist_A]}" for group, value in report.resolutions_A().items()}


@dataclass(frozen=True)
class TruthComparison:
    """The scores of a report against the known truth.

    - ``names``: names of the true motions.
    - ``found``, ``true``: predicted and true coordinates of each particle along these motions.
    - ``correlations``: rank correlation of predicted and true coordinates for each motion.
    - ``scores``: all scores by name.
    """

    names: tuple[str, ...]
    found: Float[Tensor, "n d"]
    true: Float[Tensor, "n d"]
    correlations: list[float]
    scores: dict[str, float]


def compare_with_truth(report: Report, truth: Path | str, model: Path | str) -> TruthComparison:
    """Compare the report of a simulated stack with the truth in the folder ``truth``; ``model`` is the folder of the model.

    The rotation error is the median after alignment by one global rotation and the better of both hands. The rotation bound is
    the median error of a pose search with the true volumes.
    """
    run, truth = report.run, Path(truth)
    known = Truth.read(truth / "truth.npz")
    kept, rows = _particle_rows(run, known)
    molecule = json.loads((truth / "config.json").read_text())["simulation"]["molecule"]
    names, true = load_motion(molecule, project_root() / "data").names, known.coordinate[rows]
    correlations, matched = motion_correlations(report.axes.coordinates[kept], true)
    errors_deg, _ = pose_errors(run.predictions.rotations[kept], known.rotations[rows])
    trained, predicted = read_run(model), read_run(run.folder)
    scores = {f"spearman_{motion}": value for motion, value in zip(names, correlations.tolist(), strict=True)} | {
        "rotation_error_deg": float(errors_deg.median()),
        "rotation_bound_deg": _bound_rotations(run, known, truth),
        "resolution_A": report.resolutions_A()["all"],
        "nyquist_A": 2 * run.voxel_A,
        "seconds": trained["train_seconds"] + len(run.predictions) / predicted["predict_particles_per_second"],
        "peak_memory_mb": max(trained["peak_memory_mb"], predicted["peak_memory_mb"]),
    }
    return TruthComparison(names, report.axes.coordinates[kept][:, matched], true, correlations.tolist(), scores)


def _particle_rows(run: Answer, known: Truth) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Return the positions in the stack, and the rows in the truth, of the images that contain a particle."""
    kept = (known.junk[run.stack.rows] == 0).numpy().nonzero()[0]
    return kept, run.stack.rows[kept]


def _bound_rotations(run: Answer, known: Truth, truth: Path) -> float:
    """Compute the median rotation error of a pose search with the true volumes, in degrees, on the first 1,500 particles."""
    volumes, voxel_A = read_volumes(truth, "truth_class")
    volumes = dampen(volumes, voxel_A, envelope_of(json.loads((truth / "config.json").read_text())))
    stack, (kept, rows) = run.stack, (some[:BOUND_PARTICLES] for some in _particle_rows(run, known))
    shifts_A = stack.metadata[kept].shifts_in_prepared_A(known.shifts_A[rows])
    poses = Poses(known.rotations[rows], shifts_A / stack.pixel_A)
    in_images = scale_to_images(volumes, stack.box, known.noise_std)
    data, _ = run.posed(kept)
    mixture = TrueMixture(in_images, torch.ones(len(in_images)), poses, known.classes[rows])
    return bayes_bound(data, mixture).rotation_error_deg


def write_truth_scores(out: Path, comparison: TruthComparison) -> None:
    """Write the columns ``quantity,value`` beside the figure folder ``out``: ``real_twin.csv`` beside ``real-twin``."""
    table = pd.DataFrame(comparison.scores.items(), columns=["quantity", "value"])
    write_table(out.with_name(f"{out.name.replace('-', '_')}.csv"), table, digits=4)

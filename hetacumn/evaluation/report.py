"""The report of a prediction without known truth: half maps and their FSC, independent motions, volumes along the motions.

If the particles are simulated, :func:`compare_with_truth` compares the report with the truth, and :func:`compare_path` compares
full-box maps along a motion with the true volumes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
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
from hetacumn.physics.alignment import place_volume
from hetacumn.physics.fourier import crop_volumes
from hetacumn.physics.fsc import HALF_MAP_FSC, fsc, resolution_A, shell_frequencies
from hetacumn.physics.rotations import Frame
from hetacumn.prediction.answer import Answer
from hetacumn.prediction.landscape import LatentAxes, latent_axes
from hetacumn.reconstruction.back_projection import reproject
from hetacumn.reconstruction.kernel_maps import FEWEST, latent_distances
from hetacumn.reconstruction.postprocessing import filter_shells, make_mask
from hetacumn.search.subspace import volumes_at
from hetacumn.simulation.projection import density
from hetacumn.simulation.structures import load_motion
from hetacumn.simulation.truth import Truth

PATH_POINTS = 10
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
    - ``paths``: latents along each independent motion.
    - ``path_volumes``: volumes at these latents.
    """

    run: Answer
    half_maps: dict[str, tuple[Float[Tensor, "box box box"], Float[Tensor, "box box box"]]]
    curves: dict[str, Float[Tensor, " shells"]]
    axes: LatentAxes
    paths: list[Float[Tensor, "p q"]]
    path_volumes: list[Float[Tensor, "p box box box"]]

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
    paths = [axes.path(i, PATH_POINTS) for i in range(axes.coordinates.shape[1])]
    return Report(run, half_maps, curves, axes, paths, [volumes_at(path, run.basis) for path in paths])


def write_report(report: Report) -> None:
    """Write half maps, ``fsc.csv``, volumes along each motion and a ChimeraX script per motion into the predictions folder.

    The function first removes the half maps, volumes and scripts of an earlier report, which may have more classes or motions.
    """
    folder, voxel_A = report.run.folder, report.run.voxel_A
    for stale in [*folder.glob("halves/*.mrc"), *folder.glob("paths/*.mrc"), *folder.glob("motion_*.cxc")]:
        stale.unlink()
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
        write_morph(folder / f"motion_{i + 1}.cxc", files, SURFACE_LEVEL * float(volumes.max()))


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


def compare_path(
    maps: Float[Tensor, "p box box box"], path: Float[Tensor, "p q"], answer: Answer, truth: Path | str
) -> pd.DataFrame:
    """Compare the maps at latents of a path with the true volumes.

    The true volume of a point is the volume at the median true coordinates of the 200 nearest particles (:data:`FEWEST`). Each
    map is aligned to the true volume.

    Returns:
        One row per point: ``point``, the true coordinate of each moving part, ``resolution_A`` at an FSC of 0.5 inside a mask
        around the true volume, and ``correlation`` inside this mask with both volumes low-passed to this resolution. The
        columns ``…_training_box`` state the same of the volume V(z) at the training box.
    """
    truth = Path(truth)
    known = Truth.read(truth / "truth.npz")[answer.stack.rows]
    settings = json.loads((truth / "config.json").read_text())
    simulation = settings["simulation"]
    motion = load_motion(simulation["molecule"], project_root() / "data")
    _, frame = pose_errors(answer.predictions.rotations, known.rotations)
    box = maps.shape[-1]
    voxel_A = simulation["pixel_A"] * simulation["box"] / box
    rows = []
    for i, (volume, z) in enumerate(zip(maps, path, strict=True)):
        near = latent_distances(answer.predictions.latents, z, answer.basis[1:]).argsort()[:FEWEST]
        coordinates = known.coordinate[near].median(0).values
        atoms = motion.move(coordinates.float())
        true = density(atoms, simulation["box"], simulation["pixel_A"])
        true = dampen(true[None], simulation["pixel_A"], envelope_of(settings))[0]
        row: dict[str, float] = {"point": i + 1, **dict(zip(motion.names, coordinates.tolist(), strict=True))}
        for name, found, size_A in (("", volume, voxel_A), ("_training_box", answer.volume(z), answer.voxel_A)):
            limit_A, correlation = _agreement(found, crop_volumes(true, found.shape[-1]), size_A, frame)
            row |= {f"resolution_A{name}": limit_A, f"correlation{name}": correlation}
        rows.append(row)
    return pd.DataFrame(rows)


def _agreement(
    found: Float[Tensor, "box box box"], true: Float[Tensor, "box box box"], voxel_A: float, frame: Frame
) -> tuple[float, float]:
    """Return the resolution of a volume in Å, and its correlation with the truth at this resolution."""
    aligned, mask = place_volume(found, true, frame).apply(found), make_mask(true, voxel_A)
    curve = fsc(aligned * mask, true * mask)
    limit_A = resolution_A(curve, voxel_A)
    band = (shell_frequencies(len(true), voxel_A) <= 1 / limit_A).float()
    inside = [filter_shells(one, band)[mask > 0.5] for one in (aligned, true)]
    return limit_A, float(torch.corrcoef(torch.stack(inside))[0, 1])

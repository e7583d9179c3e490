"""Scores of all methods on one simulated dataset, the Bayes bound, and the five output files (:func:`write_evaluation`).

The folder of a dataset holds ``particles/`` (images and truth) and one folder per method.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path, write_json, write_table
from hetacumn.evaluation.bound import Bound, TrueMixture, bayes_bound
from hetacumn.evaluation.scores import Score, match_truth, score_folder
from hetacumn.io.mrc import read_volumes
from hetacumn.io.star import read_table
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import observe
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.reader import read_particles
from hetacumn.physics.fourier import crop_volumes, fft3c, ifft3c
from hetacumn.physics.fsc import shell_frequencies
from hetacumn.physics.volumes import radius_grid
from hetacumn.simulation.truth import Truth

BOUND_PARTICLES = (1500, 10_000)  # the second number is used if the bound of the first particles is not 1
BOUNDS = ["bound_known_pose", "bound_marginal", "rotation_bound_deg"]
KEY = ["dataset", "method", "seed"]
MAIN_SCORES = ["accuracy", "accuracy_unseen", "accuracy_surer_half", "ari", "bound_known_pose", "bound_marginal",
               "rotation_error_deg", "rotation_bound_deg", "resolution_A", "shift_error_A"]  # fmt: skip


@dataclass(frozen=True)
class SimulatedDataset:
    """A simulated dataset and its truth.

    - ``name``, ``folder``: name of the dataset, and folder of its particles and methods.
    - ``truth``: class, pose and conformation of each image.
    - ``volumes``, ``voxel_A``: true class volumes, and their voxel size in Å.
    - ``envelope_A2``: factor B in Å² of the envelope ``exp(-B k² / 4)`` of the CTF of all images.
    """

    name: str
    folder: Path
    truth: Truth
    volumes: Float[Tensor, "k box box box"]
    voxel_A: float
    envelope_A2: float = 0.0

    @classmethod
    def read(cls, folder: Path | str, name: str) -> SimulatedDataset:
        """Read the truth of the dataset ``name`` from its folder.

        Raises:
            HetacumnError: the folder holds another dataset, or no truth.
        """
        folder = Path(folder)
        note = folder / "particles" / "config.json"
        content = json.loads(note.read_text()) if note.exists() else {"dataset": name}
        if (simulated := content["dataset"]) != name:
            raise HetacumnError(f"{note}: dataset is {simulated}; expected {name}, the dataset to score")
        truth = Truth.read(folder / "particles" / "truth.npz")
        return cls(name, folder, truth, *read_volumes(folder / "particles", "truth_class"), envelope_of(content))

    @property
    def star(self) -> Path:
        """The table of the images, in the order of the truth."""
        return self.folder / "particles" / "particles.star"

    @property
    def usable_rows(self) -> Int[np.ndarray, " m"]:
        """Rows of the images that contain a particle and that preparation did not drop."""
        dropped = self.folder / "prepared" / "dropped.csv"
        gone = pd.read_csv(dropped)["row"].to_numpy() - 1 if dropped.is_file() else np.arange(0)
        return np.setdiff1d(self.truth.particle_rows, gone)

    def match(self, predictions: Predictions) -> tuple[Predictions, Truth]:
        """Return the predictions of images that contain a particle, and the truth of the same images."""
        found, rows = match_truth(predictions, self.truth, read_table(self.star).names())
        return found, self.truth[rows]

    def score(self, folder: Path | str) -> Score:
        """Score the predictions in a folder."""
        return score_folder(folder, self.truth, read_table(self.star).names(), self.volumes, self.voxel_A)


def find_methods(folder: Path | str) -> set[str]:
    """Return the names of the methods with predictions in the folder of a dataset.

    Raises:
        HetacumnError: there are no predictions.
    """
    methods = {path.parent.name for path in Path(folder).glob("*/predictions.star")}
    if not methods:
        raise HetacumnError(f"{folder}: no predictions; expected <method>/predictions.star")
    return methods


def score_methods(dataset: SimulatedDataset, methods: Iterable[str]) -> dict[str, Score]:
    """Score each method of a dataset, in the order given."""
    return {method: dataset.score(dataset.folder / method) for method in methods}


def bound_dataset(dataset: SimulatedDataset, box: int) -> Bound:
    """Compute the Bayes bound for images cropped to ``box``.

    The function uses the first 1,500 particles. If the classifier that does not know the poses misclassifies one of them, the
    function computes the bound again with up to 10,000 particles.
    """
    few, many = (dataset.usable_rows[:count] for count in BOUND_PARTICLES)
    bound = _bound_rows(dataset, box, few)
    return bound if bound.marginal == 1 else _bound_rows(dataset, box, many)


def _bound_rows(dataset: SimulatedDataset, box: int, rows: Int[np.ndarray, " m"]) -> Bound:
    truth = dataset.truth
    weights = truth.classes.bincount(minlength=len(dataset.volumes)) / len(truth.classes)
    volumes = scale_to_images(dampen(dataset.volumes, dataset.voxel_A, dataset.envelope_A2), box, truth.noise_std)
    particles = read_particles(dataset.star, box=box, rows=rows, centre=False)
    poses = Poses(truth.rotations[rows], truth.shifts_A[rows] / particles.pixel_A)
    return bayes_bound(observe(particles), TrueMixture(volumes, weights, poses, truth.classes[rows]))


def envelope_of(content: dict) -> float:
    """Return the factor B of the envelope in Å² from the ``config.json`` of a simulation; 0 if it has none."""
    return float(content.get("simulation", {}).get("realism", {}).get("envelope_A2", 0.0))


def dampen(volumes: Float[Tensor, "k box box box"], voxel_A: float, envelope_A2: float) -> Float[Tensor, "k box box box"]:
    """Filter volumes by the envelope ``exp(-B k² / 4)`` of the images, with B in Å² and k in 1/Å."""
    if not envelope_A2:
        return volumes
    k = radius_grid(volumes.shape[-1], volumes.device) / (volumes.shape[-1] * voxel_A)
    return ifft3c(fft3c(volumes) * torch.exp(-envelope_A2 / 4 * k.square()))


def scale_to_images(
    volumes: Float[Tensor, "k full full full"], box: int, noise_std: float
) -> Float[Tensor, "k {box} {box} {box}"]:
    """Crop true volumes to ``box``, and scale them to the units of images with unit noise variance.

    The signal of a pixel is proportional to the area of the pixel, which explains the squared ratio of the boxes.
    """
    return crop_volumes(volumes, box) * (volumes.shape[-1] / box) ** 2 / noise_std


def tabulate_scores(dataset: SimulatedDataset, seed: int, scores: dict[str, Score], bound: Bound) -> pd.DataFrame:
    """Tabulate the scores, one row per method: dataset, method, seed, main scores and bounds, then all other scores."""
    bounds = dict(zip(BOUNDS, (bound.known_pose, bound.marginal, bound.rotation_error_deg), strict=True))
    table = pd.DataFrame(
        [{"dataset": dataset.name, "method": method, "seed": seed, **score.row, **bounds} for method, score in scores.items()]
    )
    return table[[*KEY, *MAIN_SCORES, *table.columns.difference([*MAIN_SCORES, *KEY])]]


def tabulate_fsc(dataset: SimulatedDataset, scores: dict[str, Score]) -> pd.DataFrame:
    """Tabulate the FSC of aligned class volumes against the truth: one row per method, class (from 1) and shell (in 1/Å)."""
    field_A = dataset.voxel_A * dataset.volumes.shape[-1]
    tables = [tabulate_curves(dataset.name, method, score.fsc, field_A / score.volumes.shape[-1], "class")
              for method, score in scores.items()]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def tabulate_curves(
    dataset: str, method: str, curves: Float[Tensor, "k shells"], voxel_A: float, numbered: str
) -> pd.DataFrame:
    """Tabulate FSC curves: one row per curve and shell (in 1/Å); the column ``numbered`` counts the curves from 1."""
    frequencies = shell_frequencies(2 * curves.shape[-1], voxel_A).tolist()
    rows = [(dataset, method, k + 1, *point) for k, curve in enumerate(curves.tolist())
            for point in zip(frequencies, curve, strict=True)]  # fmt: skip
    return pd.DataFrame(rows, columns=["dataset", "method", numbered, "frequency_per_A", "fsc"])


def write_evaluation(
    out: Path | str, dataset: SimulatedDataset, scores: dict[str, Score], table: pd.DataFrame, fsc: pd.DataFrame
) -> None:
    """Write ``scores.csv``, ``fsc.csv``, ``confusion.json``, ``rotation_errors.npz`` (degrees) and ``aligned_volumes.npz``."""
    out, box = Path(out), next(iter(scores.values())).volumes.shape[-1]
    write_table(out / "scores.csv", table)
    write_table(out / "fsc.csv", fsc)
    write_json(out / "confusion.json", {method: score.confusion.tolist() for method, score in scores.items()})
    with atomic_path(out / "rotation_errors.npz") as path:
        errors = {method: score.rotation_error_deg.numpy() for method, score in scores.items()}
        np.savez(path, **errors)  # type: ignore[arg-type]  # numpy's stub applies allow_pickle's type to every keyword
    with atomic_path(out / "aligned_volumes.npz") as path:
        aligned = {method: score.volumes.numpy() for method, score in scores.items()}
        truth = crop_volumes(dataset.volumes, box).numpy()
        np.savez(path, truth=truth, **aligned)  # type: ignore[arg-type]  # the same

"""Scores of predictions against the truth: classes, poses, shifts, volumes, and the information in the latents.

The functions need only arrays or files of predictions, not the trained model. Class labels are integers from 0, rotations take
object to view, shifts are xy in Å, and volume ``k`` belongs to label ``k``. The order of the predicted labels is arbitrary, and
so are the orientation, position and hand of the predicted volumes. No score depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Real
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.io.mrc import read_volumes
from hetacumn.particles.predictions import Predictions
from hetacumn.physics.alignment import align_volume
from hetacumn.physics.fourier import crop_volumes
from hetacumn.physics.fsc import fsc, resolution_A
from hetacumn.physics.rotations import Frame, align, distance_deg, equivalent
from hetacumn.simulation.truth import Truth

_TRUSTED_DEG = 30.0  # below this median pose error, the alignment of volumes starts from the frame of the poses


@dataclass(frozen=True)
class Score:
    """The scores of one method on one dataset, and the data of the figures.

    - ``row``: scores by name; see :func:`score`.
    - ``confusion``: result of :func:`confusion`.
    - ``rotation_error_deg``: rotation error of each particle in degrees.
    - ``fsc``, ``volumes``: FSC curves and class volumes aligned to the truth, in the order of the *true* classes.
    """

    row: dict[str, float]
    confusion: Int[np.ndarray, "labels labels"]
    rotation_error_deg: Float[Tensor, " n"]
    fsc: Float[Tensor, "k shells"]
    volumes: Float[Tensor, "k box box box"]


def _labels(classes: ArrayLike | Tensor) -> Int[np.ndarray, " n"]:
    return classes.cpu().numpy() if isinstance(classes, Tensor) else np.asarray(classes)


def _counts(predicted: Int[np.ndarray, " n"], true: Int[np.ndarray, " _n"]) -> Int[np.ndarray, "labels labels"]:
    if len(predicted) != len(true):
        raise ValueError(f"{len(predicted)} and {len(true)} labels; expected as many predicted as true labels")
    size = max(predicted.max(), true.max()) + 1
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (true, predicted), 1)
    return counts


def match_classes(predicted: ArrayLike, true: ArrayLike) -> Int[np.ndarray, " labels"]:
    """Match each predicted label with a true label, so that ``matching[predicted]`` agrees best with ``true``.

    The Hungarian algorithm finds the best permutation of the labels. If the numbers of classes differ, the permutation has the
    larger number of labels, and surplus predicted classes are matched with labels that no particle has.
    """
    counts = _counts(_labels(predicted), _labels(true))
    true_rows, predicted_columns = linear_sum_assignment(counts, maximize=True)
    matching = np.empty(len(counts), dtype=np.int64)
    matching[predicted_columns] = true_rows
    return matching


def accuracy(predicted: ArrayLike, true: ArrayLike) -> float:
    """Compute the fraction of correct labels under the best matching."""
    predicted, true = _labels(predicted), _labels(true)
    return float((match_classes(predicted, true)[predicted] == true).mean())


def adjusted_rand(predicted: ArrayLike, true: ArrayLike) -> float:
    """Compute the adjusted Rand index of two partitions: 1 for equal partitions, 0 on average for random ones."""
    return float(adjusted_rand_score(_labels(true), _labels(predicted)))


def confusion(predicted: ArrayLike, true: ArrayLike) -> Int[np.ndarray, "labels labels"]:
    """Count particles by true class (row) and by the true class matched with the predicted label (column)."""
    predicted, true = _labels(predicted), _labels(true)
    return _counts(match_classes(predicted, true)[predicted], true)


def motion_correlations(
    found: Float[Tensor, "n k"], true: Float[Tensor, "n d"]
) -> tuple[Float[Tensor, " d"], Int[Tensor, " d"]]:
    """Match each of ``d`` true motions with one of ``k >= d`` predicted coordinates, and correlate the pairs.

    The matching maximises the sum of the correlations. The function returns the absolute rank correlations (Spearman) and the
    indices of the matched coordinates.
    """
    table = np.abs([[spearmanr(a, b).statistic for b in found.T.numpy()] for a in true.T.numpy()])
    rows, columns = linear_sum_assignment(-table)
    return torch.from_numpy(table[rows, columns]).float(), torch.from_numpy(columns)


def pose_errors(
    estimated: Float[Tensor, "n 3 3"], true: Float[Tensor, "n 3 3"], symmetry: Float[Tensor, "g 3 3"] | None = None
) -> tuple[Float[Tensor, " n"], Frame]:
    """Align the estimated poses to the true poses; return the rotation error of each particle in degrees, and the frame.

    The frame is the transformation that aligns all poses: a rotation of the object, with mirroring where this is better. The
    error is the distance to the nearest of the poses that are equivalent by the ``symmetry`` of the object.
    """
    frame = align(estimated, true, symmetry=symmetry)
    return distance_deg(frame.apply(estimated)[:, None], equivalent(true, symmetry)).amin(1), frame


def shift_errors(
    estimated_A: Float[Tensor, "n 2"], true_A: Float[Tensor, "n 2"], true_rotations: Float[Tensor, "n 3 3"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " 3"]]:
    """Compute the shift error of every particle and the position of the estimated volume, in Å.

    If the estimated volume lies at the position ``c`` of the true frame, the estimated shifts differ from the true shifts
    by minus the projection of ``c``: ``t_est = t_true - (R_true c)_xy``, for both hands. The function fits ``c`` by least
    squares and subtracts its projection. Repeated fits use only the half of the particles with the smallest errors.
    """
    projections = true_rotations[:, :2].double()  # (n, 2, 3)
    differences = true_A.double() - estimated_A.double()
    inliers = torch.ones(len(differences), dtype=torch.bool, device=differences.device)
    for _ in range(4):
        rows, values = projections[inliers].flatten(0, 1), differences[inliers].flatten()
        position = torch.linalg.lstsq(rows.mT @ rows, rows.mT @ values).solution
        errors = (differences - projections @ position).norm(dim=1)
        inliers = errors <= errors.median()
    return errors.float(), position.float()


def disentanglement(
    latents: Real[np.ndarray | Tensor, "n d"],
    classes: ArrayLike,
    rotations: Float[Tensor, "n 3 3"],
    neighbours: int = 20,
    most: int = 5000,
) -> dict[str, float]:
    """Measure how well the latents predict the class and the view direction, with k nearest neighbours.

    The function uses five-fold cross-validation over the first ``most`` particles, with latent dimensions scaled to unit
    variance. It returns four numbers, which are NaN if there are no latents:

    - ``class_from_z``: fraction of correct classes.
    - ``class_chance``: fraction of the particles in the largest class.
    - ``view_from_z_deg``: mean angle between the view direction (third row of ``R``) and the mean view direction of the
      neighbours.
    - ``view_chance_deg``: mean angle after a permutation of the views.

    If pose and conformation are disentangled, ``class_from_z`` is far above ``class_chance``, and ``view_from_z_deg`` is
    close to ``view_chance_deg``.
    """
    points = np.asarray(latents, dtype=np.float64)[:most]
    names = ("class_from_z", "class_chance", "view_from_z_deg", "view_chance_deg")
    if points.shape[1] == 0:
        return dict.fromkeys(names, float("nan"))
    classes = _labels(classes)[:most]
    views = rotations[:most, 2].cpu().double().numpy()
    z = StandardScaler().fit_transform(points)
    folds = KFold(5, shuffle=True, random_state=0)
    neighbours = min(neighbours, len(z) // 5)

    predicted = cross_val_predict(KNeighborsClassifier(neighbours), z, classes, cv=folds)
    permuted = np.random.default_rng(0).permutation(views)
    both = cross_val_predict(KNeighborsRegressor(neighbours), z, np.hstack([views, permuted]), cv=folds)
    return dict(
        zip(
            names,
            (
                float((predicted == classes).mean()),
                float(np.bincount(classes).max() / len(classes)),
                _mean_angle_deg(both[:, :3], views),
                _mean_angle_deg(both[:, 3:], permuted),
            ),
            strict=True,
        )
    )


def _mean_angle_deg(a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "n 3"]) -> float:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = (a * b).sum(1) / np.maximum(norms, 1e-12)
    return float(np.rad2deg(np.arccos(cosines.clip(-1, 1))).mean())


def score(
    predictions: Predictions,
    volumes: Float[Tensor, "c box box box"],
    truth: Truth | Predictions,
    true_volumes: Float[Tensor, "k full full full"],
    voxel_A: float,
    seen: Bool[np.ndarray, " n"],
) -> Score:
    """Score the predictions and class volumes of one method.

    ``volumes`` and ``true_volumes`` may have different boxes over one field of view; the function compares them at the smaller
    box. ``voxel_A`` is the voxel size of the true volumes. ``seen`` marks the particles that the method was trained on. With
    predictions as ``truth``, the scores measure the agreement of two predictions.

    The ``row`` of the result contains:

    - ``accuracy``: fraction of correct classes of all particles. One matching of the classes serves all three accuracies.
    - ``accuracy_unseen``: accuracy of the particles that training did not use; NaN if there are none.
    - ``accuracy_surer_half``: accuracy of the 50 % of particles with the highest class probability; NaN without probabilities.
    - ``ari``: adjusted Rand index.
    - ``rotation_error_deg``, ``shift_error_A``: median errors.
    - ``resolution_A``: resolution of the worst class volume. A true class without a volume counts as zero density.
    - the numbers of :func:`disentanglement`.
    """
    predicted, true = _labels(predictions.classes), _labels(truth.classes)
    matching = match_classes(predicted, true)
    right = matching[predicted] == true
    unseen = right[~seen]
    sure = predictions.class_probabilities
    surer = np.arange(0) if sure is None else sure.argsort(descending=True, stable=True)[: -(-len(sure) // 2)].cpu().numpy()
    errors_deg, frame = pose_errors(predictions.rotations, truth.rotations)
    errors_A, _ = shift_errors(predictions.shifts_A, truth.shifts_A, truth.rotations)
    trusted = frame if errors_deg.median() < _TRUSTED_DEG else None

    box = min(volumes.shape[-1], true_volumes.shape[-1])
    references = crop_volumes(true_volumes, box)
    aligned = torch.zeros_like(references)
    for k, label in enumerate(np.argsort(matching)[: len(references)]):  # the predicted label of true class k
        if label < len(volumes):
            aligned[k] = align_volume(crop_volumes(volumes[label], box), references[k], trusted)
    curves = fsc(aligned, references)
    voxel_A = voxel_A * true_volumes.shape[-1] / box
    row = {
        "accuracy": float(right.mean()),
        "accuracy_unseen": float(unseen.mean()) if len(unseen) else float("nan"),
        "accuracy_surer_half": float(right[surer].mean()) if len(surer) else float("nan"),
        "ari": adjusted_rand(predicted, true),
        "rotation_error_deg": float(errors_deg.median()),
        "resolution_A": max(resolution_A(curve, voxel_A) for curve in curves),
        "shift_error_A": float(errors_A.median()),
        **disentanglement(predictions.latents.cpu().numpy(), true, truth.rotations),
    }
    return Score(row, confusion(predicted, true), errors_deg, curves, aligned)


def match_truth(predictions: Predictions, truth: Truth, names: pd.Index) -> tuple[Predictions, Int[np.ndarray, " m"]]:
    """Select the predictions of images that contain a particle; return them and their rows in the truth.

    ``names`` are the names of all images of the truth, in its order. Images without a prediction, which preparation dropped,
    have no row in the result.

    Raises:
        HetacumnError: a predicted image is not in the truth.
    """
    rows = names.get_indexer(pd.Index(predictions.names))
    if (rows < 0).any():
        name = predictions.names[int((rows < 0).argmax())]
        raise HetacumnError(f"prediction of {name}; expected images of the truth, such as {names[0]}")
    kept = (truth.junk[rows] == 0).numpy().nonzero()[0]
    return predictions[kept], rows[kept]


def score_folder(
    folder: Path | str, truth: Truth, names: pd.Index, true_volumes: Float[Tensor, "k box box box"], voxel_A: float
) -> Score:
    """Score the files of a method in a folder: predictions, ``volumes/``, ``train_rows.npy``.

    ``names`` are the names of the images of the truth. Raises the errors of :func:`match_truth`.
    """
    predictions, rows = match_truth(Predictions.read(folder), truth, names)
    seen = np.isin(rows, seen_rows(folder, len(names)))
    volumes, _ = read_volumes(Path(folder) / "volumes", "class_")
    return score(predictions, volumes, truth[rows], true_volumes, voxel_A, seen)


def seen_rows(folder: Path | str, particles: int) -> Int[np.ndarray, " m"]:
    """Read the rows, from 0, of the particles that the method in a folder was trained on.

    If a folder ``<method>-<grade>`` has no ``train_rows.npy``, the function reads the file of ``<method>``. If neither folder
    has the file, all ``particles`` count as seen.
    """
    folder = Path(folder)
    for trained in (folder, folder.with_name(folder.name.rpartition("-")[0] or folder.name)):
        if (trained / "train_rows.npy").is_file():
            return np.load(trained / "train_rows.npy")
    return np.arange(particles)

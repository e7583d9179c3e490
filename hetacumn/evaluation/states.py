"""Scores of each true state of a dataset, and scores of mixtures of different molecules.

The poses of all states of one molecule have one common frame and hand. The species of a mixture have no common frame: the poses
of each species are aligned on their own.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from hetacumn.compute.batches import batch_slices
from hetacumn.evaluation.bound import Bound
from hetacumn.evaluation.dataset import SimulatedDataset
from hetacumn.evaluation.scores import Score, pose_errors
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import observe
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.prepared_stack import PreparedStack, reopen
from hetacumn.physics.fourier import crop_volumes
from hetacumn.physics.fsc import fsc, resolution_A
from hetacumn.physics.rotations import NEAR_DEG
from hetacumn.physics.symmetry import cyclic_rotations
from hetacumn.reconstruction.back_projection import back_project_parts
from hetacumn.simulation.molecules import Atoms
from hetacumn.simulation.truth import Truth

CHUNK = 1000  # images in memory at once


def tabulate_states(dataset: SimulatedDataset, predictions: Predictions, score: Score, bound: Bound) -> pd.DataFrame:
    """Tabulate the scores of each true state, one row per state; a state without particles has NaN.

    - ``state``: number of the true state, from 1.
    - ``particles``: number of its images that have a prediction.
    - ``accuracy``: fraction of these images in the class that is matched with the state.
    - ``bound``: accuracy on images of the state of a classifier that knows the true volumes.
    - ``poses_within_10deg``: fraction of these images with a rotation error below 10°, in the frame of all states.
    - ``bound_within_10deg``: the same fraction of a pose search with the true volumes.
    - ``resolution_A``: resolution of the class volume, at which its FSC with the true volume falls to 0.5.
    - ``resolution_true_poses_A``: the same resolution of the back-projection of all images of the state at true poses, at the
      prepared box.

    Args:
        dataset: the truth.
        predictions: the predictions of all images of one method.
        score: the scores of these predictions.
        bound: the bound of the dataset.

    Raises:
        HetacumnError: the dataset has no prepared stack, or a predicted image is not in the truth.
    """
    _, truth = dataset.match(predictions)
    voxel_A = dataset.voxel_A * dataset.volumes.shape[-1] / score.volumes.shape[-1]
    best = true_pose_resolutions_A(dataset, reopen(dataset.folder / "prepared"))
    rows = []
    for k in range(len(dataset.volumes)):
        members, found = truth.classes == k, score.confusion[k]
        rows.append(
            {
                "state": k + 1,
                "particles": int(members.sum()),
                "accuracy": found[k] / found.sum() if found.sum() else float("nan"),
                "bound": bound.class_marginal[k],
                "poses_within_10deg": float((score.rotation_error_deg[members] < NEAR_DEG).float().mean()),
                "bound_within_10deg": bound.class_within_10deg[k],
                "resolution_A": resolution_A(score.fsc[k], voxel_A),
                "resolution_true_poses_A": best[k],
            }
        )
    return pd.DataFrame(rows)


def true_pose_resolutions_A(dataset: SimulatedDataset, stack: PreparedStack) -> list[float]:
    """Back-project all prepared images of each state at their true poses; return the resolutions in Å, NaN without images."""
    truth, references = dataset.truth[stack.rows], crop_volumes(dataset.volumes, stack.box)
    resolutions = []
    for k, reference in enumerate(references):
        positions = ((truth.classes == k) & (truth.junk == 0)).numpy().nonzero()[0]
        if len(positions):
            curve = fsc(_back_project_truth(stack, truth, positions)[None], reference[None])[0]
            resolutions.append(resolution_A(curve, stack.pixel_A))
        else:
            resolutions.append(float("nan"))
    return resolutions


def _back_project_truth(stack: PreparedStack, truth: Truth, positions: Int[np.ndarray, " m"]) -> Float[Tensor, "box box box"]:
    shifts_px = stack.metadata.shifts_in_prepared_A(truth.shifts_A) / stack.pixel_A
    chunks = (positions[rows] for rows in batch_slices(len(positions), CHUNK))
    return back_project_parts((observe(stack.read(c)), Poses(truth.rotations[c], shifts_px[c])) for c in chunks)


def majority_accuracy(predicted: ArrayLike, true: ArrayLike) -> float:
    """Compute the fraction of the particles in classes of their own species; the species of a class has most of its particles.

    Several classes may have one species, so that the accuracy of the mixture is at least that of a one-to-one matching.
    """
    counts = pd.crosstab(np.asarray(true), np.asarray(predicted)).to_numpy()
    return float(counts.max(0).sum() / counts.sum())


def species_rotation_errors_deg(found: Predictions, truth: Truth, species: list[Atoms]) -> Float[np.ndarray, " k"]:
    """Compute the median rotation error of each species in degrees, in its own frame and hand; NaN without particles.

    The error is the distance to the nearest of the poses that are equivalent by the cyclic symmetry of the species, which the
    function finds from its coordinates.
    """
    medians = np.full(len(species), np.nan)
    for k, atoms in enumerate(species):
        members = (truth.classes == k).numpy().nonzero()[0]
        if len(members):
            symmetry = cyclic_rotations(atoms.positions_A)
            errors_deg, _ = pose_errors(found.rotations[members], truth.rotations[members], symmetry)
            medians[k] = torch.median(errors_deg)
    return medians

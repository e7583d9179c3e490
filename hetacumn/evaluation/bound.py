"""The Bayes bound of a simulated stack: the accuracy of a classifier that knows the true volumes.

Two classifiers compute the class posterior. The first classifier knows the true poses. The second classifier does not know
them. Its class posterior is marginalised over the poses:

1. For each class, Gauss-Newton steps climb to the nearest peak of the likelihood from two poses: the best pose of an exhaustive
   grid, and the true pose. The climb from the true pose guarantees that no finer grid can improve the bound.
2. Laplace's approximation estimates the mass of the posterior around each peak. If both climbs reach one peak, the peak
   counts once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hetacumn.compute.batches import batch_slices
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations
from hetacumn.physics.rotations import NEAR_DEG, distance_deg
from hetacumn.search.grid import pose_grid, search_grid, shift_grid
from hetacumn.search.refinement import Tangent, climb
from hetacumn.search.state import State

SAME_PEAK_DEG = 0.5  # two poses that differ by less than this angle count as one peak


@dataclass(frozen=True)
class Bound:
    """The accuracies of both classifiers, and the pose error with the true volumes.

    - ``known_pose``: accuracy of the classifier that knows the true poses.
    - ``marginal``: accuracy of the classifier that does not know the poses; the Bayes bound.
    - ``rotation_error_deg``: median rotation error of the best poses of this second classifier, in degrees.
    - ``class_marginal``: accuracy of the second classifier on the images of each true class; NaN without images.
    - ``class_within_10deg``: fraction of the images of each true class whose best pose has a rotation error below 10°.
    """

    known_pose: float
    marginal: float
    rotation_error_deg: float
    class_marginal: tuple[float, ...]
    class_within_10deg: tuple[float, ...]


@dataclass(frozen=True)
class TrueMixture:
    """The true mixture from which the images were simulated.

    - ``volumes``: one volume per class, in the units of the images.
    - ``weights``: class priors.
    - ``poses``, ``classes``: true pose and class of each image.
    """

    volumes: Float[Tensor, "k box box box"]
    weights: Float[Tensor, " k"]
    poses: Poses
    classes: Int[Tensor, " n"]


@torch.no_grad()
def bayes_bound(
    data: Observations, mixture: TrueMixture, search_radius: float = 0.25, radius: float = 0.45, padding: float = 2.0
) -> Bound:
    """Compute the Bayes bound for images of a known mixture.

    ``search_radius`` is the Fourier radius of the exhaustive search and ``radius`` the Fourier radius of the evidences, both in
    cycles per pixel.
    ``padding`` is the factor of the zero padding of volumes before the Fourier transform.
    """
    poses, classes = mixture.poses, mixture.classes
    device, box, prior = data.y.device, data.plane.box, mixture.weights.to(data.y.device).float().log()
    coarse = data.within(search_radius * box)
    grid, shifts = pose_grid(4, 24).to(device), shift_grid(2.0, 5).to(device)
    fixed = torch.zeros(len(data), 0, device=device)  # one volume has no latents
    outward, finest = (0.15, 0.2, 0.2, search_radius, search_radius), (radius,) * 6
    known_evidence, searched_evidence, found = [], [], []
    for volume in mixture.volumes:
        tangent = Tangent(volume[None], padding)
        truth = State(poses, fixed)
        known_evidence.append(_expand(data, tangent, truth, radius)[0])
        best_of_grid = search_grid(coarse, volume[None], grid, shifts, padding=padding).poses
        near, _ = climb(data, tangent, State(best_of_grid, fixed), outward)
        modes, values = zip(*(climb(data, tangent, start, finest) for start in (near, truth)), strict=True)
        peaks = [(mode.poses.rotations, _expand(data, tangent, mode, radius)[1]) for mode in modes]
        searched_evidence.append(_add_peaks(*peaks))
        found.append(modes[0].where(values[0] > values[1], modes[1]).poses.rotations)
    known, searched = torch.stack(known_evidence, 1) + prior, torch.stack(searched_evidence, 1) + prior
    winner = searched.argmax(1)
    rotations = torch.stack(found, 1)[torch.arange(len(data)), winner]
    right, errors_deg = winner == classes, distance_deg(rotations, poses.rotations)
    members = [classes == k for k in range(len(mixture.volumes))]
    return Bound(
        float((known.argmax(1) == classes).float().mean()),
        float(right.float().mean()),
        float(errors_deg.median()),
        tuple(float(right[chosen].float().mean()) for chosen in members),
        tuple(float((errors_deg[chosen] < NEAR_DEG).float().mean()) for chosen in members),
    )


def _add_peaks(
    first: tuple[Float[Tensor, "n 3 3"], Float[Tensor, " n"]], second: tuple[Float[Tensor, "n 3 3"], Float[Tensor, " n"]]
) -> Float[Tensor, " n"]:
    """Add the evidences of two peaks, each given as (rotations, log evidences); equal peaks count once."""
    (rotations, evidence), (other_rotations, other_evidence) = first, second
    same = distance_deg(rotations, other_rotations) < SAME_PEAK_DEG
    return torch.maximum(evidence, other_evidence).where(same, torch.logaddexp(evidence, other_evidence))


def _expand(
    data: Observations, tangent: Tangent, state: State, radius: float, batch: int = 500
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Compute the log-likelihoods at states, and the Laplace evidences of the peaks there."""
    band, values, evidences = data.within(radius * data.plane.box), [], []
    for rows in batch_slices(len(data), batch):
        here = tangent.expand(band[rows], state[rows])
        values.append(here.value)
        evidences.append(here.step(0.0)[2])
    return torch.cat(values), torch.cat(evidences)

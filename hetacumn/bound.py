"""The best that any method could do on a simulated stack: a Bayes classifier that has the true volumes.

Once with the true poses, and once with poses searched. The class posterior then integrates over poses: for each class
the best pose of an exhaustive grid and, so that no finer grid could have done better, the true pose both climb to the
peak next to them, and the posterior's mass about each is Laplace's approximation of it; of one peak where both reach it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hetacumn import so3
from hetacumn.joint import State, Tangent, climb
from hetacumn.observations import Observations
from hetacumn.particles import Poses
from hetacumn.search import pose_grid, search_grid, shift_grid

SAME_PEAK_DEG = 0.5  # poses nearer than that have climbed to one peak


@dataclass(frozen=True)
class Bound:
    """Accuracies of the two classifiers, and the median pose error in degrees of the search."""

    known_pose: float
    marginal: float
    rotation_error_deg: float


@torch.no_grad()
def bayes_bound(
    data: Observations, volumes: Tensor, poses: Poses, classes: Tensor, weights: Tensor, search_radius: float = 0.25,
    radius: float = 0.45, padding: float = 2.0,
) -> Bound:
    """The bound for images with true ``volumes`` ``(k, box, box, box)``, ``poses`` and ``classes`` ``(n,)``.

    ``volumes`` are in the scale of the images; ``weights`` ``(k,)`` are the class priors. Radii are in cycles per pixel.
    """
    device, box, prior = data.y.device, data.plane.box, weights.to(data.y.device).float().log()
    coarse = data.within(search_radius * box)
    grid, shifts = pose_grid(4, 24).to(device), shift_grid(2.0, 5).to(device)
    fixed = torch.zeros(len(data), 0, device=device)  # one volume has no latents
    outward, finest = (0.15, 0.2, 0.2, search_radius, search_radius), (radius,) * 6
    known, searched, found = [], [], []
    for volume in volumes:
        tangent = Tangent(volume[None], padding)
        truth = State(poses, fixed)
        known.append(_expand(data, tangent, truth, radius)[0])
        near = search_grid(coarse, volume[None], grid, shifts, padding=padding).poses
        near, _ = climb(data, tangent, State(near, fixed), outward)
        modes, values = zip(*(climb(data, tangent, start, finest) for start in (near, truth)), strict=True)
        evidences = [_expand(data, tangent, mode, radius)[1] for mode in modes]
        searched.append(_of_peaks([mode.poses.rotations for mode in modes], evidences))
        found.append(modes[0].where(values[0] > values[1], modes[1]).poses.rotations)
    known, searched = torch.stack(known, 1) + prior, torch.stack(searched, 1) + prior
    winner = searched.argmax(1)
    rotations = torch.stack(found, 1)[torch.arange(len(data)), winner]
    return Bound(
        float((known.argmax(1) == classes).float().mean()),
        float((winner == classes).float().mean()),
        float(so3.distance_deg(rotations, poses.rotations).median()),
    )


def _of_peaks(rotations: list[Tensor], evidences: list[Tensor]) -> Tensor:
    """The log evidence ``(n,)`` of two peaks at rotations ``(n, 3, 3)``, or of one where they are the same."""
    same = so3.distance_deg(*rotations) < SAME_PEAK_DEG
    return torch.maximum(*evidences).where(same, torch.logaddexp(*evidences))


def _expand(data: Observations, tangent: Tangent, state: State, radius: float, batch: int = 500) -> tuple[Tensor, Tensor]:
    """Log-likelihoods ``(n,)`` at a state, and Laplace evidences ``(n,)`` of the peaks there."""
    band, values, evidences = data.within(radius * data.plane.box), [], []
    for start in range(0, len(data), batch):
        rows = slice(start, start + batch)
        here = tangent.expand(band[rows], state[rows])
        values.append(here.value)
        evidences.append(here.step(0.0)[2])
    return torch.cat(values), torch.cat(evidences)

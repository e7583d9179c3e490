"""The best that any method could do on a simulated stack: a Bayes classifier that has the true volumes.

Once with the true poses, and once with poses searched. The class posterior then integrates over poses: for each class
the best pose of an exhaustive grid and, so that no finer grid could have done better, the true pose are both refined
locally, and the posterior's mass about each is found by importance sampling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hetacumn import so3
from hetacumn.observations import Observations
from hetacumn.particles import Poses
from hetacumn.search import pose_grid, pose_score, refine_local, refine_newton, search_grid, shift_grid
from hetacumn.volumes import Slicer


@dataclass(frozen=True)
class Bound:
    """Accuracies of the two classifiers, and the median pose error in degrees of the search."""

    known_pose: float
    marginal: float
    rotation_error_deg: float


@torch.no_grad()
def bayes_bound(
    data: Observations, volumes: Tensor, poses: Poses, classes: Tensor, weights: Tensor, seed: int = 0,
    search_radius: float = 0.25, radius: float = 0.45, padding: float = 2.0,
) -> Bound:
    """The bound for images with true ``volumes`` ``(k, box, box, box)``, ``poses`` and ``classes`` ``(n,)``.

    ``volumes`` are in the scale of the images; ``weights`` ``(k,)`` are the class priors. Radii are in cycles per pixel.
    """
    generator = torch.Generator(data.y.device).manual_seed(seed)
    box, prior = data.plane.box, weights.to(data.y.device).float().log()
    coarse, fine = data.within(search_radius * box), data.within(radius * box)
    grid, shifts = pose_grid(4, 24).to(data.y.device), shift_grid(2.0, 5).to(data.y.device)
    known, searched, found = [], [], []
    for volume in volumes:
        slicer, one = Slicer(volume[None], padding), torch.ones(len(data), 1, device=data.y.device)
        known.append(_score(fine, slicer, poses.rotations[:, None], poses.shifts_px[:, None])[:, 0])
        near = search_grid(coarse, volume[None], grid, shifts, padding=padding).poses
        near, _ = refine_local(coarse, slicer, one, near, (7.0, 2.5), (0.5, 0.2), rounds=8, generator=generator)
        modes, evidences, scores = [], [], []
        for start in (near, poses):
            mode, score = refine_newton(fine, slicer, one, start, iterations=6)
            evidences.append(_evidence(fine, slicer, mode, generator))
            modes.append(mode.rotations)
            scores.append(score)
        searched.append(torch.logaddexp(*evidences))
        found.append(torch.where((scores[0] > scores[1])[:, None, None], *modes))
    known, searched = torch.stack(known, 1) + prior, torch.stack(searched, 1) + prior
    winner = searched.argmax(1)
    rotations = torch.stack(found, 1)[torch.arange(len(data)), winner]
    return Bound(
        float((known.argmax(1) == classes).float().mean()),
        float((winner == classes).float().mean()),
        float(so3.distance_deg(rotations, poses.rotations).median()),
    )


def _score(data: Observations, slicer: Slicer, rotations: Tensor, shifts_px: Tensor, batch: int = 250) -> Tensor:
    one = torch.ones(len(data), 1, device=data.y.device)
    rows = [slice(start, start + batch) for start in range(0, len(data), batch)]
    return torch.cat([pose_score(data[r], slicer, one[r], rotations[r], shifts_px[r]) for r in rows])


def _evidence(data: Observations, slicer: Slicer, best: Poses, generator: torch.Generator, draws: int = 48,
              degrees: float = 1.5, pixels: float = 0.12) -> Tensor:
    """Log evidence ``(n,)`` up to a constant, by draws from a normal about the best pose."""
    count, device = len(data), data.y.device
    turn = torch.randn(count, draws, 3, generator=generator, device=device)
    move = torch.randn(count, draws, 2, generator=generator, device=device)
    rotations = so3.turn(best.rotations[:, None], degrees * turn)
    score = _score(data, slicer, rotations, best.shifts_px[:, None] + pixels * move)
    return torch.logsumexp(score + 0.5 * (turn.square().sum(-1) + move.square().sum(-1)), dim=1)

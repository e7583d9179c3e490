"""Pose search for low-signal images, in which the likeliest poses of a grid compete.

The grid pose nearest to the true pose is up to half a grid step away from it, in rotation and in shift, and explains less of
the image than the true pose does. In a low-signal image, one of the thousands of other grid poses explains as much by chance.
Gauss-Newton steps from both poses distinguish them. The likeliest grid poses therefore take such steps in several rounds. Each
round extends to higher frequencies and admits fewer poses, until one pose is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.compute.batches import batch_size, batch_slices
from hetacumn.particles.observations import Observations
from hetacumn.search.grid import PairedSlices, RotationGrid, likeliest
from hetacumn.search.refinement import Tangent, climb, compete
from hetacumn.search.state import State

ROUNDS = ((16, 0.7), (8, 0.85), (4, 1.0))  # (poses that take part, fraction of the Fourier radius)
GRID_SHARE = 0.7  # fraction of the Fourier radius within which the grid poses are ranked


@dataclass(frozen=True)
class Candidates:
    """The poses and volumes that compete for each image.

    - ``volumes``: the volumes V(z) at the latents ``centres``, computed from a basis.
    - ``centres``: the latent of each volume.
    - ``grid``, ``shifts_px``: the pose grid, all pairs of a rotation and a shift (pixels).
    - ``padding``: factor by which the volumes are zero-padded before the Fourier transform.
    """

    volumes: Float[Tensor, "k box box box"]
    centres: Float[Tensor, "k q"]
    grid: RotationGrid
    shifts_px: Float[Tensor, "t 2"]
    padding: float = 2.0


@torch.no_grad()
def search_competing(
    data: Observations, tangent: Tangent, candidates: Candidates, radius: float, batch: int | None = None
) -> tuple[State, Float[Tensor, " n"]]:
    """Find the pose and z of each image, and their log joint within a Fourier ``radius`` (cycles per pixel).

    The 16 likeliest rotations of the grid compete, each with its likeliest shift and volume. The winner then takes two more
    Gauss-Newton steps within ``radius``. All steps use the basis of ``tangent``. ``batch`` is the number of images per step.
    """
    rounds = tuple((count, share * radius) for count, share in ROUNDS)
    coarse, padding = data.within(GRID_SHARE * radius * data.plane.box), candidates.padding
    slices = PairedSlices.of_grid(candidates.volumes, candidates.grid, coarse.k, padding)
    poses, volume = likeliest(coarse, slices, candidates.grid, candidates.shifts_px, ROUNDS[0][0])
    states, values, batch = [], [], batch or batch_size(500, data.y.shape[1], data.y.device)
    for rows in batch_slices(len(data), batch):
        competing = [State(ranked[rows], candidates.centres[volume[rows, place]]) for place, ranked in enumerate(poses)]
        winner, _ = compete(data[rows], tangent, competing, rounds)
        winner, value = climb(data[rows], tangent, winner, (radius, radius))
        states.append(winner)
        values.append(value)
    return State.cat(states), torch.cat(values)

"""Competing poses: pose search for faint images, in which the likeliest poses of a grid compete.

The nearest point of a grid is half a step off, in rotation and in shift, and explains only a part of what the right pose
explains. In a faint image another of thousands of points explains as much by chance. Beyond the grid the two differ: each of
the likeliest poses takes Gauss-Newton steps, further and further out in frequency, until one is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hetacumn.compute.batches import batch_size, batch_slices
from hetacumn.particles.observations import Observations
from hetacumn.search.grid import likeliest
from hetacumn.search.refinement import Tangent, climb, compete
from hetacumn.search.state import State

ROUNDS = ((16, 0.7), (8, 0.85), (4, 1.0))  # (how many poses take part, share of the Fourier radius)
GRID_SHARE = 0.7  # share of the Fourier radius within which the poses of the grid are compared


@dataclass(frozen=True)
class Candidates:
    """The poses and volumes that compete for an image.

    A grid of ``rotations`` ``(r, 3, 3)`` and ``shifts_px`` ``(t, 2)``, and ``volumes`` ``(k, box, box, box)``, which lie at
    latent ``centres`` ``(k, q)`` of a basis and are padded by ``padding``.
    """

    volumes: Tensor
    centres: Tensor
    rotations: Tensor
    shifts_px: Tensor
    padding: float = 2.0


@torch.no_grad()
def search_competing(
    data: Observations, tangent: Tangent, candidates: Candidates, radius: float, batch: int | None = None
) -> tuple[State, Tensor]:
    """Pose and z of each image, and their log joint ``(n,)`` within a Fourier ``radius`` (cycles per pixel).

    The likeliest poses of the grid compete, each with its likeliest volume; the winner climbs to its peak under the basis of
    ``tangent``.
    """
    rounds = tuple((count, share * radius) for count, share in ROUNDS)
    coarse, padding = data.within(GRID_SHARE * radius * data.plane.box), candidates.padding
    grid = candidates.rotations, candidates.shifts_px
    poses, volume = likeliest(coarse, candidates.volumes, *grid, ROUNDS[0][0], padding)
    states, values, batch = [], [], batch or batch_size(500, data.y.shape[1], data.y.device)
    for rows in batch_slices(len(data), batch):
        competing = [State(one[rows], candidates.centres[volume[rows, place]]) for place, one in enumerate(poses)]
        winner, _ = compete(data[rows], tangent, competing, rounds)
        winner, value = climb(data[rows], tangent, winner, (radius, radius))
        states.append(winner)
        values.append(value)
    return State.cat(states), torch.cat(values)

"""Competing poses: pose search for faint images, in which the likeliest poses of a grid compete.

The nearest point of a grid is half a step from the right pose, in rotation and in shift, and explains less of the image than
the right pose does. In a faint image another of thousands of points explains as much by chance. Gauss-Newton steps from the two
points tell them apart: the likeliest poses take such steps, further and further out in frequency, until one pose is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
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

    The poses are a grid of ``rotations`` and ``shifts_px``. The ``volumes`` lie at latent ``centres`` of a basis and are padded
    by ``padding``.
    """

    volumes: Float[Tensor, "k box box box"]
    centres: Float[Tensor, "k q"]
    rotations: Float[Tensor, "r 3 3"]
    shifts_px: Float[Tensor, "t 2"]
    padding: float = 2.0


@torch.no_grad()
def search_competing(
    data: Observations, tangent: Tangent, candidates: Candidates, radius: float, batch: int | None = None
) -> tuple[State, Float[Tensor, " n"]]:
    """Find the pose and z of each image, and their log joint within a Fourier ``radius`` (cycles per pixel).

    The likeliest poses of the grid compete, each with its likeliest volume; the winner climbs to its peak under the basis of
    ``tangent``.
    """
    rounds = tuple((count, share * radius) for count, share in ROUNDS)
    coarse, padding = data.within(GRID_SHARE * radius * data.plane.box), candidates.padding
    grid = candidates.rotations, candidates.shifts_px
    poses, volume = likeliest(coarse, candidates.volumes, *grid, ROUNDS[0][0], padding)
    states, values, batch = [], [], batch or batch_size(500, data.y.shape[1], data.y.device)
    for rows in batch_slices(len(data), batch):
        competing = [State(ranked[rows], candidates.centres[volume[rows, place]]) for place, ranked in enumerate(poses)]
        winner, _ = compete(data[rows], tangent, competing, rounds)
        winner, value = climb(data[rows], tangent, winner, (radius, radius))
        states.append(winner)
        values.append(value)
    return State.cat(states), torch.cat(values)

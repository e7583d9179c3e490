"""Poses of images so faint that the likeliest of a grid is often not the one next to the right pose: several compete.

A grid's nearest point is half a step off, in rotation and in shift, and explains but a part of what the right pose would. In a
faint image another of its thousands explains as much by chance. What tells them apart is beyond the grid: each of the
likeliest takes Gauss-Newton steps, further and further out in frequency, until one is left.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hetacumn.joint import State, Tangent, climb, compete
from hetacumn.observations import Observations
from hetacumn.parallel import batch_size
from hetacumn.search import likeliest

ROUNDS = ((16, 0.7), (8, 0.85), (4, 1.0))  # how many take part, and up to which share of the reach
GRID_SHARE = 0.7  # of the reach, up to which the grid's poses are compared


@torch.no_grad()
def locate(
    data: Observations, tangent: Tangent, volumes: Tensor, centres: Tensor, rotations: Tensor, shifts_px: Tensor,
    reach: float, padding: float = 2.0, batch: int | None = None,
) -> tuple[State, Tensor]:
    """Pose and z of each image, and their log joint ``(n,)`` within ``reach`` (cycles per pixel).

    The rivals are the likeliest of a grid of rotations and shifts under ``volumes`` ``(k, box, box, box)``, those at the latent
    ``centres`` ``(k, q)`` of the basis that ``tangent`` is of; the winner climbs to its peak.
    """
    rounds = tuple((count, share * reach) for count, share in ROUNDS)
    coarse = data.within(GRID_SHARE * reach * data.plane.box)
    poses, volume = likeliest(coarse, volumes, rotations, shifts_px, ROUNDS[0][0], padding)
    states, values, batch = [], [], batch or batch_size(500, data.y.shape[1], data.y.device)
    for start in range(0, len(data), batch):
        rows = slice(start, start + batch)
        rivals = [State(one[rows], centres[volume[rows, place]]) for place, one in enumerate(poses)]
        winner, _ = compete(data[rows], tangent, rivals, rounds)
        winner, value = climb(data[rows], tangent, winner, (reach, reach))
        states.append(winner)
        values.append(value)
    return State.cat(states), torch.cat(values)

"""Alignment of conformations, and of the poses of their images, to one frame.

Images do not determine how two conformations are placed relative to each other. If one part of a molecule rotates, a consensus
reconstruction, or an alignment by the greatest overlap, rotates each whole conformation by about half of this motion. The
largest rigid body that the conformations share does not move, and therefore defines the frame.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.ab_initio.clusters import Clusters
from hetacumn.particles.metadata import Poses
from hetacumn.physics.alignment import Placement, place_core, settle_hand
from hetacumn.physics.rotations import Frame


def align_conformations(
    clusters: Clusters, poses: Poses, generator: torch.Generator, hands: bool = False
) -> tuple[Float[Tensor, "k box box box"], Poses, list[int]]:
    """Align the volumes of clusters to the volume of the largest cluster, by their common rigid body.

    If ``hands`` is true, the function also mirrors volumes of the other hand. It returns the aligned volumes, the poses of all
    images in the new frames, and the indices of the mirrored clusters.
    """
    volumes, first, mirrored = clusters.volumes.clone(), int(clusters.counts.argmax()), []
    rotations, shifts_px = poses.rotations.clone(), poses.shifts_px.clone()
    here = Placement(Frame(torch.eye(3, device=volumes.device), False), torch.zeros(3, device=volumes.device))
    for k in range(len(volumes)):
        if k == first:
            continue
        place = place_core(volumes[k], volumes[first], here, generator)
        if hands:
            place = settle_hand(volumes[k], volumes[first], place)
        if place.frame.mirrored:
            mirrored.append(k)
        volumes[k] = place.apply(volumes[k])
        members = clusters.labels == k  # x_old = ±G x + t, R x_old = ±R G x + R t; the minus rotates the image by 180°
        shifts_px[members] += (rotations[members] @ place.shift_px)[:, :2]
        rotations[members] = place.frame.apply(rotations[members])
    return volumes, Poses(rotations, shifts_px), mirrored

"""The cyclic symmetry of a set of points."""

from __future__ import annotations

from math import pi

import numpy as np
import roma
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor

ORDERS = range(8, 1, -1)  # the orders that are tried, the highest first
TOLERANCE_A = 1.0  # largest root mean square distance from a rotated point to the nearest point


def cyclic_rotations(positions_A: Float[Tensor, "n 3"]) -> Float[Tensor, "g 3 3"]:
    """Find the rotations about one axis that map a set of points (x, y, z in Å) onto itself; the first is the identity.

    A symmetry axis passes through the mean position, and is a principal axis of inertia. The function therefore tries rotations
    by 360°/g about each principal axis, and returns the group of the highest order g up to 8. A dihedral or cubic group is
    reduced to one of its cyclic groups.
    """
    points = (positions_A - positions_A.mean(0)).double()
    tree = KDTree(points.numpy())
    for order in ORDERS:
        for axis in torch.linalg.eigh(points.mT @ points).eigenvectors.mT:
            rotations = roma.rotvec_to_rotmat(2 * pi / order * torch.arange(order)[:, None] * axis)
            distances_A = np.asarray(tree.query((points @ rotations[1].mT).numpy())[0])
            if np.square(distances_A).mean() <= TOLERANCE_A**2:
                return rotations.to(positions_A)
    return torch.eye(3)[None].to(positions_A)

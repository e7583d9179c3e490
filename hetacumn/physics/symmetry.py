"""Symmetry: point groups in RELION's axes, symmetric volumes, and the cyclic symmetry of a set of points.

A rotation ``g`` (xyz) of the group maps the object onto itself, ``V(g x) = V(x)``, so that the poses ``R`` and ``R g`` have
equal images. The axes are those of RELION:

- ``Cn``: n-fold axis on z.
- ``Dn``: n-fold axis on z, 2-fold axis on x.
- ``T``: 3-fold axis on z, 2-fold axis on (0, √⅔, √⅓).
- ``O``: 4-fold axes on x, y and z.
- ``I1``: 2-fold axes on x, y and z, 5-fold axis on (0.85, 0, -0.53). ``I2`` (or ``I``): 2-fold axes on x, y and z, 5-fold axis
  on (0.53, 0, 0.85). ``I3``: 5-fold axis on z, 2-fold axis on (-0.53, 0, 0.85). ``I4``: 2-fold axis on (0.53, 0, 0.85), 5-fold
  axis on (0.89, 0, 0.45).
"""

from __future__ import annotations

from math import atan, pi, sqrt

import numpy as np
import roma
import torch
from jaxtyping import Bool, Float
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from hetacumn.common.point_groups import group_name
from hetacumn.physics.fourier import crop_volumes
from hetacumn.physics.rotations import inplane, view_grid
from hetacumn.physics.volumes import recentred, rotate, soft_sphere

ORDERS = range(8, 1, -1)  # the orders that are tried, the highest first
TOLERANCE_A = 1.0  # largest root mean square distance from a rotated point to the nearest point
COARSE_BOX, COMPARED = 24, 6  # voxels per side, and number of rotated copies, in the comparison that finds symmetry axes
CLEAR_GAIN = 0.02  # least gain of the correlation with the copies for which a volume turns by a large angle
_TO_5_FOLD = np.rad2deg(atan(2 / (1 + sqrt(5))))  # 31.7°, angle from a 2-fold axis of an icosahedron to the nearest 5-fold axis
_ABOUT_Y_DEG = {"I": -90, "I1": 0, "I2": -90, "I3": -90 - _TO_5_FOLD, "I4": -90 + _TO_5_FOLD}  # from SciPy's axes to RELION's
_MIDDLE = torch.tensor([0.48, 0.36, 0.8])  # viewing direction in the middle of the asymmetric unit, on no axis of any group


def symmetry_rotations(name: str) -> Float[Tensor, "g 3 3"]:
    """Return the rotations of a point group in RELION's axes; the first is the identity.

    Raises:
        HetacumnError: ``name`` is not one of :data:`~hetacumn.common.point_groups.GROUP_NAMES`.
    """
    name = group_name(name)
    group = Rotation.create_group(name[0] if name[0] in "TOI" else name)  # type: ignore[arg-type]  # the stub lists "Cn", "Dn"
    if name == "T":  # SciPy: 2-fold axes on x, y and z, 3-fold axis on (1, 1, 1)
        frame = Rotation.from_euler("zxz", [45, np.rad2deg(atan(sqrt(2))), 180], degrees=True)
    else:
        frame = Rotation.from_euler("y", _ABOUT_Y_DEG.get(name, 0), degrees=True)
    group = group[np.argsort(group.magnitude(), kind="stable")]
    return torch.from_numpy((frame * group * frame.inv()).as_matrix()).float()


def symmetrised(volumes: Float[Tensor, "v box box box"], group: Float[Tensor, "g 3 3"]) -> Float[Tensor, "v box box box"]:
    """Return the mean of the rotated copies ``V(g x)`` of each volume, with trilinear interpolation.

    ``group`` is a point group whose first rotation is the identity. The function is differentiable. Up to interpolation errors
    it is a projection, and equal to its adjoint.
    """
    turned = [torch.stack([rotate(volume, g) for volume in volumes]) for g in group[1:].to(volumes)]
    return sum(turned, volumes) / len(group)


def asymmetric_unit(
    rotations: Float[Tensor, "n 3 3"], group: Float[Tensor, "g 3 3"], margin_deg: float = 0.0
) -> Bool[Tensor, " n"]:
    """Mark the poses whose viewing direction is in an asymmetric unit of a group, or less than ``margin_deg`` outside it.

    Each pose ``R`` has exactly one equivalent pose ``R g`` in the asymmetric unit, except at its border.
    """
    middle = _MIDDLE.to(rotations) / _MIDDLE.norm()
    away = middle - group[1:].to(rotations) @ middle  # normals of the border planes
    inside = rotations[:, 2] @ (away / away.norm(dim=1, keepdim=True)).T
    return (inside >= -np.sin(np.deg2rad(margin_deg))).all(1)


def align_axes(volume: Float[Tensor, "box box box"], group: Float[Tensor, "g 3 3"]) -> Float[Tensor, "box box box"]:
    """Centre a volume at its centre of mass, and rotate it so that its symmetry axes lie on the axes of a point group.

    At low resolution, the function compares the volume with its rotated copies for a grid of orientations of the axes. Smaller
    and smaller rotations improve the best orientation. A volume whose axes already lie on the axes of the group turns little.
    """
    volume = recentred(volume)
    small = crop_volumes(volume, min(COARSE_BOX, volume.shape[-1]))
    small = (small - small.mean()) * soft_sphere(small.shape[-1], device=small.device)
    some = group[torch.linspace(1, len(group) - 1, min(COMPARED, len(group) - 1)).round().long()].to(volume)

    def likeness(frame: Float[Tensor, "3 3"]) -> float:
        copies = torch.stack([rotate(small, frame @ g @ frame.T) for g in some])
        return float((small * copies).sum() / (len(some) * small.square().sum()))

    frames = view_grid(4).to(volume).mT
    if (group[:, 2, 2] < 0.99).any():  # not cyclic: rotations about z change the axes
        frames = (frames[:, None] @ inplane(torch.arange(0, 360, 15)).to(volume)).flatten(0, 1)
        frames = frames[asymmetric_unit(frames, group, 7.5)]  # F and F g place the axes alike
    best, highest = torch.eye(3).to(volume), likeness(torch.eye(3).to(volume))
    if (found := max((likeness(frame), k) for k, frame in enumerate(frames)))[0] > highest + CLEAR_GAIN:
        highest, best = found[0], frames[found[1]]
    for step_deg in (8.0, 4.0, 2.0, 1.0):
        for axis in torch.cat([torch.eye(3), -torch.eye(3)]).to(volume):
            turned = best @ roma.rotvec_to_rotmat(torch.deg2rad(step_deg * axis))
            if (value := likeness(turned)) > highest:
                highest, best = value, turned
    return rotate(volume, best)


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

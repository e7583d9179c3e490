"""Rotations: uniform samples, grids, Euler angles, distances, and alignment of two sets of poses.

A rotation ``R`` left-multiplies column vectors xyz and maps object to view: ``x_view = R x_object``. Euler angles are
RELION's (rot, tilt, psi) in degrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import healpy
import numpy as np
import roma
import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor

#: Rotation by 180° about the view axis. The projection of the mirrored volume ``V(-x)`` at ``MIRROR @ R`` equals the
#: projection of ``V(x)`` at ``R``, so images do not determine the hand.
MIRROR: Float[Tensor, "3 3"] = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
NEAR_DEG = 10.0  # two poses with a smaller distance count as equal


def random_rotations(
    n: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> Float[Tensor, "{n} 3 3"]:
    """Sample ``n`` rotations uniformly over SO(3); ``generator`` must be on ``device``."""
    quaternions = torch.randn(n, 4, generator=generator, device=device)
    return roma.unitquat_to_rotmat(torch.nn.functional.normalize(quaternions, dim=1))


def turn(rotations: Float[Tensor, "*#batch 3 3"], vectors_deg: Float[Tensor, "*#batch 3"]) -> Float[Tensor, "... 3 3"]:
    """Rotate poses in the view frame by rotation vectors in degrees: ``exp(vector) @ R``."""
    return roma.rotvec_to_rotmat(torch.deg2rad(vectors_deg)) @ rotations


def perturb(
    rotations: Float[Tensor, "*batch 3 3"], degrees: float, generator: torch.Generator | None = None
) -> Float[Tensor, "*batch 3 3"]:
    """Rotate poses randomly: each component of the rotation vector is normal with standard deviation ``degrees``."""
    vectors = torch.randn(rotations.shape[:-1], generator=generator, device=rotations.device)
    return turn(rotations, degrees * vectors)


def from_euler(angles_deg: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Convert RELION's (rot, tilt, psi) in degrees to rotations: Rz(-psi) Ry(-tilt) Rz(-rot)."""
    rot, tilt, psi = torch.deg2rad(angles_deg).unbind(-1)
    return _about_z(-psi) @ _about_y(-tilt) @ _about_z(-rot)


def to_euler(rotations: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Convert rotations to RELION's (rot, tilt, psi) in degrees; rot is 0 where tilt is 0° or 180°."""
    r = rotations.double()
    sine = torch.hypot(r[..., 2, 0], r[..., 2, 1])
    tilt = torch.atan2(sine, r[..., 2, 2])
    gimbal = sine < 1e-6
    rot = torch.where(gimbal, 0.0, torch.atan2(r[..., 2, 1], r[..., 2, 0]))
    flat = torch.atan2(r[..., 0, 1], r[..., 1, 1])  # rot = 0: R = Rz(-psi) Ry(-tilt)
    psi = torch.where(gimbal, flat, torch.atan2(r[..., 1, 2], -r[..., 0, 2]))
    return torch.rad2deg(torch.stack([rot, tilt, psi], dim=-1)).to(rotations.dtype)


def _about_z(angle: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    c, s, o, i = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, -s, o, s, c, o, o, o, i], dim=-1).unflatten(-1, (3, 3))


def _about_y(angle: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    c, s, o, i = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, o, s, o, i, o, -s, o, c], dim=-1).unflatten(-1, (3, 3))


def from_6d(vectors: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 3 3"]:
    """Orthonormalise two vectors one after the other (Zhou et al. 2019) into the first two *rows* of ``R``."""
    a, b = vectors.unflatten(-1, (2, 3)).unbind(-2)
    a = torch.nn.functional.normalize(a, dim=-1, eps=1e-6)
    b = torch.nn.functional.normalize(b - (a * b).sum(-1, keepdim=True) * a, dim=-1, eps=1e-6)
    return torch.stack([a, b, torch.linalg.cross(a, b)], dim=-2)


def view_grid(nside: int) -> Float[Tensor, "{12*nside**2} 3 3"]:
    """Return rotations with psi = 0 whose viewing directions are the pixel centres of a HEALPix grid."""
    tilt, rot = healpy.pix2ang(nside, np.arange(healpy.nside2npix(nside)))
    angles = np.rad2deg(np.stack([rot, tilt, np.zeros_like(rot)], axis=1))
    return from_euler(torch.from_numpy(angles).float())


def inplane(angles_deg: Real[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """Return the in-plane rotations whose RELION angles are rot = tilt = 0 and the given psi."""
    return _about_z(-torch.deg2rad(angles_deg))


def distance_deg(a: Float[Tensor, "*#batch 3 3"], b: Float[Tensor, "*#batch 3 3"]) -> Float[Tensor, " ..."]:
    """Return the angle of the rotation from ``a`` to ``b``, in degrees."""
    chord = (a.double() - b.double()).square().sum((-2, -1)).sqrt()  # ‖A - B‖ = 2√2 sin(angle / 2)
    return torch.rad2deg(2 * torch.asin((chord / 8**0.5).clamp(max=1.0))).float()


@dataclass(frozen=True)
class Frame:
    """The transformation of one set of poses to the frame of another: a global rotation, and whether to mirror the object."""

    rotation: Float[Tensor, "3 3"]
    mirrored: bool

    def to(self, device: torch.device | str) -> Frame:
        """Copy to another device."""
        return Frame(self.rotation.to(device), self.mirrored)

    def apply(self, rotations: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
        """Transform poses ``R`` of the first set: return ``R @ rotation``, or ``MIRROR @ R @ rotation`` if ``mirrored``."""
        return (MIRROR.to(rotations) @ rotations if self.mirrored else rotations) @ self.rotation


def align(
    estimated: Float[Tensor, "n 3 3"],
    true: Float[Tensor, "n 3 3"],
    trials: int = 200,
    symmetry: Float[Tensor, "g 3 3"] | None = None,
) -> Frame:
    """Find the frame in which the estimated poses are nearest to the true poses.

    *Ab initio* reconstruction determines neither the orientation nor the hand of the object. Each of up to ``trials``
    particles proposes the frame that aligns its own pose, in either hand. The function takes the frame with the lowest median
    error, and refines its rotation towards the lowest mean error by iterative reweighting, which is robust against outliers.
    ``symmetry`` are the rotations that map the object onto itself, and the poses ``R`` and ``R g`` are equivalent; None stands
    for the identity.
    """
    copies = equivalent(true, symmetry)
    proposals = [_best_proposal(estimated, copies, mirrored, trials) for mirrored in (False, True)]
    _, mirrored, poses, rotation = min(proposals, key=lambda proposal: proposal[0])
    for _ in range(10):
        error, nearest = distance_deg((poses @ rotation)[:, None], copies).min(1)
        weight = 1 / error.clamp(min=0.1 * float(error.median()) + 1e-3)
        own = copies[torch.arange(len(copies), device=copies.device), nearest]
        rotation = roma.special_procrustes((weight[:, None, None] * (poses.mT @ own)).sum(0))
    return Frame(rotation, mirrored)


def equivalent(rotations: Float[Tensor, "n 3 3"], symmetry: Float[Tensor, "g 3 3"] | None) -> Float[Tensor, "n copies 3 3"]:
    """Return all poses ``R g`` with the same image, for the rotations ``g`` that map the object onto itself."""
    return rotations[:, None] if symmetry is None else rotations[:, None] @ symmetry.to(rotations)


def _best_proposal(
    estimated: Float[Tensor, "n 3 3"], copies: Float[Tensor, "n copies 3 3"], mirrored: bool, trials: int
) -> tuple[Float[Tensor, ""], bool, Float[Tensor, "n 3 3"], Float[Tensor, "3 3"]]:
    """Return the median error of the best frame of one hand, the hand, the poses in that hand, and the frame's rotation."""
    pick = torch.linspace(0, len(copies) - 1, min(trials, len(copies)), device=copies.device).long()
    sample = torch.linspace(0, len(copies) - 1, min(2000, len(copies)), device=copies.device).long()
    poses = MIRROR.to(estimated) @ estimated if mirrored else estimated
    frames = poses[pick].mT @ copies[pick, 0]
    tried = poses[sample, None] @ frames  # (sample, trials)
    errors = torch.stack([distance_deg(tried, copies[sample, i, None]) for i in range(copies.shape[1])]).amin(0)
    medians, order = errors.median(dim=0).values.sort()
    return medians[0], mirrored, poses, frames[order[0]]


def agreeing(found: Float[Tensor, "n 3 3"], expected: Float[Tensor, "n 3 3"], near_deg: float = NEAR_DEG) -> Bool[Tensor, " n"]:
    """Mark the particles whose poses agree in two sets, in the frame and hand in which most poses agree.

    The rotation from the first to the second pose is equal for all particles with equal poses. A cluster of such rotations
    within ``near_deg`` of their mean is therefore a frame. If the object is symmetric, the poses of the sets differ by its
    symmetries, and each symmetry has a cluster of its own of about the same size. A further cluster therefore counts if it
    has at least half the size of the first one. Clusters of less than 2 % of the particles, or of less than 5, do not count:
    random poses form such clusters. The memory grows with ``n²``.
    """
    hands = [_clustered(poses.mT @ expected, near_deg) for poses in (found, MIRROR.to(found) @ found)]
    return max(hands, key=lambda agree: int(agree.sum()))


def _clustered(rotations: Float[Tensor, "n 3 3"], near_deg: float) -> Bool[Tensor, " n"]:
    """Mark the rotations in the largest cluster, and in clusters of at least half its size."""
    near = distance_deg(rotations[:, None], rotations) < near_deg
    left = torch.ones(len(rotations), dtype=torch.bool, device=rotations.device)
    least = max(5.0, 0.02 * len(rotations))
    while left.any():
        seed = torch.where(left, (near & left).sum(1), 0).argmax()
        centre = roma.special_procrustes(rotations[near[seed] & left].sum(0))
        members = left & (distance_deg(rotations, centre) < near_deg)
        size = int(members.sum())
        if size < least:
            break
        left, least = left & ~members, max(least, size / 2 if left.all() else 0.0)
    return ~left

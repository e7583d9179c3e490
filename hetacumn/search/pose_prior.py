"""Refinement of given poses under a prior, whose width is estimated from the images.

The poses of a consensus refinement may be more accurate than the poses that the images determine at the training box. A
refinement without a prior would make such poses worse. The deviation of a pose from the given pose therefore has the prior
N(0, σ²), with one σ for the components of the rotation vector and one for the components of the shift. The Gauss-Newton
expansion of the log joint about the given pose gives the evidence of an image for each σ, in closed form:

    log p(Y | σ) = ½ gᵀ A⁻¹ g - ½ log det A + ½ log det Λ + const,   A = H + Λ,

with the slope g and the curvature H of the expansion and the precision Λ of the prior; Λ is 0 for z. The σ with the highest
evidence of held-out images is an estimate of the error of the given poses (empirical Bayes).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.compute.batches import batch_slices
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations
from hetacumn.physics.optics import Rows
from hetacumn.physics.rotations import distance_deg, equivalent
from hetacumn.search.refinement import Tangent, climb
from hetacumn.search.state import Quadratic, State

ROTATIONS_DEG = tuple(0.125 * 2 ** (i / 2) for i in range(14))  # from 0.125° to 11°
SHIFTS_PX = tuple(0.03125 * 2 ** (i / 2) for i in range(14))  # from 0.03 to 2.8 px
BATCH = 500  # images per step


@dataclass(frozen=True)
class PosePrior:
    """Standard deviations of the errors of given poses, per component: rotation vector in degrees, shift in pixels."""

    rotation_deg: float
    shift_px: float

    def precision(self, like: Float[Tensor, "b p"]) -> Float[Tensor, " p"]:
        """Return the diagonal of Λ for the ``p`` parameters of a state."""
        diagonal = torch.zeros_like(like[0])
        diagonal[:3], diagonal[3:5] = self.rotation_deg**-2, self.shift_px**-2
        return diagonal

    def log_evidence(self, expansion: Quadratic) -> float:
        """Compute the mean log evidence of images, up to a constant, from their expansions about the given poses."""
        precision = self.precision(expansion.slope).double()
        factor = torch.linalg.cholesky(expansion.curvature.double() + precision.diag())
        slope = expansion.slope.double()[..., None]
        gain = 0.5 * (slope * torch.cholesky_solve(slope, factor)).sum((1, 2))
        log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
        return float((gain - log_det).mean() + 0.5 * precision[:5].log().sum())


def fit_prior(data: Observations, tangent: Tangent, state: State, radius: float) -> PosePrior:
    """Estimate the errors of given poses: return the prior with the highest evidence.

    Args:
        data: held-out images, which were not used to fit the volumes of ``tangent``.
        tangent: the table of mean volume and components.
        state: the given poses, and the latents at these poses.
        radius: Fourier radius in cycles per pixel.
    """
    expansion = tangent.expand(tangent.band(data, radius), state)
    prior = PosePrior(1.0, 0.25)
    for _ in range(2):  # one parameter after the other
        prior = max((replace(prior, rotation_deg=sd) for sd in ROTATIONS_DEG), key=lambda one: one.log_evidence(expansion))
        prior = max((replace(prior, shift_px=sd) for sd in SHIFTS_PX), key=lambda one: one.log_evidence(expansion))
    return prior


@dataclass(frozen=True)
class Near:
    """A prior about the ``given`` poses of images."""

    given: Poses
    prior: PosePrior

    def __getitem__(self, rows: Rows) -> Near:
        return Near(self.given[rows], self.prior)

    def added(self, plain: Quadratic, state: State) -> Quadratic:
        """Return the expansions of images about their states, with the prior added to the ``plain`` expansions."""
        away = torch.zeros_like(plain.slope)
        away[:, :3] = torch.rad2deg(roma.rotmat_to_rotvec(state.poses.rotations @ self.given.rotations.mT))
        away[:, 3:5] = state.poses.shifts_px - self.given.shifts_px
        precision = self.prior.precision(away)
        value = plain.value - 0.5 * (away.square() * precision).sum(1)
        return Quadratic(value, plain.slope - away * precision, plain.curvature + precision.diag())


class _NearTangent(Tangent):
    """A :class:`Tangent` whose expansions include the prior ``near`` about the poses of the images."""

    def __init__(self, tangent: Tangent, near: Near) -> None:
        self.__dict__.update(tangent.__dict__)
        self.near = near

    def expand(self, data: Observations, state: State) -> Quadratic:
        """Expand the log joint of each image, including the prior, to second order about the state of the image."""
        return self.near.added(super().expand(data, state), state)


def nearest_copies(given: Poses, poses: Poses, group: Float[Tensor, "g 3 3"]) -> Poses:
    """Return for each image the one of its equivalent given poses ``R g`` that is nearest to its pose in ``poses``."""
    copies = equivalent(given.rotations, group)
    nearest = distance_deg(copies, poses.rotations[:, None]).argmin(1)
    return Poses(copies[torch.arange(len(copies), device=copies.device), nearest], given.shifts_px)


def climb_near(data: Observations, tangent: Tangent, state: State, near: Near, radii: tuple[float, ...]) -> State:
    """Take Gauss-Newton steps from ``state`` at each of ``radii`` (cycles per pixel), under a prior about given poses.

    See :func:`~hetacumn.search.refinement.climb` for the steps.
    """
    batches = batch_slices(len(data), BATCH)
    return State.cat([climb(data[rows], _NearTangent(tangent, near[rows]), state[rows], radii)[0] for rows in batches])

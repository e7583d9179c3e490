"""Refinement of given poses under a prior about them, whose width follows from the images.

The poses of a consensus refinement are often better than the poses that the images determine at the training box: there, a
refinement without a prior moves good poses by several degrees. The deviation of a pose from the given pose therefore has the
prior N(0, σ²), with one σ for the components of the rotation vector and one for the components of the shift. The Gauss-Newton
expansion of the log joint about the given pose gives the evidence of an image for each σ, in closed form:

    log p(Y | σ) = ½ gᵀ A⁻¹ g - ½ log det A + ½ log det Λ + const,   A = H + Λ,

with the slope g, the curvature H and the precision Λ of the prior, which is 0 for z. The σ of the highest evidence of held-out
images estimates the error of the given poses (empirical Bayes).
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
from hetacumn.search.refinement import Tangent, climb
from hetacumn.search.state import Quadratic, State

ROTATIONS_DEG = tuple(0.125 * 2 ** (i / 2) for i in range(14))  # from 0.125° to 11°
SHIFTS_PX = tuple(0.03125 * 2 ** (i / 2) for i in range(14))  # from 0.03 to 2.8 px
BATCH = 500  # images per step


@dataclass(frozen=True)
class PosePrior:
    """The standard deviations of given poses: each component of the rotation vector in degrees, and of the shift in pixels."""

    rotation_deg: float
    shift_px: float

    def precision(self, like: Float[Tensor, "b p"]) -> Float[Tensor, " p"]:
        """Return the diagonal of Λ for the ``p`` parameters of a state."""
        diagonal = torch.zeros_like(like[0])
        diagonal[:3], diagonal[3:5] = self.rotation_deg**-2, self.shift_px**-2
        return diagonal

    def log_evidence(self, expansion: Quadratic) -> float:
        """Compute the mean log evidence of images from their expansions at the given poses, up to a constant."""
        precision = self.precision(expansion.slope).double()
        factor = torch.linalg.cholesky(expansion.curvature.double() + precision.diag())
        slope = expansion.slope.double()[..., None]
        gain = 0.5 * (slope * torch.cholesky_solve(slope, factor)).sum((1, 2))
        log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
        return float((gain - log_det).mean() + 0.5 * precision[:5].log().sum())


def fit_prior(data: Observations, tangent: Tangent, state: State, radius: float) -> PosePrior:
    """Estimate the errors of given poses: the prior of highest evidence.

    Args:
        data: images that did not fit the volumes of ``tangent``.
        tangent: the table of mean and components.
        state: the given poses, and the latents there.
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
        """Add the prior to the expansions of images about their states."""
        away = torch.zeros_like(plain.slope)
        away[:, :3] = torch.rad2deg(roma.rotmat_to_rotvec(state.poses.rotations @ self.given.rotations.mT))
        away[:, 3:5] = state.poses.shifts_px - self.given.shifts_px
        precision = self.prior.precision(away)
        value = plain.value - 0.5 * (away.square() * precision).sum(1)
        return Quadratic(value, plain.slope - away * precision, plain.curvature + precision.diag())


class _NearTangent(Tangent):
    """The table of another :class:`Tangent`, whose expansions include a prior about the poses of ``b`` images."""

    def __init__(self, tangent: Tangent, near: Near) -> None:
        self.__dict__.update(tangent.__dict__)
        self.near = near

    def expand(self, data: Observations, state: State) -> Quadratic:
        """Expand the log joint of each image, with the prior, to second order about its state."""
        return self.near.added(super().expand(data, state), state)


def climb_near(data: Observations, tangent: Tangent, state: State, near: Near, radii: tuple[float, ...]) -> State:
    """Take Gauss-Newton steps from ``state`` at each of ``radii`` (cycles per pixel), under a prior about given poses.

    See :func:`~hetacumn.search.refinement.climb` for the steps.
    """
    batches = batch_slices(len(data), BATCH)
    return State.cat([climb(data[rows], _NearTangent(tangent, near[rows]), state[rows], radii)[0] for rows in batches])

"""Inputs and losses of the two tasks."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Complex, Float
from torch import Tensor, nn

from hetacumn.network.encoder import Hypotheses
from hetacumn.particles.metadata import Poses


@dataclass(frozen=True)
class LatentDraws:
    """The distributions from which task 2 draws.

    ``ctf`` are CTFs of real particles, over the coefficients of an image; ``latents`` posterior means of real particles, or
    None for the prior alone; ``shift_px`` the standard deviation of shifts in pixels.
    """

    ctf: Float[Tensor, "n m"]
    latents: Float[Tensor, "p q"] | None
    shift_px: float


@dataclass(frozen=True)
class DrawnImages:
    """Noisy images of task 2 with their latents ``z``, poses and CTFs."""

    z: Float[Tensor, "b q"]
    poses: Poses
    images: Complex[Tensor, "b m"]
    ctf: Float[Tensor, "b m"]


@dataclass(frozen=True)
class Reconstruction:
    """Losses of task 1, means per image.

    ``misfit`` compares the reconstruction with the image; ``kl`` is the KL of the latents (nats); ``loss`` combines both;
    ``pose`` is the distance of the encoder's hypotheses from the pose taken.
    """

    loss: Float[Tensor, ""]
    pose: Float[Tensor, ""]
    misfit: Float[Tensor, ""]
    kl: Float[Tensor, ""]


@dataclass(frozen=True)
class PosePrediction:
    """Losses of task 2 for ``pose`` and ``conformation``, means per image."""

    pose: Float[Tensor, ""]
    conformation: Float[Tensor, ""]


def kl_divergence(mean: Float[Tensor, "b q"], log_variance: Float[Tensor, "b q"]) -> Float[Tensor, " b"]:
    """Compute KL(N(mean, exp(log_variance)) ‖ N(0, I)) in nats: never negative, 0 at the prior."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def pose_distance(found: Hypotheses, true: Poses, shift_weight: float = 1.0) -> Float[Tensor, "b h"]:
    """Compute ``‖R* - R̂‖²_F + λ ‖t* - t̂‖²`` for every hypothesis; shifts in pixels."""
    rotation = (found.rotations - true.rotations[:, None]).square().sum((-2, -1))
    return rotation + shift_weight * (found.shifts_px - true.shifts_px[:, None]).square().sum(-1)


def hypotheses_loss(found: Hypotheses, true: Poses) -> Float[Tensor, ""]:
    """Add up the distance of the nearest hypothesis, a little of all distances, and the cross-entropy of naming the nearest."""
    distance = pose_distance(found, true)
    nearest = distance.argmin(1)
    naming = nn.functional.cross_entropy(found.logits, nearest)
    return distance.min(1).values.mean() + 0.02 * distance.mean() + naming

"""Inputs and losses of the two tasks, which :mod:`hetacumn.network.model` describes."""

from __future__ import annotations

from dataclasses import dataclass, fields

from jaxtyping import Complex, Float
from torch import Tensor, nn

from hetacumn.network.encoder import Hypotheses
from hetacumn.particles.metadata import Poses


@dataclass(frozen=True)
class LatentDraws:
    """The distributions from which task 2 samples.

    - ``ctf``: CTFs of real particles, at the coefficients of an image.
    - ``latents``: posterior means of z of real particles, or None for samples of the prior alone.
    - ``shift_px``: standard deviation of each component of a shift, in pixels.
    """

    ctf: Float[Tensor, "n m"]
    latents: Float[Tensor, "p q"] | None
    shift_px: float


@dataclass(frozen=True)
class DrawnImages:
    """Noisy images that the decoder rendered for task 2, and the latents ``z``, poses and CTFs used for them."""

    z: Float[Tensor, "b q"]
    poses: Poses
    images: Complex[Tensor, "b m"]
    ctf: Float[Tensor, "b m"]


@dataclass(frozen=True)
class Reconstruction:
    """Losses of task 1, as means per image.

    - ``loss``: the misfit plus the weighted KL divergence.
    - ``pose``: loss of the encoder's pose hypotheses with respect to the pose of the reconstruction.
    - ``misfit``: half the squared difference between image and reconstruction, in units of the noise.
    - ``kl``: KL divergence of q(z | Y) from the prior, in nats.
    """

    loss: Float[Tensor, ""]
    pose: Float[Tensor, ""]
    misfit: Float[Tensor, ""]
    kl: Float[Tensor, ""]


@dataclass(frozen=True)
class PosePrediction:
    """Losses of task 2, as means per image: of the pose hypotheses, and -log q(z* | X) of the ``conformation``."""

    pose: Float[Tensor, ""]
    conformation: Float[Tensor, ""]


@dataclass(frozen=True)
class StepLosses:
    """The losses of one training step, None for terms that it does not train, and the norm of the ``gradient``."""

    misfit: Float[Tensor, ""] | None = None
    kl: Float[Tensor, ""] | None = None
    pose: Float[Tensor, ""] | None = None
    conformation: Float[Tensor, ""] | None = None
    gradient: Float[Tensor, ""] | None = None

    def present(self) -> dict[str, Float[Tensor, ""]]:
        """Return the losses that are not None, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}

    def detached(self) -> StepLosses:
        """Return the same losses without their gradients."""
        return StepLosses(**{name: value.detach() for name, value in self.present().items()})


def kl_divergence(mean: Float[Tensor, "b q"], log_variance: Float[Tensor, "b q"]) -> Float[Tensor, " b"]:
    """Compute KL(N(mean, exp(log_variance)) ‖ N(0, I)) of each image in nats: never negative, 0 at the prior."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def pose_distance(found: Hypotheses, true: Poses, shift_weight: float = 1.0) -> Float[Tensor, "b h"]:
    """Compute ``‖R* - R̂‖²_F + λ ‖t* - t̂‖²`` for every hypothesis; λ is ``shift_weight``, shifts are in pixels."""
    rotation = (found.rotations - true.rotations[:, None]).square().sum((-2, -1))
    return rotation + shift_weight * (found.shifts_px - true.shifts_px[:, None]).square().sum(-1)


def hypotheses_loss(found: Hypotheses, true: Poses) -> Float[Tensor, ""]:
    """Compute the loss of hypotheses with respect to true poses, as a mean over images.

    The loss is the distance of the nearest hypothesis, plus 0.02 times the mean distance of all hypotheses, plus the
    cross-entropy of the logits with the index of the nearest hypothesis. Distances are :func:`pose_distance`.
    """
    distance = pose_distance(found, true)
    nearest = distance.argmin(1)
    naming = nn.functional.cross_entropy(found.logits, nearest)
    return distance.min(1).values.mean() + 0.02 * distance.mean() + naming

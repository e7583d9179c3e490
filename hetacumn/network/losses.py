"""Losses of the two tasks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from hetacumn.network.encoder import Hypotheses
from hetacumn.particles.metadata import Poses


@dataclass(frozen=True)
class Reconstruction:
    """Losses of task 1, means per image: ``misfit`` to the image, ``kl`` of the latents (nats), ``loss`` of both together,
    and ``pose``, the encoder's distance from the pose taken."""

    loss: Tensor
    pose: Tensor
    misfit: Tensor
    kl: Tensor


@dataclass(frozen=True)
class PosePrediction:
    """Losses of task 2, means per image: of the ``pose``, and of the ``conformation``."""

    pose: Tensor
    conformation: Tensor


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) ‖ N(0, I)) of ``(b, q)``, in nats, ``(b,)``: never negative, 0 at the prior."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def pose_distance(found: Hypotheses, true: Poses, shift_weight: float = 1.0) -> Tensor:
    """``‖R* - R̂‖²_F + λ ‖t* - t̂‖²`` of every hypothesis, ``(b, h)``; shifts in pixels."""
    rotation = (found.rotations - true.rotations[:, None]).square().sum((-2, -1))
    return rotation + shift_weight * (found.shifts_px - true.shifts_px[:, None]).square().sum(-1)


def hypotheses_loss(found: Hypotheses, true: Poses) -> Tensor:
    """The distance of the nearest hypothesis, a little of all, and the cross-entropy of naming the nearest."""
    distance = pose_distance(found, true)
    nearest = distance.argmin(1)
    naming = nn.functional.cross_entropy(found.logits, nearest)
    return distance.min(1).values.mean() + 0.02 * distance.mean() + naming

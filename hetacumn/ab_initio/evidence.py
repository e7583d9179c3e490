"""Selection by the evidence of images: the extent of the shift grid, and the volumes that a stack needs.

The evidence of an image is its mean likelihood over the poses of a grid, or over the volumes of a mixture. A larger grid or
mixture without better poses or volumes has a lower evidence.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.ab_initio.config import AbInitioConfig
from hetacumn.particles.observations import Observations
from hetacumn.search.grid import PoseGrid, search_grid

SAMPLE = 500  # images, evenly spaced in the stack
LARGEST_FACTOR = 3  # largest extent of the shift grid, in units of the extent in the settings
LARGEST_EXTENT = 0.25  # largest extent, as a fraction of the box; a larger extent in the settings is not changed
SHIFT_ERRORS = 1.0  # a wider shift grid must raise the mean evidence by this number of standard errors
NEEDED_NATS = 1.0  # a volume is needed if its images lose at least this mean log-likelihood without it


def is_significant(gain: Float[Tensor, " m"], errors: float = 2.0) -> bool:
    """Return whether the mean ``gain`` over images is larger than ``errors`` standard errors of the mean."""
    return bool(gain.mean() > errors * gain.std() / len(gain) ** 0.5)


def weighed_evidence(
    data: Observations,
    volumes: Float[Tensor, "v box box box"],
    poses: PoseGrid,
    radius: float,
    padding: float = 2.0,
) -> Float[Tensor, " n"]:
    """Compute the log evidence of each image: the log of its mean likelihood over all poses of a grid and all volumes.

    ``poses`` are the rotations and shifts (pixels) of the grid, and ``radius`` is the Fourier radius in cycles per pixel. The
    result has no constant per image, see :func:`~hetacumn.search.grid.search_grid`.
    """
    return search_grid(data.within(radius * data.plane.box), volumes, *poses, padding=padding).log_evidence


def mean_evidence_over_poses(data: Observations, volumes: Float[Tensor, "v box box box"], config: AbInitioConfig) -> float:
    """Compute the mean log evidence of images over the pose grid, and within the radius, of the last EM (``config.soft``)."""
    poses = config.weighed_poses(data.plane.box, volumes.device)
    return float(weighed_evidence(data, volumes, poses, config.soft.radius[1], config.padding).mean())


def choose_factor(data: Observations, volume: Float[Tensor, "box box box"], config: AbInitioConfig) -> int:
    """Return the factor of ``config.grid.extent`` with the highest mean evidence of a sample of images under a volume.

    If the grid is too small, images that are off centre get wrong poses and then form classes of their own. A grid that is too
    large costs time. All grids have the same spacing. The function stops at the first factor without a significant gain.
    """
    sample = data.evenly_spaced(SAMPLE)

    def evidence(factor: int) -> Float[Tensor, " m"]:
        poses = config.with_extent(factor * config.grid.extent).poses(data.plane.box, volume.device)
        return weighed_evidence(sample, volume[None], poses, config.consensus.radius[1], config.padding)

    best, highest = 1, evidence(1)
    for factor in range(2, LARGEST_FACTOR + 1):
        if factor * config.grid.extent > LARGEST_EXTENT:
            break
        wider = evidence(factor)
        if not is_significant(wider - highest, SHIFT_ERRORS):
            break
        best, highest = factor, wider
    return best


def choose(scores: Float[Tensor, "n v"], most: int) -> list[int]:
    """Choose at most ``most`` volumes by the log-likelihood ``scores`` of images under each volume.

    The function removes the volume whose removal costs the least evidence, and repeats this until ``most`` volumes are left.
    """
    kept = list(range(scores.shape[1]))
    while len(kept) > most:
        without = [scores[:, [j for j in kept if j != k]].logsumexp(1).mean() for k in kept]
        kept.pop(int(torch.stack(without).argmax()))
    return kept


def mixed_evidence(scores: Float[Tensor, "n v"], rounds: int = 50) -> Float[Tensor, " n"]:
    """Compute the log evidence of images under a mixture of volumes, whose weights EM estimates from the same images."""
    return (scores + mixture_log_shares(scores, rounds)).logsumexp(1)


def mixture_log_shares(scores: Float[Tensor, "n v"], rounds: int) -> Float[Tensor, " v"]:
    """Estimate the log weights of a mixture of volumes by EM; ``scores`` are log-likelihoods of images under each volume."""
    log_share = scores.new_zeros(scores.shape[1]) - math.log(scores.shape[1])
    for _ in range(rounds):
        log_share = (scores + log_share).log_softmax(1).logsumexp(0) - math.log(len(scores))
    return log_share


def needed_volumes(scores: Float[Tensor, "m k"]) -> list[int]:
    """Return the indices of the volumes that held-out images need, from the log-likelihood ``scores`` under each volume.

    The function removes the volume whose removal costs the least evidence, and repeats this. It stops if the images of this
    volume would lose :data:`NEEDED_NATS` or more on average, and the mean loss of all images would be significant. An image
    belongs to the volume of its highest log-likelihood.
    """
    scores, kept = scores.double().cpu(), list(range(scores.shape[1]))
    while len(kept) > 1:
        among = scores[:, kept]
        evidence, best = mixed_evidence(among), among.argmax(1)
        losses = [evidence - mixed_evidence(among[:, [j for j in range(len(kept)) if j != k]]) for k in range(len(kept))]
        least = min(range(len(kept)), key=lambda k: float(losses[k].mean()))
        own = losses[least][best == least]
        if len(own) and own.mean() >= NEEDED_NATS and is_significant(losses[least]):
            break
        kept.pop(least)
    return kept

"""Pose search under known volumes: the likelihood of many poses, and the posterior over a grid.

The search computes the log-likelihood of an image at many poses at once. With ``S`` the slices of the volumes, ``C`` the CTF
and ``w`` the half-plane weights::

    log p(Y | R, t, v) = Σ_k w Re(conj(S_v,R) C e^{2πi k·t} Y) - ½ Σ_k w C² |S_v,R|² + const

These are two real matrix products for all images, shifts, rotations and volumes: no loop over rotations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from hetacumn.compute.batches import batch_slices
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations
from hetacumn.physics.rotations import inplane, view_grid
from hetacumn.physics.slices import Slicer

SCORES_AT_ONCE = 2**25  # numbers, 128 MB: few images are scored at once where the grid is large
NEGLIGIBLE = -80.0  # the log of a share of the posterior that single precision has no room for beside 1


def pose_grid(nside: int, turns: int) -> Float[Tensor, "{12*nside**2*turns} 3 3"]:
    """List rotations: HEALPix views times equal in-plane turns."""
    psi = inplane(torch.arange(turns) * (360.0 / turns))
    return (psi[None] @ view_grid(nside)[:, None]).flatten(0, 1)


def shift_grid(extent_px: float, steps: int) -> Float[Tensor, "{steps**2} 2"]:
    """List the shifts of a square grid from ``-extent_px`` to ``extent_px``."""
    axis = torch.linspace(-extent_px, extent_px, steps) if steps > 1 else torch.zeros(1)
    return torch.cartesian_prod(axis, axis)


def _real(values: Complex[Tensor, "*batch m"]) -> Float[Tensor, "*batch 2*m"]:
    """View complex numbers as twice as many real numbers, so that Re(conj(a) b) is an inner product."""
    return torch.view_as_real(values.resolve_conj()).flatten(-2)


def log_likelihood(
    data: Observations, slices: Complex[Tensor, "s m"], shifts_px: Float[Tensor, "t 2"]
) -> Float[Tensor, "n t s"]:
    """Compute the log-likelihood of every image for every slice at every shift.

    The constant ``-½ Σ w |Y|²`` of each image is left out.
    """
    moved = data.plane.translate((data.y * data.ctf * data.weight)[:, None], -shifts_px)
    cross = _real(moved).flatten(0, 1) @ _real(slices).T
    power = (data.ctf.square() * data.weight) @ (slices.real.square() + slices.imag.square()).T
    return cross.unflatten(0, (len(data), len(shifts_px))).sub_(power[:, None], alpha=0.5)  # in place: it is large


def images_at_once(most: int, slices: Complex[Tensor, "s m"], shifts_px: Float[Tensor, "t 2"]) -> int:
    """Return for how many images, up to ``most``, the scores of all slices and shifts are computed at once."""
    return max(1, min(most, SCORES_AT_ONCE // (len(shifts_px) * len(slices))))


def posterior_(
    scores: Float[Tensor, "*batch p"], sharpness: float = 1.0
) -> tuple[Float[Tensor, "*batch p"], Float[Tensor, "*batch"]]:
    """Turn log-likelihoods in place into the posterior ``∝ exp(sharpness · score)``; return it and its log normaliser."""
    total, log_total = _exponentiate_(scores, sharpness)
    return scores.div_(total), log_total


def log_sum_exp_(scores: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch"]:
    """Compute ``torch.logsumexp`` over the last dimension; the scores are overwritten."""
    return _exponentiate_(scores, 1.0)[1]


def _exponentiate_(
    scores: Float[Tensor, "*batch p"], sharpness: float
) -> tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch"]]:
    """Replace scores by ``exp(sharpness · (score - peak))``; return their sum, and the log of the sum with the peak restored.

    Values below ``exp(NEGLIGIBLE)`` of the peak are raised to that bound: where exp underflows, processors take ten times as
    long.
    """
    peak = scores.amax(dim=-1, keepdim=True)
    total = scores.sub_(peak).mul_(sharpness).clamp_(min=NEGLIGIBLE).exp_().sum(dim=-1, keepdim=True)
    return total, (sharpness * peak + total.log()).squeeze(-1)


@torch.no_grad()
def likeliest(
    data: Observations,
    volumes: Float[Tensor, "v box box box"],
    rotations: Float[Tensor, "r 3 3"],
    shifts_px: Float[Tensor, "t 2"],
    keep: int,
    padding: float = 2.0,
) -> tuple[list[Poses], Int[Tensor, "n kept"]]:
    """Find the ``keep`` likeliest rotations of a grid for each image, the likeliest first.

    Each rotation comes with its likeliest shift and volume. The function returns a list with the poses of all images for each
    rank, and the indices of the volumes. A grid with fewer rotations gives fewer ranks.
    """
    keep = min(keep, len(rotations))
    slices = Slicer(volumes, padding)(rotations, data.k).transpose(0, 1).flatten(0, 1)  # (v * r, m)
    rotation, shift, volume = (torch.empty(len(data), keep, dtype=torch.long, device=volumes.device) for _ in range(3))
    batch = images_at_once(len(data), slices, shifts_px)
    for rows in batch_slices(len(data), batch):
        score = log_likelihood(data[rows], slices, shifts_px).unflatten(2, (len(volumes), len(rotations)))  # (b, t, v, r)
        rotation[rows] = score.amax(dim=(1, 2)).topk(keep, dim=1).indices
        image = torch.arange(len(score), device=volumes.device)[:, None]
        which = score[image, :, :, rotation[rows]].flatten(2).argmax(2)  # (b, keep) of t * v
        shift[rows], volume[rows] = which // len(volumes), which % len(volumes)
    return [Poses(rotations[r], shifts_px[t]) for r, t in zip(rotation.T, shift.T, strict=True)], volume


@torch.no_grad()
def open_rotations(
    data: Observations,
    volumes: Float[Tensor, "v box box box"],
    rotations: Float[Tensor, "r 3 3"],
    shifts_px: Float[Tensor, "t 2"],
    batch: int = 50,
    padding: float = 2.0,
) -> Float[Tensor, " n"]:
    """Measure over how many rotations of a grid the posterior of each image is spread, as exp of its entropy.

    Shifts and the volumes, which are equally likely a priori, are integrated.
    """
    slices = Slicer(volumes, padding)(rotations, data.k).transpose(0, 1).flatten(0, 1)  # (v * r, m)
    spread, batch = [], images_at_once(batch, slices, shifts_px)
    for rows in batch_slices(len(data), batch):
        share, _ = posterior_(log_likelihood(data[rows], slices, shifts_px).flatten(1))
        share = share.unflatten(1, (len(shifts_px) * len(volumes), len(rotations))).sum(1)
        spread.append(torch.special.entr(share).sum(1).exp())
    return torch.cat(spread)


@dataclass(frozen=True)
class GridSearchResult:
    """The result of a grid search: for each image best pose, index of its volume, log p(volume | image), log evidence."""

    poses: Poses
    volume: Int[Tensor, " n"]
    log_volume: Float[Tensor, "n v"]
    log_evidence: Float[Tensor, " n"]


@torch.no_grad()
def search_grid(
    data: Observations,
    volumes: Float[Tensor, "v box box box"],
    rotations: Float[Tensor, "r 3 3"],
    shifts_px: Float[Tensor, "t 2"],
    batch: int = 100,
    padding: float = 2.0,
) -> GridSearchResult:
    """Search all poses of a grid for each image under equally likely volumes; poses are marginalised for each volume."""
    count = len(volumes)
    slices = Slicer(volumes, padding)(rotations, data.k).transpose(0, 1).flatten(0, 1)  # (v * r, m)
    # Results are filled in place: small results kept between large temporary arrays would hold the memory of these arrays.
    best, volume = (torch.empty(len(data), dtype=torch.long, device=volumes.device) for _ in range(2))
    log_volume, evidence = torch.empty(len(data), count, device=volumes.device), torch.empty(len(data), device=volumes.device)
    batch = images_at_once(batch, slices, shifts_px)
    for rows in batch_slices(len(data), batch):
        part = data[rows]
        score = log_likelihood(part, slices, shifts_px).unflatten(2, (count, len(rotations)))
        per_volume = score.permute(0, 2, 1, 3).flatten(2)  # (b, v, t * r)
        best_per_volume = per_volume.argmax(2)
        log_volume[rows] = log_sum_exp_(per_volume)
        volume[rows] = log_volume[rows].argmax(1)
        best[rows] = best_per_volume.gather(1, volume[rows, None]).squeeze(1)
        evidence[rows] = torch.logsumexp(log_volume[rows], dim=1)
    poses = Poses(rotations[best % len(rotations)], shifts_px[best // len(rotations)])
    log_grid = math.log(count * len(rotations) * len(shifts_px))
    return GridSearchResult(poses, volume, log_volume - evidence[:, None], evidence - log_grid)

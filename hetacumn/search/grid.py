"""Pose search under known volumes: the likelihood of many poses, and the posterior over a grid.

It needs the log-likelihood of an image at many poses at once. With ``S`` the slices of the volumes, ``C`` the CTF
and ``w`` the half-plane weights::

    log p(Y | R, t, v) = Σ_k w Re(conj(S_v,R) C e^{2πi k·t} Y) - ½ Σ_k w C² |S_v,R|² + const

That is two real matrix products for all images, shifts, rotations and volumes: no loop over rotations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hetacumn.compute.batches import batch_slices
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations
from hetacumn.physics.rotations import inplane, view_grid
from hetacumn.physics.slices import Slicer

SCORES_AT_ONCE = 2**25  # numbers, 128 MB: of few images where the grid is large
NEGLIGIBLE = -80.0  # the log of a share of the posterior that single precision has no room for beside 1


def pose_grid(nside: int, turns: int) -> Tensor:
    """``(12 nside² · turns, 3, 3)`` rotations: HEALPix views times equal in-plane turns."""
    psi = inplane(torch.arange(turns) * (360.0 / turns))
    return (psi[None] @ view_grid(nside)[:, None]).flatten(0, 1)


def shift_grid(extent_px: float, steps: int) -> Tensor:
    """``(steps², 2)`` shifts of a square grid from ``-extent_px`` to ``extent_px``."""
    axis = torch.linspace(-extent_px, extent_px, steps) if steps > 1 else torch.zeros(1)
    return torch.cartesian_prod(axis, axis)


def _real(values: Tensor) -> Tensor:
    """Complex ``(..., m)`` as real ``(..., 2m)``, so that Re(conj(a) b) is an inner product."""
    return torch.view_as_real(values.resolve_conj()).flatten(-2)


def log_likelihood(data: Observations, slices: Tensor, shifts_px: Tensor) -> Tensor:
    """Log-likelihood ``(b, t, s)`` of images ``(b, m)`` for slices ``(s, m)`` at shifts ``(t, 2)``.

    Up to the constant ``-½ Σ w |Y|²`` of each image.
    """
    moved = data.plane.translate((data.y * data.ctf * data.weight)[:, None], -shifts_px)
    cross = _real(moved).flatten(0, 1) @ _real(slices).T
    power = (data.ctf.square() * data.weight) @ (slices.real.square() + slices.imag.square()).T
    return cross.unflatten(0, (len(data), len(shifts_px))).sub_(power[:, None], alpha=0.5)  # in place: it is large


def images_at_once(most: int, slices: Tensor, shifts_px: Tensor) -> int:
    """For how many images the scores of all slices and shifts are computed at once, ``most`` or fewer."""
    return max(1, min(most, SCORES_AT_ONCE // (len(shifts_px) * len(slices))))


def posterior_(scores: Tensor, sharpness: float = 1.0) -> tuple[Tensor, Tensor]:
    """Turn log-likelihoods ``(..., n)`` into the posterior ``∝ exp(sharpness · score)``, in place, with its log normaliser
    ``(...,)``.
    """
    total, log_total = _exponentiate_(scores, sharpness)
    return scores.div_(total), log_total


def log_sum_exp_(scores: Tensor) -> Tensor:
    """``torch.logsumexp`` over the last dimension; the scores are used up."""
    return _exponentiate_(scores, 1.0)[1]


def _exponentiate_(scores: Tensor, sharpness: float) -> tuple[Tensor, Tensor]:
    """``exp(sharpness · (score - peak))`` in place; its sum ``(..., 1)``, and the log of the sum of ``exp(sharpness · score)``.

    What is less than ``exp(NEGLIGIBLE)`` of the peak is taken as that: where exp underflows, processors take ten times
    as long.
    """
    peak = scores.amax(dim=-1, keepdim=True)
    total = scores.sub_(peak).mul_(sharpness).clamp_(min=NEGLIGIBLE).exp_().sum(dim=-1, keepdim=True)
    return total, (sharpness * peak + total.log()).squeeze(-1)


@torch.no_grad()
def likeliest(
    data: Observations, volumes: Tensor, rotations: Tensor, shifts_px: Tensor, keep: int, padding: float = 2.0
) -> tuple[list[Poses], Tensor]:
    """The ``keep`` likeliest rotations of a grid for each image under ``(v, box, box, box)`` volumes, the likeliest first.

    Each has the shift and the volume that it is likeliest with: poses of ``n`` images for each place, and which volume
    ``(n, keep)``.
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
    data: Observations, volumes: Tensor, rotations: Tensor, shifts_px: Tensor, batch: int = 50, padding: float = 2.0
) -> Tensor:
    """Over how many rotations of a grid the posterior of each image is spread, ``(n,)``: exp of its entropy.

    Shifts and the ``(v, box, box, box)`` volumes, equally likely before, are integrated.
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
    """Best of a grid search: poses, the volume chosen ``(n,)``, log p(volume | image) ``(n, v)``, log evidence ``(n,)``."""

    poses: Poses
    volume: Tensor
    log_volume: Tensor
    log_evidence: Tensor


@torch.no_grad()
def search_grid(
    data: Observations, volumes: Tensor, rotations: Tensor, shifts_px: Tensor, batch: int = 100, padding: float = 2.0
) -> GridSearchResult:
    """Exhaustive search of images under ``(v, box, box, box)`` equally likely volumes, marginalising poses for each."""
    count = len(volumes)
    slices = Slicer(volumes, padding)(rotations, data.k).transpose(0, 1).flatten(0, 1)  # (v * r, m)
    # Filled in place: small results kept between large arrays that come and go would hold the memory of all of these.
    best, volume = (torch.empty(len(data), dtype=torch.long, device=volumes.device) for _ in range(2))
    log_volume, evidence = torch.empty(len(data), count, device=volumes.device), torch.empty(len(data), device=volumes.device)
    batch = images_at_once(batch, slices, shifts_px)
    for rows in batch_slices(len(data), batch):
        part = data[rows]
        score = log_likelihood(part, slices, shifts_px).unflatten(2, (count, len(rotations)))
        per_volume = score.permute(0, 2, 1, 3).flatten(2)  # (b, v, t * r)
        best_of_each = per_volume.argmax(2)
        log_volume[rows] = log_sum_exp_(per_volume)
        volume[rows] = log_volume[rows].argmax(1)
        best[rows] = best_of_each.gather(1, volume[rows, None]).squeeze(1)
        evidence[rows] = torch.logsumexp(log_volume[rows], dim=1)
    poses = Poses(rotations[best % len(rotations)], shifts_px[best // len(rotations)])
    log_grid = math.log(count * len(rotations) * len(shifts_px))
    return GridSearchResult(poses, volume, log_volume - evidence[:, None], evidence - log_grid)

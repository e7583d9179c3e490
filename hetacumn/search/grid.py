"""Pose search under known volumes: the likelihood of all poses of a grid, and the posterior over the grid.

Let ``S`` be the slice of a volume, ``C`` the CTF and ``w`` the half-plane weights. The log-likelihood of an image ``Y`` at
rotation ``R`` and shift ``t`` under volume ``v`` is::

    log p(Y | R, t, v) = Σ_k w Re(conj(S_v,R) C e^{2πi k·t} Y) - ½ Σ_k w C² |S_v,R|² + const

Two real matrix products compute both sums for all images, shifts, rotations and volumes, without a loop over rotations. The
constant contains ``-½ Σ w |Y|²``, which no function of this module adds.
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
from hetacumn.physics.symmetry import asymmetric_unit

SCORES_AT_ONCE = 2**25  # scores in memory at once (128 MB): a large grid leaves room for few images per batch
VIEW_STEP_DEG = 58.6  # spacing of the views of a HEALPix grid of nside 1 in degrees: the square root of 4π / 12
NEGLIGIBLE = -80.0  # log of a posterior weight, relative to the largest, that a single-precision sum cannot resolve


def pose_grid(nside: int, turns: int) -> Float[Tensor, "{12*nside**2*turns} 3 3"]:
    """Return a rotation grid: each HEALPix view of ``nside`` with ``turns`` equally spaced in-plane rotations."""
    psi = inplane(torch.arange(turns) * (360.0 / turns))
    return (psi[None] @ view_grid(nside)[:, None]).flatten(0, 1)


def unique_poses(nside: int, turns: int, group: Float[Tensor, "g 3 3"]) -> Float[Tensor, "r 3 3"]:
    """Return the poses of a :func:`pose_grid` in the asymmetric unit of a point group, or within half a step outside it."""
    rotations = pose_grid(nside, turns).to(group)
    return rotations if len(group) == 1 else rotations[asymmetric_unit(rotations, group, VIEW_STEP_DEG / nside / 2)]


def shift_grid(extent_px: float, steps: int) -> Float[Tensor, "{steps**2} 2"]:
    """Return a square grid of ``steps²`` shifts in pixels, from ``-extent_px`` to ``extent_px``; shift 0 if ``steps`` is 1."""
    axis = torch.linspace(-extent_px, extent_px, steps) if steps > 1 else torch.zeros(1)
    return torch.cartesian_prod(axis, axis)


def _real(values: Complex[Tensor, "*batch m"]) -> Float[Tensor, "*batch 2*m"]:
    """View complex numbers as twice as many real numbers, so that Re(conj(a) b) is an inner product."""
    return torch.view_as_real(values.resolve_conj()).flatten(-2)


def log_likelihood(
    data: Observations, slices: Complex[Tensor, "s m"], shifts_px: Float[Tensor, "t 2"]
) -> Float[Tensor, "n t s"]:
    """Compute the log-likelihood of every image for every slice at every shift, without the constant ``-½ Σ w |Y|²``."""
    moved = data.plane.translate((data.y * data.ctf * data.weight)[:, None], -shifts_px)
    cross = _real(moved).flatten(0, 1) @ _real(slices).T
    power = (data.ctf.square() * data.weight) @ (slices.real.square() + slices.imag.square()).T
    return cross.unflatten(0, (len(data), len(shifts_px))).sub_(power[:, None], alpha=0.5)  # in place: the array is large


def images_at_once(most: int, slices: Complex[Tensor, "s m"], shifts_px: Float[Tensor, "t 2"]) -> int:
    """Return how many images, at most ``most``, to score together so that :data:`SCORES_AT_ONCE` is not exceeded."""
    return max(1, min(most, SCORES_AT_ONCE // (len(shifts_px) * len(slices))))


def posterior_(
    scores: Float[Tensor, "*batch p"], sharpness: float = 1.0
) -> tuple[Float[Tensor, "*batch p"], Float[Tensor, "*batch"]]:
    """Convert log-likelihoods, in place, to the posterior ``∝ exp(sharpness · score)`` over the last dimension.

    Returns the posterior and the log of its normaliser.
    """
    total, log_total = _exponentiate_(scores, sharpness)
    return scores.div_(total), log_total


def log_sum_exp_(scores: Float[Tensor, ...], dims: tuple[int, ...] = (-1,)) -> Float[Tensor, ...]:
    """Compute ``torch.logsumexp`` over ``dims``; ``exp(score - peak)`` overwrites the scores, with the maximum as peak."""
    return _exponentiate_(scores, 1.0, dims)[1]


def _exponentiate_(
    scores: Float[Tensor, ...], sharpness: float, dims: tuple[int, ...] = (-1,)
) -> tuple[Float[Tensor, ...], Float[Tensor, ...]]:
    """Replace scores, in place, by ``exp(sharpness · (score - peak))``; the peak is the maximum over ``dims``.

    Returns the sum of the new values over ``dims``, which have length 1, and the log of the sum of ``exp(sharpness · score)``
    without ``dims``. Values below ``exp(NEGLIGIBLE)`` are raised to this bound, because processors take ten times as long where
    exp underflows.
    """
    peak = scores.amax(dim=dims, keepdim=True)
    total = scores.sub_(peak).mul_(sharpness).clamp_(min=NEGLIGIBLE).exp_().sum(dim=dims, keepdim=True)
    return total, (sharpness * peak + total.log()).squeeze(dims)


@torch.no_grad()
def likeliest(
    data: Observations,
    volumes: Float[Tensor, "v box box box"],
    rotations: Float[Tensor, "r 3 3"],
    shifts_px: Float[Tensor, "t 2"],
    keep: int,
    padding: float = 2.0,
) -> tuple[list[Poses], Int[Tensor, "n kept"]]:
    """Find the ``keep`` likeliest rotations of a grid for each image, each with its likeliest shift and volume.

    Returns a list and an array. The first entry of the list contains the likeliest pose of every image, the second entry the
    second likeliest pose of every image, and so on. The array contains the index of the volume for each of these poses. If the
    grid has fewer than ``keep`` rotations, both contain one pose per rotation.
    """
    slices = Slicer(volumes, padding)(rotations, data.k).transpose(0, 1).flatten(0, 1)  # (v * r, m)
    return likeliest_slices(data, slices, rotations, shifts_px, keep)


@torch.no_grad()
def likeliest_slices(
    data: Observations,
    slices: Complex[Tensor, "s m"],
    rotations: Float[Tensor, "r 3 3"],
    shifts_px: Float[Tensor, "t 2"],
    keep: int,
) -> tuple[list[Poses], Int[Tensor, "n kept"]]:
    """Do the same as :func:`likeliest` for known slices: the first volume at all rotations, then the second, and so on."""
    keep, count = min(keep, len(rotations)), len(slices) // len(rotations)
    rotation, shift, volume = (torch.empty(len(data), keep, dtype=torch.long, device=slices.device) for _ in range(3))
    batch = images_at_once(len(data), slices, shifts_px)
    for rows in batch_slices(len(data), batch):
        score = log_likelihood(data[rows], slices, shifts_px).unflatten(2, (count, len(rotations)))  # (b, t, v, r)
        rotation[rows] = score.amax(dim=(1, 2)).topk(keep, dim=1).indices
        image = torch.arange(len(score), device=slices.device)[:, None]
        place = score[image, :, :, rotation[rows]].flatten(2).argmax(2)  # (b, keep) of t * v
        shift[rows], volume[rows] = place // count, place % count
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
    """Compute the effective number of rotations in the posterior of each image: the exponential of the posterior's entropy.

    The posterior is marginalised over shifts and volumes, which are equally likely a priori.
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
    """The result of a grid search over poses and volumes.

    - ``poses``: the likeliest pose of each image under its likeliest volume.
    - ``volume``: the index of the likeliest volume, with poses marginalised.
    - ``log_volume``: log p(volume | image), with poses marginalised.
    - ``log_evidence``: log of the mean likelihood over all poses and volumes, without the constant ``-½ Σ w |Y|²``.
    """

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
    """Score all poses of a grid for each image under equally likely volumes.

    ``padding`` is the zero-padding factor of the volumes, ``batch`` the largest number of images scored together.
    """
    count = len(volumes)
    slices = Slicer(volumes, padding)(rotations, data.k).transpose(0, 1).flatten(0, 1)  # (v * r, m)
    # Results go into preallocated arrays: small arrays allocated between large temporary ones would block their memory.
    best, volume = (torch.empty(len(data), dtype=torch.long, device=volumes.device) for _ in range(2))
    log_volume, evidence = torch.empty(len(data), count, device=volumes.device), torch.empty(len(data), device=volumes.device)
    batch = images_at_once(batch, slices, shifts_px)
    for rows in batch_slices(len(data), batch):
        score = log_likelihood(data[rows], slices, shifts_px).unflatten(2, (count, len(rotations)))  # (b, t, v, r)
        log_volume[rows] = log_sum_exp_(score, dims=(1, 3))
        volume[rows] = log_volume[rows].argmax(1)
        image = torch.arange(len(score), device=volumes.device)
        chosen = score[:, :, 0] if count == 1 else score[image, :, volume[rows]]  # the former is no copy
        best[rows] = chosen.flatten(1).argmax(1)  # of t * r
        evidence[rows] = torch.logsumexp(log_volume[rows], dim=1)
    poses = Poses(rotations[best % len(rotations)], shifts_px[best // len(rotations)])
    log_grid = math.log(count * len(rotations) * len(shifts_px))
    return GridSearchResult(poses, volume, log_volume - evidence[:, None], evidence - log_grid)

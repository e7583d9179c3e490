"""Pose search under known volumes: the posterior over a grid, and stochastic local refinement.

Both need the log-likelihood of an image at many poses at once. With ``S`` the slices of the volumes, ``C`` the CTF
and ``w`` the half-plane weights,

    log p(Y | R, t, v) = Σ_k w Re(conj(S_v,R) C e^{2πi k·t} Y) - ½ Σ_k w C² |S_v,R|² + const,

which is two real matrix products for all images, shifts, rotations and volumes: no loop over rotations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hetacumn import so3
from hetacumn.observations import Observations
from hetacumn.particles import Poses
from hetacumn.volumes import Slicer


def pose_grid(nside: int, turns: int) -> Tensor:
    """``(12 nside² · turns, 3, 3)`` rotations: HEALPix views times equal in-plane turns."""
    psi = so3.inplane(torch.arange(turns) * (360.0 / turns))
    return (psi[None] @ so3.view_grid(nside)[:, None]).flatten(0, 1)


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


def posterior_(scores: Tensor, heat: float = 1.0) -> tuple[Tensor, Tensor]:
    """Turn log-likelihoods ``(b, n)`` into the posterior ``∝ exp(heat · score)``, in place, with its log normaliser
    ``(b,)``."""
    peak = scores.amax(dim=1, keepdim=True)
    scores.sub_(peak).mul_(heat).exp_()
    total = scores.sum(dim=1, keepdim=True)
    return scores.div_(total), (heat * peak + total.log()).squeeze(1)


@dataclass(frozen=True)
class Found:
    """Best of a grid search: poses, the volume chosen ``(n,)``, log p(volume | image) ``(n, v)``, log evidence ``(n,)``."""

    poses: Poses
    volume: Tensor
    log_volume: Tensor
    log_evidence: Tensor


@torch.no_grad()
def search_grid(
    data: Observations, volumes: Tensor, rotations: Tensor, shifts_px: Tensor, log_prior: Tensor | None = None,
    batch: int = 100, padding: float = 2.0, progress=None,
) -> Found:
    """Exhaustive search of images under ``(v, box, box, box)`` volumes, marginalising poses for each volume.

    ``log_prior``: ``(v,)`` log weights of the volumes, equal if None.
    """
    count = len(volumes)
    slices = Slicer(volumes, padding)(rotations, data.k).transpose(0, 1).flatten(0, 1)  # (v * r, m)
    prior = torch.zeros(count, device=volumes.device) if log_prior is None else log_prior
    results = []
    for start in range(0, len(data), batch):
        part = data[start : start + batch]
        score = log_likelihood(part, slices, shifts_px).unflatten(2, (count, len(rotations)))
        per_volume = score.permute(0, 2, 1, 3).flatten(2)  # (b, v, t * r)
        log_volume = torch.logsumexp(per_volume, dim=2) + prior
        volume = log_volume.argmax(1)
        best = per_volume[torch.arange(len(part)), volume].argmax(1)
        evidence = torch.logsumexp(log_volume, dim=1)
        results.append((rotations[best % len(rotations)], shifts_px[best // len(rotations)], volume,
                        log_volume - evidence[:, None], evidence))
        if progress is not None:
            progress.update(len(part))
    rotation, shift, volume, log_volume, evidence = (torch.cat(column) for column in zip(*results))
    evidence = evidence - torch.log(torch.tensor(float(len(rotations) * len(shifts_px))))
    return Found(Poses(rotation, shift), volume, log_volume, evidence)


@torch.no_grad()
def refine_local(
    data: Observations, slicer: Slicer, mixing: Tensor, poses: Poses, degrees: tuple[float, float],
    pixels: tuple[float, float], rounds: int = 6, candidates: int = 12, generator: torch.Generator | None = None,
    batch: int = 500,
) -> tuple[Poses, Tensor]:
    """Improve every pose by random local moves, each round with smaller ones, keeping what is likelier.

    ``mixing``: ``(n, j)``, each image's own volume as a mixture of the slicer's basis. ``degrees`` and ``pixels``
    are the spreads of the moves at the first and the last round. Returns poses and log-likelihoods ``(n,)``.
    """
    fraction = torch.linspace(0, 1, rounds)
    spread_deg = degrees[0] * (degrees[1] / degrees[0]) ** fraction
    spread_px = pixels[0] * (pixels[1] / pixels[0]) ** fraction
    rotations, shifts, scores = poses.rotations.clone(), poses.shifts_px.clone(), []
    for start in range(0, len(data), batch):
        rows = slice(start, min(start + batch, len(data)))
        part, count = data[rows], min(batch, len(data) - start)
        rotation, shift, best = rotations[rows], shifts[rows], None
        for degree, pixel in zip(spread_deg.tolist(), spread_px.tolist()):
            tried = so3.perturb(rotation[:, None].expand(-1, candidates, 3, 3), degree, generator)
            moved = shift[:, None] + pixel * torch.randn(count, candidates, 2, generator=generator, device=shift.device)
            tried = torch.cat([rotation[:, None], tried], dim=1)
            moved = torch.cat([shift[:, None], moved], dim=1)
            score = pose_score(part, slicer, mixing[rows], tried, moved)
            best, winner = score.max(dim=1)
            rotation, shift = tried[torch.arange(count), winner], moved[torch.arange(count), winner]
        rotations[rows], shifts[rows] = rotation, shift
        scores.append(best)
    return Poses(rotations, shifts), torch.cat(scores)


def pose_score(data: Observations, slicer: Slicer, mixing: Tensor, rotations: Tensor, shifts_px: Tensor) -> Tensor:
    """Log-likelihood ``(b, c)`` of ``(b, c, 3, 3)`` candidate rotations and ``(b, c, 2)`` shifts, each image under its
    own mixture ``(b, j)`` of the slicer's volumes."""
    count = rotations.shape[1]
    stencil = slicer.stencil(rotations.flatten(0, 1), data.k)
    slices = slicer.read_mixed(stencil, mixing.repeat_interleave(count, dim=0)).unflatten(0, (-1, count))
    slices = slices * data.ctf[:, None]
    moved = data.plane.translate(data.y[:, None], -shifts_px) - 0.5 * slices
    return (torch.view_as_real(moved) * torch.view_as_real(slices)).sum(-1) @ data.weight


@torch.no_grad()
def refine_newton(
    data: Observations, slicer: Slicer, mixing: Tensor, poses: Poses, iterations: int = 3, batch: int = 500,
    step_deg: float = 0.5,
) -> tuple[Poses, Tensor]:
    """Climb to the nearest maximum of every pose's likelihood by damped Gauss-Newton steps.

    The derivative of a slice by the rotation is a finite difference over ``step_deg``, that by the shift is exact. A
    step that does not help an image is not taken, and its damping grows. Returns poses and log-likelihoods ``(n,)``.
    """
    rotations, shifts, scores = poses.rotations.clone(), poses.shifts_px.clone(), []
    axes = step_deg * torch.eye(3, device=rotations.device)
    for start in range(0, len(data), batch):
        rows = slice(start, min(start + batch, len(data)))
        part, own = data[rows], mixing[rows]
        rotation, shift = rotations[rows].clone(), shifts[rows].clone()
        root = part.weight.sqrt()
        damping = torch.full((len(part), 1), 0.03, device=rotation.device)
        best = pose_score(part, slicer, own, rotation[:, None], shift[:, None])[:, 0]
        for _ in range(iterations):
            around = torch.cat([rotation[:, None], so3.turn(rotation[:, None], axes)], dim=1)
            stencil = slicer.stencil(around.flatten(0, 1), part.k)
            slices = slicer.read_mixed(stencil, own.repeat_interleave(4, dim=0)).unflatten(0, (-1, 4))
            slices = slices * (part.ctf * root)[:, None]
            model = slices[:, 0]
            by_shift = model[:, None] * (2j * torch.pi / part.plane.box) * part.k.T  # moving the data back by more
            jacobian = torch.cat([(slices[:, 1:] - model[:, None]) / step_deg, -by_shift], dim=1)
            residual = part.plane.translate(part.y, -shift) * root - model
            jacobian, residual = _real(jacobian), _real(residual)
            curvature = jacobian @ jacobian.mT
            slope = (jacobian @ residual[..., None]).squeeze(-1)
            diagonal = curvature.diagonal(dim1=1, dim2=2)
            damped = curvature + torch.diag_embed(damping * diagonal + 1e-6)
            move = torch.linalg.solve(damped, slope)
            turned = so3.turn(rotation, move[:, :3].clamp(-5, 5))
            moved = shift + move[:, 3:].clamp(-0.5, 0.5)
            score = pose_score(part, slicer, own, turned[:, None], moved[:, None])[:, 0]
            better = score > best
            rotation = torch.where(better[:, None, None], turned, rotation)
            shift = torch.where(better[:, None], moved, shift)
            best = torch.where(better, score, best)
            damping = torch.where(better[:, None], damping / 3, damping * 10)
        rotations[rows], shifts[rows] = rotation, shift
        scores.append(best)
    return Poses(rotations, shifts), torch.cat(scores)

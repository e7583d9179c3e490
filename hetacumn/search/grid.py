"""Pose search under known volumes: the likelihood of all poses of a grid, and the posterior over the grid.

Let ``S`` be the slice of a volume, ``C`` the CTF and ``w`` the half-plane weights. The log-likelihood of an image ``Y`` at
rotation ``R`` and shift ``t`` under volume ``v`` is::

    log p(Y | R, t, v) = Σ_k w Re(conj(S_v,R) C e^{2πi k·t} Y) - ½ Σ_k w C² |S_v,R|² + const

Real matrix products compute both sums for all images, shifts, rotations and volumes, without a loop over rotations. A half turn
in the image plane conjugates the slice. The first sum is therefore ``a + b`` at a rotation, and ``a - b`` at the rotation with
a half turn, where ``a`` is the product of the real parts and ``b`` the product of the imaginary parts. Grids consist of such
pairs (:class:`RotationGrid`): this halves the arithmetic and the number of slices. The constant contains ``-½ Σ w |Y|²``, which
no function of this module adds.
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
IN_CACHE = 2**17  # numbers of a block that stays in the cache of one core (512 kB)
VIEW_STEP_DEG = 58.6  # spacing of the views of a HEALPix grid of nside 1 in degrees: the square root of 4π / 12
NEGLIGIBLE = -80.0  # log of a posterior weight, relative to the largest, that a single-precision sum cannot resolve


@dataclass(frozen=True)
class RotationGrid:
    """A grid of rotations: the rotations ``first``, then each of them with a half turn (180°) in the image plane."""

    first: Float[Tensor, "h 3 3"]

    def __len__(self) -> int:
        return 2 * len(self.first)

    @property
    def rotations(self) -> Float[Tensor, "_r 3 3"]:
        """All rotations of the grid."""
        return torch.cat([self.first, torch.cat([-self.first[:, :2], self.first[:, 2:]], dim=1)])

    def to(self, device: torch.device | str) -> RotationGrid:
        """Copy to another device."""
        return RotationGrid(self.first.to(device))


#: Rotations, and shifts in pixels: the poses of a grid are all pairs.
PoseGrid = tuple[RotationGrid, Float[Tensor, "t 2"]]


def pose_grid(nside: int, turns: int) -> RotationGrid:
    """Return a rotation grid: each HEALPix view of ``nside`` with an even number ``turns`` of equal in-plane rotations."""
    if turns < 2 or turns % 2:
        raise ValueError(f"{turns} in-plane rotations; expected a positive even number")
    psi = inplane(torch.arange(turns // 2) * (360.0 / turns))
    return RotationGrid((psi[None] @ view_grid(nside)[:, None]).flatten(0, 1))


def unique_poses(nside: int, turns: int, group: Float[Tensor, "g 3 3"]) -> RotationGrid:
    """Return the poses of a :func:`pose_grid` in the asymmetric unit of a point group, or within half a step outside it."""
    grid = pose_grid(nside, turns).to(group.device)
    return grid if len(group) == 1 else RotationGrid(grid.first[asymmetric_unit(grid.first, group, VIEW_STEP_DEG / nside / 2)])


def shift_grid(extent_px: float, steps: int) -> Float[Tensor, "{steps**2} 2"]:
    """Return a square grid of ``steps²`` shifts in pixels, from ``-extent_px`` to ``extent_px``; shift 0 if ``steps`` is 1."""
    axis = torch.linspace(-extent_px, extent_px, steps) if steps > 1 else torch.zeros(1)
    return torch.cartesian_prod(axis, axis)


@dataclass(frozen=True)
class PairedSlices:
    """Slices of views, as real numbers, for the comparison with images at these views and at their half turns in plane.

    - ``parts``: real parts, and imaginary parts.
    - ``power``: squared magnitudes.
    """

    parts: Float[Tensor, "2 s m"]
    power: Float[Tensor, "s m"]

    @classmethod
    def of(cls, slices: Complex[Tensor, "s m"]) -> PairedSlices:
        """Convert complex slices."""
        parts = real_parts(slices)
        return cls(parts, parts.square().sum(0))

    @classmethod
    def of_grid(
        cls,
        volumes: Float[Tensor, "v box box box"],
        grid: RotationGrid,
        k: Float[Tensor, "m 2"],
        padding: float = 2.0,
        reach: float | None = None,
    ) -> PairedSlices:
        """Read slices of volumes at a grid: the first volume at all rotations ``grid.first``, then the second, and so on.

        For ``padding`` and ``reach`` see :class:`~hetacumn.physics.slices.Slicer`.
        """
        return cls.of(Slicer(volumes, padding, reach)(grid.first, k).transpose(0, 1).flatten(0, 1))

    def __len__(self) -> int:
        return len(self.power)


def real_parts(values: Complex[Tensor, "*batch m"]) -> Float[Tensor, "2 *batch m"]:
    """Return the real parts, and the imaginary parts, as one contiguous array."""
    return torch.view_as_real(values.resolve_conj()).movedim(-1, 0).contiguous()


def matched_images(data: Observations, shifts_px: Float[Tensor, "t 2"]) -> Float[Tensor, "2 _rows m"]:
    """Return images times CTF and weights, moved back by each of the shifts: real parts, and imaginary parts."""
    return real_parts(data.plane.translate((data.y * data.ctf * data.weight)[:, None], -shifts_px)).flatten(1, 2)


def log_likelihood(data: Observations, slices: PairedSlices, shifts_px: Float[Tensor, "t 2"]) -> Float[Tensor, "2 n t s"]:
    """Compute the log-likelihood of every image at every shift for every slice, without the constant ``-½ Σ w |Y|²``.

    The first axis is the view of the slice, and this view with a half turn in the image plane.
    """
    scores = torch.bmm(matched_images(data, shifts_px), slices.parts.mT).unflatten(1, (len(data), len(shifts_px)))
    scores[0].sub_(((data.ctf.square() * data.weight) @ slices.power.T)[:, None], alpha=0.5)
    return sum_and_difference_(scores)


def sum_and_difference_(pair: Float[Tensor, "2 n t s"]) -> Float[Tensor, "2 n t s"]:
    """Replace two arrays ``a`` and ``b``, in place, by ``a + b`` and ``a - b``."""
    for rows in cached_blocks(pair):
        first, second = pair[:, rows]
        torch.sub(first.add_(second), second, alpha=2, out=second)
    return pair


def cached_blocks(scores: Float[Tensor, "h n ..."]) -> list[slice]:
    """Divide the second axis into blocks on which several operations in turn stay within a processor's cache.

    A GPU gets everything at once.
    """
    count = max(1, scores.shape[1])
    size = max(1, IN_CACHE * count // max(1, scores.numel())) if scores.device.type == "cpu" else count
    return list(batch_slices(scores.shape[1], size)) or [slice(0, 0)]


def images_at_once(most: int, slices: PairedSlices, shifts_px: Float[Tensor, "t 2"]) -> int:
    """Return how many images, at most ``most``, to score together so that :data:`SCORES_AT_ONCE` is not exceeded."""
    return max(1, min(most, SCORES_AT_ONCE // (2 * len(shifts_px) * len(slices))))


def posterior_(scores: Float[Tensor, "h n ..."], sharpness: float = 1.0) -> Float[Tensor, " n"]:
    """Replace log-likelihoods, in place, by the posterior ``∝ exp(sharpness · score)`` over all axes but the second.

    Returns the log of the normaliser.
    """
    dims, log_totals = (0, *range(2, scores.ndim)), []
    for rows in cached_blocks(scores):
        total, log_total = _exponentiate_(scores[:, rows], sharpness, dims)
        scores[:, rows].div_(total)
        log_totals.append(log_total)
    return torch.cat(log_totals)


def log_sum_exp_(scores: Float[Tensor, "h n ..."], dims: tuple[int, ...]) -> Float[Tensor, "n ..."]:
    """Compute ``torch.logsumexp`` over ``dims``, which must not contain the second axis.

    ``exp(score - peak)`` overwrites the scores, with the maximum as peak.
    """
    return torch.cat([_exponentiate_(scores[:, rows], 1.0, dims)[1] for rows in cached_blocks(scores)])


def _exponentiate_(
    scores: Float[Tensor, "h n ..."], sharpness: float, dims: tuple[int, ...]
) -> tuple[Float[Tensor, ...], Float[Tensor, "n ..."]]:
    """Replace scores, in place, by ``exp(sharpness · (score - peak))``; the peak is the maximum over ``dims``.

    Returns the sum of the new values over ``dims`` (kept with length 1), and the log of the sum of ``exp(sharpness · score)``
    without ``dims``. Values below ``exp(NEGLIGIBLE)`` are raised to this bound, because processors take ten times as long where
    exp underflows.
    """
    peak = scores.amax(dim=dims, keepdim=True)
    total = scores.sub_(peak).mul_(sharpness).clamp_(min=NEGLIGIBLE).exp_().sum(dim=dims, keepdim=True)
    return total, (sharpness * peak + total.log()).squeeze(dims)


@torch.no_grad()
def likeliest(
    data: Observations, slices: PairedSlices, grid: RotationGrid, shifts_px: Float[Tensor, "t 2"], keep: int
) -> tuple[list[Poses], Int[Tensor, "n kept"]]:
    """Find the ``keep`` likeliest rotations of a grid for each image, each with its likeliest shift and volume.

    ``slices`` are those of all volumes at the grid (:meth:`PairedSlices.of_grid`). Returns a list and an array. The first entry
    of the list contains the likeliest pose of every image, the second entry the second likeliest pose of every image, and so
    on. The array contains the index of the volume for each of these poses. If the grid has fewer than ``keep`` rotations, both
    contain one pose per rotation.
    """
    keep, half = min(keep, len(grid)), len(grid.first)
    count = len(slices) // half
    rotation, shift, volume = (torch.empty(len(data), keep, dtype=torch.long, device=shifts_px.device) for _ in range(3))
    batch = images_at_once(len(data), slices, shifts_px)
    for rows in batch_slices(len(data), batch):
        score = log_likelihood(data[rows], slices, shifts_px).unflatten(3, (count, half))  # (2, b, t, v, h)
        best = torch.cat([score[:, block].amax(dim=(2, 3)) for block in cached_blocks(score)], dim=1)  # (2, b, h)
        rotation[rows] = best.movedim(0, 1).flatten(1).topk(keep, dim=1).indices
        image = torch.arange(score.shape[1], device=shifts_px.device)[:, None]
        place = score[rotation[rows] // half, image, :, :, rotation[rows] % half].flatten(2).argmax(2)  # (b, keep) of t * v
        shift[rows], volume[rows] = place // count, place % count
    rotations = grid.rotations
    return [Poses(rotations[r], shifts_px[t]) for r, t in zip(rotation.T, shift.T, strict=True)], volume


@torch.no_grad()
def open_rotations(
    data: Observations,
    volumes: Float[Tensor, "v box box box"],
    grid: RotationGrid,
    shifts_px: Float[Tensor, "t 2"],
    batch: int = 50,
    padding: float = 2.0,
) -> Float[Tensor, " n"]:
    """Compute the effective number of rotations in the posterior of each image: the exponential of the posterior's entropy.

    The posterior is marginalised over shifts and volumes, which are equally likely a priori.
    """
    slices = PairedSlices.of_grid(volumes, grid, data.k, padding)
    spread, batch = [], images_at_once(batch, slices, shifts_px)
    for rows in batch_slices(len(data), batch):
        share = log_likelihood(data[rows], slices, shifts_px)
        posterior_(share)
        of_rotations = share.unflatten(3, (len(volumes), -1)).sum(dim=(2, 3))  # (2, b, h)
        spread.append(torch.special.entr(of_rotations).sum(dim=(0, 2)).exp())
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
    grid: RotationGrid,
    shifts_px: Float[Tensor, "t 2"],
    batch: int = 100,
    padding: float = 2.0,
) -> GridSearchResult:
    """Score all poses of a grid for each image under equally likely volumes.

    ``padding`` is the zero-padding factor of the volumes, ``batch`` the largest number of images scored together.
    """
    count, slices = len(volumes), PairedSlices.of_grid(volumes, grid, data.k, padding)
    # Results go into preallocated arrays: small arrays allocated between large temporary ones would block their memory.
    best, volume = (torch.empty(len(data), dtype=torch.long, device=volumes.device) for _ in range(2))
    log_volume, evidence = torch.empty(len(data), count, device=volumes.device), torch.empty(len(data), device=volumes.device)
    batch = images_at_once(batch, slices, shifts_px)
    for rows in batch_slices(len(data), batch):
        score = log_likelihood(data[rows], slices, shifts_px).unflatten(3, (count, -1))  # (2, b, t, v, h)
        log_volume[rows] = log_sum_exp_(score, dims=(0, 2, 4))
        volume[rows] = log_volume[rows].argmax(1)
        for block in cached_blocks(score):
            own, of_block = volume[rows][block], score[:, block]
            chosen = of_block[:, torch.arange(len(own), device=own.device), :, own]  # (b, 2, t, h)
            best[rows][block] = chosen.transpose(1, 2).flatten(1).argmax(1)  # of t * r
        evidence[rows] = torch.logsumexp(log_volume[rows], dim=1)
    poses = Poses(grid.rotations[best % len(grid)], shifts_px[best // len(grid)])
    log_grid = math.log(count * len(grid) * len(shifts_px))
    return GridSearchResult(poses, volume, log_volume - evidence[:, None], evidence - log_grid)

"""Alignment of one volume to another: rotation, hand and shift, by correlation or by their common core.

Volumes are ``(z, y, x)`` with an even box.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.physics.fourier import crop_volumes, fft3c, ifft3c, pad_volumes
from hetacumn.physics.rotations import Frame, inplane, view_grid
from hetacumn.physics.volumes import rotate, soft_sphere

Misfit = Callable[[Tensor, Tensor, bool], Tensor]  # of a rotation (3, 3), a shift (3,) in voxels and a hand

_COARSE_BOX = 16
_MIDDLE_BOX = 32
_NSIDE = 3  # the global search steps by about 20°
_LARGEST_ON_CPU = _MIDDLE_BOX  # up to this box hundreds of small steps are faster on a CPU than on another device
_KEPT = 8  # frames of the global search that are refined before the best is chosen
_HAND_IN_DOUBT = 1.1  # a mirrored volume whose misfit is larger by this factor is not fitted to the core


@dataclass(frozen=True)
class Placement:
    """The placement of a volume in the frame of another: ``W(x) = V(±G x + t)``, ``t`` in voxels xyz."""

    frame: Frame
    shift_px: Float[Tensor, " 3"]

    def to(self, device: torch.device | str) -> Placement:
        """Copy to another device."""
        return Placement(self.frame.to(device), self.shift_px.to(device))

    def scaled(self, factor: float) -> Placement:
        """Convert to volumes of ``factor`` times as many voxels a side, over the same field of view."""
        return Placement(self.frame, self.shift_px * factor)

    def apply(self, volume: Float[Tensor, "box box box"]) -> Float[Tensor, "box box box"]:
        """Bring the volume into the other frame; a finer grid is read, where trilinear reading loses less."""
        box = volume.shape[-1]
        fine = _resample(volume, 2 * box)
        return crop_volumes(rotate(fine, self.frame.rotation, self.frame.mirrored, 2 * self.shift_px), box)


def align_volume(
    estimated: Float[Tensor, "box box box"],
    reference: Float[Tensor, "size size size"],
    frame: Frame | None = None,
) -> Float[Tensor, "box box box"]:
    """Bring the estimated volume into the frame of the reference.

    ``frame`` is the frame of the poses, ``rotations.align(estimated poses, true poses)``: with ``R_true = R_est G`` the result
    is ``V(G x + t)``, or ``V(-G x + t)`` where mirrored. Rotation and shift are then refined by correlation, coarse to
    fine, which forgives about 15° and any shift. Without a frame all rotations and both hands are searched, in some
    seconds. Raises ValueError where the boxes differ.
    """
    return place_volume(estimated, reference, frame).apply(estimated.float())


def place_volume(
    estimated: Float[Tensor, "box box box"],
    reference: Float[Tensor, "size size size"],
    frame: Frame | None = None,
    hands: tuple[bool, ...] = (False, True),
) -> Placement:
    """Find the placement of greatest correlation, which :func:`align_volume` applies.

    Without a frame the given ``hands`` are searched (True: mirrored). Raises ValueError where the boxes differ.
    """
    if estimated.shape != reference.shape:
        raise ValueError(f"volumes of shapes {tuple(estimated.shape)} and {tuple(reference.shape)}; expected equal boxes")
    box = reference.shape[-1]
    estimated, reference = estimated.float(), reference.float()
    coarse = min(_COARSE_BOX, box)
    small, target = _on_fastest_device(_resample(estimated, coarse)), _on_fastest_device(_target(reference, coarse))
    starts = [frame.to(small.device)] if frame is not None else _search(small, target, hands)
    fits = [_refine(small, target, Placement(start, _best_shift(small, target, start))) for start in starts]
    _, best = max(fits, key=lambda fit: fit[0])
    size = coarse
    for finer in sorted({min(_MIDDLE_BOX, box), box} - {coarse}):
        volume, target = _on_fastest_device(_resample(estimated, finer)), _on_fastest_device(_target(reference, finer))
        _, best = _refine(volume, target, best.scaled(finer / size).to(volume.device))
        size = finer
    return best.to(reference.device)


def place_core(
    estimated: Float[Tensor, "box box box"],
    reference: Float[Tensor, "box box box"],
    start: Placement,
    generator: torch.Generator,
    trials: int = 8,
    degrees: float = 12.0,
) -> Placement:
    """Find the placement that lays the largest common rigid body on itself, whatever else has moved.

    The greatest correlation splits the difference of a large motion. A robust misfit (Geman-McClure,
    ``Σ d² / (d² + c²)``) does not: it fits the parts that can be fitted exactly and gives up the rest. The misfit is
    minimised from ``start`` and from ``trials`` random placements about it, and the best result is taken. Large volumes are
    placed on a coarser grid first, and then once on their own grid.
    """
    box, device = reference.shape[-1], reference.device
    if box > _MIDDLE_BOX:
        coarse, target = _resample(estimated, _MIDDLE_BOX), _resample(reference, _MIDDLE_BOX)
        start = start.scaled(_MIDDLE_BOX / box)
        start = place_core(coarse, target, start, generator, trials, degrees).scaled(box / _MIDDLE_BOX)
        trials = 0
    scale = reference.std()
    moving, target = _on_fastest_device(estimated / scale), _on_fastest_device(reference / scale)
    start = start.to(moving.device)

    def misfit(rotation: Tensor, shift: Tensor, mirrored: bool) -> Tensor:
        return _robust(rotate(moving, rotation, mirrored, shift) - target)

    def similarity(place: Placement) -> float:
        turned = rotate(moving, place.frame.rotation, place.frame.mirrored, place.shift_px)
        return float((_centred(turned) * _centred(target)).sum())

    least = 0.8 * similarity(start)  # a volume that is pushed out of the box has little misfit too
    best, lowest = start, float(misfit(start.frame.rotation, start.shift_px, start.frame.mirrored))
    for trial in range(1 + trials):
        vector = torch.deg2rad(degrees * torch.randn(3, generator=generator)) * (trial > 0)
        rotation = start.frame.rotation @ roma.rotvec_to_rotmat(vector).to(start.frame.rotation)
        value, place = _descend(misfit, Placement(Frame(rotation, start.frame.mirrored), start.shift_px), box)
        if value < lowest and similarity(place) > least:
            best, lowest = place, value
    return best.to(device)


def settle_hand(
    estimated: Float[Tensor, "box box box"], reference: Float[Tensor, "box box box"], place: Placement
) -> Placement:
    """Return ``place`` (of :func:`place_core`), or the placement of the mirrored volume where it has less misfit.

    Images never tell the hand of a volume. But the conformations of one molecule have one hand, and share a rigid body only
    in the same hand.
    """
    mirrored = place_volume(estimated, reference, hands=(True,))
    if _core_misfit(estimated, reference, mirrored) > _HAND_IN_DOUBT * _core_misfit(estimated, reference, place):
        return place
    mirrored = place_core(estimated, reference, mirrored, torch.Generator().manual_seed(0))
    return min(place, mirrored, key=lambda candidate: _core_misfit(estimated, reference, candidate))


def _core_misfit(estimated: Float[Tensor, "box box box"], reference: Float[Tensor, "box box box"], place: Placement) -> float:
    turned = rotate(estimated, place.frame.rotation, place.frame.mirrored, place.shift_px)
    return float(_robust((turned - reference) / reference.std()))


def _robust(difference: Float[Tensor, " ..."]) -> Float[Tensor, ""]:
    square = difference.square()
    return (square / (square + 0.3)).mean()


def _resample(volume: Float[Tensor, "size size size"], box: int) -> Float[Tensor, "{box} {box} {box}"]:
    """Fourier-crop or Fourier-pad a volume to ``box`` voxels over the same field of view."""
    size = volume.shape[-1]
    if box <= size:
        return crop_volumes(volume, box)
    coefficients = fft3c(volume)
    for dim in (-3, -2, -1):
        coefficients.select(dim, 0).zero_()  # the frequencies at -Nyquist have no partners
    return ifft3c(pad_volumes(coefficients, box)) * (box / size) ** 3


def _target(reference: Float[Tensor, "size size size"], box: int) -> Float[Tensor, "{box} {box} {box}"]:
    return _centred(_resample(reference, box) * soft_sphere(box, device=reference.device))


def _centred(volumes: Float[Tensor, "*batch box box box"]) -> Float[Tensor, "*batch box box box"]:
    """Subtract the mean and scale to norm 1, so that the product of two volumes is a correlation."""
    volumes = volumes - volumes.mean((-3, -2, -1), keepdim=True)
    return volumes / volumes.square().sum((-3, -2, -1), keepdim=True).sqrt().clamp_min(1e-12)


def _cross_correlation(
    volume: Float[Tensor, "box box box"],
    target: Float[Tensor, "box box box"],
    rotations: Float[Tensor, "b 3 3"],
    mirrored: bool,
) -> Float[Tensor, "b box box box"]:
    """Correlate the turned volume with the target at every whole shift."""
    turned = _centred(torch.vmap(lambda rotation: rotate(volume, rotation, mirrored))(rotations))
    product = torch.fft.rfftn(turned, dim=(1, 2, 3)) * torch.fft.rfftn(target).conj()
    return torch.fft.irfftn(product, s=target.shape, dim=(1, 2, 3))


def _best_shift(
    volume: Float[Tensor, "box box box"], target: Float[Tensor, "box box box"], frame: Frame
) -> Float[Tensor, " 3"]:
    """Find the whole-voxel shift of the highest correlation, xyz, as :func:`rotate` takes it."""
    box = target.shape[-1]
    correlation = _cross_correlation(volume, target, frame.rotation[None], frame.mirrored)[0]
    peak = torch.stack(torch.unravel_index(correlation.argmax(), target.shape))
    shift = ((peak + box // 2) % box - box // 2).flip(0).float()  # W(x) = U(x + s), U(x) = V(±R x)
    return frame.rotation @ shift * (-1.0 if frame.mirrored else 1.0)


def _search(volume: Float[Tensor, "box box box"], target: Float[Tensor, "box box box"], hands: tuple[bool, ...]) -> list[Frame]:
    """List the frames of highest correlation over a grid of rotations, hands and all whole shifts."""
    turns = inplane(torch.arange(0, 360, 20.0))
    grid = (turns[:, None] @ view_grid(_NSIDE)).flatten(0, 1).to(volume)
    frames, scores = [], []
    for mirrored in hands:
        frames += [Frame(rotation, mirrored) for rotation in grid]
        for chunk in grid.split(200):
            scores.append(_cross_correlation(volume, target, chunk, mirrored).amax((1, 2, 3)))
    return [frames[i] for i in torch.cat(scores).topk(_KEPT).indices]


def _on_fastest_device(volume: Float[Tensor, "box box box"]) -> Float[Tensor, "box box box"]:
    """Move the volume to the device on which many small steps with it are fastest."""
    return volume.cpu() if volume.shape[-1] <= _LARGEST_ON_CPU else volume


def _refine(
    volume: Float[Tensor, "box box box"], target: Float[Tensor, "box box box"], start: Placement
) -> tuple[float, Placement]:
    """Climb the correlation from a placement; return the correlation reached and its placement."""

    def misfit(rotation: Tensor, shift: Tensor, mirrored: bool) -> Tensor:
        return -(_centred(rotate(volume, rotation, mirrored, shift)) * target).sum()

    value, place = _descend(misfit, start, volume.shape[-1])
    return -value, place


def _descend(misfit: Misfit, start: Placement, box: int) -> tuple[float, Placement]:
    """Minimise a misfit near a placement, by L-BFGS in the rotation vector and the shift."""
    frame, shift_px = start.frame, start.shift_px
    step = torch.zeros(6, device=shift_px.device, requires_grad=True)
    voxels_a_radian = box / 4  # a unit of rotation and a unit of shift then move the density alike
    optimizer = torch.optim.LBFGS([step], max_iter=30, line_search_fn="strong_wolfe")

    def place() -> tuple[Tensor, Tensor]:
        return frame.rotation @ roma.rotvec_to_rotmat(step[:3] / voxels_a_radian), shift_px + step[3:]

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = misfit(*place(), frame.mirrored)
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        rotation, shift = place()
        return float(misfit(rotation, shift, frame.mirrored)), Placement(Frame(rotation, frame.mirrored), shift)

"""Alignment of one volume to another in rotation, hand and shift: by correlation, or by their largest common rigid body.

Volumes are ``(z, y, x)`` with an even box.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.physics.fourier import crop_volumes, resize_volumes
from hetacumn.physics.rotations import Frame, inplane, view_grid
from hetacumn.physics.volumes import centred, low_passed, rotate, soft_sphere

Misfit = Callable[[Tensor, Tensor, bool], Tensor]  # of a rotation (3, 3), a shift (3,) in voxels, and whether mirrored

_COARSE_BOX = 16
_MIDDLE_BOX = 32
_NSIDE = 3  # HEALPix grid of the global search, with a spacing of about 20°
_LARGEST_ON_CPU = _MIDDLE_BOX  # up to this box, hundreds of small steps are faster on a CPU than on another device
_KEPT = 8  # frames of the global search that are refined before the best one is selected
_COARSE_RADIUS = 5.0  # integer frequency up to which independent volumes decide about their hands
_HAND_IN_DOUBT = 1.1  # a mirrored volume is fitted to the core only if its misfit is at most this factor larger


@dataclass(frozen=True)
class Placement:
    """The placement of a volume ``V`` in the frame of another volume: ``W(x) = V(±G x + t)``, with ``-`` where mirrored.

    - ``frame``: the rotation ``G`` and whether the volume is mirrored.
    - ``shift_px``: ``t`` (x, y, z) in voxels.
    """

    frame: Frame
    shift_px: Float[Tensor, " 3"]

    @classmethod
    def identity(cls, device: torch.device | str = "cpu") -> Placement:
        """Return the placement that does not change a volume."""
        return cls(Frame(torch.eye(3, device=device), False), torch.zeros(3, device=device))

    def then(self, second: Placement) -> Placement:
        """Return the placement that applies this placement first and the ``second`` placement afterwards."""
        moved = self.frame.rotation @ second.shift_px * (-1.0 if self.frame.mirrored else 1.0)
        frame = Frame(self.frame.rotation @ second.frame.rotation, self.frame.mirrored != second.frame.mirrored)
        return Placement(frame, self.shift_px + moved)

    def inverse(self) -> Placement:
        """Return the placement that undoes this placement."""
        back = self.frame.rotation.mT
        return Placement(Frame(back, self.frame.mirrored), back @ self.shift_px * (1.0 if self.frame.mirrored else -1.0))

    def to(self, device: torch.device | str) -> Placement:
        """Copy to another device."""
        return Placement(self.frame.to(device), self.shift_px.to(device))

    def scaled(self, factor: float) -> Placement:
        """Convert to a box of ``factor`` times as many voxels per side, over the same field of view."""
        return Placement(self.frame, self.shift_px * factor)

    def turned(self, volume: Float[Tensor, "box box box"]) -> Float[Tensor, "box box box"]:
        """Resample a volume on its own grid: faster than :meth:`apply`, and differentiable."""
        return rotate(volume, self.frame.rotation, self.frame.mirrored, self.shift_px)

    def apply(self, volume: Float[Tensor, "box box box"]) -> Float[Tensor, "box box box"]:
        """Resample a volume ``V`` as ``W``, by trilinear interpolation on a grid with half the voxel size."""
        box = volume.shape[-1]
        fine = resize_volumes(volume, 2 * box)
        return crop_volumes(rotate(fine, self.frame.rotation, self.frame.mirrored, 2 * self.shift_px), box)


def align_volume(
    estimated: Float[Tensor, "box box box"],
    reference: Float[Tensor, "size size size"],
    frame: Frame | None = None,
) -> Float[Tensor, "box box box"]:
    """Rotate, shift and, if needed, mirror the estimated volume into the frame of the reference.

    The function refines rotation and shift by correlation, from coarse to fine. The result is ``V(G x + t)``, or
    ``V(-G x + t)`` where mirrored.

    Args:
        estimated: the volume ``V`` to align.
        reference: the volume to align to.
        frame: the initial frame, from ``rotations.align(estimated poses, true poses)``, which finds ``R_true = R_est G``. Its
            rotation may be wrong by about 15°; the shift is always searched completely. Without a frame, the function
            searches all rotations and both hands, which takes some seconds.

    Raises:
        ValueError: the boxes differ.
    """
    return place_volume(estimated, reference, frame).apply(estimated.float())


def place_volume(
    estimated: Float[Tensor, "box box box"],
    reference: Float[Tensor, "size size size"],
    frame: Frame | None = None,
    hands: tuple[bool, ...] = (False, True),
) -> Placement:
    """Find the placement of highest correlation, which :func:`align_volume` applies.

    Without a frame, the function searches all rotations in the given ``hands`` (True: mirrored). Raises ValueError if the
    boxes differ.
    """
    if estimated.shape != reference.shape:
        raise ValueError(f"volumes of shapes {tuple(estimated.shape)} and {tuple(reference.shape)}; expected equal boxes")
    box = reference.shape[-1]
    estimated, reference = estimated.float(), reference.float()
    coarse = min(_COARSE_BOX, box)
    small, target = _on_fastest_device(resize_volumes(estimated, coarse)), _on_fastest_device(_target(reference, coarse))
    starts = [frame.to(small.device)] if frame is not None else _search(small, target, hands)
    fits = [refine_placement(small, target, Placement(start, best_shift(small, target, start))) for start in starts]
    _, best = max(fits, key=lambda fit: fit[0])
    size = coarse
    for finer in sorted({min(_MIDDLE_BOX, box), box} - {coarse}):
        volume, target = _on_fastest_device(resize_volumes(estimated, finer)), _on_fastest_device(_target(reference, finer))
        _, best = refine_placement(volume, target, best.scaled(finer / size).to(volume.device))
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
    """Find the placement that superimposes the largest common rigid body (the core), whatever other parts have moved.

    After a large motion, the placement of highest correlation is a compromise between the parts. This function minimises a
    robust misfit instead (Geman-McClure, the mean of ``d² / (d² + c²)`` over the voxels), which fits the parts that can be
    fitted exactly and ignores the others. The function minimises from ``start`` and from ``trials`` random rotations of it, and
    returns the best placement. Volumes larger than 32 voxels are placed on a grid of 32 voxels first, and then refined once on
    their own grid.

    Args:
        estimated: the volume to place.
        reference: the volume to place it on.
        start: the initial placement; its hand is kept.
        generator: samples the random rotations, on the CPU.
        trials: the number of random rotations.
        degrees: the standard deviation of each component of their rotation vectors.
    """
    box, device = reference.shape[-1], reference.device
    if box > _MIDDLE_BOX:
        coarse, target = resize_volumes(estimated, _MIDDLE_BOX), resize_volumes(reference, _MIDDLE_BOX)
        start = start.scaled(_MIDDLE_BOX / box)
        start = place_core(coarse, target, start, generator, trials, degrees).scaled(box / _MIDDLE_BOX)
        trials = 0
    scale = reference.std()
    moving, target = _on_fastest_device(estimated / scale), _on_fastest_device(reference / scale)
    start = start.to(moving.device)

    def misfit(rotation: Tensor, shift: Tensor, mirrored: bool) -> Tensor:
        return _robust(rotate(moving, rotation, mirrored, shift) - target)

    def similarity(place: Placement) -> float:
        return float((centred(place.turned(moving)) * centred(target)).sum())

    least = 0.8 * similarity(start)  # excludes volumes shifted out of the box, which have a low misfit too
    best, lowest = start, float(misfit(start.frame.rotation, start.shift_px, start.frame.mirrored))
    for trial in range(1 + trials):
        vector = torch.deg2rad(degrees * torch.randn(3, generator=generator)) * (trial > 0)
        rotation = start.frame.rotation @ roma.rotvec_to_rotmat(vector).to(start.frame.rotation)
        value, place = descend(misfit, Placement(Frame(rotation, start.frame.mirrored), start.shift_px), box)
        if value < lowest and similarity(place) > least:
            best, lowest = place, value
    return best.to(device)


def place_either_hand(
    estimated: Float[Tensor, "box box box"], reference: Float[Tensor, "box box box"], generator: torch.Generator
) -> Placement:
    """Find the placement of :func:`place_core` in the hand in which the cores of the low-passed volumes fit better.

    Volumes that were fitted independently may have either hand. Noise at high frequencies would hide the small difference
    between the hands; :data:`_COARSE_RADIUS` limits the frequencies.
    """
    coarse, target = (low_passed(volume, _COARSE_RADIUS) for volume in (estimated, reference))
    starts = [place_volume(coarse, target, hands=(mirrored,)) for mirrored in (False, True)]
    places = [place_core(coarse, target, start, generator, trials=24, degrees=20.0) for start in starts]
    best = min(places, key=lambda place: _core_misfit(coarse, target, place))
    return place_core(estimated, reference, best, generator)


def settle_hand(
    estimated: Float[Tensor, "box box box"], reference: Float[Tensor, "box box box"], place: Placement
) -> Placement:
    """Return ``place`` (from :func:`place_core`), or the placement of the mirrored volume if its misfit is lower.

    Images do not determine the hand of a single volume. The conformations of one molecule, however, all have the same hand,
    and two of their volumes share a rigid body only if both volumes have the same hand.
    """
    mirrored = place_volume(estimated, reference, hands=(True,))
    if _core_misfit(estimated, reference, mirrored) > _HAND_IN_DOUBT * _core_misfit(estimated, reference, place):
        return place
    mirrored = place_core(estimated, reference, mirrored, torch.Generator().manual_seed(0))
    return min(place, mirrored, key=lambda candidate: _core_misfit(estimated, reference, candidate))


def _core_misfit(estimated: Float[Tensor, "box box box"], reference: Float[Tensor, "box box box"], place: Placement) -> float:
    return float(_robust((place.turned(estimated) - reference) / reference.std()))


def _robust(difference: Float[Tensor, " ..."]) -> Float[Tensor, ""]:
    square = difference.square()
    return (square / (square + 0.3)).mean()


def _target(reference: Float[Tensor, "size size size"], box: int) -> Float[Tensor, "{box} {box} {box}"]:
    return centred(resize_volumes(reference, box) * soft_sphere(box, device=reference.device))


def _cross_correlation(
    volume: Float[Tensor, "box box box"],
    target: Float[Tensor, "box box box"],
    rotations: Float[Tensor, "b 3 3"],
    mirrored: bool,
) -> Float[Tensor, "b box box box"]:
    """Compute the correlation of the rotated volume with the target at every whole-voxel shift, for each rotation."""
    turned = centred(torch.vmap(lambda rotation: rotate(volume, rotation, mirrored))(rotations))
    product = torch.fft.rfftn(turned, dim=(1, 2, 3)) * torch.fft.rfftn(target).conj()
    return torch.fft.irfftn(product, s=target.shape, dim=(1, 2, 3))


def best_shift(volume: Float[Tensor, "box box box"], target: Float[Tensor, "box box box"], frame: Frame) -> Float[Tensor, " 3"]:
    """Find the whole-voxel shift (x, y, z) of the highest correlation, as the ``shift_px`` of :func:`rotate`."""
    box = target.shape[-1]
    correlation = _cross_correlation(volume, target, frame.rotation[None], frame.mirrored)[0]
    peak = torch.stack(torch.unravel_index(correlation.argmax(), target.shape))
    shift = ((peak + box // 2) % box - box // 2).flip(0).float()  # W(x) = U(x + s), U(x) = V(±R x)
    return frame.rotation @ shift * (-1.0 if frame.mirrored else 1.0)


def _search(volume: Float[Tensor, "box box box"], target: Float[Tensor, "box box box"], hands: tuple[bool, ...]) -> list[Frame]:
    """Return the frames of highest correlation, from a search over a grid of rotations, ``hands`` and whole-voxel shifts."""
    turns = inplane(torch.arange(0, 360, 20.0))
    grid = (turns[:, None] @ view_grid(_NSIDE)).flatten(0, 1).to(volume)
    frames, scores = [], []
    for mirrored in hands:
        frames += [Frame(rotation, mirrored) for rotation in grid]
        for chunk in grid.split(200):
            scores.append(_cross_correlation(volume, target, chunk, mirrored).amax((1, 2, 3)))
    return [frames[i] for i in torch.cat(scores).topk(_KEPT).indices]


def _on_fastest_device(volume: Float[Tensor, "box box box"]) -> Float[Tensor, "box box box"]:
    """Move a volume to the CPU if it has at most :data:`_LARGEST_ON_CPU` voxels per side; return a larger volume unchanged."""
    return volume.cpu() if volume.shape[-1] <= _LARGEST_ON_CPU else volume


def refine_placement(
    volume: Float[Tensor, "box box box"], target: Float[Tensor, "box box box"], start: Placement
) -> tuple[float, Placement]:
    """Maximise the correlation from a placement; return the correlation and its placement."""

    def misfit(rotation: Tensor, shift: Tensor, mirrored: bool) -> Tensor:
        return -(centred(rotate(volume, rotation, mirrored, shift)) * target).sum()

    value, place = descend(misfit, start, volume.shape[-1])
    return -value, place


def descend(misfit: Misfit, start: Placement, box: int) -> tuple[float, Placement]:
    """Minimise a misfit from a placement by L-BFGS in the rotation vector and the shift; return the misfit and placement."""
    frame, shift_px = start.frame, start.shift_px
    step = torch.zeros(6, device=shift_px.device, requires_grad=True)
    voxels_a_radian = box / 4  # scales rotations so that a unit step moves the density by about one voxel, as a shift does
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

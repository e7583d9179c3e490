"""One frame and one hand for the volumes of three or more conformations of a molecule.

Two conformations of a large motion have little in common. The placement of highest correlation is then a compromise between
the parts. A placement in which the parts change their roles, for example after a rotation by 180° or in the other hand, may
correlate as well. Similar conformations, however, have one clear placement. :func:`place_together` therefore has two steps:

1. *Growth.* Searches over all rotations and hands compare the volumes in pairs. The volume that is most similar to a placed
   volume comes next. It is placed on the mean of the most similar placed volumes. Sweeps over all volumes then place each
   volume again on the mean of its neighbours. The sweeps close the loop of a circular motion.
2. *Core.* The correlation rotates each conformation, by about 10° for a large motion, towards the moving parts of its
   neighbours. The parts that do not move dominate a robust misfit of all pairs, which is minimised in all placements at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.physics.alignment import Placement, best_shift, refine_placement
from hetacumn.physics.fourier import resize_volumes
from hetacumn.physics.rotations import Frame, distance_deg, inplane, view_grid
from hetacumn.physics.volumes import centred, low_passed, rotate, soft_sphere

_BOX = 32  # grid of all comparisons
_RADIUS = 8.0  # largest integer frequency of the growth; interpolation on the grid hardly changes such volumes
_COARSE_BOX, _COARSE_RADIUS = 16, 6.0  # grid and largest frequency of the searches over all rotations
_NSIDE, _TURN_DEG = 2, 30.0  # rotation grid of the searches, with a spacing of about 30°
_KEPT = 3  # grid rotations of each hand that are refined
_COMPARED = 8  # volumes with which each volume is compared in detail: the most similar ones on the rotation grid
_NEIGHBOURS = 3  # similar volumes on whose mean a volume is placed
_SWEEPS = 3  # largest number of sweeps
_SETTLED_DEG = 1.0  # the sweeps end if no volume rotates by more
_DISTINCT_DEG = 15.0  # placements of one hand with a smaller distance count as one
_CORE_RADIUS = 12.0  # largest integer frequency of the fit of the core
_CORE_SCALES = (10.0, 3.0, 1.0)  # c² of the successive fits, in units of the variance of the volumes
_GAIN = 0.03  # least relative decrease of the misfit of a volume that the growth has placed better
_CORE_PAIRS = 4  # each volume is compared with this number of volumes that follow it, and with as many that precede it


def place_together(
    volumes: Float[Tensor, "k box box box"], first: int, given: Sequence[Placement], hands: bool = True
) -> list[Placement]:
    """Find the placements of all volumes in the frame of the volume ``first``, whose placement is the identity.

    The core is fitted from the placements ``given`` and from the growth. The growth wins if its misfit of pairs is lower, and
    lower by :data:`_GAIN` for one of the volumes, so that a symmetric molecule keeps its frame. The placements ``given`` win
    over the fit that begins with them if their misfit is lower. If ``hands`` is false, the growth mirrors no volume.
    """
    box, shared = volumes.shape[-1], volumes.cpu()  # hundreds of small steps are faster on a CPU
    given = [place.to("cpu").scaled(_BOX / box) for place in given]
    sharp = _low_passed(shared, _CORE_RADIUS)
    sharp = sharp / sharp.std()

    def misfits(places: list[Placement]) -> Float[Tensor, " k"]:
        return _misfits(_placed(sharp, _rotated(places)), _CORE_SCALES[-1])

    best = min(given, _fit_core(sharp, given), key=lambda places: float(misfits(places).mean()))
    grown = _fit_core(sharp, _grow(shared, first, (False, True) if hands else (False,)))
    before, after = misfits(best), misfits(grown)
    if after.mean() < before.mean() and (after < (1 - _GAIN) * before).any():
        best = grown
    back = best[first].inverse()
    return [place.then(back).scaled(box / _BOX).to(volumes.device) for place in best]


def largest_difference_deg(places: Sequence[Placement], others: Sequence[Placement]) -> float:
    """Return the largest angle between the rotations of two sets of placements, in degrees; 180 if hands differ."""
    pairs = list(zip(places, others, strict=True))
    if any(place.frame.mirrored != other.frame.mirrored for place, other in pairs):
        return 180.0
    return max(float(distance_deg(place.frame.rotation, other.frame.rotation)) for place, other in pairs)


def _comparable(volumes: Float[Tensor, "k box box box"], radius: float) -> Float[Tensor, "k size size size"]:
    """Return the low-passed volumes on the common grid, without the corners of the box, scaled for correlations."""
    return centred(_low_passed(volumes, radius) * soft_sphere(_BOX))


def _low_passed(volumes: Float[Tensor, "k box box box"], radius: float) -> Float[Tensor, "k size size size"]:
    return torch.stack([low_passed(resize_volumes(volume, _BOX), radius) for volume in volumes])


class _Pairs:
    """Volumes that are compared in pairs.

    - ``volumes``: the volumes on the common grid, within :data:`_RADIUS`.
    - ``likeness``: the highest correlation of each pair. A pair that was compared on the rotation grid only has a negative
      value, so that it ranks after all pairs that were compared in detail.
    """

    def __init__(self, volumes: Float[Tensor, "k box box box"], hands: tuple[bool, ...]) -> None:
        self.volumes, count = _comparable(volumes, _RADIUS), len(volumes)
        self._coarse = centred(torch.stack([resize_volumes(one, _COARSE_BOX) for one in _comparable(volumes, _COARSE_RADIUS)]))
        self.likeness = torch.full((count, count), -torch.inf)
        self._frames: dict[tuple[int, int], list[Frame]] = {}
        self._found: dict[tuple[int, int], list[Placement]] = {}
        for k in range(1, count):
            for j, (score, frames) in enumerate(self._search(k, hands)):
                self.likeness[k, j] = self.likeness[j, k] = score - 1
                self._frames[k, j] = frames
        for k, others in enumerate(self.likeness.topk(min(_COMPARED, count - 1)).indices.tolist()):
            for j in others:
                self.places(k, j)

    def places(self, k: int, j: int) -> list[Placement]:
        """Return the best placements of volume ``k`` on volume ``j``."""
        if k < j:
            return [place.inverse() for place in self.places(j, k)]
        if (k, j) not in self._found:
            volume, target = self._coarse[k], self._coarse[j]
            starts = [Placement(frame, best_shift(volume, target, frame)) for frame in self._frames[k, j]]
            coarse = [place.scaled(_BOX / _COARSE_BOX) for _, place in _best(volume, target, [Placement.identity(), *starts])]
            found = _best(self.volumes[k], self.volumes[j], coarse[:2])
            self.likeness[k, j] = self.likeness[j, k] = found[0][0]
            self._found[k, j] = [place for _, place in found]
        return self._found[k, j]

    def neighbours(self, k: int, among: Iterable[int]) -> list[int]:
        """Return the volumes that are most similar to volume ``k``."""
        return sorted((j for j in among if j != k), key=lambda j: -float(self.likeness[k, j]))[:_NEIGHBOURS]

    def _search(self, k: int, hands: tuple[bool, ...]) -> list[tuple[float, list[Frame]]]:
        """Compare volume ``k`` with each earlier volume on the rotation grid; return its correlation and its best frames."""
        grid = (inplane(torch.arange(0, 360, _TURN_DEG))[:, None] @ view_grid(_NSIDE)).flatten(0, 1)
        spectra = torch.fft.rfftn(centred(torch.vmap(lambda rotation: rotate(self._coarse[k], rotation))(grid)), dim=(1, 2, 3))
        found = []
        for target in torch.fft.rfftn(self._coarse[:k], dim=(1, 2, 3)).conj():
            frames, best = [], -1.0
            for mirrored in hands:  # a real volume, mirrored at the origin, has the conjugate transform
                product = (spectra.conj() if mirrored else spectra) * target
                scores = torch.fft.irfftn(product, s=self._coarse.shape[1:], dim=(1, 2, 3)).amax((1, 2, 3)).topk(_KEPT)
                frames += [Frame(grid[i], mirrored) for i in scores.indices]
                best = max(best, float(scores.values[0]))
            found.append((best, frames))
        return found


def _best(
    volume: Float[Tensor, "box box box"], target: Float[Tensor, "box box box"], starts: Sequence[Placement]
) -> list[tuple[float, Placement]]:
    """Refine the placements of a volume by correlation with a target; return distinct results, the best one first."""
    distinct: list[tuple[float, Placement]] = []
    for fit in sorted((refine_placement(volume, target, start) for start in starts), key=lambda fit: -fit[0]):
        if all(largest_difference_deg([fit[1]], [other]) > _DISTINCT_DEG for _, other in distinct):
            distinct.append(fit)
    return distinct


def _grow(volumes: Float[Tensor, "k box box box"], first: int, hands: tuple[bool, ...]) -> list[Placement]:
    """Place the volumes on their neighbours, one by one, beginning with the volume ``first``; see the module."""
    pairs, count = _Pairs(volumes, hands), len(volumes)
    places, placed = {first: Placement.identity()}, {first: pairs.volumes[first]}

    def place(k: int, also: list[Placement]) -> None:
        near = pairs.neighbours(k, placed)
        target = centred(torch.stack([placed[j] for j in near]).sum(0))
        starts = also + [start.then(places[j]) for j in near for start in pairs.places(k, j)]
        tried = [(float((_moved(pairs.volumes[k], start) * target).sum()), start) for start in starts]
        likely = sorted(tried, key=lambda one: -one[0])[: 2 * _NEIGHBOURS]
        places[k] = _best(pairs.volumes[k], target, [start for _, start in likely])[0][1]
        placed[k] = _moved(pairs.volumes[k], places[k])

    while len(places) < count:
        rest = [k for k in range(count) if k not in places]
        place(max(rest, key=lambda k: float(pairs.likeness[k, list(places)].max())), [])
    for _ in range(_SWEEPS):
        before = list(places.items())
        for k in range(count):
            if k != first:
                place(k, [places[k]])
        if largest_difference_deg([places[k] for k, _ in before], [place for _, place in before]) < _SETTLED_DEG:
            break
    return [places[k] for k in range(count)]


def _moved(volume: Float[Tensor, "box box box"], place: Placement) -> Float[Tensor, "box box box"]:
    return centred(place.turned(volume))


def _rotated(places: list[Placement]) -> list[Placement]:
    """Rotate all placements by the same arbitrary angle.

    Volumes in their own frames are not interpolated and therefore have a lower misfit; the rotation removes this advantage.
    """
    arbitrary = Placement(Frame(roma.rotvec_to_rotmat(torch.tensor([0.3, 0.5, 0.7])), False), torch.zeros(3))
    return [place.then(arbitrary) for place in places]


def _placed(volumes: Float[Tensor, "k box box box"], places: list[Placement]) -> Float[Tensor, "k box box box"]:
    return torch.stack([place.turned(volume) for volume, place in zip(volumes, places, strict=True)])


def _misfits(placed: Float[Tensor, "k box box box"], scale: float) -> Float[Tensor, " k"]:
    """Compute the mean of ``d² / (d² + scale)`` over the voxels, for the differences ``d`` of each volume to its partners."""
    count = len(placed)
    rows = torch.arange(count).repeat(_CORE_PAIRS)
    others = (rows + torch.arange(1, 1 + _CORE_PAIRS).repeat_interleave(count)) % count
    square = (placed[rows] - placed[others]).square()
    return (square / (square + scale)).mean((1, 2, 3)).view(_CORE_PAIRS, count).mean(0)


def _fit_core(volumes: Float[Tensor, "k box box box"], places: list[Placement]) -> list[Placement]:
    """Minimise the misfit of pairs in all placements at once, at decreasing scales.

    A fit that separates a volume from the others is rejected: noisy volumes that are shifted out of the box have a low misfit.
    """
    places = _rotated(places)
    least = 0.8 * _agreement(volumes, places)
    for scale in _CORE_SCALES:
        fitted = _descend(volumes, places, scale)
        if (_agreement(volumes, fitted) < least).any():
            break
        places = fitted
    return places


def _agreement(volumes: Float[Tensor, "k box box box"], places: list[Placement]) -> Float[Tensor, " k"]:
    """Return the correlation of each placed volume with the sum of all placed volumes."""
    placed = centred(_placed(volumes, places))
    return (placed * centred(placed.sum(0))).sum((1, 2, 3))


def _descend(volumes: Float[Tensor, "k box box box"], places: list[Placement], scale: float) -> list[Placement]:
    """Minimise the misfit of pairs by L-BFGS in the rotation vectors and shifts of all placements."""
    steps = torch.zeros(len(volumes), 6, requires_grad=True)
    optimiser = torch.optim.LBFGS([steps], max_iter=40, line_search_fn="strong_wolfe")

    def moved() -> list[Placement]:
        turns = roma.rotvec_to_rotmat(steps[:, :3] / (_BOX / 4))  # a unit step moves the density by about one voxel
        return [
            Placement(Frame(place.frame.rotation @ turn, place.frame.mirrored), place.shift_px + shift)
            for place, turn, shift in zip(places, turns, steps[:, 3:], strict=True)
        ]

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = _misfits(_placed(volumes, moved()), scale).mean()
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        return moved()

"""The map of one class at the full box: half sets, refinement of their poses, filter, mask and sharpening.

The particles are split into two halves once. Each half has its own map, and its poses are refined against its own map only. The
poses before the refinement come from images cropped to the training box. Below the Nyquist frequency of that box the half sets
share information, and their FSC is no independent measure. Above it, they share only the classes and the mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import observe
from hetacumn.particles.source_images import SourceImages
from hetacumn.physics.symmetry import symmetry_rotations
from hetacumn.physics.volumes import soft_sphere
from hetacumn.reconstruction.back_projection import BackProjector, FourierSums
from hetacumn.reconstruction.masks import make_mask
from hetacumn.reconstruction.postprocessing import (
    ShellCurves,
    compare_halves,
    filter_shells,
    guinier_b_factor,
    sharpened,
)
from hetacumn.search.refinement import Tangent, climb
from hetacumn.search.state import State

STEPS = 2  # Gauss-Newton steps of each pose in a round of the refinement
MOST_ROUNDS = 5
LEAST_GAIN = 0.5  # the refinement ends if a round raises the area under the FSC by less than this number of shells

Rows = Int[np.ndarray, " m"]
Report = Callable[[str, int], None]  # called with the name of the step and the number of images


def split_halves(
    rows: Int[np.ndarray, " m"], half_sets: Int[np.ndarray, " n"] | None, seed: int
) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
    """Split rows into two half sets.

    ``half_sets`` is the half set of each row of the stack, 1 or 2, or 0 where unknown. Rows without a half set are split at
    random. If ``half_sets`` is None, or all rows are in one half set, all rows are split at random.
    """
    own = np.zeros(len(rows), dtype=np.int64) if half_sets is None else half_sets[rows].copy()
    if len(set(own.tolist())) == 1:
        own[:] = 0
    free = np.flatnonzero(own == 0)
    first, second = np.array_split(np.random.default_rng(seed).permutation(free), 2)
    own[first], own[second] = 1, 2
    return rows[own == 1], rows[own == 2]


@dataclass(frozen=True)
class ClassMap:
    """The maps of one class.

    - ``halves``: half maps without filter, mask and sharpening.
    - ``sums``: sums over all images of the class.
    - ``mask``: soft mask, from 0 to 1.
    - ``curves``: FSC curves of the half maps.
    - ``voxel_A``: voxel size in Å.
    """

    halves: tuple[Float[Tensor, "box box box"], Float[Tensor, "box box box"]]
    sums: FourierSums
    mask: Float[Tensor, "box box box"]
    curves: ShellCurves
    voxel_A: float

    @property
    def resolution_A(self) -> float:
        """The resolution in Å at which the corrected FSC of the half maps falls below 0.143."""
        return self.curves.resolution_A(self.voxel_A)

    @cached_property
    def filtered(self) -> Float[Tensor, "box box box"]:
        """The map of all images with the Wiener filter that the FSC of the half maps determines."""
        return self.sums.volume(1 / self.curves.signal_to_noise(halves=2).clamp(min=1e-3))

    @cached_property
    def b_factor_A2(self) -> float:
        """The B-factor of the filtered map in Å²; 0 if its resolution does not suffice for an estimate."""
        return guinier_b_factor(self.filtered, self.voxel_A, self.resolution_A)

    def sharpened(self) -> Float[Tensor, "box box box"]:
        """Return the filtered map after the correction of its B-factor."""
        return sharpened(self.filtered, self.voxel_A, self.b_factor_A2, self.resolution_A)


def back_project_rows(
    images: SourceImages,
    rows: Rows,
    poses: Poses,
    device: torch.device,
    report: Report = lambda what, count: None,
    symmetry: str = "C1",
) -> FourierSums:
    """Read rows of a stack and add up their images at their poses and at all poses equivalent by the point group ``symmetry``.

    ``poses`` are the poses of all rows of the stack.
    """
    projector, group = BackProjector(images.box, device), symmetry_rotations(symmetry).to(device)
    for chosen, particles in images.chunks(rows):
        data, here = observe(particles, device), poses[chosen].to(device)
        for g in group:
            projector.add(data, Poses(here.rotations @ g.to(here.rotations), here.shifts_px))
        report("back-projection", len(chosen))
    return projector.sums()


def make_class_map(
    first: FourierSums, second: FourierSums, voxel_A: float, mask: Float[Tensor, "box box box"] | None = None
) -> ClassMap:
    """Make half maps, mask and FSC curves from the sums of two half sets.

    If ``mask`` is None, the mean of both half maps determines the mask.
    """
    sphere, whole = soft_sphere(first.box, device=first.signal.device), (first.volume(), second.volume())
    mask = make_mask((whole[0] + whole[1]) / 2, voxel_A) if mask is None else mask.to(sphere.device)
    halves = whole[0] * sphere, whole[1] * sphere
    return ClassMap(halves, first + second, mask, compare_halves(*halves, mask), voxel_A)


@dataclass(frozen=True)
class ClassReconstruction:
    """Reconstruction of one class from raw images.

    - ``images``: the raw images of the stack.
    - ``halves``: the rows of the two half sets.
    - ``mask``: a soft mask; None to make one from the map.
    - ``device``: the device of the computation.
    - ``report``: called for each chunk of images.
    - ``symmetry``: point group that is imposed on the maps.
    """

    images: SourceImages
    halves: tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]
    mask: Float[Tensor, "box box box"] | None = None
    device: torch.device = torch.device("cpu")
    report: Report = lambda what, count: None
    symmetry: str = "C1"

    def back_project(self, poses: Poses) -> ClassMap:
        """Reconstruct the maps at the poses of all rows of the stack."""
        given = poses, self.device, self.report, self.symmetry
        sums = [back_project_rows(self.images, rows, *given) for rows in self.halves]
        return make_class_map(sums[0], sums[1], self.images.pixel_A, self.mask)

    def refine(self, poses: Poses, start: ClassMap) -> tuple[Poses, ClassMap]:
        """Refine the poses of each half set against its own map, and reconstruct again, until the FSC no longer rises.

        Each round reads frequencies up to the resolution that the half maps have reached. The function returns the poses and
        the maps of the best round.
        """
        best, reached = start, poses
        for _ in range(MOST_ROUNDS):
            refined = reached
            for half, rows in enumerate(self.halves):
                refined = self._refine_half(rows, refined, self._reference(best, half), self._radius(best))
            trial = self.back_project(refined)
            gain = float((trial.curves.corrected - best.curves.corrected).sum())
            if gain > 0:
                best, reached = trial, refined
            if gain < LEAST_GAIN:
                break
        return reached, best

    def _reference(self, maps: ClassMap, half: int) -> Float[Tensor, "box box box"]:
        """Return a half map, filtered by its signal-to-noise ratio and masked."""
        ratio = maps.curves.signal_to_noise()
        return filter_shells(maps.halves[half], ratio / (1 + ratio)) * maps.mask

    def _radius(self, maps: ClassMap) -> float:
        """Return the resolution of the half maps in cycles per pixel."""
        return self.images.pixel_A / maps.resolution_A

    def _refine_half(self, rows: Rows, poses: Poses, reference: Float[Tensor, "box box box"], radius: float) -> Poses:
        tangent = Tangent(reference[None], highest=int(radius * self.images.box) + 1)
        rotations, shifts_px = poses.rotations.clone(), poses.shifts_px.clone()
        for chosen, particles in self.images.chunks(rows):
            start = poses[chosen].to(self.device)
            state = State(start, start.shifts_px.new_zeros(len(chosen), 0))
            state, _ = climb(observe(particles, self.device), tangent, state, (radius,) * STEPS)
            rotations[chosen], shifts_px[chosen] = state.poses.rotations.cpu(), state.poses.shifts_px.cpu()
            self.report("refinement", len(chosen))
        return Poses(rotations, shifts_px)

"""Settings of the *ab initio* start, one dataclass for each of its parts, and their adaptation to the signal of the images.

The preset ``bright`` is for high-signal images, the preset ``faint`` for low-signal images. The limit between them is
``bright_nats``, a mean log-likelihood gain per image in nats (:func:`~hetacumn.particles.observations.signal_nats`).
Methods import the modules for their computations when called. A command can thus check its settings without these modules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch

from hetacumn.common.point_groups import group_name
from hetacumn.common.settings import check_fields

if TYPE_CHECKING:
    from hetacumn.particles.observations import Observations
    from hetacumn.search.grid import PoseGrid

Grid = tuple[int, int]  # a rotation grid: HEALPix nside, and the number of in-plane rotations
START_BOX, FEWEST_COMPONENTS = 32, 4  # largest box of a start in pixels, smallest number of components of a subspace
LARGEST_BATCH = 5.0  # largest batch for low-signal images, in units of ``batch``


@dataclass(frozen=True)
class EMSchedule:
    """The schedule of one run of stochastic EM.

    - ``steps``: number of gradient steps.
    - ``radius``: Fourier radius at the first step, and the radius reached after 80 % of the steps, in cycles per pixel.
    - ``grids``: rotation grids (HEALPix nside, even number of in-plane rotations). EM uses the first grid up to the Fourier
      radius ``coarse_radius``, in cycles per pixel, and the last grid beyond.
    - ``temper``: factor of the log-likelihood in the posterior at the first step. It grows to 1 by the middle of the run.
    - ``rate``: learning rate of Adam, in units of the typical voxel value; it decays to 10 % over the last 40 % of steps.
    - ``symmetry``: point group that EM imposes on the volumes (:mod:`hetacumn.physics.symmetry`).
    """

    steps: int
    radius: tuple[float, float]
    grids: tuple[Grid, ...]
    temper: float
    rate: float
    coarse_radius: float = 0.13
    symmetry: str = "C1"

    def __post_init__(self) -> None:
        check_fields(
            self,
            steps=(self.steps >= 0, "a number of at least 0"),
            radius=(0 <= self.radius[0] < self.radius[1], "two radii of at least 0, the second larger"),
            grids=(bool(self.grids) and all(n in range(2, 999, 2) for _, n in self.grids), "grids with an even second number"),
            temper=(self.temper > 0, "a number above 0"),
        )
        object.__setattr__(self, "symmetry", group_name(self.symmetry))


@dataclass(frozen=True)
class ConsensusSchedule(EMSchedule):
    """The schedule of EM of one volume from noise, which is repeated until the two best runs agree.

    It has the fields of :class:`EMSchedule`, and:

    - ``restarts``: largest number of runs.
    - ``agreement``: relative difference between the two highest log-likelihoods below which no further run follows.
    """

    restarts: int = 4
    agreement: float = 0.005


@dataclass(frozen=True)
class SearchGrid:
    """The pose grid of an exhaustive search.

    - ``rotations``: HEALPix nside and even number of in-plane rotations; the spacing of (4, 24) is 15°.
    - ``extent``: largest shift along x and y, as a fraction of the box; the default is 1.5 px of a box of 32 px. The start
      multiplies it by 2 or 3 if this raises the evidence of the images (:mod:`~hetacumn.ab_initio.evidence`).
    - ``step_px``: largest spacing of the shifts, in pixels, for a search that takes the likeliest pose.
    - ``fine_step_px``: largest spacing of the shifts, in pixels, for a search in which poses compete and for the last EM.
    """

    rotations: Grid = (4, 24)
    extent: float = 0.046875
    step_px: float = 1.5
    fine_step_px: float = 1.0

    def __post_init__(self) -> None:
        check_fields(
            self,
            rotations=(self.rotations[1] in range(2, 999, 2), "a grid with an even second number"),
            extent=(0 <= self.extent < 0.5, "a number from 0 to under 0.5"),
            step_px=(self.step_px > 0, "a number above 0"),
            fine_step_px=(self.fine_step_px > 0, "a number above 0"),
        )

    def shifts(self, box: int, step_px: float) -> torch.Tensor:
        """Return ``(t, 2)`` shifts in pixels, at most ``step_px`` apart, for images of ``box`` pixels."""
        from hetacumn.search.grid import shift_grid

        extent_px = self.extent * box
        return shift_grid(extent_px, math.ceil(2 * extent_px / step_px) + 1)


@dataclass(frozen=True)
class RefinementRadii:
    """Fourier radii, in cycles per pixel, of Gauss-Newton pose steps and of the fits of volumes that follow them.

    - ``climb``, ``fine``, ``last``: one radius per step, for the steps from grid poses, after the first fit, and at the end.
    - ``fit``, ``last_fit``: radius of all fits of volumes but the last, and of the last fit.
    """

    climb: tuple[float, ...] = (0.15, 0.2, 0.2, 0.25, 0.25)
    fine: tuple[float, ...] = (0.25, 0.35, 0.35, 0.35)
    last: tuple[float, ...] = (0.25, 0.35, 0.45, 0.45)
    fit: float = 0.35
    last_fit: float = 0.45


@dataclass(frozen=True)
class SearchEffort:
    """Settings of the searches among competing poses, which low-signal images need.

    - ``early_radii``: Fourier radius of each search in a route, in cycles per pixel. Preset ``bright``: none, the start takes
      the likeliest grid pose instead. Preset ``faint``: 4 searches at 0.35.
    - ``last_radii``: Fourier radius of each search at the end, in cycles per pixel. Preset ``bright``: none. Preset ``faint``:
      8 searches at 0.45.
    - ``component_share``: expected power of a component, as a fraction of the mean volume's power in each shell; 0 for no
      prior. Preset ``bright``: 0. Preset ``faint``: 0.1.
    """

    early_radii: tuple[float, ...] = ()
    last_radii: tuple[float, ...] = ()
    component_share: float = 0.0

    def __post_init__(self) -> None:
        radii = "numbers above 0 and up to 0.5"
        check_fields(
            self,
            early_radii=(all(0 < radius <= 0.5 for radius in self.early_radii), radii),
            last_radii=(all(0 < radius <= 0.5 for radius in self.last_radii), radii),
            component_share=(self.component_share >= 0, "a number of at least 0"),
        )

    @property
    def route_fits(self) -> int:
        """The largest number of subspace fits in a route, each of ``subspace_steps``."""
        return 1 + (len(self.early_radii) or 1)

    @property
    def last_fits(self) -> int:
        """The largest number of subspace fits at the end, in units of ``subspace_steps``."""
        return len(self.last_radii) or 2


@dataclass(frozen=True)
class DivisionSettings:
    """Settings of the search for missed volumes (:mod:`hetacumn.ab_initio.division`).

    - ``turns``: largest number of turns; 0 disables the search.
    - ``alone``: schedule of EM of the images of one cluster, from noise. Its ``temper`` is higher for low-signal images.
    - ``together``: schedule of EM of all images under the chosen volumes.
    """

    turns: int
    alone: EMSchedule
    together: EMSchedule

    def __post_init__(self) -> None:
        check_fields(self, turns=(self.turns >= 0, "a number of at least 0"))


CONSENSUS = ConsensusSchedule(steps=250, radius=(0.05, 0.22), grids=((2, 12), (4, 24)), temper=0.02, rate=0.15)
CLASSES = EMSchedule(steps=250, radius=(0.08, 0.25), grids=((3, 18),), temper=0.1, rate=0.1)
SOFT = EMSchedule(steps=60, radius=(0.22, 0.35), grids=((5, 30),), temper=1.0, rate=0.03)
ALONE = EMSchedule(steps=250, radius=(0.05, 0.3), grids=((2, 12), (4, 24)), temper=0.02, rate=0.15)
TOGETHER = EMSchedule(steps=150, radius=(0.15, 0.3), grids=((4, 24),), temper=0.3, rate=0.1)
DIVISION = DivisionSettings(turns=6, alone=ALONE, together=TOGETHER)
FAINT_SEARCH = SearchEffort(early_radii=(0.35,) * 4, last_radii=(0.45,) * 8, component_share=0.1)


def components_for(volumes: int) -> int:
    """Return the number of components of a subspace of K volumes, which span K - 1 dimensions: K - 1, but at least 4."""
    return max(FEWEST_COMPONENTS, volumes - 1)


@dataclass(frozen=True)
class AbInitioConfig:
    """Settings of the *ab initio* start.

    - ``volumes``: number K of volumes of the routes; 0 to find the number. A training run sets it to its ``classes``.
    - ``components``: number of components of the linear subspace; 0 for ``volumes`` - 1, but at least 4. It is ``latent_dim``.
    - ``routes``: some of ``classes``, ``consensus`` and ``noise`` (if poses are open, or alone); the likelihood of held-out
      images chooses between them. Or ``independent`` alone, for different molecules.
    - ``box``: the start crops larger images to this box (pixels), and resizes its volumes at the end; not with given poses.
    - ``held_out``: fraction of the images that no fit uses. ``padding``: zero-padding factor of volumes.
    - ``unfit_share``: the images that fit no volume are fitted alone if they are at least this fraction of all images.
    - ``division``: settings of the search for volumes that a route has missed.
    - ``batch``: images per EM step, before :meth:`adapted_to`; a step of a subspace fit uses twice as many.
    - ``consensus``, ``classes``: schedules of EM of one volume and of the K-class route.
    - ``soft``: schedule of the last EM, for open poses, which weighs all poses by their posterior; 0 ``steps`` disables it.
    - ``open_poses``: poses are open if the posterior of the median image is spread over more than this number of rotations.
    - ``grid``, ``refine``: pose grid of the exhaustive searches, and Fourier radii of the pose steps and fits that follow.
    - ``subspace_steps``: gradient steps of a subspace fit.
    - ``bright``, ``faint``: settings of the pose searches for a stack of high-signal images and of low-signal images.
    - ``settled``: the repeated search ends if the last search rotated less than this fraction of the images by more than 5°.
    - ``brightness``: the preset; ``auto`` stands for ``bright`` if the mean gain per image is at least ``bright_nats``.
    """

    volumes: int = 4
    components: int = 4
    routes: tuple[str, ...] = ("classes", "consensus", "noise")
    box: int = START_BOX
    held_out: float = 0.1
    padding: float = 2.0
    unfit_share: float = 0.03
    division: DivisionSettings = DIVISION
    batch: int = 100
    consensus: ConsensusSchedule = CONSENSUS
    classes: EMSchedule = CLASSES
    soft: EMSchedule = SOFT
    open_poses: float = 4.0
    grid: SearchGrid = field(default_factory=SearchGrid)
    refine: RefinementRadii = field(default_factory=RefinementRadii)
    subspace_steps: int = 150
    bright: SearchEffort = field(default_factory=SearchEffort)
    faint: SearchEffort = FAINT_SEARCH
    settled: float = 0.05
    bright_nats: float = 200.0
    brightness: Literal["auto", "bright", "faint"] = "auto"

    def __post_init__(self) -> None:
        one_molecule = len(self.routes) > 0 and set(self.routes) <= {"classes", "consensus", "noise"}
        is_known = one_molecule or tuple(self.routes) == ("independent",)
        check_fields(
            self,
            routes=(is_known, "classes, consensus and noise, or some of them, or independent alone"),
            box=(self.box >= 16 and self.box % 2 == 0, "an even number of at least 16"),
            held_out=(0 < self.held_out <= 0.5, "a number above 0 and up to 0.5"),
            settled=(0 <= self.settled <= 1, "a number from 0 to 1"),
        )

    @property
    def effort(self) -> SearchEffort:
        """The preset that ``brightness`` selects; ``bright`` if it is still ``auto``, and ``faint`` for different molecules.

        A grid pose under a wrong molecule may explain a high-signal image better than the grid pose nearest to the right one.
        """
        return self.faint if self.brightness == "faint" or "independent" in self.routes else self.bright

    def poses(self, box: int, device: torch.device) -> PoseGrid:
        """Return rotations and shifts (pixels) of the search that takes the likeliest pose."""
        return self._grid_of(self.grid.rotations, self.grid.step_px, box, device)

    def competing_poses(self, box: int, device: torch.device) -> PoseGrid:
        """Return rotations and shifts (pixels) of the search in which the likeliest poses compete."""
        return self._grid_of(self.grid.rotations, self.grid.fine_step_px, box, device)

    def weighed_poses(self, box: int, device: torch.device) -> PoseGrid:
        """Return rotations and shifts (pixels) of the last EM, which weighs all poses."""
        return self._grid_of(self.soft.grids[-1], self.grid.fine_step_px, box, device)

    def _grid_of(self, rotations: Grid, step_px: float, box: int, device: torch.device) -> PoseGrid:
        from hetacumn.search.grid import pose_grid

        return pose_grid(*rotations).to(device), self.grid.shifts(box, step_px).to(device)

    def with_extent(self, extent: float | None) -> AbInitioConfig:
        """Return the settings with an extent of the shift grid; None keeps the extent."""
        return self if extent is None else replace(self, grid=replace(self.grid, extent=extent))

    def faintness(self, data: Observations) -> float:
        """Return the ratio of ``bright_nats`` to the mean log-likelihood gain per image, or 1 if the ratio is smaller."""
        from hetacumn.particles.observations import signal_nats

        coarse = data.coarsened(START_BOX)  # also for another box of the start
        return max(1.0, self.bright_nats / max(signal_nats(coarse, self.consensus.radius[1] * coarse.plane.box), 1e-6))

    def with_brightness_of(self, data: Observations) -> AbInitioConfig:
        """Return the settings with ``brightness`` chosen by the images where it is ``auto``."""
        if self.brightness != "auto":
            return self
        return replace(self, brightness="bright" if self.faintness(data) == 1 else "faint")

    def adapted_to(self, data: Observations) -> AbInitioConfig:
        """Return the settings adapted to the images: ``brightness``, and larger ``batch`` and ``temper`` for low-signal images.

        The tempered likelihood of a low-signal image hardly depends on its pose, and a small batch of such images hardly
        constrains a volume. This method therefore multiplies ``batch`` (by at most :data:`LARGEST_BATCH`) and the ``temper`` of
        EM from noise by :meth:`faintness`.
        """
        config, faintness = self.with_brightness_of(data), self.faintness(data)
        if faintness == 1:
            return config
        consensus = replace(self.consensus, temper=min(1.0, self.consensus.temper * faintness))
        alone = replace(self.division.alone, temper=min(1.0, self.division.alone.temper * faintness))
        division = replace(self.division, alone=alone)
        return replace(config, consensus=consensus, division=division, batch=round(self.batch * min(LARGEST_BATCH, faintness)))

"""Settings of the ab initio start, by concern, and the adaptation to the brightness of the images.

Methods that need grids or images import those modules when called, so that a command checks its settings without them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from hetacumn.common.settings import check_fields

if TYPE_CHECKING:
    from hetacumn.particles.observations import Observations

Grid = tuple[int, int]  # of rotations: HEALPix nside, and the number of in-plane turns
LARGEST_BATCH = 5.0  # times the batch of bright images, however faint the images are


@dataclass(frozen=True)
class EMSchedule:
    """The schedule of one run of stochastic EM.

    - ``steps``: gradient steps.
    - ``radius``: Fourier radius at the first step, and from four fifths of the run on, in cycles per pixel.
    - ``grids``: grids of rotations (HEALPix nside, in-plane turns); each but the last serves up to ``coarse_radius``.
    - ``temper``: factor of the log-likelihood at the first step; it grows to 1 by the middle of the run.
    - ``rate``: Adam's rate, in units of the voxels' scale.
    - ``coarse_radius``: Fourier radius up to which a coarse grid is fine enough, in cycles per pixel.
    """

    steps: int
    radius: tuple[float, float]
    grids: tuple[Grid, ...]
    temper: float
    rate: float
    coarse_radius: float = 0.13

    def __post_init__(self) -> None:
        check_fields(
            self,
            steps=(self.steps >= 0, "a number of at least 0"),
            radius=(0 <= self.radius[0] < self.radius[1], "two radii of at least 0, the second larger"),
            grids=(len(self.grids) > 0, "at least one grid"),
            temper=(self.temper > 0, "a number above 0"),
        )


@dataclass(frozen=True)
class ConsensusSchedule(EMSchedule):
    """EM of one volume from noise, repeated until two results agree.

    It has the fields of :class:`EMSchedule`, and:

    - ``restarts``: largest number of runs.
    - ``agreement``: relative difference of the best two log-likelihoods below which no further run follows.
    """

    restarts: int = 4
    agreement: float = 0.005


@dataclass(frozen=True)
class SearchGrid:
    """The grid of poses that an exhaustive search compares.

    - ``rotations``: HEALPix nside and in-plane turns; (4, 24) is 15 degrees apart.
    - ``extent``: largest shift either way, as a share of the box; 1.5 px of 32.
    - ``step_px``: largest distance between neighbouring shifts, in pixels.
    - ``fine_step_px``: likewise where poses compete or all poses are weighed.
    """

    rotations: Grid = (4, 24)
    extent: float = 0.046875
    step_px: float = 1.5
    fine_step_px: float = 1.0

    def __post_init__(self) -> None:
        check_fields(
            self,
            extent=(0 <= self.extent < 0.5, "a number from 0 to under 0.5"),
            step_px=(self.step_px > 0, "a number above 0"),
            fine_step_px=(self.fine_step_px > 0, "a number above 0"),
        )

    def shifts(self, box: int, step_px: float) -> Tensor:
        """``(t, 2)`` shifts for images of a box, in pixels, at most ``step_px`` apart."""
        from hetacumn.search.grid import shift_grid

        extent_px = self.extent * box
        return shift_grid(extent_px, math.ceil(2 * extent_px / step_px) + 1)


@dataclass(frozen=True)
class RefinementRadii:
    """Fourier radii, in cycles per pixel, of pose steps and of the fits of volumes that follow the steps.

    - ``climb``: one radius for each pose step from a grid outwards.
    - ``fine``: likewise for the pose steps after the first fit.
    - ``last``: likewise for the last pose steps.
    - ``fit``: radius of the fits of volumes.
    - ``last_fit``: radius of the last fit.
    """

    climb: tuple[float, ...] = (0.15, 0.2, 0.2, 0.25, 0.25)
    fine: tuple[float, ...] = (0.25, 0.35, 0.35, 0.35)
    last: tuple[float, ...] = (0.25, 0.35, 0.45, 0.45)
    fit: float = 0.35
    last_fit: float = 0.45


@dataclass(frozen=True)
class SearchEffort:
    """Searches that faint images need. An empty tuple stands for none: the likeliest pose of the grid is taken.

    - ``early_radii``: Fourier radii, in cycles per pixel, of the searches among competing poses in each route.
    - ``last_radii``: likewise of the searches at the end.
    - ``component_share``: expected power of a component, as a share of the mean volume's in each shell; 0 for no prior.
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
            component_share=(self.component_share >= 0, "0 or a number over it"),
        )

    @property
    def route_fits(self) -> int:
        """The most fits of the subspace in a route, in units of ``subspace_steps``."""
        return 1 + (len(self.early_radii) or 1)

    @property
    def last_fits(self) -> int:
        """The most fits at the end, in units of ``subspace_steps``."""
        return len(self.last_radii) or 2


CONSENSUS = ConsensusSchedule(steps=250, radius=(0.05, 0.22), grids=((2, 12), (4, 24)), temper=0.02, rate=0.15)
CLASSES = EMSchedule(steps=250, radius=(0.08, 0.25), grids=((3, 18),), temper=0.1, rate=0.1)
SOFT = EMSchedule(steps=60, radius=(0.22, 0.35), grids=((5, 30),), temper=1.0, rate=0.03)
FAINT_SEARCH = SearchEffort(early_radii=(0.35,) * 4, last_radii=(0.45,) * 8, component_share=0.1)


@dataclass(frozen=True)
class AbInitioConfig:
    """Settings of the ab initio start.

    - ``volumes``: number of volumes of the K-class route. A training run sets it to its ``classes``.
    - ``components``: number of components of the linear subspace. A training run sets it to its ``latent_dim``.
    - ``routes``: ``classes``, ``consensus`` or both; held-out images choose between them.
    - ``held_out``: share of the images that no fit sees.
    - ``padding``: volumes are padded with zeros by this factor before the Fourier transform.
    - ``unfit_share``: share of the images that must fit no volume before one more volume is looked for; 1 for never.
    - ``batch``: images in a step of EM; a fit of the subspace takes twice as many.
    - ``consensus``, ``classes``: schedules of EM of one volume, and of the K-class route.
    - ``soft``: schedule of the last EM, which weighs all poses; 0 steps for never.
    - ``open_poses``: the last EM runs where the median image leaves more rotations of its grid open than this.
    - ``grid``: poses of the exhaustive searches.
    - ``refine``: Fourier radii of pose steps and fits.
    - ``subspace_steps``: gradient steps of a fit of the subspace.
    - ``bright``, ``faint``: the searches for bright and for faint images.
    - ``settled``: share of images that still move between two searches, below which no search follows.
    - ``bright_nats``: mean log-likelihood gain per image (nats) from which on images are bright; see :meth:`adapted_to`.
    - ``brightness``: ``auto`` takes ``bright`` or ``faint`` by the images.
    """

    volumes: int = 4
    components: int = 4
    routes: tuple[str, ...] = ("classes", "consensus")
    held_out: float = 0.1
    padding: float = 2.0
    unfit_share: float = 0.03
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
        known = {"classes", "consensus"}
        check_fields(
            self,
            routes=(len(self.routes) > 0 and set(self.routes) <= known, "classes, consensus or both"),
            held_out=(0 < self.held_out <= 0.5, "a number above 0 and up to 0.5"),
            settled=(0 <= self.settled <= 1, "a number from 0 to 1"),
        )

    @property
    def effort(self) -> SearchEffort:
        """The searches for images of this ``brightness``; the searches for bright images until it is decided."""
        return self.faint if self.brightness == "faint" else self.bright

    def poses(self, box: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rotations and shifts of the search that takes the likeliest pose."""
        return self._grid_of(self.grid.rotations, self.grid.step_px, box, device)

    def competing_poses(self, box: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rotations and shifts of the search whose likeliest poses compete."""
        return self._grid_of(self.grid.rotations, self.grid.fine_step_px, box, device)

    def weighed_poses(self, box: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rotations and shifts that are all weighed where images leave their poses open."""
        return self._grid_of(self.soft.grids[-1], self.grid.fine_step_px, box, device)

    def _grid_of(self, rotations: Grid, step_px: float, box: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rotations and shifts of a grid."""
        from hetacumn.search.grid import pose_grid

        return pose_grid(*rotations).to(device), self.grid.shifts(box, step_px).to(device)

    def faintness(self, data: Observations) -> float:
        """The ratio of ``bright_nats`` to the log-likelihood gain per image; 1 for bright images."""
        from hetacumn.particles.observations import signal_nats

        return max(1.0, self.bright_nats / max(signal_nats(data, self.consensus.radius[1] * data.plane.box), 1e-6))

    def with_brightness_of(self, data: Observations) -> AbInitioConfig:
        """Decide ``brightness`` by the images, unless it is decided already, and return the settings."""
        if self.brightness != "auto":
            return self
        return replace(self, brightness="bright" if self.faintness(data) == 1 else "faint")

    def adapted_to(self, data: Observations) -> AbInitioConfig:
        """Adapt the settings to the images: their ``brightness``, and a larger batch and temper for faint images.

        The tempered likelihood of a faint image hardly depends on its pose, and a small batch of faint images hardly
        constrains a volume. So both grow by :meth:`faintness`, the batch at most :data:`LARGEST_BATCH` times.
        """
        config, faintness = self.with_brightness_of(data), self.faintness(data)
        if faintness == 1:
            return config
        consensus = replace(self.consensus, temper=min(1.0, self.consensus.temper * faintness))
        return replace(config, consensus=consensus, batch=round(self.batch * min(LARGEST_BATCH, faintness)))

"""Settings of the ab initio start, and how they suit the images that it is of."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hetacumn.errors import HetacumnError
from hetacumn.observations import Observations, signal_nats
from hetacumn.search import pose_grid, shift_grid


@dataclass(frozen=True)
class AbInitioConfig:
    """Settings of the start. Radii are in cycles per pixel, steps in gradient steps of ``batch`` images."""

    volumes: int = 4  # K of the K-class route
    components: int = 4  # of the linear subspace
    restarts: int = 4  # at most
    agreement: float = 0.005  # of the log-likelihoods of two restarts, to make no more
    steps: int = 250
    class_steps: int = 250
    subspace_steps: int = 150
    component_share: float = 0.0  # of the mean's power, in each shell: what a component is expected to have; 0: no prior
    batch: int = 100
    temper: float = 0.02  # what the log-likelihood is multiplied by at first; it grows to 1
    loud_nats: float = 200.0  # batch, temper and searches are for images that say this or more; see suited
    class_temper: float = 0.1
    rate: float = 0.15  # of Adam, in units of the voxels' scale
    class_rate: float = 0.1
    coarse_grid: tuple[int, int] = (2, 12)  # HEALPix nside and in-plane turns: 29 and 30 degrees apart
    class_grid: tuple[int, int] = (3, 18)  # 20 degrees
    fine_grid: tuple[int, int] = (4, 24)  # 15 degrees
    shift: float = 0.046875  # the grid's extent either way, of the box: 1.5 px of 32
    shift_apart_px: float = 1.5  # at most, from one shift of the grid to the next
    coarse_radius: float = 0.13  # up to here the coarse grid is fine enough
    radius: tuple[float, float] = (0.05, 0.22)
    class_radius: tuple[float, float] = (0.08, 0.25)
    climb_radii: tuple[float, ...] = (0.15, 0.2, 0.2, 0.25, 0.25)  # of the pose steps from a grid outwards
    fine_radii: tuple[float, ...] = (0.25, 0.35, 0.35, 0.35)  # and from there
    fine_radius: float = 0.35  # of the fits of volumes
    last_radii: tuple[float, ...] = (0.25, 0.35, 0.45, 0.45)  # of the last pose steps
    last_radius: float = 0.45  # of the last fit
    open_poses: float = 4.0  # in the median over more rotations of the soft grid: all are weighed, at the end
    soft_grid: tuple[int, int] = (5, 30)  # 12 degrees
    soft_radius: float = 0.35
    soft_steps: int = 60  # 0: poses are never weighed at the end
    soft_rate: float = 0.03
    rivals_apart_px: float = 1.0  # as shift_apart_px, where poses of the grid compete, or are weighed for classes
    early_reaches: tuple[float, ...] = ()  # of the searches among rivals in each route, one after the other; see suited
    last_reaches: tuple[float, ...] = ()  # of those at the end
    faint_early_reaches: tuple[float, ...] = (0.35,) * 4
    faint_last_reaches: tuple[float, ...] = (0.45,) * 8
    faint_component_share: float = 0.1
    settled: float = 0.05  # the share of the images that still moves, below which no search follows
    padding: float = 2.0
    unfit_share: float = 0.03  # of the images, that fit no volume, and there is looked for one more; 1 for never
    held_out: float = 0.1
    routes: tuple[str, ...] = ("classes", "consensus")

    def __post_init__(self):
        for name, holds, expected in (
            ("routes", self.routes and set(self.routes) <= {"classes", "consensus"}, "classes, consensus or both"),
            ("held_out", 0 < self.held_out <= 0.5, "a number over 0 and up to 0.5"),
            ("shift", 0 <= self.shift < 0.5, "a number from 0 to under 0.5"),
            ("shift_apart_px", self.shift_apart_px > 0, "a number over 0"),
            ("rivals_apart_px", self.rivals_apart_px > 0, "a number over 0"),
            *((name, getattr(self, name) >= 0, "0 or a number over it")
              for name in ("component_share", "faint_component_share")),
            ("settled", 0 <= self.settled <= 1, "a number from 0 to 1"),
            *((name, all(0 < reach <= 0.5 for reach in getattr(self, name)), "numbers over 0 and up to 0.5")
              for name in ("early_reaches", "last_reaches", "faint_early_reaches", "faint_last_reaches")),
            ("soft_radius", self.soft_radius > self.radius[1], f"a number over {self.radius[1]}, where radius ends"),
        ):
            if not holds:
                raise HetacumnError(f"ab_initio.{name} is {getattr(self, name)!r}; expected {expected}")

    def shifts(self, box: int, apart_px: float | None = None) -> Tensor:
        """``(t, 2)`` shifts of the grid for images of a box, in pixels, ``shift_apart_px`` apart at most or as told."""
        extent_px = self.shift * box
        return shift_grid(extent_px, math.ceil(2 * extent_px / (self.shift_apart_px if apart_px is None else apart_px)) + 1)

    def poses(self, box: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The rotations and shifts, of images of a box, of which the likeliest is taken."""
        return pose_grid(*self.fine_grid).to(device), self.shifts(box).to(device)

    def rivals(self, box: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Those of which the likeliest compete (:mod:`hetacumn.rivals`)."""
        return pose_grid(*self.fine_grid).to(device), self.shifts(box, self.rivals_apart_px).to(device)

    def soft_poses(self, box: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Those that are weighed for classes where poses are open."""
        return pose_grid(*self.soft_grid).to(device), self.shifts(box, self.rivals_apart_px).to(device)

    def faintness(self, data: Observations) -> float:
        """How many times less than ``loud_nats`` the molecule explains an image by; 1 where that is more."""
        return max(1.0, self.loud_nats / max(signal_nats(data, self.radius[1] * data.plane.box), 1e-6))

    @property
    def route_fits(self) -> int:
        """How many fits of the subspace a route takes at most, in units of ``subspace_steps``."""
        return 1 + (len(self.early_reaches) or 1)

    @property
    def last_fits(self) -> int:
        """Likewise those at the end."""
        return len(self.last_reaches) or 2

    def thorough(self) -> AbInitioConfig:
        """The settings with the searches among rivals and the prior of components that faint images need."""
        return replace(self, early_reaches=self.faint_early_reaches, last_reaches=self.faint_last_reaches,
                       component_share=self.faint_component_share)

    def suited(self, data: Observations) -> AbInitioConfig:
        """The settings for images as faint as these.

        Where the molecule explains an image by fewer than ``loud_nats``, its tempered likelihood would say next to nothing
        of the pose, and a batch little of the volume: both are larger by that factor, the batch at most five times. And
        searches are :meth:`thorough`.
        """
        faintness = self.faintness(data)
        if faintness == 1:
            return self
        temper, batch = min(1.0, self.temper * faintness), round(self.batch * min(5.0, faintness))
        return replace(self.thorough(), temper=temper, batch=batch)

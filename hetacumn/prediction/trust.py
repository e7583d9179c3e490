"""The stop sign of a prediction: does an independent start find the same poses?

EM fits one volume per class at low resolution, from random noise, to images of the class that are centred by their predicted
shifts. A pose search under this volume then finds the poses of other images of the class. The predicted pose of an image and
the pose of the independent start agree only if the images determine them. The share of the images with equal poses is the
*settled* share of the class. A class with a low settled share may have a wrong volume, even if its images are one conformation.

The cost depends on the number of classes and on the signal, but not on the number of images.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from hetacumn.ab_initio.config import AbInitioConfig, ConsensusSchedule, SearchGrid
from hetacumn.ab_initio.stochastic_em import consensus
from hetacumn.compute.processes import SINGLE_PROCESS, ProcessGroup
from hetacumn.particles.observations import Observations
from hetacumn.physics.fsc import HALF_MAP_FSC, fsc, resolution_A
from hetacumn.physics.rotations import agreeing
from hetacumn.search.grid import pose_grid
from hetacumn.search.refinement import search_volume

if TYPE_CHECKING:
    from hetacumn.prediction.answer import Answer

TRUST = "class_trust"  # key in run.json
DETERMINED = 0.5  # least settled share of a class whose poses count as determined
LEAST_IMAGES = 60  # a smaller class is not tested
MOST_FITTED, TESTED = 2000, (20, 400)  # images of a class that fit the volume; fewest and most images with compared poses
RESTART_SEED = 7919  # separates the random numbers of the restart from the random numbers of training
BOX = 32  # pixels; in a larger box, the Fourier radii below keep their integer frequencies
RESTART = ConsensusSchedule(steps=250, radius=(0.05, 0.25), grids=((2, 12), (3, 18)), temper=0.02, rate=0.15, restarts=1)
MOST_RESTARTS, CLEAR = 3, 0.8  # the restart is repeated until this share of the images is settled
CLIMB = (0.15, 0.2, 0.2, 0.25, 0.25)  # Fourier radius of each Gauss-Newton step, in cycles per pixel
NO_SHIFTS = SearchGrid(extent=0.0)  # EM takes the images as they are centred: shifts cost time and make faint images fail
RESIDUAL_SHIFTS = SearchGrid(extent=1 / BOX, step_px=1.0)  # of the pose search: -1, 0 and 1 px


@dataclass(frozen=True)
class ClassTrust:
    """The reliability of one class.

    - ``images``: number of images of the class.
    - ``settled``: share of the tested images whose predicted pose and independent pose differ by less than 10°; None if the
      class has fewer than :data:`LEAST_IMAGES` usable images.
    - ``half_map_A``: resolution in Å at which the FSC of half maps at the predicted poses falls to 0.143; None for a class
      with fewer than two images. The half maps use at most :data:`MOST_FITTED` images.
    """

    images: int
    settled: float | None
    half_map_A: float | None

    @property
    def is_determined(self) -> bool:
        """Whether the test confirmed the poses; false for a class that is not tested."""
        return self.settled is not None and self.settled >= DETERMINED

    def __str__(self) -> str:
        return f"too few images to test ({self.images})" if self.settled is None else f"{100 * self.settled:.0f} % settled"


def to_json(classes: tuple[ClassTrust, ...]) -> list[dict]:
    """Return the fields of each class by name, as values for JSON."""
    return [asdict(trust) for trust in classes]


def describe(classes: tuple[ClassTrust, ...]) -> str:
    """Describe the classes in one line: ``poses: class 1 97 % settled, class 2 too few images to test (12)``."""
    return "poses: " + (", ".join(f"class {k} {trust}" for k, trust in enumerate(classes, 1)) or "not tested")


def doubts(classes: tuple[ClassTrust, ...]) -> list[str]:
    """Return one line for each class whose poses are not determined, or not tested."""
    return [
        f"class {k}: too few images to test the poses ({trust.images}); the volume may not be reliable"
        if trust.settled is None
        else f"class {k}: poses not determined ({trust}); the volume is not reliable"
        for k, trust in enumerate(classes, 1)
        if not trust.is_determined
    ]


def class_names(classes: tuple[ClassTrust, ...], count: int) -> list[str]:
    """Return the names of ``count`` classes for figures; a second line warns of poses that are not determined or not tested."""
    faults = [
        "" if one.is_determined else "\nnot tested" if one.settled is None else "\nposes not determined" for one in classes
    ]
    return [f"class {k + 1}{faults[k] if classes else ''}" for k in range(count)]


def settled_of_images(classes: tuple[ClassTrust, ...], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the settled share of the class of each image; NaN for a class that is not tested. ``labels`` count from 0."""
    return torch.tensor([float("nan") if trust.settled is None else trust.settled for trust in classes])[labels]


def measure_trust(
    answer: Answer,
    usable: Bool[Tensor, " n"],
    config: AbInitioConfig,
    seed: int,
    device: torch.device | str = "cpu",
    group: ProcessGroup = SINGLE_PROCESS,
) -> tuple[ClassTrust, ...]:
    """Measure the reliability of every class of a prediction, in the order of its class volumes.

    ``usable`` marks the particles that the test may use: strong junk would dominate the independent start. ``config`` and
    ``seed`` are those of the training run. Each process of ``group`` measures its part of the classes. The random numbers come
    from own generators, so that the measurement changes no other result.
    """
    count = len(answer.class_volumes)
    part = range(count)[group.part(count)]
    classes = tqdm(part, desc="trust", unit="class", mininterval=5, disable=not group.is_leader)
    return tuple(sum(group.gather([_measure_class(answer, k, usable, config, seed, device) for k in classes]), []))


def _measure_class(
    answer: Answer, k: int, usable: Bool[Tensor, " n"], config: AbInitioConfig, seed: int, device: torch.device | str
) -> ClassTrust:
    own = answer.predictions.classes == k
    members = (own & usable).numpy().nonzero()[0]
    sample = np.random.default_rng([RESTART_SEED, seed, k]).permutation(members)[: MOST_FITTED + TESTED[1]]
    settled = half_map_A = None
    if len(members) >= LEAST_IMAGES:
        data, poses = answer.posed(sample, device)
        settled = round(
            settled_share(data.translated(-poses.shifts_px), poses.rotations, config, RESTART_SEED * (1 + seed) + k), 4
        )
    if len(members) > 1:
        first, second = answer.half_maps(sample[:MOST_FITTED], seed)
        half_map_A = round(resolution_A(fsc(first, second), answer.voxel_A, HALF_MAP_FSC), 2)
    return ClassTrust(int(own.sum()), settled, half_map_A)


def settled_share(centred: Observations, rotations: Float[Tensor, "n 3 3"], config: AbInitioConfig, seed: int) -> float:
    """Compute the share of images whose poses equal the poses of an independent start from noise, within 10°.

    The poses of the first fifth of the images are compared, within the limits :data:`TESTED`; the other images fit the volume.
    The images must be in random order, centred by their predicted shifts. Poses are equal up to one frame and hand, and up to
    the symmetries of the object (:func:`~hetacumn.physics.rotations.agreeing`). A start may end in a wrong fold. The largest
    share of up to :data:`MOST_RESTARTS` starts therefore counts.
    """
    tested, share = min(max(TESTED[0], len(centred) // 5), TESTED[1]), 0.0
    restart = _restart_settings(centred[tested:], config)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(MOST_RESTARTS):
        with tqdm(disable=True) as progress:
            volume = consensus(centred[tested:], restart, generator, progress)
        found = _search(centred[:tested], volume, config.padding)
        share = max(share, float(agreeing(found, rotations[:tested]).float().mean()))
        if share >= CLEAR:
            break
    return share


def _restart_settings(data: Observations, config: AbInitioConfig) -> AbInitioConfig:
    """Return the settings of the restart, adapted to the signal of the images and to their box."""
    scale, (low, high) = _scale(data), RESTART.radius
    schedule = replace(RESTART, radius=(scale * low, scale * high), coarse_radius=scale * RESTART.coarse_radius)
    return replace(config, consensus=schedule, grid=NO_SHIFTS).adapted_to(data)


def _scale(data: Observations) -> float:
    """Return the factor of Fourier radii in cycles per pixel that keeps their integer frequencies in a larger box."""
    return min(1.0, BOX / data.plane.box)


@torch.no_grad()
def _search(data: Observations, volume: Float[Tensor, "box box box"], padding: float) -> Float[Tensor, "n 3 3"]:
    """Find the poses of images under a volume: the likeliest pose of the grid, followed by Gauss-Newton steps."""
    box, scale, device = data.plane.box, _scale(data), volume.device
    grid = pose_grid(*RESTART.grids[-1]).to(device)
    shifts = RESIDUAL_SHIFTS.shifts(box, RESIDUAL_SHIFTS.step_px / scale).to(device)
    radii = tuple(scale * radius for radius in CLIMB)
    state, _ = search_volume(data, volume, (grid, shifts), scale * RESTART.radius[1], radii, padding)
    return state.poses.rotations

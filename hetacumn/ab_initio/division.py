"""Divide and conquer: volumes that a start has missed, from the images of each of its clusters alone.

All classes of a start grow from one consensus volume. If the consensus has the shape of one conformation, another conformation
may never get a volume: its images form a cluster because no volume fits them. In a mixture of different molecules, most
clusters contain images of several molecules.

The images of a cluster are more alike than all images. EM of these images alone, from random noise, therefore finds volumes
that EM of all images misses. It fits two volumes: one takes the shape of most images of the cluster, and the other volume
takes the rest. High frequencies matter here: up to 0.22 cycles per pixel a blob explains images of several molecules almost as
well as the right volume.

The division repeats three steps while the evidence of images that no fit uses rises:

1. EM of each cluster alone, two volumes from noise. If these volumes lead to the poses of the start, the division ends.
2. Choice. New and old volumes compete for the held-out images. The volume whose removal costs the least evidence goes, one by
   one, until the requested number is left.
3. EM of all images and all volumes that are left. Each image moves to the volume that explains it best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from hetacumn.ab_initio.config import AbInitioConfig, EMSchedule, SearchGrid
from hetacumn.ab_initio.evidence import choose, is_significant, mixed_evidence
from hetacumn.ab_initio.stochastic_em import random_volumes, stochastic_em
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations
from hetacumn.physics.rotations import agreeing
from hetacumn.physics.volumes import recentred
from hetacumn.search.clusters import align_volumes
from hetacumn.search.grid import PoseGrid, search_grid
from hetacumn.search.refinement import Tangent, climb, search_volume
from hetacumn.search.state import State

SAMPLE, SAMPLE_PER_VOLUME = 500, 50  # least number of held-out images in which volumes compete, in all and per volume
VOLUMES_PER_BATCH = 8  # the batch of EM grows with the number of volumes beyond this number
CLIMBED = 3  # volumes under which the pose of an image is refined
FEWEST = 60  # images of a cluster that is fitted alone
FEWEST_HELD = 150  # held-out images; fewer images cannot choose between volumes
CENTRED_PX = 0.75  # largest shift of an image that the search before has centred, in pixels
SETTLED = 0.5  # a group is settled if one of its volumes finds this share of the rotations of the start again


@dataclass
class Division:
    """A search for missed volumes.

    - ``data``: the images, centred as well as the start knows them.
    - ``fit``, ``held``: mark the images of fits, and the images that choose between volumes.
    - ``config``: settings, adapted to the images.
    - ``generator``: source of random numbers, on the CPU.
    - ``progress``: counts gradient steps.
    - ``log``: receives lines of text.
    """

    data: Observations
    fit: Bool[Tensor, " n"]
    held: Bool[Tensor, " n"]
    config: AbInitioConfig
    generator: torch.Generator
    progress: tqdm
    log: Callable[[str], object]

    def run(
        self, volumes: Float[Tensor, "k box box box"], groups: list[Bool[Tensor, " n"]], rotations: Float[Tensor, "n 3 3"]
    ) -> Float[Tensor, "m box box box"] | None:
        """Return at most ``config.volumes`` better volumes, or None if there are none.

        ``volumes`` are the volumes of the start, and ``rotations`` its rotations. The images of each of ``groups`` are fitted
        alone: those of a cluster of the start, or those that fit no volume. If the volumes of every group lead to the rotations
        of the start, the start has missed nothing. The method also returns None if there are too few held-out images.
        """
        if not self._can_choose:
            return None
        alone = self._alone(groups)
        if all(self._settled(group, fits, rotations) >= SETTLED for group, fits in alone):
            return None
        return self._improve(volumes, alone)

    def from_noise(self, consensus: Float[Tensor, "box box box"]) -> Float[Tensor, "k box box box"]:
        """Fit ``config.volumes`` volumes to all images, from random noise, and improve them by the division.

        The volume ``consensus`` centres the images.
        """
        volumes, groups = self._from_noise(consensus)
        if not self._can_choose:
            return volumes
        better = self._improve(volumes, self._alone(groups))
        return volumes if better is None else better

    def weighed_from_noise(self, consensus: Float[Tensor, "box box box"]) -> Float[Tensor, "k box box box"]:
        """Fit ``config.volumes`` volumes to all images, from random noise, by EM at increasing resolution.

        Each EM weighs all poses and volumes by their posterior. The volume ``consensus`` centres the images, and the fitted
        volumes centre them again after each EM, so that EM takes no shifts. The volumes are aligned.
        """
        volumes, _ = self._from_noise(consensus)
        for schedule in (self.config.division.together, self.config.soft):
            volumes, _ = self._centre(self._em(self.fit, volumes, schedule, 0.0))
        return align_volumes(volumes, self.generator, independent=True)

    def _from_noise(
        self, consensus: Float[Tensor, "box box box"]
    ) -> tuple[Float[Tensor, "k box box box"], list[Bool[Tensor, " n"]]]:
        """Centre the images by ``consensus``, fit ``config.volumes`` volumes from random noise, and centre images and volumes.

        Returns the volumes, and the images of each volume as a mask.
        """
        config, box = self.config, self.data.plane.box
        grid = config.competing_poses(box, consensus.device)
        band = self.data.within(config.consensus.coarse_radius * box)
        self.data = self.data.translated(-search_grid(band, consensus[None], *grid, padding=config.padding).poses.shifts_px)
        self.progress.set_postfix_str("volumes from noise")
        start = random_volumes(config.volumes, self.data, self.generator)
        return self._centre(self._em(self.fit, start, config.division.alone, 0.0))

    @property
    def _can_choose(self) -> bool:
        """Whether the settings allow a turn and the held-out images suffice to choose between volumes."""
        return self.config.division.turns > 0 and int(self.held.sum()) >= FEWEST_HELD

    def _improve(
        self, volumes: Float[Tensor, "k box box box"], alone: list[tuple[Bool[Tensor, " n"], Float[Tensor, "two box box box"]]]
    ) -> Float[Tensor, "m box box box"] | None:
        """Repeat choice, EM of all images and EM of each group; begin with the fits ``alone``. None: nothing is better."""
        settings, found = self.config.division, None
        for turn in range(1, settings.turns + 1):
            candidates = torch.cat([volumes, *(fits for _, fits in alone)])
            self.progress.set_postfix_str(f"division {turn}, choice of volumes")
            scores = self.compete(candidates)
            chosen = choose(scores, self.config.volumes)
            gain = mixed_evidence(scores[:, chosen]) - mixed_evidence(scores[:, : len(volumes)])
            new = sum(k >= len(volumes) for k in chosen)
            if not new or not is_significant(gain):
                break
            self.log(
                f"ab initio, division {turn}: {new} volumes of single groups raise the held-out log-likelihood by "
                f"{gain.mean():.2f} per image"
            )
            self.progress.set_postfix_str(f"division {turn}, all images")
            found, groups = self._centre(self._em(self.fit, candidates[chosen], settings.together, CENTRED_PX))
            volumes = found
            if turn < settings.turns:
                alone = self._alone(groups)
        return found

    def _alone(self, groups: list[Bool[Tensor, " n"]]) -> list[tuple[Bool[Tensor, " n"], Float[Tensor, "two box box box"]]]:
        """Fit two volumes to the images of each group alone, from random noise; return the groups with their volumes."""
        found = []
        for number, group in enumerate(groups, 1):
            rows = group & self.fit
            if rows.sum() >= FEWEST:
                self.progress.set_postfix_str(f"division, group {number} of {len(groups)} alone")
                start = random_volumes(2, self.data, self.generator)
                found.append((group, self._em(rows, start, self.config.division.alone, 0.0)))
        return found

    def _settled(
        self, group: Bool[Tensor, " n"], volumes: Float[Tensor, "k box box box"], rotations: Float[Tensor, "n 3 3"]
    ) -> float:
        """Compute the largest share of held-out images of a group whose rotations one of the volumes finds again."""
        rows = (group & self.held).nonzero().squeeze(1)
        if not len(rows):
            return 0.0
        sample, config = self.data[rows], self._around(CENTRED_PX)
        grid = config.poses(sample.plane.box, volumes.device)
        found = [search_one(sample, volume, grid, config)[0].poses.rotations for volume in volumes]
        return max(float(agreeing(one, rotations[rows]).float().mean()) for one in found)

    def _em(
        self, rows: Bool[Tensor, " n"], volumes: Float[Tensor, "k box box box"], schedule: EMSchedule, extent_px: float
    ) -> Float[Tensor, "k box box box"]:
        """Run EM of some images with shifts of up to ``extent_px``. EM from noise takes no shifts: it is faster and as good."""
        self.progress.total += schedule.steps
        seen, config = self.data[rows], self._around(extent_px)
        config = replace(config, batch=round(config.batch * max(1.0, len(volumes) / VOLUMES_PER_BATCH)))
        return stochastic_em(seen, volumes, schedule, config, self.generator, self.progress)[0]

    def _around(self, extent_px: float) -> AbInitioConfig:
        """Return the settings with a grid of shifts up to ``extent_px``, :data:`CENTRED_PX` apart; 0 for no shifts."""
        grid = SearchGrid(self.config.grid.rotations, extent_px / self.data.plane.box, CENTRED_PX, CENTRED_PX)
        return replace(self.config, grid=grid)

    def compete(self, volumes: Float[Tensor, "k box box box"]) -> Float[Tensor, "m k"]:
        """Compute the log-likelihood of a sample of the held-out images at the best pose under each volume.

        Gauss-Newton steps follow the search. Without these steps, a copy of a volume in another frame would raise the
        likelihood, because it adds poses to a coarse grid.
        """
        sample = self.data[self.held].evenly_spaced(max(SAMPLE, SAMPLE_PER_VOLUME * self.config.volumes))
        config = self._around(CENTRED_PX)
        grid = config.poses(sample.plane.box, volumes.device)
        return torch.stack([search_one(sample, volume, grid, config)[1] for volume in volumes], 1)

    def _centre(
        self, volumes: Float[Tensor, "k box box box"]
    ) -> tuple[Float[Tensor, "k box box box"], list[Bool[Tensor, " n"]]]:
        """Centre the volumes, and all images by their likeliest shifts.

        Images determine the centre of a volume only up to their own shifts. Volumes of EM may therefore be so far off centre
        that the shift grid misses images. Returns the volumes, and the group of images that each volume fits best.
        """
        volumes, config = recentred(volumes), self._around(2 * CENTRED_PX)
        grid = config.poses(self.data.plane.box, volumes.device)
        poses, labels = search_one_by_one(self.data, volumes, grid, config)
        self.data = self.data.translated(-poses.shifts_px)
        return volumes, [labels == k for k in range(len(volumes))]


def search_one(
    data: Observations, volume: Float[Tensor, "box box box"], grid: PoseGrid, config: AbInitioConfig
) -> tuple[State, Float[Tensor, " n"]]:
    """Find the pose of each image under one volume, with the radii of ``config``; see :func:`search_volume`."""
    return search_volume(data, volume, grid, config.refine.fit, config.refine.climb, config.padding)


def search_one_by_one(
    data: Observations, volumes: Float[Tensor, "k box box box"], grid: PoseGrid, config: AbInitioConfig
) -> tuple[Poses, Int[Tensor, " n"]]:
    """Find the pose of each image under its likeliest volume; return the poses and the volumes.

    The evidence of all poses of the grid selects :data:`CLIMBED` volumes of each image. Gauss-Newton steps follow under each of
    these volumes, and the highest log joint wins.
    """
    band = data.within(config.refine.fit * data.plane.box)
    found = [search_grid(band, volume[None], *grid, padding=config.padding) for volume in volumes]
    evidence = torch.stack([each.log_evidence for each in found], 1)
    climbs = torch.zeros_like(evidence, dtype=torch.bool)
    climbs.scatter_(1, evidence.topk(min(CLIMBED, len(volumes)), dim=1).indices, True)
    rotations, shifts_px = found[0].poses.rotations.clone(), found[0].poses.shifts_px.clone()
    best = torch.full_like(evidence[:, 0], -torch.inf)
    labels = torch.zeros(len(data), dtype=torch.long, device=best.device)
    for k, volume in enumerate(volumes):
        rows = climbs[:, k].nonzero().squeeze(1)
        state = State(found[k].poses[rows], best.new_zeros(len(rows), 0))
        state, value = climb(data[rows], Tangent(volume[None], config.padding), state, config.refine.climb)
        better = value > best[rows]
        rows, state = rows[better], state[better]
        rotations[rows], shifts_px[rows] = state.poses.rotations, state.poses.shifts_px
        best[rows], labels[rows] = value[better], k
    return Poses(rotations, shifts_px), labels

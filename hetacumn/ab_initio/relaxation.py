"""Relaxation of symmetry: volumes without symmetry, from images whose poses are known up to a point group.

A symmetric consensus volume determines the pose of an image up to the rotations ``g`` of the group: the poses ``R g`` explain
the image equally well. The copies of a subunit may differ in one particle, for example if one subunit of a ring has another
conformation. The relaxation therefore fits K volumes without symmetry. It maximises the mean over images of

    log Σ_g Σ_k p(Y | R g, V_k),

so that EM chooses the copy and the volume of each image. The symmetric volume is a saddle point of this likelihood. Each run
therefore begins with the symmetric volume times smooth random fields, and the likelihood of held-out images chooses between
several runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.ab_initio.start import Start
from hetacumn.ab_initio.stochastic_em import anneal, smooth_noise, voxel_unit
from hetacumn.ab_initio.subspace_fit import principal
from hetacumn.compute.batches import batch_slices
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations
from hetacumn.physics.slices import Slicer
from hetacumn.physics.symmetry import symmetrised
from hetacumn.physics.volumes import soft_sphere
from hetacumn.reconstruction.back_projection import back_project
from hetacumn.search.competing_poses import Candidates, search_competing
from hetacumn.search.grid import unique_poses
from hetacumn.search.refinement import Tangent, climb
from hetacumn.search.subspace import likeliest_copies

if TYPE_CHECKING:
    from hetacumn.ab_initio.routes import AbInitioRun

SEARCHES = 2  # pose searches under the symmetric volume, each followed by a back-projection
RESTARTS, AGREEMENT = 4, 0.02  # runs of EM; no run follows if the gains of the two best differ by less than this fraction
CONTRAST = 0.4  # standard deviation of the random fields
SLICES_AT_ONCE = 2000  # slices in a batch of the E-step


@dataclass(frozen=True)
class Relaxation:
    """The relaxation of the symmetry of an *ab initio* ``run``, with its images, group, settings and random state."""

    run: AbInitioRun

    def find_poses(self, volume: Float[Tensor, "box box box"]) -> Poses:
        """Find the pose of each image under a symmetric volume, up to the group; the search also refits the volume."""
        data, config = self.run.data, self.run.config
        _, shifts = config.competing_poses(data.plane.box, volume.device)
        grid, centre = unique_poses(*config.grid.rotations, self.run.group), volume.new_zeros(1, 0)
        for _ in range(SEARCHES):
            candidates = Candidates(volume[None], centre, grid, shifts, config.padding)
            state, _ = search_competing(data, Tangent(volume[None], config.padding), candidates, config.refine.fit)
            volume = self._symmetric(state.poses)
        return climb(data, Tangent(volume[None], config.padding), state, config.refine.fine)[0].poses

    def relax(self, poses: Poses, route: str) -> Start:
        """Fit a subspace without symmetry to images with poses up to the group, and choose the copy of each image."""
        config, data = self.run.config, self.run.data
        volumes = self._best_volumes(poses)
        share = torch.cat([scores.softmax(1) for scores in self._scores(data, volumes, poses)]).mean(0)
        share = share.unflatten(0, (len(self.run.group), -1)).sum(0)
        basis = principal(volumes, share, config.components, self.run.generator, voxel_unit(data, data.plane.box))
        state = likeliest_copies(data.within(self._radius), Slicer(basis, config.padding), poses, self.run.group)
        return Start(basis, state.poses, state.latents, route, {})

    @property
    def _radius(self) -> float:
        """The Fourier radius at the end of the fits, as an integer frequency."""
        return self.run.config.classes.radius[1] * self.run.data.plane.box

    def _symmetric(self, poses: Poses) -> Float[Tensor, "box box box"]:
        """Back-project the images of the fits to a symmetric volume."""
        data, fit = self.run.data, self.run.fit
        volume = back_project(data[fit], poses[fit]) * soft_sphere(data.plane.box, device=data.y.device)
        return symmetrised(volume[None], self.run.group)[0]

    def _best_volumes(self, poses: Poses) -> Float[Tensor, "k box box box"]:
        """Fit K volumes in several runs, and return the volumes under which held-out images are likeliest."""
        config, progress, mean, found = self.run.config, self.run.progress, self._symmetric(poses), list[tuple[float, Tensor]]()
        before = self._held_evidence(mean[None], poses)
        progress.total += RESTARTS * config.classes.steps
        for restart in range(RESTARTS):
            progress.set_postfix_str(f"relaxation, restart {restart + 1}")
            fields = 1 + CONTRAST * smooth_noise(config.volumes, self.run.data.plane.box, self.run.generator, 4).to(mean)
            volumes = self._fit(mean * fields, poses)
            found.append((self._held_evidence(volumes, poses) - before, volumes))
            found.sort(key=lambda pair: -pair[0])
            if restart and found[0][0] - found[1][0] < AGREEMENT * abs(found[0][0]):
                break
        progress.update((RESTARTS - len(found)) * config.classes.steps)
        gains = ", ".join(f"{gain:.2f}" for gain, _ in found)
        self.run.steps.log(f"ab initio, without symmetry: held-out log-likelihood higher by {gains} per image")
        return found[0][1]

    def _fit(self, start: Float[Tensor, "k box box box"], poses: Poses) -> Float[Tensor, "k box box box"]:
        """Fit volumes, beginning with ``start``, by stochastic gradient ascent of the likelihood."""
        data, config, schedule, box = self.run.data, self.run.config, self.run.config.classes, start.shape[-1]
        mask, unit = soft_sphere(box, device=start.device), voxel_unit(data, box)
        voxels = (start / unit).clone().requires_grad_()
        optimiser = torch.optim.Adam([voxels], lr=schedule.rate, betas=(0.8, 0.99))
        for step in range(schedule.steps):
            done = step / max(schedule.steps - 1, 1)
            radius, sharpness, optimiser.param_groups[0]["lr"] = anneal(schedule, done)
            chosen = torch.randint(len(self.run.fit), (config.batch,), generator=self.run.generator)
            rows = self.run.fit[chosen.to(start.device)]
            scores = log_likelihoods(data[rows].within(radius * box), voxels * mask * unit, poses[rows], self.run.group)
            loss = -(sharpness * scores).logsumexp(1).mean() / sharpness
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            self.run.progress.update()
        return voxels.detach() * mask * unit

    def _held_evidence(self, volumes: Float[Tensor, "k box box box"], poses: Poses) -> float:
        """Compute the mean log-likelihood of held-out images, for equally likely copies and volumes."""
        held = self.run.held
        scores = torch.cat(self._scores(self.run.data[held], volumes, poses[held]))
        return float(scores.logsumexp(1).mean()) - math.log(scores.shape[1])

    @torch.no_grad()
    def _scores(
        self, data: Observations, volumes: Float[Tensor, "k box box box"], poses: Poses
    ) -> list[Float[Tensor, "b candidates"]]:
        """Compute the :func:`log_likelihoods` of images, in batches."""
        band, batch = data.within(self._radius), max(1, SLICES_AT_ONCE // len(self.run.group))
        return [log_likelihoods(band[rows], volumes, poses[rows], self.run.group) for rows in batch_slices(len(band), batch)]


def log_likelihoods(
    data: Observations, volumes: Float[Tensor, "k box box box"], poses: Poses, group: Float[Tensor, "g 3 3"]
) -> Float[Tensor, "n candidates"]:
    """Compute the log-likelihood of each image at each of the poses ``R g`` under each volume, up to a constant per image.

    The ``g · k`` candidates of an image are all pairs of a rotation and a volume; the volume varies fastest. The constant is
    ``-½ Σ w |Y|²``, see :mod:`hetacumn.search.grid`. The result is differentiable in the volumes.
    """
    slicer = Slicer(volumes)
    copies = (poses.rotations[:, None] @ group).flatten(0, 1)
    slices = slicer.read(slicer.stencil(copies, data.k)).unflatten(0, (len(data), len(group)))  # (n, g, m, k)
    matched = data.plane.translate(data.y, -poses.shifts_px) * data.ctf * data.weight
    cross = torch.einsum("nmc,ngmkc->ngk", torch.view_as_real(matched), torch.view_as_real(slices))
    power = torch.einsum("nm,ngmk->ngk", data.ctf.square() * data.weight, slices.real.square() + slices.imag.square())
    return (cross - 0.5 * power).flatten(1)

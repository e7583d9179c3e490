"""Volumes to start from, out of nothing but the images: stochastic EM at low resolution, then a linear subspace.

1. *Consensus.* One volume from random noise by stochastic EM: every step takes a few images, weighs all poses of a
   grid by their posterior and moves the voxels along the gradient of the expected log-likelihood. The Fourier radius
   marches outwards and the posterior is tempered early, so that coarse features settle first. Several short
   restarts; the likeliest is kept.
2. *Two routes.* Large motions: K volumes, started from the consensus times smooth random fields, by the same EM. Small
   motions: poses are first refined under the consensus. Both end as a linear subspace of volumes ``V_0 + Σ z_j V_j``,
   fitted by probabilistic PCA, with poses refined under each image's own volume in turn. Conformations are laid on the
   body that they share, at the end in the same hand too, which images never tell.
3. *Choice.* Images held out from every fit decide which subspace explains them best.
4. *A rare conformation.* Images that fit their volume worse than noise allows, if there are many, are of a conformation
   that was not found among so many of others: EM of these alone finds it, and all images compete for it again.
5. *Faint images.* The likeliest pose of a grid is often wrong for a faint image: in each route, and once more at the end,
   several poses compete (:mod:`hetacumn.search.competing_poses`), in turns with the fit of the subspace, until few images
   move. Components have a prior, a share of the mean's power in each shell, which components of noise do not repay.
6. *Open poses.* Where an image leaves its pose open, a fit at the likeliest pose fits noise: at the end the volumes of
   the classes are fitted once more by EM, all poses weighed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from hetacumn.ab_initio.clusters import Clusters, find_clusters
from hetacumn.ab_initio.config import AbInitioConfig
from hetacumn.ab_initio.start import Start, Tensors
from hetacumn.ab_initio.stochastic_em import consensus, poses_are_open, smooth_noise, soften, stochastic_em, voxel_unit
from hetacumn.ab_initio.subspace_fit import SubspaceFit, fit_subspace, principal
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations
from hetacumn.physics.alignment import Placement, place_core, place_volume, settle_hand
from hetacumn.physics.rotations import Frame, distance_deg
from hetacumn.physics.slices import Slicer
from hetacumn.search.competing_poses import Candidates, search_competing
from hetacumn.search.grid import search_grid
from hetacumn.search.refinement import Tangent, climb, misfit
from hetacumn.search.state import State
from hetacumn.search.subspace import infer_latents, volumes_at

MOVED_DEG = 5.0  # a turn by which an image counts as moved from one search to the next
UNFIT = 3.0  # standard deviations: an image that fits so much worse than most
UNFIT_CLUSTER = 0.25  # the share of such images that makes a cluster one of images that do not fit
NORMAL_SPREAD = 1.4826  # the standard deviation of a normal distribution in units of its median absolute deviation


def ab_initio(
    data: Observations,
    config: AbInitioConfig,
    seed: int,
    log: Callable[[str], object] = tqdm.write,
    done: Mapping[str, Tensors] | None = None,
    keep: Callable[[str, Tensors], object] | None = None,
) -> Start:
    """Reconstruct a linear subspace of volumes from images alone.

    The start has a few steps; ``keep`` receives the name and the tensors of each as it ends. The steps that an interrupted
    run has ``done``, with the same images, settings and seed, are not repeated: on a CPU the end has the same bits.
    """
    config = config.adapted_to(data)
    effort, em_steps = config.effort, config.classes.steps * ("classes" in config.routes) + config.soft.steps
    total = config.consensus.restarts * config.consensus.steps + em_steps
    total += (effort.route_fits * len(config.routes) + effort.last_fits) * config.subspace_steps
    with tqdm(total=total, desc="ab initio", mininterval=5) as progress:
        return AbInitioRun(data, config, torch.Generator().manual_seed(seed), progress, log, done, keep).run()


@dataclass
class AbInitioRun:
    """One run: the data, the random state (on the CPU) and the progress bar that its steps share."""

    data: Observations
    config: AbInitioConfig
    generator: torch.Generator
    progress: tqdm
    log: Callable[[str], object]
    done: Mapping[str, Tensors] | None = None  # what a run before this made, by step
    keep: Callable[[str, Tensors], object] | None = None

    def __post_init__(self):
        count = len(self.data)
        self.held = torch.arange(count, device=self.data.y.device) % max(2, round(1 / self.config.held_out)) == 0
        self.fit = (~self.held).nonzero().squeeze(1)

    def run(self) -> Start:
        first = self._once("consensus", self._consensus)["volume"]
        routes = self.config.routes
        found = {route: self._step(f"route {route}", route, partial(self._follow, route, first)) for route in routes}
        scores = {route: self._score(start) for route, start in found.items()}
        for route, score in scores.items():
            self.log(f"ab initio, route {route}: held-out log-likelihood {score:.2f} per image")
        route = max(scores, key=scores.get)
        best = self._step("last fits", route, partial(self._finish, found[route]))
        best = self._step("images that fit none", route, partial(self._explain_more, best))
        return replace(self._soften(best), scores=scores)

    def _step(self, name: str, route: str, make: Callable[[], Start]) -> Start:
        """:meth:`_once` of what makes a start."""
        return Start.of(self._once(name, lambda: make().tensors()), route, {})

    def _once(self, name: str, make: Callable[[], Tensors]) -> Tensors:
        """What ``make`` makes, or has made in a run that was interrupted; random state and progress are as after it."""
        if name not in (self.done or {}):
            made = make()
            if self.keep:
                steps = torch.tensor([self.progress.n, self.progress.total])
                self.keep(name, {**made, "random": self.generator.get_state(), "steps": steps})
            return made
        made = {key: value.to(self.data.y.device) for key, value in self.done[name].items()}
        self.generator.set_state(made.pop("random").cpu())
        at, self.progress.total = made.pop("steps").tolist()
        self.progress.update(at - self.progress.n)
        return made

    def _consensus(self) -> Tensors:
        return {"volume": consensus(self.data[self.fit], self.config, self.generator, self.progress)}

    def _follow(self, route: str, first: Tensor) -> Start:
        """From the consensus to a subspace: by way of K volumes, or by poses refined under the consensus itself."""
        config, volumes = self.config, first[None]
        self.progress.set_postfix_str(f"route {route}")
        if route == "classes":
            fields = 1 + 0.4 * smooth_noise(config.volumes, self.data.plane.box, self.generator, 4).to(first)
            seen, schedule = self.data[self.fit], config.classes
            volumes, _ = stochastic_em(seen, first * fields, schedule, config, self.generator, self.progress)
        return self._from_volumes(volumes, route)

    def _from_volumes(self, volumes: Tensor, route: str) -> Start:
        """The volumes of classes laid on the first; poses under these; then poses and subspace in turns."""
        config, first = self.config, volumes[0]
        placed = [place_core(v, first, place_volume(v, first), self.generator).apply(v) for v in volumes[1:]]
        start = self._search(torch.stack([first, *placed]), route)
        if config.effort.early_radii:
            start = self._search_again(start, config.effort.early_radii, clusters=len(volumes) > 1)
        else:
            start = self._improve(start, config.refine.climb, config.refine.fit, config.subspace_steps)
        start = self._settle_frames(start)
        return self._improve(start, config.refine.fine, config.refine.fit, config.subspace_steps)

    def _search(self, volumes: Tensor, route: str) -> Start:
        """Poses on the grid under the likelier of K volumes, and the subspace of these."""
        config, data = self.config, self.data
        band = data.within(config.classes.radius[1] * data.plane.box)
        rotations, shifts = config.poses(data.plane.box, volumes.device)
        found = search_grid(band, volumes, rotations, shifts, padding=config.padding)
        share = found.log_volume.exp().mean(0)
        basis = principal(volumes, share, config.components, self.generator, voxel_unit(data, data.plane.box))
        if len(volumes) > 1:
            latents = infer_latents(band, Slicer(basis, config.padding), found.poses).mean
        else:
            latents = torch.zeros(len(data), config.components, device=volumes.device)
        return Start(basis, found.poses, latents, route, {})

    def _finish(self, start: Start) -> Start:
        self.progress.set_postfix_str(f"last fits, route {start.route}")
        config, start = self.config, self._settle_frames(start, hands=True)
        if config.effort.last_radii:
            return self._search_again(start, config.effort.last_radii)
        return self._improve(start, config.refine.last, config.refine.last_fit, 2 * config.subspace_steps)

    def _explain_more(self, start: Start) -> Start:
        """While many images fit no volume: one of these alone, and all images again with it, if that explains them better.

        In the company of nine times as many images of another conformation, those of a rare one are not found by EM: the
        volume of their cluster becomes what is noise of the others. Clusters of such images give theirs up.
        """
        config, score = self.config, self._score(start)
        for _ in range(config.volumes):
            unfit = self._unfit(start)
            rows = (unfit & ~self.held).nonzero().squeeze(1)
            if unfit.float().mean() < config.unfit_share or len(rows) < config.batch:
                break
            self.progress.total += config.consensus.restarts * config.consensus.steps
            self.progress.total += (2 * config.effort.route_fits + config.effort.last_fits) * config.subspace_steps
            clusters = self._clusters(start)
            labels, volumes, counts = clusters.labels, clusters.volumes, clusters.counts
            share = torch.stack([unfit[labels == k].float().mean() for k in range(len(counts))])
            order = counts.argsort(descending=True)
            order = order[(share[order] < UNFIT_CLUSTER) | (order == order[0])]
            volumes = torch.cat([volumes[order], self._volume_of(rows, volumes[order[0]])])
            found = self._finish(self._from_volumes(volumes, start.route))
            before, score = score, self._score(found)
            self.log(
                f"ab initio, with a volume of {len(rows)} images that fitted none: held-out log-likelihood "
                f"{score:.2f} per image, {before:.2f} without"
            )
            if score <= before:
                break
            start = found
        return start

    def _volume_of(self, rows: Tensor, guess: Tensor) -> Tensor:
        """The volume ``(1, box, box, box)`` of some images alone, the likeliest that is found from a guess and from noise."""
        alone = replace(self, data=self.data[rows])
        first = consensus(alone.data, self.config, self.generator, self.progress, guess)
        return alone._follow("consensus", first).basis[:1]

    def _unfit(self, start: Start) -> Tensor:
        """Which images fit their volume worse than noise allows, ``(n,)``: in units of the spread that most of them have."""
        radius = self.config.refine.fit
        tangent = Tangent(start.basis, self.config.padding)
        _, value = climb(self.data, tangent, State(start.poses, start.latents), (radius,))
        excess = misfit(value, tangent.band(self.data, radius))
        excess -= excess.median()
        return excess > UNFIT * NORMAL_SPREAD * excess.abs().median()

    def _soften(self, start: Start) -> Start:
        """If poses are open: the volumes of K clusters of z fitted with all of them weighed, then poses and z under these."""
        config = self.config
        volumes = self._clusters(start).volumes
        if not poses_are_open(self.data, volumes, config):
            self.progress.update(config.soft.steps)
            return start
        volumes = soften(self.data[self.fit], volumes, config, config.soft.steps, self.generator, self.progress)
        found = self._search(volumes, start.route)
        if config.effort.last_radii:
            state = self._search_competing(found, self._clusters(found).centres, config.effort.last_radii[-1])
        else:
            tangent = Tangent(found.basis, config.padding)
            state, _ = climb(self.data, tangent, State(found.poses, found.latents), config.refine.climb)
        return replace(found, poses=state.poses, latents=state.latents)

    def _clusters(self, start: Start) -> Clusters:
        """Clusters of z, as many as the run has volumes."""
        return find_clusters(start.latents, start.basis, self.config.volumes)

    def _settle_frames(self, start: Start, hands: bool = False) -> Start:
        """Put all conformations into the frame of their largest common rigid body; with ``hands``, into the same hand too.

        A pose says nothing of how two conformations lie to each other: only a convention does, and a consensus or the
        greatest overlap turns each halfway along with its motion. The volumes at the centres of ``K`` clusters of z are
        laid on the first by what they share, and the poses follow.
        """
        config = self.config
        clusters = self._clusters(start)
        labels, volumes, counts = clusters.labels, clusters.volumes, clusters.counts
        first = int(counts.argmax())
        rotations, shifts = start.poses.rotations.clone(), start.poses.shifts_px.clone()
        here = Placement(Frame(torch.eye(3, device=volumes.device), False), torch.zeros(3, device=volumes.device))
        for k in range(len(volumes)):
            if k == first:
                continue
            place = place_core(volumes[k], volumes[first], here, self.generator)
            if hands and (place := settle_hand(volumes[k], volumes[first], place)).frame.mirrored:
                self.log(f"ab initio: the volume of {int(counts[k])} images had the other hand, and is mirrored")
            volumes[k] = place.apply(volumes[k])
            mine = labels == k  # x_before = ±G x + t, and so R x_before = ±R G x + R t; - is half a turn in the image
            shifts[mine] += (rotations[mine] @ place.shift_px)[:, :2]
            rotations[mine] = place.frame.apply(rotations[mine])
        share = counts.float() / len(labels)
        basis = principal(volumes, share, config.components, self.generator, voxel_unit(self.data, self.data.plane.box))
        poses = Poses(rotations, shifts)
        band = self.data.within(config.classes.radius[1] * self.data.plane.box)
        return replace(start, basis=basis, poses=poses, latents=infer_latents(band, Slicer(basis, config.padding), poses).mean)

    def _improve(self, start: Start, radii: tuple[float, ...], fit_radius: float, steps: int) -> Start:
        """Poses under each image's own volume, together with z; then the subspace at these poses; then z again."""
        state, _ = climb(self.data, Tangent(start.basis, self.config.padding), State(start.poses, start.latents), radii)
        return self._fit(start, state.poses, fit_radius, self.config.refine.fit, steps)

    def _search_again(self, start: Start, radii: tuple[float, ...], clusters: bool = True) -> Start:
        """Searches among competing poses and fits of the subspace in turns, one turn for each Fourier radius.

        The poses are those of the grid under the volumes of K ``clusters`` of z, or under the mean alone. The turns end
        early where few images move and no larger radius is left.
        """
        config, steps = self.config, self.config.subspace_steps
        for turn, radius in enumerate(radii, 1):
            centres = self._clusters(start).centres if clusters else torch.zeros_like(start.latents[:1])
            state = self._search_competing(start, centres, radius)
            moved = distance_deg(state.poses.rotations, start.poses.rotations) > MOVED_DEG
            start = self._fit(start, state.poses, radius, radius, steps)
            if moved.float().mean() < config.settled and radius >= max(radii[turn:], default=radius):
                self.progress.update((len(radii) - turn) * steps)
                break
        return start

    def _search_competing(self, start: Start, centres: Tensor, radius: float) -> State:
        """Poses and z that win among the poses of the grid under the volumes at ``centres`` ``(k, q)``."""
        padding, grid = self.config.padding, self.config.competing_poses(self.data.plane.box, self.data.y.device)
        candidates = Candidates(volumes_at(centres, start.basis), centres, *grid, padding)
        return search_competing(self.data, Tangent(start.basis, padding), candidates, radius)[0]

    def _fit(self, start: Start, poses: Poses, fit_radius: float, radius: float, steps: int) -> Start:
        """The subspace at given poses, fitted within ``fit_radius``; and z, inferred within ``radius``."""
        config, box = self.config, self.data.plane.box
        seen, fit = self.data.within(fit_radius * box)[self.fit], SubspaceFit.of(config, steps)
        basis = fit_subspace(seen, start.basis, poses[self.fit], fit, self.generator, self.progress)
        latents = infer_latents(self.data.within(radius * box), Slicer(basis, config.padding), poses).mean
        if config.effort.component_share:  # z of unit variance under it too; V(z) stays as it is
            spread = latents.std(0).clamp(min=1e-3)
            basis, latents = torch.cat([basis[:1], basis[1:] * spread[:, None, None, None]]), latents / spread
        return replace(start, basis=basis, poses=poses, latents=latents)

    def _score(self, start: Start) -> float:
        """Mean log-likelihood of the images held out from the fits, z integrated."""
        fine = self.data.within(self.config.refine.fit * self.data.plane.box)[self.held]
        posterior = infer_latents(fine, Slicer(start.basis, self.config.padding), start.poses[self.held])
        return float(posterior.log_evidence.mean())

"""The routes of the *ab initio* start: EM of volumes at low resolution, then a linear subspace of volumes, from images alone.

1. *Consensus.* Stochastic EM fits one volume from random noise, several times; the start keeps the likeliest volume. If
   particles are off centre, the start widens the shift grid and repeats this step (:mod:`~hetacumn.ab_initio.evidence`).
2. *Routes.* ``classes`` suits large motions: EM fits K volumes, which start as the consensus times smooth random fields.
   ``consensus`` suits small motions: it refines poses under the consensus first. ``independent`` is for different molecules: EM
   fits K volumes from noise. Each route then alternates between probabilistic PCA, which fits a linear subspace of volumes
   ``V(z) = V_0 + Σ z_j V_j``, and the refinement of poses under the volumes ``V(z)``. Conformations are aligned by the largest
   rigid body that they share, and get one hand, also after the last fits.
3. *Choice.* The log-likelihood of images held out from every fit decides between the routes.
4. *Missed volumes.* EM of the images of each cluster alone may find volumes that the route has missed, and the poses of all
   images are then searched again (:mod:`~hetacumn.ab_initio.division`). With a symmetry, the route ``relaxed``
   (:mod:`~hetacumn.ab_initio.relaxation`) replaces the other routes and this step.
5. *Competing poses.* The likeliest grid pose of a low-signal image is often wrong. In each route, and again at the end, the
   start alternates between a competition of poses (:mod:`hetacumn.search.competing_poses`) and subspace fits.
6. *Open poses.* If pose posteriors are broad, fits at the likeliest poses fit noise. EM that weighs all poses of a grid then
   refits the class volumes. The start also follows the route ``noise``, whose fits all weigh all poses. The likelihood over all
   poses decides between it and the best other route.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from hetacumn.ab_initio.config import AbInitioConfig
from hetacumn.ab_initio.division import Division
from hetacumn.ab_initio.evidence import choose_factor, mean_evidence_over_poses
from hetacumn.ab_initio.relaxation import Relaxation
from hetacumn.ab_initio.start import Start, Steps, Tensors
from hetacumn.ab_initio.stochastic_em import consensus, poses_are_open, smooth_noise, soften, stochastic_em
from hetacumn.ab_initio.subspace_fit import SubspaceFit, fit_subspace, move_clusters, span, unfit_images
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations, low_power, strong_images, without_empty
from hetacumn.physics.alignment import Placement
from hetacumn.physics.rotations import distance_deg
from hetacumn.physics.slices import Slicer
from hetacumn.physics.symmetry import symmetry_rotations
from hetacumn.search.clusters import AGREE_DEG, Clusters, align_volumes, find_clusters, place_again, place_conformations
from hetacumn.search.competing_poses import Candidates, search_competing
from hetacumn.search.focus import WHOLE, Focus
from hetacumn.search.refinement import Tangent, climb
from hetacumn.search.state import State
from hetacumn.search.subspace import infer_latents, likeliest_copies, volumes_at

NOISE, RELAXED = "noise", "relaxed"  # routes: for open poses, and with a symmetry
OWN_FRAMES = ("independent", RELAXED)  # routes whose volumes are not aligned; neither needs a search for missed volumes
MOVED_DEG = 5.0  # an image counts as moved if its rotation changes by more between two searches


@dataclass
class AbInitioRun:
    """One *ab initio* run: data, settings, random state (on the CPU), progress bar, and focus that its ``steps`` share."""

    data: Observations
    config: AbInitioConfig
    generator: torch.Generator
    progress: tqdm
    steps: Steps
    focus: Focus = WHOLE

    def __post_init__(self) -> None:
        held = torch.arange(len(self.data), device=self.data.y.device) % max(2, round(1 / self.config.held_out)) == 0
        self.usable = ~strong_images(low_power(self.data))
        self.group = symmetry_rotations(self.config.consensus.symmetry).to(self.data.y.device)
        self.held, self.fit = held & self.usable, (~held & self.usable).nonzero().squeeze(1)
        self._last_fit = self.config.refine.last, self.config.refine.last_fit, 2 * self.config.subspace_steps

    def run(self) -> Start:
        """Follow all routes, and finish the route with the highest log-likelihood of held-out images; return its start."""
        first = self._fit_extent(self._once("consensus", self._consensus)["volume"])
        routes = self.config.routes if len(self.group) == 1 else (RELAXED,)
        volumes = {route: first[None] for route in routes if route != NOISE}
        if NOISE in routes and (len(routes) == 1 or self._is_open(first)):
            volumes[NOISE] = self._fit_noise(first)
        found = {route: self._step(f"route {route}", route, partial(self._follow, route, v)) for route, v in volumes.items()}
        scores = {route: float(self.held_evidence(start).mean()) for route, start in found.items()}
        for route, score in scores.items():
            self.steps.log(f"ab initio, {self.steps.label}route {route}: held-out log-likelihood {score:.2f} per image")
        best = self._finish_best(found, max(scores, key=lambda route: (route != NOISE, scores[route])))
        self.progress.total = self.progress.n
        error_deg = None if best.route in OWN_FRAMES else place_again(clusters := self._clusters(best))[1]
        if error_deg is not None:
            self.steps.log(f"ab initio: {len(clusters.counts)} volumes lie in one frame within {error_deg:.1f}°")
        return replace(best, scores=scores, shift_extent=self.config.grid.extent, frame_error_deg=error_deg)

    def _finish_best(self, found: dict[str, Start], route: str) -> Start:
        """Finish a route; return it, or the start of ``noise`` if this start explains held-out images better over all poses."""
        if route == NOISE:
            return found[NOISE]
        best = self._step("last fits", route, partial(self._finish, found[route]))
        if NOISE in found:
            noise, before = (self._clusters(start).volumes for start in (found[NOISE], best))
            other = self._once("volumes over all poses", lambda: {"volumes": self._softened(before)})["volumes"]
            held = self.data[self.held]
            of_noise, of_other = (mean_evidence_over_poses(held, volumes, self.config) for volumes in (noise, other))
            self.steps.log(f"ab initio, {self.steps.label}all poses: {of_noise:.2f} with noise, {of_other:.2f} with {route}")
            if of_noise > of_other:
                return found[NOISE]
        if route not in OWN_FRAMES:
            best = self._step("division", route, partial(self._divide, best))
        return self._soften(best)

    def held_evidence(self, start: Start) -> Float[Tensor, " m"]:
        """Compute the log-likelihood of each held-out image, with z integrated out."""
        fine, slicer = self.data.within(self.config.refine.fit * self.data.plane.box), Slicer(start.basis, self.config.padding)
        return infer_latents(fine[self.held], slicer, start.poses[self.held]).log_evidence

    def compare_held(self, start: Start, z: Float[Tensor, "k q"]) -> Float[Tensor, "m k"]:
        """Compute the log-likelihood of held-out images at their best poses under the volume at each latent."""
        return self.division(start).compete(volumes_at(z.to(start.basis), start.basis))

    def division(self, start: Start | None = None) -> Division:
        """Return a search for missed volumes, in images that the shifts of ``start`` centre; None keeps the images."""
        data = self.data if start is None else self.data.translated(-start.poses.shifts_px)
        return Division(data, ~self.held & self.usable, self.held, self.config, self.generator, self.progress, self.steps.log)

    def _step(self, name: str, route: str, make: Callable[[], Start]) -> Start:
        """Run a step that returns a start, or restore its result; see :meth:`_once`."""
        return Start.of(self._once(name, lambda: make().tensors()), route, {})

    def _once(self, name: str, make: Callable[[], Tensors]) -> Tensors:
        """Run the step ``make`` and return its result, or restore the kept result; see :meth:`Steps.once`."""
        return self.steps.once(name, make, self.generator, self.progress, self.data.y.device)

    def _consensus(self, guess: Float[Tensor, "box box box"] | None = None) -> Tensors:
        return {"volume": consensus(self.data[self.fit], self.config, self.generator, self.progress, guess)}

    def _fit_extent(self, first: Float[Tensor, "box box box"]) -> Float[Tensor, "box box box"]:
        """Widen the shift grid if the images ask for it; then fit the consensus volume again."""
        if self._widen(first, "shift extent"):
            self.progress.total += self.config.consensus.restarts * self.config.consensus.steps
            first = self._once("consensus, wide shifts", partial(self._consensus, first))["volume"]
        return first

    def _widen(self, volume: Float[Tensor, "box box box"], step: str) -> bool:
        """Widen the shift grid if this raises the evidence of the images under a volume; return whether it did."""
        chosen = self._once(step, lambda: {"factor": torch.tensor(choose_factor(self.data[self.usable], volume, self.config))})
        if (factor := int(chosen["factor"])) > 1:
            self.config, box = self.config.with_extent(factor * self.config.grid.extent), self.data.plane.box
            self.steps.log(f"ab initio: particles off centre; shifts up to {self.config.grid.extent * box:.1f} of {box} px")
        return factor > 1

    def _is_open(self, first: Float[Tensor, "box box box"]) -> bool:
        """Return whether the run fits several volumes to low-signal images whose poses are open under the consensus volume."""
        config = self.config
        return config.volumes > 1 and config.brightness == "faint" and poses_are_open(self.data, first[None], config)

    def _fit_noise(self, first: Float[Tensor, "box box box"]) -> Float[Tensor, "k box box box"]:
        """Fit the volumes of the route ``noise``, and widen the shift grid if the images ask for it."""
        found = self._once("volumes from noise", lambda: {"volumes": self.division().weighed_from_noise(first)})
        self._widen(found["volumes"][0], "shift extent, volumes from noise")
        return found["volumes"]

    def _follow(self, route: str, volumes: Float[Tensor, "k box box box"]) -> Start:
        """Follow a route to a subspace, from the consensus volume or, on the route ``noise``, from its volumes."""
        config, first = self.config, volumes[0]
        self.progress.set_postfix_str(f"route {route}")
        if route == NOISE:
            return self._pose(volumes, route)
        if route == RELAXED:
            start = Relaxation(self).relax(Relaxation(self).find_poses(first), route)
            return self._improve(start, config.refine.fine, config.refine.fit, config.subspace_steps)
        if route == "independent":
            return self._from_volumes(self.division().from_noise(first), route, one_by_one=True)
        if route == "classes":
            fields = 1 + 0.4 * smooth_noise(config.volumes, self.data.plane.box, self.generator, 4).to(first)
            seen, schedule = self.data[self.fit], config.classes
            volumes, _ = stochastic_em(seen, first * fields, schedule, config, self.generator, self.progress)
        return self._from_volumes(volumes, route)

    def _from_volumes(self, volumes: Float[Tensor, "k box box box"], route: str, one_by_one: bool = False) -> Start:
        """Align volumes to the first one, search poses under them, and alternate between pose refinement and subspace fits.

        With ``one_by_one`` the volumes compete after Gauss-Newton steps, because a grid pose may fit a high-signal image badly.
        """
        config, volumes = self.config, volumes if route == "independent" else align_volumes(volumes, self.generator)
        start = span(self.data, volumes, route, config, self.generator, one_by_one)
        refine, steps = config.refine, config.subspace_steps
        if radii := config.faint.early_radii if one_by_one else config.effort.early_radii:
            start = self._search_again(start, radii, clusters=len(volumes) > 1)
        else:
            start = self._improve(start, refine.climb, refine.fit, steps)
        return self._improve(self._settle_frames(start), refine.fine, refine.fit, steps)

    def _finish(self, start: Start) -> Start:
        """Align the conformations to one frame and one hand, and do the last refinements of poses and subspace."""
        self.progress.set_postfix_str(f"last fits, route {start.route}")
        start, radii = self._settle_frames(start, hands=True), self.config.effort.last_radii
        return self._correct_frames(self._search_again(start, radii) if radii else self._improve(start, *self._last_fit))

    def _divide(self, start: Start) -> Start:
        """Search for missed volumes; keep them if they raise the held-out log-likelihood."""
        clusters, unfit = self._clusters(start), unfit_images(self.data, start, self.config)
        groups = [clusters.labels == k for k in range(len(clusters.counts))]
        if unfit.float().mean() >= self.config.unfit_share:
            groups.append(unfit)
        volumes = self.division(start).run(clusters.volumes, groups, start.poses.rotations)
        if volumes is None:
            return start
        self.progress.total += (self.config.faint.route_fits + self.config.effort.last_fits) * self.config.subspace_steps
        found = self._finish(self._from_volumes(volumes, start.route, one_by_one=True))
        before, after = (float(self.held_evidence(one).mean()) for one in (start, found))
        self.steps.log(f"ab initio, volumes of single clusters: held-out log-likelihood {after:.2f}, {before:.2f} without")
        return found if after > before else start

    def _softened(self, volumes: Float[Tensor, "k box box box"]) -> Float[Tensor, "k box box box"]:
        """Refit volumes by EM over all poses of a grid."""
        return soften(self.data[self.fit], volumes, self.config, self.config.soft.steps, self.generator, self.progress)

    def _soften(self, start: Start) -> Start:
        """If poses are open, refit the volumes of K clusters by :meth:`_softened`; find poses and z under them."""
        volumes = self._clusters(start).volumes
        if not poses_are_open(self.data, volumes, self.config):
            return start
        return self._pose(self._softened(volumes), start.route)

    def _pose(self, volumes: Float[Tensor, "k box box box"], route: str) -> Start:
        """Find poses and z of all images under volumes, without a further fit."""
        found = span(self.data, volumes, route, self.config, self.generator)
        state = self._search_competing(found, self._clusters(found).centres, self.config.refine.last_fit)
        return replace(found, poses=state.poses, latents=state.latents)

    def _clusters(self, start: Start) -> Clusters:
        """Divide the latents into ``config.volumes`` clusters; images without the molecule do not influence the clusters."""
        band = self.data.within(self.config.classes.radius[1] * self.data.plane.box)
        gain = infer_latents(band, Slicer(start.basis, self.config.padding), start.poses).log_evidence
        fit = without_empty(self.usable, gain, self.config.unfit_share)
        return find_clusters(start.latents, start.basis, self.config.volumes, fit)

    def _settle_frames(self, start: Start, hands: bool = False) -> Start:
        """Align the volumes of K clusters of z to one frame (with ``hands`` also to one hand), and recompute the subspace.

        Volumes of ``independent`` stay in frames of their own, and volumes of ``relaxed`` in the frame of the group.
        """
        if start.route in OWN_FRAMES:
            return start
        clusters = self._clusters(start)
        return self._move_frames(start, clusters, place_conformations(clusters, self.generator, hands))

    def _correct_frames(self, start: Start) -> Start:
        """If refined volumes of K clusters do not lie in one frame, move them there, and refine poses and subspace again."""
        if start.route in OWN_FRAMES:
            return start
        places, error_deg = place_again(clusters := self._clusters(start))
        if not error_deg or error_deg <= AGREE_DEG:
            return start
        self.steps.log(f"ab initio: volumes up to {error_deg:.0f}° from the common frame were moved")
        self.progress.total += 2 * self.config.subspace_steps
        return self._improve(self._move_frames(start, clusters, places), *self._last_fit)

    def _move_frames(self, start: Start, clusters: Clusters, places: list[Placement]) -> Start:
        for count, place in zip(clusters.counts.tolist(), places, strict=True):
            if place.frame.mirrored:
                self.steps.log(f"ab initio: the volume of {count} images had the other hand and was mirrored")
        return move_clusters(self.data, start, clusters, places, self.config, self.generator)

    def _improve(self, start: Start, radii: tuple[float, ...], fit_radius: float, steps: int) -> Start:
        """Refine the pose and z of each image under its volume V(z), fit the subspace at these poses, and infer z again."""
        state, _ = climb(self.data, Tangent(start.basis, self.config.padding), State(start.poses, start.latents), radii)
        return self._fit(start, state.poses, fit_radius, self.config.refine.fit, steps)

    def _search_again(self, start: Start, radii: tuple[float, ...], clusters: bool = True) -> Start:
        """Alternate between a search among competing poses and a subspace fit, once per Fourier radius, until few poses change.

        The search compares the grid poses under the volumes of K clusters of z, or only the mean if ``clusters`` is false.
        """
        for turn, radius in enumerate(radii, 1):
            centres = self._clusters(start).centres if clusters else torch.zeros_like(start.latents[:1])
            state = self._search_competing(start, centres, radius)
            moved = distance_deg(state.poses.rotations, start.poses.rotations) > MOVED_DEG
            start = self._fit(start, state.poses, radius, radius, self.config.subspace_steps)
            if moved.float().mean() < self.config.settled and radius >= max(radii[turn:], default=radius):
                self.progress.update((len(radii) - turn) * self.config.subspace_steps)
                break
        return start

    def _search_competing(self, start: Start, centres: Float[Tensor, "k q"], radius: float) -> State:
        """Find poses and z by the competition of grid poses under the volumes at the latents ``centres``."""
        grid, padding = self.config.competing_poses(self.data.plane.box, self.data.y.device), self.config.padding
        candidates = Candidates(volumes_at(centres, start.basis), centres, *grid, padding)
        return search_competing(self.data, Tangent(start.basis, padding), candidates, radius)[0]

    def _fit(self, start: Start, poses: Poses, fit_radius: float, radius: float, steps: int) -> Start:
        """Fit the subspace at given poses within ``fit_radius``; infer z and the equivalent pose within ``radius``."""
        config, box = self.config, self.data.plane.box
        seen, fit = self.data.within(fit_radius * box)[self.fit], SubspaceFit.of(config, steps, focus=self.focus)
        basis = fit_subspace(seen, start.basis, poses[self.fit], fit, self.generator, self.progress)
        state = likeliest_copies(self.data.within(radius * box), Slicer(basis, config.padding), poses, self.group)
        latents = state.latents
        if config.effort.component_share:  # rescales z to unit variance without changing V(z)
            spread = latents.std(0).clamp(min=1e-3)
            basis, latents = torch.cat([basis[:1], basis[1:] * spread[:, None, None, None]]), latents / spread
        return replace(start, basis=basis, poses=state.poses, latents=latents)

"""The start from given poses, or from a reference map.

*Reference.* EM of all images begins with the low-passed reference map instead of random volumes. The other steps are those of
the start from images alone. EM of the images turns a wrong reference into a volume that explains the images much better,
within the low-pass radius. The start then warns and begins again with random volumes.

*Given poses.* A consensus refinement has determined the poses, so that the start needs no search. At known poses,
probabilistic PCA fits the mean volume and the components without wrong local optima, however large the motions are. The start

1. back-projects the images at the given poses to the mean volume,
2. fits the subspace at these poses,
3. alternates between Gauss-Newton steps of poses and latents and fits of the subspace, unless the poses are fixed. The steps
   have a prior about the given poses (:mod:`~hetacumn.search.pose_prior`), so that accurate poses change little.

With a symmetry, the given poses determine a symmetric volume. The relaxation (:mod:`~hetacumn.ab_initio.relaxation`) then
chooses one of the equivalent poses of each image.

The start keeps the frame and the hand of the given poses. It does not search for missed volumes.

*Mask.* In the frame of given poses, a mask can limit the conformation to a part of the molecule. Further components then
describe the variation outside the mask (:mod:`~hetacumn.search.focus`). Pose steps use all components, and therefore the whole
molecule.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from hetacumn.ab_initio.config import AbInitioConfig
from hetacumn.ab_initio.number_of_states import ab_initio, begin, start_with
from hetacumn.ab_initio.relaxation import Relaxation
from hetacumn.ab_initio.routes import AbInitioRun
from hetacumn.ab_initio.start import Start, Steps, Tensors
from hetacumn.ab_initio.stochastic_em import stochastic_em, voxel_unit, with_symmetry
from hetacumn.ab_initio.subspace_fit import principal
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations
from hetacumn.physics.slices import Slicer
from hetacumn.physics.volumes import soft_sphere
from hetacumn.reconstruction.back_projection import back_project
from hetacumn.search.initial import InitialData
from hetacumn.search.pose_prior import Near, PosePrior, climb_near, fit_prior, nearest_copies
from hetacumn.search.reference import Reference, explained_share, prepare_reference
from hetacumn.search.refinement import Tangent
from hetacumn.search.state import State
from hetacumn.search.subspace import infer_latents, volumes_at

ROUTE = "given"  # the route of a start from given poses
RIGHT = 0.9  # a reference is right if it explains at least this share of the evidence
SAMPLE = 500  # images that test the reference
ROUNDS = 1  # rounds of pose steps and a fit, before the last round


def guided_start(
    data: Observations,
    initial: InitialData,
    config: AbInitioConfig,
    seed: int,
    done: Mapping[str, Tensors] | None = None,
    keep: Callable[[str, Tensors], object] | None = None,
) -> Start:
    """Compute the start from the poses or the reference map in ``initial``, or from images alone without them.

    See :func:`~hetacumn.ab_initio.number_of_states.ab_initio` for ``done`` and ``keep``.
    """
    steps = Steps(tqdm.write, done or {}, keep)
    if initial.poses is not None:
        posed = partial(_begin_posed, data, initial, initial.poses, seed)
        return start_with(posed, data, config, steps)
    if initial.reference is not None:
        coarse = data.coarsened(config.box)
        reference = initial.reference.resized(coarse.plane.box)
        return start_with(partial(_begin_reference, coarse, reference, seed), coarse, config, steps).resized(data.plane.box)
    return ab_initio(data, config, seed, done=done, keep=keep)


@contextmanager
def _begin_reference(
    data: Observations, reference: Reference, seed: int, config: AbInitioConfig, steps: Steps
) -> Iterator[ReferenceRun]:
    """Begin a start from a reference map, and show its progress."""
    with begin(data, config, seed, steps) as run:
        yield ReferenceRun(run.data, run.config, run.generator, run.progress, run.steps, reference=reference)


@contextmanager
def _begin_posed(
    data: Observations, initial: InitialData, given: Poses, seed: int, config: AbInitioConfig, steps: Steps
) -> Iterator[PosedRun]:
    """Begin a start from given poses, and show its progress."""
    generator, is_fixed = torch.Generator().manual_seed(seed), initial.settings.poses == "fixed"
    total = config.subspace_steps * (3 if is_fixed else 3 + ROUNDS)
    with tqdm(total=total, desc="start from given poses", mininterval=5) as progress:
        kind = PosedRun if initial.focus.mask is None else FocusedRun
        yield kind(data, config, generator, progress, steps, initial.focus, given=given, is_fixed=is_fixed)


@dataclass(kw_only=True)
class ReferenceRun(AbInitioRun):
    """A start from a ``reference`` map."""

    reference: Reference

    def _is_open(self, first: Float[Tensor, "box box box"]) -> bool:
        """Return False: the route ``noise`` would lose the frame of the reference."""
        return False

    def _consensus(self, guess: Float[Tensor, "box box box"] | None = None) -> Tensors:
        """Fit the consensus volume by EM from the reference, or from random volumes if the reference is wrong."""
        if guess is not None:  # a second fit, in a wider shift grid
            return super()._consensus(guess)
        config, box, seen = self.config, self.data.plane.box, self.data[self.fit]
        radius = min(self.reference.radius, config.consensus.radius[1] * box)
        reference = prepare_reference(self.reference.volume, radius, seen)
        schedule = replace(config.division.together, radius=(0.9 * radius / box, config.consensus.radius[1]))
        self.progress.set_postfix_str("consensus from the reference")
        volume = stochastic_em(seen, reference[None], schedule, config, self.generator, self.progress)[0][0]
        share = explained_share(seen.evenly_spaced(SAMPLE), reference, volume, radius, config.poses(box, volume.device))
        found = f"{self.reference.name}: explains {100 * share:.0f} % of the evidence of the images at low resolution"
        if share < RIGHT:
            warnings.warn(f"{found}; it may show another molecule; the start continues without the reference", stacklevel=2)
            self.progress.total += schedule.steps
            return super()._consensus()
        self.steps.log(found)
        self.progress.update(config.consensus.restarts * config.consensus.steps - schedule.steps)
        return {"volume": with_symmetry(seen, volume, config, self.generator, self.progress)}


@dataclass(kw_only=True)
class PosedRun(AbInitioRun):
    """A start from the poses ``given`` of all images, which it keeps if ``is_fixed``; ``prior`` describes their errors."""

    given: Poses
    is_fixed: bool
    prior: PosePrior = field(init=False)

    def run(self) -> Start:
        """Fit the subspace at the given poses, refine the poses unless they are fixed, and return the start."""
        config = self.config
        start = self._step("given poses", ROUTE, self._fit_given)
        if not self.is_fixed:
            self._widen(start.basis[0], "shift extent")
            self.prior = PosePrior(*self._once("pose errors", partial(self._estimate_errors, start))["prior"].tolist())
            for turn in range(1, ROUNDS + 1):
                radii, radius = config.refine.fine, config.refine.fit
                start = self._step(f"round {turn}", ROUTE, partial(self._improve, start, radii, radius, config.subspace_steps))
        start = self._step("last fit", ROUTE, partial(self._finish, start))
        return replace(start, scores={ROUTE: float(self.held_evidence(start).mean())}, shift_extent=self.config.grid.extent)

    def _fit_given(self) -> Start:
        """Back-project the images at the given poses to the mean volume, and fit the subspace from this volume."""
        config, data, box = self.config, self.data, self.data.plane.box
        if len(self.group) > 1:
            start = Relaxation(self).relax(self.given, ROUTE)
            return self._fit(start, start.poses, config.refine.fit, config.refine.fit, config.subspace_steps)
        self.progress.set_postfix_str("subspace at the given poses")
        mean = back_project(data[self.fit], self.given[self.fit]) * soft_sphere(box, device=data.y.device)
        one = torch.ones(1, device=data.y.device)
        components = config.components + self.focus.outside
        basis = principal(mean[None], one, components, self.generator, voxel_unit(data, box))
        start = Start(basis, self.given, torch.zeros(len(data), components, device=data.y.device), ROUTE, {})
        return self._fit(start, self.given, config.refine.fit, config.refine.fit, config.subspace_steps)

    def _improve(self, start: Start, radii: tuple[float, ...], fit_radius: float, steps: int) -> Start:
        """Refine the pose and z of each image near its given pose, fit the subspace at these poses, and infer z again."""
        given = nearest_copies(self.given, start.poses, self.group)
        tangent, near = Tangent(start.basis, self.config.padding), Near(given, self.prior)
        state = climb_near(self.data, tangent, State(start.poses, start.latents), near, radii)
        return self._fit(start, state.poses, fit_radius, self.config.refine.fit, steps)

    def _estimate_errors(self, start: Start) -> Tensors:
        """Estimate the errors of the given poses from held-out images."""
        held, radius = self.held, self.config.refine.fit
        state = State(start.poses[held], start.latents[held])  # a given pose, or an equivalent one
        prior = fit_prior(self.data[held], Tangent(start.basis, self.config.padding), state, radius)
        self.steps.log(f"errors of the given poses: sd {prior.rotation_deg:.2g}° and {prior.shift_px:.2g} px per axis")
        return {"prior": torch.tensor([prior.rotation_deg, prior.shift_px])}

    def _finish(self, start: Start) -> Start:
        """Refine the poses a last time unless they are fixed, and do the last fit."""
        refine, steps = self.config.refine, 2 * self.config.subspace_steps
        self.progress.set_postfix_str("last fit")
        if self.is_fixed:
            return self._fit(start, start.poses, refine.last_fit, refine.last_fit, steps)
        return self._improve(start, refine.last, refine.last_fit, steps)


class FocusedRun(PosedRun):
    """A start from given poses with components inside and outside a mask."""

    def compare_held(self, start: Start, z: Float[Tensor, "k q"]) -> Float[Tensor, "m k"]:
        """Compute the log-likelihood of held-out images at their poses for each latent inside the mask.

        The variation outside the mask is integrated out.
        """
        fine = self.data.within(self.config.refine.fit * self.data.plane.box)[self.held]
        outside = start.basis[len(start.basis) - self.focus.outside :]
        means = volumes_at(self.focus.padded(z.to(start.basis)), start.basis)
        slicers = (Slicer(torch.cat([mean[None], outside]), self.config.padding) for mean in means)
        return torch.stack([infer_latents(fine, slicer, start.poses[self.held]).log_evidence for slicer in slicers], 1)

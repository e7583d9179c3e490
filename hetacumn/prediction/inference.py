"""Poses and conformations of images, by a trained network or by exhaustive search; the volumes fitted to what was found.

Four grades, dearer and better:

- *encoder*: the encoder alone;
- *amortized*: one forward pass: the encoder, and the decoder's feedback where the model has it;
- *refined*: every pose hypothesis of the encoder is optimised, the best one together with z up to its peak; images that
  still fit badly, or are faint, are searched exhaustively;
- *searched*: the exhaustive pose search of the ab initio start, then climbed; in a faint stack several poses of the grid
  compete. No network. This is the ``em`` baseline.

The latter two fit the volumes again to the poses that they found (:func:`polish`). Where images leave their poses open, EM
fits the volumes, and the class of an image is the likelier over all poses (:func:`weigh`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from hetacumn.ab_initio.config import AbInitioConfig
from hetacumn.ab_initio.stochastic_em import poses_are_open, soften
from hetacumn.ab_initio.subspace_fit import SubspaceFit, fit_subspace
from hetacumn.compute.batches import Result, batch_size, batch_slices, map_threads
from hetacumn.network.model import HetACUMN
from hetacumn.particles.observations import Observations
from hetacumn.physics.slices import Slicer
from hetacumn.prediction.classes import class_centres
from hetacumn.search.competing_poses import Candidates, search_competing
from hetacumn.search.grid import search_grid
from hetacumn.search.refinement import Tangent, climb, compete, misfit
from hetacumn.search.state import State
from hetacumn.search.subspace import infer_latents, mixing_of, volumes_at

SEARCH_BATCH = 2500  # images that share one reading of the grid's slices, at most
FAINT = 150.0  # nats by which the molecule explains an image better than nothing: below, a wrong pose often fits as well
REFINED_ROUNDS = ((8, 0.15), (8, 0.15), (8, 0.2), (4, 0.2))  # of joint.compete between all hypotheses


def amortize(model: HetACUMN, data: Observations, feedback: bool = True, batch: int | None = None) -> State:
    """One forward pass over the stack, with the decoder's feedback if wanted and if the model has it."""
    model.eval()
    tangent = model.tangent() if feedback and model.feedback else None

    def work(part: Observations) -> State:
        return model.infer(part, tangent)

    batch = batch or batch_size(1000, model.encoder.used, data.y.device)
    return State.cat(list(_batches(work, data, batch, "amortized")))


@dataclass(frozen=True)
class Climbed:
    """States at their peaks, and their log joints ``(n,)``."""

    state: State
    log_joint: Tensor


@dataclass(frozen=True)
class Refit:
    """How :func:`polish` fits volumes: how many ``classes`` (None: by BIC), in how many gradient ``steps``, from which
    ``seed``."""

    classes: int | None
    steps: int
    seed: int


def follow_hypotheses(model: HetACUMN, data: Observations, basis: Tensor, config: AbInitioConfig) -> Climbed:
    """The peak of each image that is found from all hypotheses of the encoder."""
    model.eval()
    with torch.no_grad():
        tangent = Tangent(basis, config.padding)

    def work(part: Observations) -> tuple[State, Tensor]:
        latents, found = model.encode(part)
        states = [State(poses, latents) for poses in found.likelier(model.encoder.hypotheses)]
        best, _ = compete(part, tangent, states, model.rounds(REFINED_ROUNDS))
        return climb(part, tangent, best, config.refine.last)

    batch = batch_size(500, data.y.shape[1], data.y.device)
    parts, values = zip(*_batches(work, data, batch, "refined"), strict=True)
    return Climbed(State.cat(list(parts)), torch.cat(values))


def search_misfits(
    data: Observations, found: Climbed, misfit_limit: Tensor, basis: Tensor, centres: Tensor, config: AbInitioConfig
) -> State:
    """The states that :func:`follow` found, after an exhaustive search for images that fit badly or are faint.

    An image fits badly if its misfit exceeds ``misfit_limit``, the model's. It is faint if the molecule explains less than
    :data:`FAINT`: the encoder may have met no right pose, and the misfit does not tell. The search is under the volumes at
    latent ``centres`` ``(k, q)``. Its result replaces the state where it is likelier, or where its class is not the class
    that is likelier over all poses; in a faint stack, where poses of the grid compete, only where it is likelier.
    """
    state, value = found.state, found.log_joint
    band = data.within(config.refine.last[-1] * data.plane.box)
    faint = value + 0.5 * (band.y.abs().square() * band.weight).sum(1) < FAINT
    rows = (faint | (misfit(value, band) > misfit_limit)).nonzero().squeeze(1)
    if not len(rows):
        return state
    searched, other, theirs = _search(data[rows], basis, centres, config)
    better = other > value[rows]
    if not config.effort.last_radii:
        better |= torch.cdist(state.latents[rows], centres).argmin(1) != theirs
    return state.replaced(rows, searched.where(better, state[rows]))


def search_poses(data: Observations, basis: Tensor, centres: Tensor, config: AbInitioConfig) -> State:
    """Exhaustive search under the volumes at latent ``centres`` ``(k, q)``, and from the best up to the peak."""
    return _search(data, basis, centres, config)[0]


@torch.no_grad()
def _search(data: Observations, basis: Tensor, centres: Tensor, config: AbInitioConfig) -> tuple[State, Tensor, Tensor]:
    """States, their log joints ``(n,)``, and which centre is likeliest over all poses of the grid ``(n,)``, or, where the
    likeliest poses compete (:mod:`hetacumn.search.competing_poses`), nearest to the latent that is found."""
    box, device, tangent = data.plane.box, data.y.device, Tangent(basis, config.padding)
    volumes = volumes_at(centres, basis)
    competing = bool(config.effort.last_radii)
    rotations, shifts = config.competing_poses(box, device) if competing else config.poses(box, device)
    candidates = Candidates(volumes, centres, rotations, shifts, config.padding)

    def among_competing(part: Observations) -> tuple[State, Tensor, Tensor]:
        state, value = search_competing(part, tangent, candidates, config.refine.last[-1])
        return state, value, torch.cdist(state.latents, centres).argmin(1)

    def from_likeliest(part: Observations) -> tuple[State, Tensor, Tensor]:
        found = search_grid(part.within(config.classes.radius[1] * box), volumes, rotations, shifts, padding=config.padding)
        first = State(found.poses, centres[found.volume])
        return *climb(part, tangent, first, config.refine.climb + config.refine.last), found.volume

    work = among_competing if competing else from_likeliest
    states, values, volumes_of = zip(*_batches(work, data, _search_batch(data), "searched"), strict=True)
    return State.cat(list(states)), torch.cat(values), torch.cat(volumes_of)


def _search_batch(data: Observations) -> int:
    """Up to :data:`SEARCH_BATCH`, fewer where a CPU's cores would be idle."""
    return min(SEARCH_BATCH, -(-len(data) // torch.get_num_threads())) if data.y.device.type == "cpu" else SEARCH_BATCH


def _batches(work: Callable[[Observations], Result], data: Observations, batch: int, name: str) -> Iterator[Result]:
    """Results of ``work`` on the data, a batch at a time, several side by side where that is faster."""
    batches = [data[rows] for rows in batch_slices(len(data), batch)]
    yield from tqdm(map_threads(work, batches, data.y.device), total=len(batches), desc=name, unit="batch", mininterval=5)


def refit_volumes(
    data: Observations, basis: Tensor, state: State, config: AbInitioConfig, refit: Refit
) -> tuple[Tensor, Tensor | None]:
    """The basis fitted again to the states found; and, where poses are open, the centres ``(k, q)`` of the classes.

    Probabilistic PCA at the poses fits the basis. Where poses are open, EM fits the volumes of the classes, and the basis
    changes by the least that makes it draw these volumes at their centres.
    """
    if not refit.steps:
        return basis, None
    generator = torch.Generator().manual_seed(refit.seed)
    centres = class_centres(state.latents, refit.classes, refit.seed)
    volumes = volumes_at(centres, basis)
    is_open = poses_are_open(data, volumes, config)
    steps = min(refit.steps, config.soft.steps) if is_open else refit.steps
    with tqdm(total=steps, desc="volumes", mininterval=5) as progress:
        if not is_open:
            band, fit = data.within(config.refine.last_fit * data.plane.box), SubspaceFit.of(config, steps, rate=0.015)
            return fit_subspace(band, basis, state.poses, fit, generator, progress), None
        change = soften(data, volumes, config.adapted_to(data), steps, generator, progress) - volumes
    return basis + torch.einsum("jk,kxyz->jxyz", torch.linalg.pinv(mixing_of(centres)), change), centres


def settle_states(data: Observations, basis: Tensor, state: State, config: AbInitioConfig) -> State:
    """States under volumes that were fitted again: climbed on, and z the likeliest at the pose."""
    state, _ = climb(data, Tangent(basis, config.padding), state, (config.refine.last_fit,))
    band = data.within(config.refine.last_fit * data.plane.box)
    return State(state.poses, infer_latents(band, Slicer(basis, config.padding), state.poses).mean)


@torch.no_grad()
def log_ratios(data: Observations, basis: Tensor, state: State, config: AbInitioConfig, batch: int | None = None) -> Tensor:
    """By how much V(z) at its pose raises the log-likelihood of each image over no molecule at all, ``(n,)``, in nats.

    Within the band of the ab initio start, as :func:`~hetacumn.particles.observations.signal_nats` for the mean of a stack. Of
    an image without the molecule it is below zero, or little above: to draw what is not there explains nothing.
    """
    highest = config.consensus.radius[1] * data.plane.box
    slicer, band = Slicer(basis, config.padding, highest), data.within(highest)
    batch = batch or batch_size(1000, band.y.shape[1], data.y.device)

    def work(part: tuple[Observations, State]) -> Tensor:
        images, found = part
        drawn = slicer.read_mixed(slicer.stencil(found.poses.rotations, images.k), mixing_of(found.latents)) * images.ctf
        centred = images.plane.translate(images.y, -found.poses.shifts_px)
        return (((centred.conj() * drawn).real - 0.5 * drawn.abs().square()) * images.weight).sum(1)

    parts = [(band[rows], state[rows]) for rows in batch_slices(len(data), batch)]
    return torch.cat(list(map_threads(work, parts, data.y.device)))


@torch.no_grad()
def weigh_classes(data: Observations, volumes: Tensor, config: AbInitioConfig) -> Tensor:
    """Log-likelihoods of images under ``(k, box, box, box)`` volumes, all poses weighed, less a number of each image:
    ``(n, k)``."""
    rotations, shifts = config.weighed_poses(data.plane.box, volumes.device)

    def work(part: Observations) -> Tensor:
        return search_grid(part, volumes, rotations, shifts, padding=config.padding).log_volume

    band = data.within(config.soft.radius[1] * data.plane.box)
    return torch.cat(list(_batches(work, band, _search_batch(band), "classes")))

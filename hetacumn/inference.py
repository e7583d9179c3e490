"""Poses and conformations of images, by a trained network or by exhaustive search; the volumes fitted to what was found.

Four grades, dearer and better:

- *encoder*: the encoder alone;
- *amortized*: one forward pass: the encoder, and the decoder's feedback where the model has it;
- *refined*: every pose hypothesis of the encoder followed further, the best climbed to its peak together with z, and
  those images that still fit badly, or are faint, searched exhaustively;
- *searched*: the exhaustive pose search of the ab initio start, then climbed, of a faint stack from several poses of the grid;
  no network. This is the ``em`` baseline.

The latter two fit the volumes again to what they found (:func:`polish`). Where images leave their poses open, that is by EM,
and the class of an image is the likelier over all poses (:func:`weigh`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from hetacumn.ab_initio import fit_subspace
from hetacumn.ab_initio_config import AbInitioConfig
from hetacumn.classes import centres_of
from hetacumn.joint import State, Tangent, climb, compete, misfit
from hetacumn.model import HetACUMN
from hetacumn.observations import Observations
from hetacumn.parallel import Result, batch_size, side_by_side
from hetacumn.rivals import locate
from hetacumn.search import search_grid
from hetacumn.slices import Slicer
from hetacumn.stochastic_em import poses_are_open, soften
from hetacumn.subspace import infer_latents, mixing_of, volumes_at

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


def follow(model: HetACUMN, data: Observations, basis: Tensor, config: AbInitioConfig) -> tuple[State, Tensor]:
    """All hypotheses of the encoder, corrected at length; from the best of them up to the peak: states, and their log joints
    ``(n,)``."""
    model.eval()
    with torch.no_grad():
        tangent = Tangent(basis, config.padding)

    def work(part: Observations) -> tuple[State, Tensor]:
        latents, found = model.encode(part)
        states = [State(poses, latents) for poses in found.likelier(model.encoder.hypotheses)]
        best, _ = compete(part, tangent, states, model.rounds(REFINED_ROUNDS))
        return climb(part, tangent, best, config.last_radii)

    batch = batch_size(500, data.y.shape[1], data.y.device)
    parts, values = zip(*_batches(work, data, batch, "refined"), strict=True)
    return State.cat(list(parts)), torch.cat(values)


def search_doubtful(data: Observations, state: State, value: Tensor, doubt: Tensor, basis: Tensor, centres: Tensor,
                    config: AbInitioConfig) -> State:
    """States and log joints ``(n,)`` that :func:`follow` found, searched for where in doubt.

    What fits worse than ``doubt``, the model's, is searched under the volumes at latent ``centres`` ``(k, q)``, and so is what
    is :data:`FAINT`, where the encoder may have met no right pose and the misfit does not tell. The likelier stays, if it is
    of the class that is likelier over all poses; of a faint stack, where several poses of the grid compete, the likelier.
    """
    band = data.within(config.last_radii[-1] * data.plane.box)
    faint = value + 0.5 * (band.y.abs().square() * band.weight).sum(1) < FAINT
    rows = (faint | (misfit(value, band) > doubt)).nonzero().squeeze(1)
    if not len(rows):
        return state
    searched, other, theirs = _search(data[rows], basis, centres, config)
    better = other > value[rows]
    if not config.last_reaches:
        better |= torch.cdist(state.latents[rows], centres).argmin(1) != theirs
    return state.replaced(rows, searched.where(better, state[rows]))


def search(data: Observations, basis: Tensor, centres: Tensor, config: AbInitioConfig) -> State:
    """Exhaustive search under the volumes at latent ``centres`` ``(k, q)``, and from the best up to the peak."""
    return _search(data, basis, centres, config)[0]


@torch.no_grad()
def _search(data: Observations, basis: Tensor, centres: Tensor, config: AbInitioConfig) -> tuple[State, Tensor, Tensor]:
    """States, their log joints ``(n,)``, and which centre is likeliest over all poses of the grid ``(n,)``, or, where the
    likeliest poses compete (:mod:`hetacumn.rivals`), nearest to what is found."""
    box, device, tangent = data.plane.box, data.y.device, Tangent(basis, config.padding)
    volumes = volumes_at(centres, basis)
    rotations, shifts = config.rivals(box, device) if config.last_reaches else config.poses(box, device)

    def among_rivals(part: Observations) -> tuple[State, Tensor, Tensor]:
        state, value = locate(part, tangent, volumes, centres, rotations, shifts, config.last_radii[-1], config.padding)
        return state, value, torch.cdist(state.latents, centres).argmin(1)

    def from_likeliest(part: Observations) -> tuple[State, Tensor, Tensor]:
        found = search_grid(part.within(config.class_radius[1] * box), volumes, rotations, shifts, padding=config.padding)
        first = State(found.poses, centres[found.volume])
        return *climb(part, tangent, first, config.climb_radii + config.last_radii), found.volume

    work = among_rivals if config.last_reaches else from_likeliest
    states, values, volumes_of = zip(*_batches(work, data, _search_batch(data), "searched"), strict=True)
    return State.cat(list(states)), torch.cat(values), torch.cat(volumes_of)


def _search_batch(data: Observations) -> int:
    """Up to :data:`SEARCH_BATCH`, fewer where a CPU's cores would be idle."""
    return min(SEARCH_BATCH, -(-len(data) // torch.get_num_threads())) if data.y.device.type == "cpu" else SEARCH_BATCH


def _batches(work: Callable[[Observations], Result], data: Observations, batch: int, name: str) -> Iterator[Result]:
    """``work`` of the data a batch at a time, several side by side where that is faster."""
    batches = [data[start : start + batch] for start in range(0, len(data), batch)]
    yield from tqdm(side_by_side(work, batches, data.y.device), total=len(batches), desc=name, unit="batch", mininterval=5)


def polish(data: Observations, basis: Tensor, state: State, config: AbInitioConfig, classes: int | None, steps: int,
           seed: int) -> tuple[Tensor, Tensor | None]:
    """The volumes again, fitted to what was found: the basis, and where poses are open the centres ``(k, q)`` of classes.

    By probabilistic PCA at the poses; where these are open the volumes of the classes by EM, and the basis changes as
    little as makes it draw these at their centres.
    """
    if not steps:
        return basis, None
    generator = torch.Generator().manual_seed(seed)
    centres = centres_of(state.latents, classes, seed)
    volumes = volumes_at(centres, basis)
    is_open = poses_are_open(data, volumes, config)
    steps = min(steps, config.soft_steps) if is_open else steps
    with tqdm(total=steps, desc="volumes", mininterval=5) as progress:
        if not is_open:
            band = data.within(config.last_radius * data.plane.box)
            return fit_subspace(band, basis, state.poses, config, steps, generator, progress, rate=0.015), None
        change = soften(data, volumes, config.suited(data), steps, generator, progress) - volumes
    return basis + torch.einsum("jk,kxyz->jxyz", torch.linalg.pinv(mixing_of(centres)), change), centres


def settle(data: Observations, basis: Tensor, state: State, config: AbInitioConfig) -> State:
    """States under volumes that were fitted again: climbed on, and z the likeliest at the pose."""
    state, _ = climb(data, Tangent(basis, config.padding), state, (config.last_radius,))
    band = data.within(config.last_radius * data.plane.box)
    return State(state.poses, infer_latents(band, Slicer(basis, config.padding), state.poses).mean)


@torch.no_grad()
def log_ratios(data: Observations, basis: Tensor, state: State, config: AbInitioConfig, batch: int | None = None
               ) -> Tensor:
    """By how much V(z) at its pose raises the log-likelihood of each image over no molecule at all, ``(n,)``, in nats.

    Within the band of the ab initio start, as :func:`~hetacumn.observations.signal_nats` for the mean of a stack. Of
    an image without the molecule it is below zero, or little above: to draw what is not there explains nothing.
    """
    reach = config.radius[1] * data.plane.box
    slicer, band = Slicer(basis, config.padding, reach), data.within(reach)
    batch = batch or batch_size(1000, band.y.shape[1], data.y.device)
    rows = [slice(start, start + batch) for start in range(0, len(data), batch)]

    def work(part: tuple[Observations, State]) -> Tensor:
        images, found = part
        drawn = slicer.read_mixed(slicer.stencil(found.poses.rotations, images.k), mixing_of(found.latents)) * images.ctf
        centred = images.plane.translate(images.y, -found.poses.shifts_px)
        return (((centred.conj() * drawn).real - 0.5 * drawn.abs().square()) * images.weight).sum(1)

    parts = [(band[some], state[some]) for some in rows]
    return torch.cat(list(side_by_side(work, parts, data.y.device)))


@torch.no_grad()
def weigh(data: Observations, volumes: Tensor, config: AbInitioConfig) -> Tensor:
    """Log-likelihoods of images under ``(k, box, box, box)`` volumes, all poses weighed, less a number of each image:
    ``(n, k)``."""
    rotations, shifts = config.soft_poses(data.plane.box, volumes.device)

    def work(part: Observations) -> Tensor:
        return search_grid(part, volumes, rotations, shifts, padding=config.padding).log_volume

    band = data.within(config.soft_radius * data.plane.box)
    return torch.cat(list(_batches(work, band, _search_batch(band), "classes")))

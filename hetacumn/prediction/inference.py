"""Inference of poses and conformations by a trained network or by exhaustive search, and refits of the volumes.

A *state* is the pose and the latent z of an image. Four prediction grades infer states. In the order of cost and quality:

- *encoder*: the encoder predicts z and the pose.
- *amortized*: one forward pass with decoder feedback, if the model has it: the decoder scores and refines the encoder's poses.
- *refined*: Gauss-Newton steps optimise all pose hypotheses of the encoder, and then the pose and z of the best hypothesis up
  to the peak of the log joint. Images with a large misfit or a low signal are searched exhaustively.
- *searched*: an exhaustive pose search under the volumes of the *ab initio* start, followed by Gauss-Newton steps to the
  peak. In low-signal stacks several poses of the grid compete. This grade uses no network; it is the ``em`` baseline.

If the poses of a run are fixed, the grades *refined* and *searched* use the poses in the particle table, and infer only z.

The grades *refined* and *searched* refit the volumes to the inferred states (:func:`refit_volumes`). If many poses fit an image
almost equally well, EM fits the volumes, and class likelihoods marginalised over all poses classify the images
(:func:`weigh_classes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from hetacumn.ab_initio.config import AbInitioConfig
from hetacumn.ab_initio.stochastic_em import poses_are_open, soften
from hetacumn.ab_initio.subspace_fit import SubspaceFit, fit_subspace
from hetacumn.compute.batches import Result, batch_size, batch_slices, map_threads
from hetacumn.network.feedback import adapted
from hetacumn.network.model import HetACUMN
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations
from hetacumn.physics.slices import Slicer
from hetacumn.prediction.classes import class_centres
from hetacumn.search.competing_poses import Candidates, search_competing
from hetacumn.search.focus import WHOLE, Focus
from hetacumn.search.grid import search_grid
from hetacumn.search.refinement import Tangent, climb, compete, misfit
from hetacumn.search.state import State
from hetacumn.search.subspace import infer_latents, mixing_of, volumes_at

SEARCH_BATCH = 2500  # largest number of images that are compared with the slices of the grid at once
FAINT = 150.0  # nats, log-likelihood gain over no molecule; below it, a wrong pose often fits as well as the right pose
REFINED_ROUNDS = ((8, 0.15), (8, 0.15), (8, 0.2), (4, 0.2))  # (number of hypotheses, radius in cycles per pixel)


def amortize(model: HetACUMN, data: Observations, feedback: bool = True, batch: int | None = None) -> State:
    """Infer the states of a stack in one forward pass, with decoder feedback if ``feedback`` is true and the model has it."""
    model.eval()
    tables = model.feedback_tables(data.plane) if feedback and model.feedback else None

    def work(part: Observations) -> State:
        return model.infer(part, tables)

    batch = batch or batch_size(1000, model.encoder.used, data.y.device)
    return State.cat(list(_batches(work, data, batch, "amortized")))


@dataclass(frozen=True)
class Climbed:
    """States at the peaks of the log joint, and the log joints there."""

    state: State
    log_joint: Float[Tensor, " n"]


@dataclass(frozen=True)
class Refit:
    """Settings of :func:`refit_volumes`.

    - ``classes``: number of classes.
    - ``steps``: gradient steps; 0 for no refit.
    - ``seed``: seed of the random numbers.
    - ``focus``: the region in which the components differ from 0.
    """

    classes: int
    steps: int
    seed: int
    focus: Focus = WHOLE


def follow_hypotheses(
    model: HetACUMN, data: Observations, basis: Float[Tensor, "j box box box"], config: AbInitioConfig
) -> Climbed:
    """Choose the best pose hypothesis of each image, and climb from it to the peak of the log joint.

    All hypotheses of the encoder compete in Gauss-Newton rounds (:func:`~hetacumn.search.refinement.compete`).
    """
    model.eval()
    with torch.no_grad():
        tangent = Tangent(basis, config.padding)

    def work(part: Observations) -> tuple[State, Float[Tensor, " b"]]:
        latents, found = model.encode(part)
        states = [State(poses, latents) for poses in found.likelier(model.encoder.hypotheses)]
        best, _ = compete(part, tangent, states, adapted(REFINED_ROUNDS, model.decoder.box))
        return climb(part, tangent, best, config.refine.last)

    batch = batch_size(500, data.y.shape[1], data.y.device)
    parts, values = zip(*_batches(work, data, batch, "refined"), strict=True)
    return Climbed(State.cat(list(parts)), torch.cat(values))


def search_misfits(
    data: Observations,
    found: Climbed,
    misfit_limit: Float[Tensor, ""],
    basis: Float[Tensor, "j box box box"],
    centres: Float[Tensor, "k j-1"],
    config: AbInitioConfig,
) -> State:
    """Search misfitting and low-signal images exhaustively, and replace results of :func:`follow_hypotheses` by better ones.

    An image is misfitting if its misfit exceeds the ``misfit_limit`` of the model. An image has a low signal if its
    log-likelihood gain is below :data:`FAINT`: all hypotheses of the encoder may then be wrong without a large misfit. The
    search uses the volumes at the latent ``centres``.

    The result of the search replaces the state (pose and latent) of an image if its log joint is higher. If the stack is not a
    low-signal stack, the result also replaces a state whose nearest class centre is not the most likely class over all poses of
    the grid.
    """
    state, value = found.state, found.log_joint
    band = data.within(config.refine.last[-1] * data.plane.box)
    faint = value + 0.5 * (band.y.abs().square() * band.weight).sum(1) < FAINT
    rows = (faint | (misfit(value, band) > misfit_limit)).nonzero().squeeze(1)
    if not len(rows):
        return state
    searched, searched_value, searched_class = _search(data[rows], basis, centres, config)
    better = searched_value > value[rows]
    if not config.effort.last_radii:
        better |= torch.cdist(state.latents[rows], centres).argmin(1) != searched_class
    return state.replaced(rows, searched.where(better, state[rows]))


def search_poses(
    data: Observations, basis: Float[Tensor, "j box box box"], centres: Float[Tensor, "k j-1"], config: AbInitioConfig
) -> State:
    """Search poses exhaustively under the volumes at latent ``centres``, and climb from the best pose to the peak."""
    return _search(data, basis, centres, config)[0]


@torch.no_grad()
def _search(
    data: Observations, basis: Float[Tensor, "j box box box"], centres: Float[Tensor, "k j-1"], config: AbInitioConfig
) -> tuple[State, Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Search poses exhaustively; return the state, the log joint and the class of each image.

    The class is the most likely centre over all poses of the grid. If the most likely poses compete, which is the case for
    low-signal stacks (:mod:`hetacumn.search.competing_poses`), the class is the centre nearest to the inferred latent.
    """
    box, device, tangent = data.plane.box, data.y.device, Tangent(basis, config.padding)
    volumes = volumes_at(centres, basis)
    competing = bool(config.effort.last_radii)
    grid, shifts = config.competing_poses(box, device) if competing else config.poses(box, device)
    candidates = Candidates(volumes, centres, grid, shifts, config.padding)

    def among_competing(part: Observations) -> tuple[State, Float[Tensor, " b"], Int[Tensor, " b"]]:
        state, value = search_competing(part, tangent, candidates, config.refine.last[-1])
        return state, value, torch.cdist(state.latents, centres).argmin(1)

    def from_likeliest(part: Observations) -> tuple[State, Float[Tensor, " b"], Int[Tensor, " b"]]:
        found = search_grid(part.within(config.classes.radius[1] * box), volumes, grid, shifts, padding=config.padding)
        first = State(found.poses, centres[found.volume])
        return *climb(part, tangent, first, config.refine.climb + config.refine.last), found.volume

    work = among_competing if competing else from_likeliest
    states, values, classes = zip(*_batches(work, data, _search_batch(data), "searched"), strict=True)
    return State.cat(list(states)), torch.cat(values), torch.cat(classes)


def _search_batch(data: Observations) -> int:
    """Return :data:`SEARCH_BATCH`, or on a CPU fewer images if that keeps all threads busy."""
    return min(SEARCH_BATCH, -(-len(data) // torch.get_num_threads())) if data.y.device.type == "cpu" else SEARCH_BATCH


def _batches(work: Callable[[Observations], Result], data: Observations, batch: int, name: str) -> Iterator[Result]:
    """Yield the results of ``work`` on batches of the data. Several batches run in parallel if that is faster."""
    batches = [data[rows] for rows in batch_slices(len(data), batch)]
    yield from tqdm(map_threads(work, batches, data.y.device), total=len(batches), desc=name, unit="batch", mininterval=5)


def refit_volumes(
    data: Observations, basis: Float[Tensor, "j box box box"], state: State, config: AbInitioConfig, refit: Refit
) -> tuple[Float[Tensor, "j box box box"], Float[Tensor, "k j-1"] | None]:
    """Refit the basis to the inferred states; return the basis, and the class centres or None.

    If the images determine their poses, probabilistic PCA at these poses fits the basis, and the centres are None. If many
    poses fit an image almost equally well (:func:`~hetacumn.ab_initio.stochastic_em.poses_are_open`), EM fits the class
    volumes. The basis then receives the smallest change after which V(z) at each centre is the fitted class volume.
    """
    if not refit.steps:
        return basis, None
    generator = torch.Generator().manual_seed(refit.seed)
    centres = refit.focus.padded(class_centres(refit.focus.inside(state.latents), refit.classes, refit.seed))
    volumes = volumes_at(centres, basis)
    is_open = poses_are_open(data, volumes, config)
    steps = min(refit.steps, config.soft.steps) if is_open else refit.steps
    with tqdm(total=steps, desc="volumes", mininterval=5) as progress:
        if not is_open:
            band, fit = data.within(config.refine.last_fit * data.plane.box), SubspaceFit.of(config, steps, 0.015, refit.focus)
            return fit_subspace(band, basis, state.poses, fit, generator, progress), None
        change = soften(data, volumes, config.adapted_to(data), steps, generator, progress) - volumes
    return basis + torch.einsum("jk,kxyz->jxyz", torch.linalg.pinv(mixing_of(centres)), change), centres


def settle_states(data: Observations, basis: Float[Tensor, "j box box box"], state: State, config: AbInitioConfig) -> State:
    """Adapt states to refitted volumes: climb to the peak, then compute the most likely z at the pose."""
    state, _ = climb(data, Tangent(basis, config.padding), state, (config.refine.last_fit,))
    return state_at(data, basis, state.poses, config)


def state_at(data: Observations, basis: Float[Tensor, "j box box box"], poses: Poses, config: AbInitioConfig) -> State:
    """Return the states of images at known poses: the poses, and the most likely z."""
    band = data.within(config.refine.last_fit * data.plane.box)
    return State(poses, infer_latents(band, Slicer(basis, config.padding), poses).mean)


@torch.no_grad()
def log_ratios(
    data: Observations,
    basis: Float[Tensor, "j box box box"],
    state: State,
    config: AbInitioConfig,
    batch: int | None = None,
) -> Float[Tensor, " n"]:
    """Compute the log-likelihood gain of each image in nats: V(z) at the inferred pose over no molecule.

    The gain is computed in the band of the *ab initio* start. The mean of a stack is comparable with
    :func:`~hetacumn.particles.observations.signal_nats`. The gain of an image without the molecule is negative or slightly
    above 0.
    """
    highest = config.consensus.radius[1] * data.plane.box
    slicer, band = Slicer(basis, config.padding, highest), data.within(highest)
    batch = batch or batch_size(1000, band.y.shape[1], data.y.device)

    def work(part: tuple[Observations, State]) -> Float[Tensor, " b"]:
        images, found = part
        rendered = slicer.read_mixed(slicer.stencil(found.poses.rotations, images.k), mixing_of(found.latents)) * images.ctf
        centred = images.plane.translate(images.y, -found.poses.shifts_px)
        return (((centred.conj() * rendered).real - 0.5 * rendered.abs().square()) * images.weight).sum(1)

    parts = [(band[rows], state[rows]) for rows in batch_slices(len(data), batch)]
    return torch.cat(list(map_threads(work, parts, data.y.device)))


@torch.no_grad()
def weigh_classes(data: Observations, volumes: Float[Tensor, "k box box box"], config: AbInitioConfig) -> Float[Tensor, "n k"]:
    """Compute log-likelihoods of volumes, marginalised over all poses, up to one constant per image."""
    grid, shifts = config.weighed_poses(data.plane.box, volumes.device)

    def work(part: Observations) -> Float[Tensor, "b k"]:
        return search_grid(part, volumes, grid, shifts, padding=config.padding).log_volume

    band = data.within(config.soft.radius[1] * data.plane.box)
    return torch.cat(list(_batches(work, band, _search_batch(band), "classes")))

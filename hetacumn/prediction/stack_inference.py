"""Inference of poses, latents, classes and volumes of a whole stack, in chunks, in one process or a process group."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TypeVar, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hetacumn.compute.batches import prefetch
from hetacumn.compute.processes import ProcessGroup
from hetacumn.network.model import HetACUMN
from hetacumn.network.model_files import TrainedModel
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations, low_power, observe, strong_images, without_empty
from hetacumn.particles.prepared_stack import PreparedStack
from hetacumn.physics.rotations import distance_deg
from hetacumn.physics.slices import Slicer
from hetacumn.physics.symmetry import symmetry_rotations
from hetacumn.prediction.classes import Classes, class_centres, classify_by_likelihood, classify_from
from hetacumn.prediction.inference import (
    Refit,
    amortize,
    follow_hypotheses,
    log_ratios,
    refit_volumes,
    search_misfits,
    search_poses,
    settle_states,
    state_at,
    weigh_classes,
)
from hetacumn.prediction.request import FITTED, EarlierPrediction, PredictionRequest
from hetacumn.prediction.search_model import SearchModel
from hetacumn.search.focus import WHOLE, Focus
from hetacumn.search.state import State
from hetacumn.search.subspace import likeliest_copies, volumes_at

SAME_DEG = 1.0  # rotations that differ by less count as one pose
Part = TypeVar("Part", State, Tensor)


@dataclass
class StackInference:
    """Inference on a stack: the part that one process of the process group ``group`` computes.

    ``classes`` is the number of classes. ``earlier`` supplies volumes and classes, if given.
    ``fixed`` contains the poses in the particle table, which grades in ``FITTED`` keep; None to infer the poses. ``focus`` is
    the region of the conformations: only the latents of states also contain the coordinates outside the mask.

    Inference sets these attributes:

    - ``basis``: the mean and the components of the volumes.
    - ``centres``: class centres for the likelihoods marginalised over all poses; None if z determines the classes.
    - ``search_centres``: class centres whose volumes the exhaustive search of the grade *refined* uses.
    - ``seconds``: time of inference, without the reading of files.
    """

    stack: PreparedStack
    model: TrainedModel | SearchModel
    request: PredictionRequest
    classes: int
    earlier: EarlierPrediction | None
    device: torch.device
    group: ProcessGroup
    fixed: Poses | None = None
    focus: Focus = WHOLE

    def __post_init__(self) -> None:
        config, self.seconds = self.model.config, 0.0
        self.config, self.seed, self.grade = config.ab_initio, config.seed, self.request.grade
        if self.fixed is not None or self.focus.mask is not None:  # given poses need no EM over all poses
            self.config = replace(self.config, soft=replace(self.config.soft, steps=0))
        self.copies = symmetry_rotations(self.config.consensus.symmetry).to(self.device)
        self.basis: Float[Tensor, "j box box box"] = self.model.basis()
        self.centres: Float[Tensor, "k q"] | None = None
        self.search_centres: Float[Tensor, "k q"] | None = None
        if self.earlier is not None:
            self.basis, self.search_centres = self.earlier.volumes().to(self.device), self.earlier.centres.to(self.device)
            self.centres = self.search_centres if self.earlier.mixture is None else None
        every = np.arange(len(self.stack))
        chunk = self.request.chunk
        first = np.linspace(0, len(every) - 1, min(chunk, len(every))).round().astype(int)  # evenly spread over the stack
        rest = np.delete(every, first)
        if len(rest) < self.group.size:  # a chunk of its own would leave a process without images
            first, rest = every, every[:0]
        self.chunks = [first, *(np.array_split(rest, -(-len(rest) // chunk)) if len(rest) else [])]
        self.own_rows = [rows[self.group.part(len(rows))] for rows in self.chunks]

    @property
    def network(self) -> HetACUMN:
        """The network of the model; the grade ``searched`` has none."""
        return cast(TrainedModel, self.model).model

    def infer(self) -> tuple[State, Float[Tensor, " n"] | None, Bool[Tensor, " n"]]:
        """Infer the poses and latents of all particles, their log-likelihood gains or None, and which images are usable.

        The last two results are on the CPU. An image is not usable if it is far stronger than the others. Images without a
        positive gain are not usable either, if their share is at least ``unfit_share``. The mixture of classes is not fitted to
        such images.
        Grades that render images return the gains: the grades in ``FITTED``, and ``amortized`` with decoder feedback. Grades in
        ``FITTED`` refit the volumes to the first chunk, unless an earlier prediction supplies the volumes. Every process reads
        the whole first chunk for this refit.
        """
        to_fit, parts, ratios, powers = self.grade in FITTED and self.earlier is None, [], [], []
        renders = self.grade in FITTED or (self.grade == "amortized" and bool(self.network.feedback))
        for number, data in enumerate(self._read([self.chunks[0], *self.own_rows[1:]] if to_fit else self.own_rows)):
            fits = to_fit and number == 0
            own = data[self.group.part(len(data))] if fits else data
            with self._timed():
                state = self._in_likeliest_copies(own, self._graded(own, self.own_rows[number]))
            if fits:
                found = State.cat(_together([state], self.group))
                fit = refit_volumes(
                    data,
                    self.basis,
                    found,
                    self.config,
                    Refit(self.classes, self.request.polish_steps, self.seed, self.focus),
                )
                self.basis, self.centres = _take_leader(fit, self.group)
            if self.grade in FITTED:
                with self._timed():
                    state = self._in_likeliest_copies(own, self._settled(own, state))
            if renders:
                with self._timed():
                    ratios.append(log_ratios(own, self.basis, state, self.config))
            parts.append(state)
            powers.append(low_power(own))
        order = self._order()
        log_ratio = torch.cat(_together(ratios, self.group))[order].cpu() if renders else None
        usable = ~strong_images(torch.cat(_together(powers, self.group))[order].cpu())
        if log_ratio is not None:
            usable = without_empty(usable, log_ratio, self.config.unfit_share)
        return State.cat(_together(parts, self.group))[order], log_ratio, usable

    def classify(self, latents: Float[Tensor, "n q"], usable: Bool[Tensor, " n"]) -> Classes:
        """Classify every particle by its z, or by class likelihoods marginalised over all poses.

        ``usable`` marks the particles to which a mixture of classes is fitted.
        If there is an earlier prediction, particles are assigned to its classes.
        """
        if self.centres is not None:
            volumes, parts = volumes_at(self.centres, self.basis), []
            for data in self._read(self.own_rows):
                with self._timed():
                    parts.append(weigh_classes(data, volumes, self.config))
            scores = torch.cat(_together(parts, self.group))[self._order()]
            return classify_by_likelihood(scores, self.centres, sort=self.earlier is None)
        if self.earlier is None or self.earlier.mixture is None:
            return classify_from(latents, usable, self.classes, self.seed)
        mixture = self.earlier.mixture
        return Classes(mixture.probabilities(latents), self.earlier.centres, mixture)

    @torch.no_grad()
    def volumes(self, z: Float[Tensor, "n q"]) -> Float[Tensor, "n box box box"]:
        """Compute V(z) at latents, from the fitted basis or with the decoder; the result is on the CPU."""
        z = self.focus.padded(z.to(self.device))
        return (volumes_at(z, self.basis) if self.grade in FITTED else self.network.decoder.volumes(z)).cpu()

    @cached_property
    def start_centres(self) -> Float[Tensor, "k q"]:
        """Latent centres of the classes of the *ab initio* start; the training config sets their number."""
        start, config = cast(SearchModel, self.model).start, self.model.config
        return class_centres(self.focus.inside(start.latents), config.classes, config.seed)

    def _order(self) -> Int[Tensor, " n"]:
        """Compute the position of each particle of the stack in the concatenated chunks."""
        return torch.from_numpy(np.concatenate(self.chunks).argsort()).to(self.device)

    def _graded(self, data: Observations, rows: Int[np.ndarray, " n"]) -> State:
        """Infer the states of images with the requested grade; ``rows`` are their rows in the stack."""
        if self.fixed is not None:
            return state_at(data, self.basis, self.fixed[torch.from_numpy(rows)].to(self.device), self.config)
        if self.grade == "searched":
            return search_poses(data, self.basis, self.focus.padded(self.start_centres), self.config)
        model = self.network
        if self.grade == "refined":
            found = follow_hypotheses(model, data, self.basis, self.config)
            if self.search_centres is None:  # the first chunk of all processes determines the centres
                latents = torch.cat(_together([found.state.latents], self.group))
                self.search_centres = class_centres(self.focus.inside(latents), self.classes, self.seed)
            centres = self.focus.padded(self.search_centres)
            return search_misfits(data, found, model.misfit_limit, self.basis, centres, self.config)
        return amortize(model, data, feedback=self.grade == "amortized")

    def _in_likeliest_copies(self, data: Observations, state: State) -> State:
        """Replace each pose by its likeliest equivalent pose under the symmetry of the consensus, except for ``encoder``."""
        if len(self.copies) == 1 or self.grade == "encoder":
            return state
        band = data.within(self.config.refine.last_fit * data.plane.box)
        found = likeliest_copies(band, Slicer(self.basis, self.config.padding), state.poses, self.copies)
        return found.where(distance_deg(found.poses.rotations, state.poses.rotations) > SAME_DEG, state)

    def _settled(self, data: Observations, state: State) -> State:
        """Adapt states to refitted volumes; fixed poses are kept."""
        if self.fixed is not None:
            return state_at(data, self.basis, state.poses, self.config)
        return settle_states(data, self.basis, state, self.config)

    def _read(self, rows: list[Int[np.ndarray, " _m"]]) -> Iterator[Observations]:
        read = partial(self.stack.read, pinned=self.device.type == "cuda")
        return (observe(particles, self.device) for particles in prefetch(read, rows))

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Add the duration of the block to ``seconds``; on a CUDA device wait until its work has finished."""
        began = self._clock()
        yield
        self.seconds += self._clock() - began

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _together(parts: list[Part], group: ProcessGroup) -> list[Part]:
    """Gather the parts of each chunk from all processes, in the order of the particles."""
    every = group.gather([part.to("cpu") for part in parts])  # a process may not have access to the devices of other processes
    return [part.to(parts[0].device) for chunk in zip(*every, strict=True) for part in chunk]


def _take_leader(fit: tuple[Tensor, Tensor | None], group: ProcessGroup) -> tuple[Tensor, Tensor | None]:
    """Return the fit of the leader. Rounding errors over many steps make the fits of the processes differ."""
    basis, centres = fit
    leader_basis, leader_centres = group.gather((basis.cpu(), None if centres is None else centres.cpu()))[0]
    return leader_basis.to(basis.device), None if leader_centres is None else leader_centres.to(basis.device)

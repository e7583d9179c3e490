"""Inference over a whole stack, chunk by chunk, by one process or by a group: poses, latents, classes and volumes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from hetacumn.compute.batches import Result, prefetch
from hetacumn.compute.processes import ProcessGroup
from hetacumn.network.model_files import TrainedModel
from hetacumn.particles.observations import Observations, observe
from hetacumn.particles.prepared_stack import PreparedStack
from hetacumn.prediction.classes import Classes, class_centres, classify, classify_by_likelihood
from hetacumn.prediction.earlier import EarlierPrediction
from hetacumn.prediction.inference import (
    Refit,
    amortize,
    follow_hypotheses,
    log_ratios,
    refit_volumes,
    search_misfits,
    search_poses,
    settle_states,
    weigh_classes,
)
from hetacumn.prediction.request import FITTED, PredictionRequest
from hetacumn.prediction.search_model import SearchModel
from hetacumn.search.state import State
from hetacumn.search.subspace import volumes_at


@dataclass
class StackInference:
    """The inference of one process of a ``group`` on a stack.

    ``classes`` is their number, None to let BIC choose. The work yields the ``basis`` of the volumes; ``centres`` ``(k, q)``
    of the classes that are weighed over all poses, or None; ``search_centres`` ``(k, q)`` of the classes under whose volumes
    images are searched; and the ``seconds`` of inference, without the reading of files.
    """

    stack: PreparedStack
    model: TrainedModel | SearchModel
    request: PredictionRequest
    classes: int | None
    earlier: EarlierPrediction | None
    device: torch.device
    group: ProcessGroup

    def __post_init__(self):
        config, self.seconds = self.model.config, 0.0
        self.config, self.seed, self.grade = config.ab_initio, config.seed, self.request.grade
        self.basis, self.centres, self.search_centres = self.model.basis(), None, None
        if self.earlier is not None:
            self.basis, self.search_centres = self.earlier.basis.to(self.device), self.earlier.centres.to(self.device)
            self.centres = self.search_centres if self.earlier.mixture is None else None
        every = np.arange(len(self.stack))
        chunk = self.request.chunk
        first = np.linspace(0, len(every) - 1, min(chunk, len(every))).round().astype(int)  # spread over the stack
        rest = np.delete(every, first)
        if len(rest) < self.group.size:  # too few for a chunk of their own, of which every process has a part
            first, rest = every, every[:0]
        self.chunks = [first, *(np.array_split(rest, -(-len(rest) // chunk)) if len(rest) else [])]
        self.own_rows = [rows[self.group.part(len(rows))] for rows in self.chunks]

    def infer(self) -> tuple[State, Tensor | None]:
        """Infer poses and latents of all particles, and their log ratios ``(n,)`` on the CPU where the grade draws images.

        Grades in ``FITTED`` refit the volumes to the first chunk, which every process needs whole for it, unless an earlier
        prediction supplies the volumes.
        """
        to_fit, parts, ratios = self.grade in FITTED and self.earlier is None, [], []
        draws = self.grade in FITTED or (self.grade == "amortized" and bool(self.model.model.feedback))
        for number, data in enumerate(self._read([self.chunks[0], *self.own_rows[1:]] if to_fit else self.own_rows)):
            fits = to_fit and number == 0
            own = data[self.group.part(len(data))] if fits else data
            with self._timed():
                state = self._graded(own)
            if fits:
                found = State.cat(_together([state], self.group))
                fit = refit_volumes(
                    data, self.basis, found, self.config, Refit(self.classes, self.request.polish_steps, self.seed)
                )
                self.basis, self.centres = _of_leader(fit, self.group)
            if self.grade in FITTED:
                with self._timed():
                    state = settle_states(own, self.basis, state, self.config)
            if draws:
                with self._timed():
                    ratios.append(log_ratios(own, self.basis, state, self.config))
            parts.append(state)
        order = self._order()
        found = torch.cat(_together(ratios, self.group))[order].cpu() if draws else None
        return State.cat(_together(parts, self.group))[order], found

    def classify(self, latents: Tensor) -> Classes:
        """Classify every particle: by the likelihood over all poses, or by z; as an earlier prediction did, if there is one."""
        if self.centres is not None:
            volumes, scores = volumes_at(self.centres, self.basis), []
            for data in self._read(self.own_rows):
                with self._timed():
                    scores.append(weigh_classes(data, volumes, self.config))
            scores = torch.cat(_together(scores, self.group))[self._order()]
            return classify_by_likelihood(scores, self.centres, sort=self.earlier is None)
        if self.earlier is None:
            return classify(latents, self.classes, self.seed)
        mixture = self.earlier.mixture
        return Classes(mixture.probabilities(latents), self.earlier.centres, mixture)

    @torch.no_grad()
    def volumes(self, z: Tensor) -> Tensor:
        """Draw volumes ``(n, box, box, box)`` at latents ``(n, q)``, on the CPU: by a fitted basis, else by the decoder."""
        z = z.to(self.device)
        return (volumes_at(z, self.basis) if self.grade in FITTED else self.model.model.decoder.volumes(z)).cpu()

    @cached_property
    def start_centres(self) -> Tensor:
        """Latent centres ``(k, q)`` of as many classes of an ab initio start as it was made for."""
        config = self.model.config
        return class_centres(self.model.start.latents, config.classes, config.seed)

    def _order(self) -> Tensor:
        """The position of each particle of the stack in the concatenated chunks."""
        return torch.from_numpy(np.concatenate(self.chunks).argsort()).to(self.device)

    def _graded(self, data: Observations) -> State:
        """Infer the states of some images by the requested grade."""
        if self.grade == "searched":
            return search_poses(data, self.basis, self.start_centres, self.config)
        model = self.model.model
        if self.grade == "refined":
            found = follow_hypotheses(model, data, self.basis, self.config)
            if self.search_centres is None:  # of the first chunk, whole
                latents = torch.cat(_together([found.state.latents], self.group))
                self.search_centres = class_centres(latents, self.classes, self.seed)
            return search_misfits(data, found, model.misfit_limit, self.basis, self.search_centres, self.config)
        return amortize(model, data, feedback=self.grade == "amortized")

    def _read(self, rows: list[np.ndarray]) -> Iterator[Observations]:
        read = partial(self.stack.read, pinned=self.device.type == "cuda")
        return (observe(particles, self.device) for particles in prefetch(read, rows))

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Add the seconds within; a CUDA device has finished its work by their end."""
        began = self._clock()
        yield
        self.seconds += self._clock() - began

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _together(parts: list[Result], group: ProcessGroup) -> list[Result]:
    """Gather what every process has of the same chunks, in the order of the particles."""
    every = group.gather([part.to("cpu") for part in parts])  # a process may not see the devices of the others
    return [part.to(parts[0].device) for chunk in zip(*every, strict=True) for part in chunk]


def _of_leader(tensors: tuple[Tensor | None, ...], group: ProcessGroup) -> list[Tensor | None]:
    """Replace tensors by the leader's: rounding over many steps makes those of the others differ."""
    leaders = group.gather([None if tensor is None else tensor.cpu() for tensor in tensors])[0]
    return [None if tensor is None else other.to(tensor.device) for tensor, other in zip(tensors, leaders, strict=True)]

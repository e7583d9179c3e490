"""Prediction of a whole stack under the model of a folder: any number of particles, on one device or several; its files."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hetacumn.classes import Classes, Mixture, centres_of, classify, likelier
from hetacumn.errors import HetacumnError
from hetacumn.inference import Refit, amortize, follow, log_ratios, polish, search, search_misfits, settle, weigh
from hetacumn.joint import State
from hetacumn.landscape import latent_path
from hetacumn.mrc import read_volumes, write_volumes
from hetacumn.observations import Observations, observe
from hetacumn.parallel import Result, read_ahead
from hetacumn.predictions import Predictions
from hetacumn.prepared import Prepared
from hetacumn.project import git_commit, keep_freed_memory, peak_memory_mb, write_json
from hetacumn.run_folder import MODEL, START, Searcher, Trained, load_em, load_model, read_run
from hetacumn.subspace import volumes_at
from hetacumn.team import ALONE, Team

GRADES = ("encoder", "amortized", "refined", "searched")
FITTED = ("refined", "searched")  # whose volumes are fitted again to what is found
SAME_PIXEL = 0.02  # relative: pixel sizes that differ by more are of another field of view


@dataclass(frozen=True)
class Answer:
    """What :func:`predict_stack` wrote: predictions; volumes ``(k, box, box, box)`` of classes and along the path."""

    predictions: Predictions
    class_volumes: Tensor
    path_volumes: Tensor
    particles_per_second: float


@dataclass(frozen=True)
class Earlier:
    """An earlier prediction, whose volumes and classes another shall have: ``basis`` ``(1 + q, box, box, box)``, latent
    ``centres`` ``(k, q)`` of classes, and the ``mixture`` that says an image's class by its z, or None where it is the
    likelier over all poses."""

    basis: Tensor
    centres: Tensor
    mixture: Mixture | None

    @classmethod
    def read(cls, folder: Path | str, model: str, grade: str) -> Earlier:
        """What :func:`predict_stack` left in a folder.

        Raises:
            HetacumnError: nothing of it there; of another model (by its :func:`identity`) or grade.
        """
        run, path = read_run(folder), Path(folder) / "run.json"
        for name, wanted in (("model", model), ("grade", grade)):
            if run.get(name) != wanted:
                raise HetacumnError(f"{path}: {name} is {run.get(name)!r}; expected {wanted!r}, that of the prediction that "
                                    "shall be like it")
        if "class_mixture" not in run:
            raise HetacumnError(f"{path}: no class_mixture; expected a prediction by this version: predict anew")
        basis, _ = read_volumes(Path(folder) / "volumes", "basis_")
        mixture = run["class_mixture"]
        return cls(basis, torch.tensor(run["class_centres"]), None if mixture is None else Mixture.of(mixture))


def identity(model: Path | str, grade: str) -> str:
    """What tells the model of a folder, or its start if the ``grade`` needs no more, from others."""
    return hashlib.sha256((Path(model) / (START if grade == "searched" else MODEL)).read_bytes()).hexdigest()[:16]


def predict_stack(
    stack: Prepared, model: Path | str, grade: str, out: Path | str, classes: int | None = None,
    device: torch.device | str = "cpu", chunk: int = 10_000, polish_steps: int = 150, path_points: int = 10,
    team: Team = ALONE, like: Path | str | None = None,
) -> Answer:
    """Predict every particle of a prepared stack under the model of a folder, and write the answer into ``out``.

    ``grade`` is one of ``GRADES``. ``classes``: None as trained, 0 by BIC. ``like``: the folder of an earlier prediction by the
    same model and grade, of other particles, whose volumes and classes are taken as they are. Images are read ``chunk`` at a
    time; what stays in memory is a few numbers a particle. Of a ``team`` each process calls it, infers its part of every
    chunk, and the leader writes. Refined and searched volumes are fitted again to the poses of the first chunk, which is spread
    over the stack. Volumes go to ``out/volumes``: of classes, along the first axis of the latent space, and the basis (mean,
    then components) that V(z) is made of. The rate counts inference, not the reading of files.
    """
    if grade not in GRADES:
        raise HetacumnError(f"grade is '{grade}'; expected one of {', '.join(GRADES)}")
    keep_freed_memory()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    run = read_run(model)
    trained = (load_em if grade == "searched" else load_model)(model, device)
    _check_images(stack, trained, model)
    named, earlier = identity(model, grade), None
    wanted = trained.config.classes if classes is None else (classes or None)
    if like is not None:
        if classes is not None:
            raise HetacumnError(f"classes is {classes}; expected none, as they shall be those of {like}")
        earlier = Earlier.read(like, named, grade)
    elif wanted is not None and (not isinstance(wanted, int) or not 1 <= wanted <= len(stack)):
        raise HetacumnError(f"{wanted} classes of {len(stack)} particles; expected 1 to {len(stack)}, or 0 to let BIC choose")
    if len(stack) < team.size:
        raise HetacumnError(f"{stack.folder}: {len(stack)} particles for {team.size} devices; expected one for each at least")
    work = _Work(stack, trained, grade, wanted, earlier, torch.device(device), chunk, team)
    state, ratios = work.infer(polish_steps)
    latents = state.latents.cpu()
    found = work.classify(latents)
    shifts_A = stack.shifts_in_source_A(state.poses.shifts_px.cpu() * stack.pixel_A)
    sure = found.probabilities.amax(1).float()
    predictions = Predictions(stack.names, state.poses.rotations.cpu(), shifts_A, found.labels, latents, sure, ratios)
    class_volumes, path_volumes = (work.volumes(z) for z in (found.centres, latent_path(latents, path_points)))
    rate = len(stack) / max(team.gather(work.seconds))
    if team.leads:
        predictions.write(out, stack.source, data_dir=stack.data_dir or None)
        for stem, volumes in (("class_", class_volumes), ("path_", path_volumes), ("basis_", work.basis.cpu())):
            write_volumes(out / "volumes", volumes, stem, stack.pixel_A)
        memory_mb = max(round(peak_memory_mb()), run.get("peak_memory_mb", 0))
        facts = {"prepared": str(stack.folder), "predict_particles_per_second": round(rate), "peak_memory_mb": memory_mb,
                 "model": named, "grade": grade, "class_centres": found.centres.tolist(),
                 "class_mixture": None if found.mixture is None else found.mixture.content()}  # fmt: skip
        write_json(out / "run.json", {**run, **facts, "git_commit": git_commit()})
    return Answer(predictions, class_volumes, path_volumes, rate)


def read_answer(out: Path | str) -> Answer:
    """What :func:`predict_stack` wrote into a folder."""
    class_volumes, path_volumes = (read_volumes(Path(out) / "volumes", stem)[0] for stem in ("class_", "path_"))
    return Answer(Predictions.read(out), class_volumes, path_volumes, read_run(out)["predict_particles_per_second"])


def _check_images(stack: Prepared, trained: Trained | Searcher, model: Path | str) -> None:
    if stack.box != trained.box:
        raise HetacumnError(f"{stack.folder}: images of {stack.box} px; expected {trained.box}, as {model} was trained on")
    if abs(stack.pixel_A / trained.pixel_A - 1) > SAME_PIXEL:
        raise HetacumnError(f"{stack.folder}: pixels of {stack.pixel_A:.4g} Å; expected {trained.pixel_A:.4g}, as {model} was "
                            "trained on: images of the same field of view")


@dataclass
class _Work:
    """One process's work on a stack, and what it comes to: ``basis`` of the volumes, ``centres`` ``(k, q)`` of classes that are
    weighed over all poses, if they are, ``search_centres`` ``(k, q)`` of those that doubtful images are searched under, and the
    ``seconds`` of inference, without the reading of files."""

    stack: Prepared
    trained: Trained | Searcher
    grade: str
    wanted: int | None  # classes
    earlier: Earlier | None
    device: torch.device
    chunk: int
    team: Team

    def __post_init__(self):
        self.config, self.seed, self.seconds = self.trained.config.ab_initio, self.trained.config.seed, 0.0
        self.basis, self.centres, self.search_centres = self.trained.basis(), None, None
        if self.earlier is not None:
            self.basis, self.search_centres = self.earlier.basis.to(self.device), self.earlier.centres.to(self.device)
            self.centres = self.search_centres if self.earlier.mixture is None else None
        every = np.arange(len(self.stack))
        first = np.linspace(0, len(every) - 1, min(self.chunk, len(every))).round().astype(int)  # spread over the stack
        rest = np.delete(every, first)
        if len(rest) < self.team.size:  # too few for a chunk of their own, of which every process has a part
            first, rest = every, every[:0]
        self.chunks = [first, *(np.array_split(rest, -(-len(rest) // self.chunk)) if len(rest) else [])]
        self.own_rows = [rows[self.team.part(len(rows))] for rows in self.chunks]

    def infer(self, polish_steps: int) -> tuple[State, Tensor | None]:
        """Poses and latents of all particles, and their log ratios ``(n,)`` on the CPU, if the decoder is asked at all.

        Volumes are fitted to those of the first chunk, which every process needs whole, for the grades whose are, unless they
        are those of an earlier prediction.
        """
        to_fit, parts, ratios = self.grade in FITTED and self.earlier is None, [], []
        asked = self.grade in FITTED or (self.grade == "amortized" and bool(self.trained.model.feedback))
        for number, data in enumerate(self._read([self.chunks[0], *self.own_rows[1:]] if to_fit else self.own_rows)):
            fits = to_fit and number == 0
            own = data[self.team.part(len(data))] if fits else data
            with self._timed():
                state = self._graded(own)
            if fits:
                found = State.cat(_together([state], self.team))
                fit = polish(data, self.basis, found, self.config, Refit(self.wanted, polish_steps, self.seed))
                self.basis, self.centres = _of_leader(fit, self.team)
            if self.grade in FITTED:
                with self._timed():
                    state = settle(own, self.basis, state, self.config)
            if asked:
                with self._timed():
                    ratios.append(log_ratios(own, self.basis, state, self.config))
            parts.append(state)
        order = self._order()
        found = torch.cat(_together(ratios, self.team))[order].cpu() if asked else None
        return State.cat(_together(parts, self.team))[order], found

    def classify(self, latents: Tensor) -> Classes:
        """The class of every particle: the likelier over all poses, or by its z; like earlier ones, if there are any."""
        if self.centres is not None:
            volumes, scores = volumes_at(self.centres, self.basis), []
            for data in self._read(self.own_rows):
                with self._timed():
                    scores.append(weigh(data, volumes, self.config))
            scores = torch.cat(_together(scores, self.team))[self._order()]
            return likelier(scores, self.centres, sort=self.earlier is None)
        if self.earlier is None:
            return classify(latents, self.wanted, self.seed)
        mixture = self.earlier.mixture
        return Classes(mixture.probabilities(latents), self.earlier.centres, mixture)

    @torch.no_grad()
    def volumes(self, z: Tensor) -> Tensor:
        """Volumes ``(n, box, box, box)`` at latents ``(n, q)``, on the CPU: of the basis if it is fitted, or the decoder's."""
        z = z.to(self.device)
        return (volumes_at(z, self.basis) if self.grade in FITTED else self.trained.model.decoder.volumes(z)).cpu()

    def _order(self) -> Tensor:
        """Where each particle of the stack is among those of the chunks, one after the other."""
        return torch.from_numpy(np.concatenate(self.chunks).argsort()).to(self.device)

    def _graded(self, data: Observations) -> State:
        if self.grade == "searched":
            return search(data, self.basis, self.trained.centres, self.config)
        if self.grade == "refined":
            model = self.trained.model
            found = follow(model, data, self.basis, self.config)
            if self.search_centres is None:  # of the first chunk, whole
                self.search_centres = centres_of(torch.cat(_together([found.state.latents], self.team)), self.wanted, self.seed)
            return search_misfits(data, found, model.misfit_limit, self.basis, self.search_centres, self.config)
        return amortize(self.trained.model, data, feedback=self.grade == "amortized")

    def _read(self, rows: list[np.ndarray]) -> Iterator[Observations]:
        read = partial(self.stack.read, pinned=self.device.type == "cuda")
        return (observe(particles, self.device) for particles in read_ahead(read, rows))

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Adds the seconds within; a CUDA device has done by their end what it was given."""
        began = self._clock()
        yield
        self.seconds += self._clock() - began

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _together(parts: list[Result], team: Team) -> list[Result]:
    """What every process has of the same chunks, in the order of the particles."""
    every = team.gather([part.to("cpu") for part in parts])  # a process may not see the devices of the others
    return [part.to(parts[0].device) for chunk in zip(*every, strict=True) for part in chunk]


def _of_leader(tensors: tuple[Tensor | None, ...], team: Team) -> list[Tensor | None]:
    """The leader's: those of the others may differ by what rounding makes of many steps."""
    theirs = team.gather([None if tensor is None else tensor.cpu() for tensor in tensors])[0]
    return [None if tensor is None else other.to(tensor.device) for tensor, other in zip(tensors, theirs, strict=True)]

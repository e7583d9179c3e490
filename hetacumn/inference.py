"""Poses, conformations and classes of any number of particles under a trained model; volumes of each class.

Four grades of prediction, dearer and better:

- *encoder*: the encoder alone;
- *amortized*: one forward pass: the encoder, and the decoder's feedback where the model has it;
- *refined*: every pose hypothesis of the encoder followed further, the best climbed to its peak together with z, and
  those images that still fit badly, or are faint, searched exhaustively;
- *searched*: the exhaustive pose search of the ab initio start, then climbed, of a faint stack from several poses of the grid;
  no network. This is the ``em`` baseline.

The latter two fit the volumes again to what they found. Where images leave their poses open, that is by EM, and the class of
an image is the likelier over all poses: z at the likeliest pose would be that of its noise.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor
from tqdm import tqdm

from hetacumn.ab_initio import Start, fit_subspace
from hetacumn.ab_initio_config import AbInitioConfig
from hetacumn.errors import HetacumnError
from hetacumn.joint import State, Tangent, climb, compete, misfit
from hetacumn.landscape import latent_path
from hetacumn.model import HetACUMN
from hetacumn.observations import Observations, observe
from hetacumn.parallel import Result, read_ahead, side_by_side
from hetacumn.predictions import Predictions
from hetacumn.prepared import Prepared
from hetacumn.project import git_commit, keep_freed_memory, peak_memory_mb, write_json
from hetacumn.rivals import locate
from hetacumn.search import pose_grid, search_grid
from hetacumn.stochastic_em import poses_are_open, soft_poses, soften
from hetacumn.subspace import infer_latents, mixing_of, volumes_at
from hetacumn.team import ALONE, Team
from hetacumn.training import (
    MODEL,
    START,
    TrainConfig,
    Trained,
    load_config,
    load_model,
    load_start,
    read_config,
    read_run,
)
from hetacumn.volumes import Slicer, read_mrc, write_mrc


@dataclass(frozen=True)
class Inferred:
    """Poses and latents of ``n`` particles, and the seconds that took."""

    state: State
    seconds: float


SEARCH_BATCH = 2500  # images that share one reading of the grid's slices, at most
SAME_PIXEL = 0.02  # relative: pixel sizes that differ by more are of another field of view
SPREADS = ("full", "tied")  # of classes in the latent space: each its own, or one for all
GRADES = ("encoder", "amortized", "refined", "searched")
FAINT = 150.0  # nats by which the molecule explains an image better than nothing: below, a wrong pose often fits as well
REFINED_ROUNDS = ((8, 0.15), (8, 0.15), (8, 0.2), (4, 0.2))  # of joint.compete between all hypotheses


def amortize(model: HetACUMN, data: Observations, feedback: bool = True, batch: int = 1000) -> Inferred:
    """One forward pass over the stack, with the decoder's feedback if wanted and if the model has it."""
    began = _clock(data.y.device)
    model.eval()
    tangent = model.tangent() if feedback and model.feedback else None

    def work(part: Observations) -> State:
        return model.infer(part, tangent)

    parts = list(_batches(work, data, batch, "amortized"))
    return Inferred(State.cat(parts), _clock(data.y.device) - began)


def refine(model: HetACUMN, data: Observations, basis: Tensor, config: AbInitioConfig, classes: int | None = None,
           seed: int = 0, batch: int = 500) -> Inferred:
    """All hypotheses of the encoder, corrected at length; from the best of them up to the peak.

    What still fits badly is searched under the volumes of the ``classes`` found (by BIC if None), and so is what is
    :data:`FAINT`, where the encoder may have met no right pose and the misfit does not tell. The likelier stays, if it is of
    the class that is likelier over all poses; of a faint stack, where several poses of the grid compete, the likelier.
    """
    began = _clock(data.y.device)
    model.eval()
    with torch.no_grad():
        tangent = Tangent(basis, config.padding)

    def work(part: Observations) -> tuple[State, Tensor]:
        latents, found = model.encode(part)
        states = [State(poses, latents) for poses in found.likelier(model.encoder.hypotheses)]
        best, _ = compete(part, tangent, states, REFINED_ROUNDS)
        return climb(part, tangent, best, config.last_radii)

    parts, values = zip(*_batches(work, data, batch, "refined"), strict=True)
    state, value = State.cat(list(parts)), torch.cat(values)
    band = data.within(config.last_radii[-1] * data.plane.box)
    faint = value + 0.5 * (band.y.abs().square() * band.weight).sum(1) < FAINT
    rows = (faint | (misfit(value, band) > model.doubt)).nonzero().squeeze(1)
    if len(rows):
        centres = classify(state.latents, classes and min(classes, len(data)), seed).centres.to(data.y.device)
        searched, other, theirs = _search(data[rows], basis, centres, config)
        better = other > value[rows]
        if not config.last_reaches:
            better |= torch.cdist(state.latents[rows], centres).argmin(1) != theirs
        state = state.replaced(rows, searched.where(better, state[rows]))
    return Inferred(state, _clock(data.y.device) - began)


def search(data: Observations, basis: Tensor, centres: Tensor, config: AbInitioConfig) -> Inferred:
    """Exhaustive search under the volumes at latent ``centres`` ``(k, q)``, and from the best up to the peak."""
    began = _clock(data.y.device)
    state, _, _ = _search(data, basis, centres, config)
    return Inferred(state, _clock(data.y.device) - began)


def _clock(device: torch.device) -> float:
    """Seconds; a CUDA device has done by then what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def _search(data: Observations, basis: Tensor, centres: Tensor, config: AbInitioConfig) -> tuple[State, Tensor, Tensor]:
    """States, their log joints ``(n,)``, and which centre is likeliest over all poses of the grid ``(n,)``, or, where the
    likeliest poses compete (:mod:`hetacumn.rivals`), nearest to what is found."""
    device, tangent = data.y.device, Tangent(basis, config.padding)
    volumes = volumes_at(centres, basis)
    rotations = pose_grid(*config.fine_grid).to(device)
    shifts = config.shifts(data.plane.box).to(device)
    rivals = config.rivals(data.plane.box, device)

    def work(part: Observations) -> tuple[State, Tensor, Tensor]:
        if config.last_reaches:
            state, value = locate(part, tangent, volumes, centres, *rivals, config.last_radii[-1], config.padding)
            return state, value, torch.cdist(state.latents, centres).argmin(1)
        coarse = part.within(config.class_radius[1] * data.plane.box)
        found = search_grid(coarse, volumes, rotations, shifts, padding=config.padding)
        first = State(found.poses, centres[found.volume])
        return *climb(part, tangent, first, config.climb_radii + config.last_radii), found.volume

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
    centres = classify(state.latents, classes and min(classes, len(data)), seed).centres.to(basis.device)
    volumes = volumes_at(centres, basis)
    is_open = poses_are_open(data, volumes, config)
    steps = min(steps, config.soft_steps) if is_open else steps
    with tqdm(total=steps, desc="volumes", mininterval=5) as progress:
        if not is_open:
            band = data.within(config.last_radius * data.plane.box)
            return fit_subspace(band, basis, state.poses, config, steps, generator, progress, rate=0.015), None
        change = soften(data, volumes, config.suited(data), steps, generator, progress) - volumes
    return basis + torch.einsum("jk,kxyz->jxyz", torch.linalg.pinv(mixing_of(centres)), change), centres


@dataclass(frozen=True)
class Classes:
    """``labels`` ``(n,)`` from 0, the largest class first, and the latent ``centres`` ``(k, q)``."""

    labels: Tensor
    centres: Tensor


def classify(latents: Tensor, classes: int | None, seed: int = 0, most: int = 8) -> Classes:
    """Gaussian mixture on latents ``(n, q)``; the number of classes given, or of the least BIC up to ``most``.

    BIC also tells whether each class has a spread of its own or all have one, that of the noise, as of faint images.
    """
    z = latents.cpu().double().numpy()
    if classes is not None and not 1 <= classes <= len(z):
        raise HetacumnError(f"{classes} classes of {len(z)} particles; expected 1 to {len(z)}")
    counts = [classes] if classes else range(1, min(most, len(z)) + 1)
    best = _of_least_bic([GaussianMixture(k, covariance_type=spread, n_init=5, reg_covar=1e-4, random_state=seed)
                          for k in counts for spread in SPREADS], z)  # fmt: skip
    order = np.argsort(-best.weights_)
    rank = np.argsort(order)
    return Classes(torch.from_numpy(rank[best.predict(z)]).long(), torch.from_numpy(best.means_[order]).float())


def classify_as(latents: Tensor, known: Tensor, labels: Tensor) -> Tensor:
    """The classes ``(n,)`` of latents ``(n, q)`` under the Gaussian mixture that gave ``known`` ones their ``labels``."""
    z, known_z, labels = latents.cpu().double().numpy(), known.double().numpy(), labels.numpy()
    members = [known_z[labels == k] for k in range(labels.max() + 1)]
    shares, means = [len(some) / len(labels) for some in members], [some.mean(0) for some in members]
    own = np.stack([1e-4 * np.eye(known_z.shape[1]) + (some - mean).T @ (some - mean) / len(some)
                    for some, mean in zip(members, means, strict=True)])  # fmt: skip
    inverses = {"full": np.linalg.inv(own), "tied": np.linalg.inv(np.tensordot(shares, own, 1))}
    best = _of_least_bic([
        GaussianMixture(len(members), covariance_type=spread, reg_covar=1e-4, weights_init=shares, means_init=means,
                        precisions_init=inverses[spread])
        for spread in SPREADS
    ], known_z)  # fmt: skip
    return torch.from_numpy(best.predict(z)).long()


def _of_least_bic(mixtures: list[GaussianMixture], z: np.ndarray) -> GaussianMixture:
    """The mixtures fitted to ``(n, q)`` latents, and the best of them."""
    return min((mixture.fit(z) for mixture in mixtures), key=lambda fit: fit.bic(z))


@torch.no_grad()
def weigh(data: Observations, volumes: Tensor, config: AbInitioConfig) -> Tensor:
    """Log-likelihoods of images under ``(k, box, box, box)`` volumes, all poses weighed, less a number of each image:
    ``(n, k)``."""
    rotations, shifts = soft_poses(config, data.plane.box, volumes.device)

    def work(part: Observations) -> Tensor:
        return search_grid(part, volumes, rotations, shifts, padding=config.padding).log_volume

    band = data.within(config.soft_radius * data.plane.box)
    return torch.cat(list(_batches(work, band, _search_batch(band), "classes")))


def likelier(log_likelihood: Tensor, centres: Tensor, rounds: int = 100, sort: bool = True) -> Classes:
    """The likelier of the classes at ``centres`` ``(k, q)`` by ``(n, k)`` log-likelihoods; how large the classes are is found
    by EM. Without ``sort`` they keep the order of ``centres``."""
    scores = log_likelihood.double()
    log_share = torch.zeros(len(centres), dtype=scores.dtype, device=scores.device)
    for _ in range(rounds):
        log_share = (scores + log_share).log_softmax(1).logsumexp(0) - np.log(len(scores))
    labels = (scores + log_share).argmax(1)
    if not sort:
        return Classes(labels.cpu(), centres.cpu())
    order = labels.bincount(minlength=len(centres)).argsort(descending=True, stable=True)
    return Classes(order.argsort()[labels].cpu(), centres[order].cpu())


def write_volumes(out: Path | str, volumes: Tensor, stem: str, voxel_A: float) -> None:
    """``out/volumes/<stem>_1.mrc`` and on; those of an earlier run with more volumes are removed."""
    folder = Path(out) / "volumes"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{stem}_{i}.mrc" for i in range(1, len(volumes) + 1)]
    for path, volume in zip(paths, volumes, strict=True):
        write_mrc(path, volume, voxel_A)
    for path in set(folder.glob(f"{stem}_*.mrc")) - set(paths):
        path.unlink()


def _volume_paths(out: Path | str, stem: str) -> list[Path]:
    paths = (Path(out) / "volumes").glob(f"{stem}_*.mrc")
    return sorted(paths, key=lambda path: int(path.stem.rpartition("_")[2]))


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
    ``centres`` ``(k, q)`` of classes, and whether an image's class is the likelier over all poses, or by its z."""

    predictions: Predictions
    basis: Tensor
    centres: Tensor
    weighed: bool

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
        basis = torch.stack([read_mrc(path)[0] for path in _volume_paths(folder, "basis")])
        return cls(Predictions.read(folder), basis, torch.tensor(run["class_centres"]), run["classes_weighed"])


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
    chunk, and the leader writes. Refined and searched volumes are fitted again to the refined poses of the first chunk. Volumes
    go to ``out/volumes``: of classes, along the first axis of the latent space, and
    the basis (mean, then components) that V(z) is made of. The rate counts inference, not the reading of files.
    """
    if grade not in GRADES:
        raise HetacumnError(f"grade is '{grade}'; expected one of {', '.join(GRADES)}")
    keep_freed_memory()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    run = read_run(model)
    if grade == "searched":
        trained = load_em(model, device)
    else:
        trained = load_model(model, device)
    config, seed = trained.config.ab_initio, trained.config.seed
    wanted = trained.config.classes if classes is None else (classes or None)
    basis, centres, parts, seconds = trained.basis(), None, [], 0.0
    named, earlier = identity(model, grade), None
    if stack.box != trained.box:
        raise HetacumnError(f"{stack.folder}: images of {stack.box} px; expected {trained.box}, as {model} was trained on")
    if abs(stack.pixel_A / trained.pixel_A - 1) > SAME_PIXEL:
        raise HetacumnError(f"{stack.folder}: pixels of {stack.pixel_A:.4g} Å; expected {trained.pixel_A:.4g}, as {model} was "
                            "trained on: images of the same field of view")
    total = len(stack)
    if like is not None:
        if classes is not None:
            raise HetacumnError(f"classes is {classes}; expected none, as they shall be those of {like}")
        earlier = Earlier.read(like, named, grade)
        basis = earlier.basis.to(device)
        centres = earlier.centres.to(device) if earlier.weighed else None
    elif wanted and wanted > total:
        raise HetacumnError(f"{wanted} classes of {total} particles; expected 1 to {total}")
    if total < team.size:
        raise HetacumnError(f"{stack.folder}: {total} particles for {team.size} devices; expected one for each at least")
    chunks = np.array_split(np.arange(total), -(-total // chunk))
    read = partial(stack.read, pinned=torch.device(device).type == "cuda")
    own_rows = [rows[team.part(len(rows))] for rows in chunks]
    fitted = grade in ("refined", "searched")
    to_fit = fitted and earlier is None  # to the first chunk, which every process needs the whole of
    for number, particles in enumerate(read_ahead(read, [chunks[0], *own_rows[1:]] if to_fit else own_rows)):
        fits = to_fit and number == 0
        data = observe(particles, device)
        own = data[team.part(len(data))] if fits else data
        if grade == "searched":
            found = search(own, basis, trained.centres, config)
        elif grade == "refined":
            found = refine(trained.model, own, basis, config, wanted, seed)
        else:
            found = amortize(trained.model, own, feedback=grade == "amortized")
        state, seconds = found.state, seconds + found.seconds
        if fits:
            fit = polish(data, basis, State.cat(_together([state], team)), config, wanted, polish_steps, seed)
            basis, centres = _of_leader(fit, team)
        if fitted:
            began = _clock(data.y.device)
            state, _ = climb(own, Tangent(basis, config.padding), state, (config.last_radius,))
            band = own.within(config.last_radius * trained.box)
            state = State(state.poses, infer_latents(band, Slicer(basis, config.padding), state.poses).mean)
            seconds += _clock(data.y.device) - began
        parts.append(state)
    state = State.cat(_together(parts, team))
    latents, rotations = state.latents.cpu(), state.poses.rotations.cpu()
    shifts_A = stack.shifts_in_source_A(state.poses.shifts_px.cpu() * stack.pixel_A)
    if centres is None and earlier is None:
        found = classify(latents, wanted, seed)
    elif centres is None:
        known = earlier.predictions
        found = Classes(classify_as(latents, known.latents, known.classes), earlier.centres)
    else:
        volumes, scores = volumes_at(centres, basis), []
        for data in (observe(particles, device) for particles in read_ahead(read, own_rows)):
            began = _clock(data.y.device)
            scores.append(weigh(data, volumes, config))
            seconds += _clock(data.y.device) - began
        found = likelier(torch.cat(_together(scores, team)), centres, sort=earlier is None)
    predictions = Predictions(stack.names, rotations, shifts_A, found.labels, latents)
    path = latent_path(latents, path_points)
    with torch.no_grad():
        volumes = [_volumes(trained, basis, grade, z.to(device)).cpu() for z in (found.centres, path)]
    rate = total / max(team.gather(seconds))
    if team.leads:
        predictions.write(out, stack.source, data_dir=stack.data_dir or None)
        for stem, some in zip(("class", "path", "basis"), (*volumes, basis.cpu()), strict=True):
            write_volumes(out, some, stem, stack.pixel_A)
        memory_mb = max(round(peak_memory_mb()), run.get("peak_memory_mb", 0))
        facts = {"prepared": str(stack.folder), "predict_particles_per_second": round(rate), "peak_memory_mb": memory_mb,
                 "model": named, "grade": grade, "class_centres": found.centres.tolist(),
                 "classes_weighed": centres is not None}  # fmt: skip
        write_json(out / "run.json", {**run, **facts, "git_commit": git_commit()})
    return Answer(predictions, *volumes, rate)


def read_answer(out: Path | str) -> Answer:
    """What :func:`predict_stack` wrote into a folder."""
    volumes = [torch.stack([read_mrc(path)[0] for path in _volume_paths(out, stem)]) for stem in ("class", "path")]
    return Answer(Predictions.read(out), *volumes, read_run(out)["predict_particles_per_second"])


def _together(parts: list[Result], team: Team) -> list[Result]:
    """What every process has of the same chunks, in the order of the particles."""
    every = team.gather([part.to("cpu") for part in parts])  # a process may not see the devices of the others
    return [part.to(parts[0].device) for chunk in zip(*every, strict=True) for part in chunk]


def _of_leader(tensors: tuple[Tensor | None, ...], team: Team) -> list[Tensor | None]:
    """The leader's: those of the others may differ by what rounding makes of many steps."""
    theirs = team.gather([None if tensor is None else tensor.cpu() for tensor in tensors])[0]
    return [None if tensor is None else other.to(tensor.device) for tensor, other in zip(tensors, theirs, strict=True)]


def _volumes(trained: Trained | Searcher, basis: Tensor, grade: str, z: Tensor) -> Tensor:
    if grade in ("encoder", "amortized"):
        return trained.model.decoder.volumes(z)
    return volumes_at(z, basis)


@dataclass(frozen=True)
class Searcher:
    """The ``em`` baseline read back: what :class:`Trained` is to a network."""

    start: Start
    config: TrainConfig
    box: int
    pixel_A: float
    centres: Tensor

    def basis(self) -> Tensor:
        """Mean and components of the volumes."""
        return self.start.basis


def load_em(folder: Path | str, device: torch.device | str = "cpu") -> Searcher:
    """The ab initio start of a folder, and the latent centres of its classes."""
    start, config = load_start(Path(folder) / START), load_config(folder)
    start = start.to(device)
    centres = classify(start.latents, config.classes, config.seed).centres.to(device)
    return Searcher(start, config, start.basis.shape[-1], read_config(folder)["pixel_A"], centres)

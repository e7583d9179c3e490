"""Poses, conformations and classes of any number of particles under a trained model; volumes of each class.

Three grades of prediction, dearer and better:

- *amortized*: one forward pass of the encoder, the paper's;
- *refined*: from there, local pose candidates and the closed-form posterior of z under the learned volumes, in turn;
- *searched*: the exhaustive pose search of the ab initio start, then as refined; no network. This is the ``em`` baseline.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor
from tqdm import tqdm

from hetacumn.ab_initio import AbInitioConfig, Start, fit_subspace
from hetacumn.errors import HetacumnError
from hetacumn.model import HetACUMN
from hetacumn.observations import Observations, observe
from hetacumn.particles import Poses, count_particles, read_particles
from hetacumn.predictions import Predictions
from hetacumn.project import peak_memory_mb, write_json
from hetacumn.search import pose_grid, search_grid, shift_grid
from hetacumn.subspace import infer_latents, mixing_of, refine_together
from hetacumn.training import (
    START,
    TrainConfig,
    Trained,
    autocast,
    load_config,
    load_model,
    load_start,
    read_run,
)
from hetacumn.volumes import Slicer, write_mrc


@dataclass(frozen=True)
class Inferred:
    """``latents`` ``(n, q)`` and ``poses`` of ``n`` particles, and the seconds that took."""

    latents: Tensor
    poses: Poses
    seconds: float


@torch.no_grad()
def amortize(model: HetACUMN, data: Observations, batch: int = 1000) -> Inferred:
    """One forward pass of the encoder over the stack."""
    began = time.perf_counter()
    model.eval()
    parts = []
    for start in tqdm(range(0, len(data), batch), desc="amortized", unit="batch", mininterval=5):
        with autocast(data.y.device):
            parts.append(model.infer(data[start : start + batch]))
    latents = torch.cat([z for z, _ in parts])
    rotations = torch.cat([p.rotations for _, p in parts])
    shifts = torch.cat([p.shifts_px for _, p in parts])
    return Inferred(latents, Poses(rotations, shifts), time.perf_counter() - began)


@torch.no_grad()
def refine(data: Observations, basis: Tensor, first: Inferred, config: AbInitioConfig, seed: int) -> Inferred:
    """Local pose candidates and posteriors of z in turn, from an amortized guess; coarse band first."""
    began = time.perf_counter()
    generator = torch.Generator(data.y.device).manual_seed(seed)
    slicer, box = Slicer(basis, config.padding), data.plane.box
    poses, latents = first.poses, first.latents
    for radius, degrees in ((config.class_radius[1], 6.0), (config.fine_radius, 0.0)):
        band = data.within(radius * box)
        poses, posterior = refine_together(band, slicer, latents, poses, generator, degrees)
        latents = posterior.mean
    return Inferred(latents, poses, time.perf_counter() - began)


@torch.no_grad()
def search(data: Observations, basis: Tensor, centres: Tensor, config: AbInitioConfig, seed: int) -> Inferred:
    """Exhaustive search under the volumes at latent ``centres`` ``(k, q)``, then :func:`refine`."""
    began = time.perf_counter()
    device = data.y.device
    volumes = torch.einsum("kj,jxyz->kxyz", mixing_of(centres), basis)
    with tqdm(total=len(data), desc="searched", mininterval=5) as progress:
        found = search_grid(
            data.within(config.class_radius[1] * data.plane.box), volumes,
            pose_grid(*config.fine_grid).to(device), shift_grid(config.shift_px, config.shift_steps).to(device),
            padding=config.padding, progress=progress,
        )
    first = Inferred(centres[found.volume], found.poses, time.perf_counter() - began)
    second = refine(data, basis, first, config, seed)
    return Inferred(second.latents, second.poses, first.seconds + second.seconds)


def polish_basis(data: Observations, basis: Tensor, found: Inferred, config: AbInitioConfig, steps: int,
                 seed: int) -> Tensor:
    """The volumes again, fitted to refined poses: probabilistic PCA from ``basis``."""
    generator = torch.Generator(data.y.device).manual_seed(seed)
    with tqdm(total=steps, desc="volumes", mininterval=5) as progress:
        return fit_subspace(data, basis, found.poses, config, steps, generator, progress, rate=0.015)


@dataclass(frozen=True)
class Classes:
    """``labels`` ``(n,)`` from 0, the largest class first, and the latent ``centres`` ``(k, q)``."""

    labels: Tensor
    centres: Tensor


def classify(latents: Tensor, classes: int | None, seed: int = 0, most: int = 8) -> Classes:
    """Gaussian mixture on latents ``(n, q)``; the number of classes given, or of the least BIC up to ``most``."""
    z = latents.cpu().double().numpy()
    if classes is not None and not 1 <= classes <= len(z):
        raise HetacumnError(f"{classes} classes of {len(z)} particles; expected 1 to {len(z)}")
    counts = [classes] if classes else range(1, min(most, len(z)) + 1)
    fits = [GaussianMixture(k, n_init=5, reg_covar=1e-4, random_state=seed).fit(z) for k in counts]
    best = fits[0] if classes else min(fits, key=lambda fit: fit.bic(z))
    order = np.argsort(-best.weights_)
    rank = np.argsort(order)
    return Classes(torch.from_numpy(rank[best.predict(z)]).long(), torch.from_numpy(best.means_[order]).float())


def latent_path(latents: Tensor, points: int) -> Tensor:
    """Latents ``(points, q)`` along the first principal axis, from its 5th to its 95th percentile."""
    centre = latents.mean(0)
    axis = torch.linalg.svd(latents - centre, full_matrices=False).Vh[0]
    low, high = torch.quantile((latents - centre) @ axis, torch.tensor([0.05, 0.95], device=latents.device))
    return centre + torch.linspace(float(low), float(high), points, device=latents.device)[:, None] * axis


def write_volumes(out: Path | str, volumes: Tensor, stem: str, voxel_A: float) -> None:
    """``out/volumes/<stem>_1.mrc`` and on; those of an earlier run with more volumes are removed."""
    folder = Path(out) / "volumes"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{stem}_{i}.mrc" for i in range(1, len(volumes) + 1)]
    for path, volume in zip(paths, volumes):
        write_mrc(path, volume, voxel_A)
    for path in set(folder.glob(f"{stem}_*.mrc")) - set(paths):
        path.unlink()


@dataclass(frozen=True)
class Answer:
    """What :func:`predict_stack` wrote: predictions; volumes ``(k, box, box, box)`` of classes and along the path."""

    predictions: Predictions
    class_volumes: Tensor
    path_volumes: Tensor
    particles_per_second: float


def predict_stack(
    source: Path | str, model: Path | str, grade: str, out: Path | str, classes: int | None = None,
    contrast: str = "auto", device: torch.device | str = "cpu", chunk: int = 10_000, polish_steps: int = 150,
    path_points: int = 10,
) -> Answer:
    """Predict every particle of a STAR or .cs file under the model of a folder, and write the answer into ``out``.

    ``grade`` is amortized, refined or searched. ``classes``: None as trained, 0 by BIC. Images are read ``chunk`` at a
    time; what stays in memory is a few numbers a particle. Refined and searched volumes are fitted again to the
    refined poses of the first chunk. The rate counts inference, not the reading of files.
    """
    if grade not in ("amortized", "refined", "searched"):
        raise HetacumnError(f"grade is '{grade}'; expected amortized, refined or searched")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    run = read_run(model)
    if grade == "searched":
        trained = load_em(model, device)
    else:
        trained = load_model(model, device)
    config, seed = trained.config.ab_initio, trained.config.seed
    wanted = trained.config.classes if classes is None else (classes or None)
    basis, parts, names, seconds = trained.basis(), [], [], 0.0
    total = count_particles(source)
    for first in range(0, total, chunk):
        rows = np.arange(first, min(first + chunk, total))
        particles = read_particles(source, trained.box, contrast, rows=rows)
        data = observe(particles, device)
        if grade == "searched":
            found = search(data, basis, trained.centres, config, seed)
        else:
            found = amortize(trained.model, data)
            if grade == "refined":
                quick = found.seconds
                found = refine(data, basis, found, config, seed)
                seconds += quick
        seconds += found.seconds
        if grade != "amortized":
            fine = data.within(config.fine_radius * trained.box)
            if first == 0:
                basis = polish_basis(fine, basis, found, config, polish_steps, seed)
            found = Inferred(infer_latents(fine, Slicer(basis, config.padding), found.poses).mean, found.poses, 0.0)
        parts.append(found)
        names += particles.names
    latents = torch.cat([part.latents for part in parts]).cpu()
    rotations = torch.cat([part.poses.rotations for part in parts]).cpu()
    shifts_A = torch.cat([part.poses.shifts_px for part in parts]).cpu() * particles.pixel_A
    found = classify(latents, wanted, seed)
    predictions = Predictions(names, rotations, shifts_A, found.labels, latents)
    predictions.write(out, source)
    path = latent_path(latents, path_points)
    with torch.no_grad():
        volumes = [_volumes(trained, basis, grade, z.to(device)).cpu() for z in (found.centres, path)]
    for stem, some in zip(("class", "path"), volumes):
        write_volumes(out, some, stem, particles.pixel_A)
    rate = total / seconds
    write_json(out / "run.json", {**run, "predict_particles_per_second": round(rate), "peak_memory_mb": max(
        round(peak_memory_mb()), run.get("peak_memory_mb", 0))})
    return Answer(predictions, *volumes, rate)


def _volumes(trained: Trained | Searcher, basis: Tensor, grade: str, z: Tensor) -> Tensor:
    if grade == "amortized":
        return trained.model.decoder.volumes(z)
    return torch.einsum("kj,jxyz->kxyz", mixing_of(z), basis)


@dataclass(frozen=True)
class Searcher:
    """The ``em`` baseline read back: what :class:`Trained` is to a network."""

    start: Start
    config: TrainConfig
    box: int
    centres: Tensor

    def basis(self) -> Tensor:
        """Mean and components of the volumes."""
        return self.start.basis


def load_em(folder: Path | str, device: torch.device | str = "cpu") -> Searcher:
    """The ab initio start of a folder, and the latent centres of its classes."""
    start, config = load_start(Path(folder) / START), load_config(folder)
    start = start.to(device)
    centres = classify(start.latents, config.classes, config.seed).centres.to(device)
    return Searcher(start, config, start.basis.shape[-1], centres)

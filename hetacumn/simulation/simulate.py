"""Simulation of a particle stack and its truth from atomic models, poses, optics and noise.

Projections are sums of Gaussians in real space (:mod:`hetacumn.simulation.projection`), not the Fourier slices that the decoder
uses. The agreement of both is therefore a test of the decoder, and benchmarks do not commit an inverse crime.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from hetacumn.common.errors import HetacumnError
from hetacumn.compute.batches import batch_slices
from hetacumn.io.mrc import write_volumes
from hetacumn.io.stacks import new_stack, release_pages
from hetacumn.particles.metadata import ParticleMetadata, write_star
from hetacumn.physics.fourier import fft2c, ifft2c
from hetacumn.physics.optics import Optics, frequency_grid
from hetacumn.physics.rotations import from_euler, perturb, random_rotations
from hetacumn.simulation.projection import density, project_atoms
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.structures import load_motion, load_states
from hetacumn.simulation.truth import Truth

CHUNK = 64  # images simulated at once
EXAMPLES = 16  # clean images kept for figures
VIEW_SPREAD_DEG = 3.0  # random spread about the views of a table, which has fewer rows than there are particles


def simulate_stack(
    settings: Simulation,
    out: Path | str,
    seed: int,
    data_dir: Path | str,
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> Truth:
    """Write ``particles.mrcs``, ``particles.star`` (RELION 3.1, without truth), ``truth.npz`` and volumes to a folder.

    ``truth_class1.mrc``, … are the volumes of the classes, with the box and the pixel size of the images. A class of a
    continuous motion is an interval of each coordinate, and its volume is at the middle of the intervals. The same seed gives
    the same files, up to rounding errors on different devices. Memory holds the truth of every particle, but not the images.

    Args:
        settings: the molecule, the poses, the optics and the noise.
        out: the folder for the files.
        seed: the seed of all random numbers.
        data_dir: the folder of the structures and the tables.
        progress: whether to show progress bars.
        device: the device that computes the images; random numbers are sampled on the CPU.

    Raises:
        HetacumnError: a structure, a state or a table is unknown, or the number of weights is not the number of states.
    """
    out, n, box = Path(out), settings.particles, settings.box
    draw, noise_draw = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    conformations = _load_conformations(settings, draw, data_dir)
    rotations, shifts_px = _draw_poses(settings, draw, data_dir)
    optics = _draw_optics(settings, draw, data_dir)
    chunks = list(batch_slices(n, CHUNK))

    with new_stack(out / "particles.mrcs", n, box, settings.pixel_A) as stack:
        variances = np.empty(n)
        with tqdm(total=n, desc="projecting", unit="", disable=not progress) as bar:
            for rows in chunks:
                images = conformations.project(rows, rotations[rows].to(device), box, settings.pixel_A)
                images = form_images(images, optics[rows].to(device), shifts_px[rows].to(device))
                variances[rows] = images.double().var((1, 2), correction=0).cpu()
                stack[rows] = images.cpu()
                release_pages(stack)
                bar.update(len(images))
        noise_std = float((variances.mean() / settings.snr) ** 0.5)
        clean = torch.from_numpy(stack[:EXAMPLES] / np.float32(noise_std))
        sign = 1 if settings.contrast == "white" else -1
        filter_noise = _noise_filter(settings)
        with tqdm(total=n, desc="adding noise", unit="", disable=not progress) as bar:
            for rows in chunks:
                noise = noise_draw.standard_normal((rows.stop - rows.start, box, box), dtype=np.float32)
                stack[rows] = stack[rows] * np.float32(sign / noise_std) + filter_noise(noise)
                release_pages(stack)
                bar.update(len(noise))

    refined_A = None  # shifts as an earlier refinement would report them: true shifts plus errors
    if settings.origins_within_A is not None:
        refined_A = shifts_px * settings.pixel_A + torch.from_numpy(draw.normal(0, settings.origins_within_A, (n, 2)))
    names = [f"{i + 1:06d}@particles.mrcs" for i in range(n)]
    write_star(out / "particles.star", ParticleMetadata(names, optics), box, shifts_A=refined_A)
    examples = torch.stack([density(atoms, box, settings.pixel_A) for atoms in conformations.examples])
    write_volumes(out, examples, "truth_class", settings.pixel_A)
    truth = Truth(
        rotations=rotations,
        shifts_A=shifts_px * settings.pixel_A,
        classes=conformations.classes,
        coordinate=conformations.coordinate,
        clean=clean,
        snr=settings.snr,
        noise_std=noise_std,
    )
    truth.write(out / "truth.npz")
    return truth


def form_images(
    projections: Float[Tensor, "b box box"], optics: Optics, shifts_px: Float[Tensor, "b 2"]
) -> Float[Tensor, "b box box"]:
    """Multiply projections by their CTFs and shift them by pixels (x, y)."""
    box = projections.shape[-1]
    device = projections.device
    ky, kx = torch.meshgrid(torch.fft.fftfreq(box, device=device), torch.fft.rfftfreq(box, device=device), indexing="ij")
    frequencies = torch.stack([kx, ky], dim=-1).view(-1, 2)  # half of the plane suffices, because the images are real
    angle = -2 * torch.pi * (shifts_px @ frequencies.T)
    transfer = torch.polar(optics.ctf(frequencies), angle).view(-1, *kx.shape)
    return torch.fft.irfft2(torch.fft.rfft2(projections) * transfer, s=(box, box))


class _States:
    """Discrete states, of which one is sampled for each particle."""

    def __init__(self, settings: Simulation, draw: np.random.Generator, data_dir: Path | str) -> None:
        self.examples = load_states(settings.molecule, data_dir)
        k = len(self.examples)
        weights = settings.weights or (1 / k,) * k
        if len(weights) != k:
            raise HetacumnError(f"weights are {list(weights)}; expected one for each of {k} states")
        self.classes = torch.from_numpy(draw.choice(k, settings.particles, p=weights))
        self.coordinate = self.classes.float()

    def project(
        self, rows: slice, rotations: Float[Tensor, "b 3 3"], box: int, pixel_A: float
    ) -> Float[Tensor, "b {box} {box}"]:
        """Project the conformations of the particles in ``rows`` at their rotations."""
        images = torch.empty(len(rotations), box, box, device=rotations.device)
        for k in self.classes[rows].unique():
            members = self.classes[rows] == k
            images[members] = project_atoms(self.examples[k].to(rotations.device), rotations[members], box, pixel_A)
        return images


class _Motion:
    """A continuous motion; the progress of each moving part is sampled uniformly and independently for each particle."""

    def __init__(self, settings: Simulation, draw: np.random.Generator, data_dir: Path | str) -> None:
        if settings.weights is not None:
            raise HetacumnError("weights are given for a continuous motion; expected weights for discrete states only")
        motion = load_motion(settings.molecule, data_dir)
        self._move, count, parts = motion.move, len(motion.names), settings.motion_classes
        middles = (torch.arange(parts) + 0.5) / parts
        self.examples = [self._move(torch.stack(t)) for t in itertools.product(middles, repeat=count)]
        self.coordinate = torch.from_numpy(draw.random((settings.particles, count))).float()
        place = (self.coordinate * parts).long().clamp(max=parts - 1)
        self.classes = (place * parts ** torch.arange(count).flip(0)).sum(1)

    def project(
        self, rows: slice, rotations: Float[Tensor, "b 3 3"], box: int, pixel_A: float
    ) -> Float[Tensor, "b {box} {box}"]:
        """Project the conformations of the particles in ``rows`` at their rotations."""
        return project_atoms(self._move(self.coordinate[rows]).to(rotations.device), rotations, box, pixel_A)


def _load_conformations(settings: Simulation, draw: np.random.Generator, data_dir: Path | str) -> _States | _Motion:
    return (_Motion if settings.continuous else _States)(settings, draw, data_dir)


def _draw_poses(
    settings: Simulation, draw: np.random.Generator, data_dir: Path | str
) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 2"]]:
    """Sample rotations and shifts in pixels, uniformly or from a table.

    From a table, the function takes the shifts, and the viewing directions with a small random error; in-plane rotations are
    uniform.
    """
    n, generator = settings.particles, torch.Generator()
    if settings.pose_table is None:
        rotations = random_rotations(n, generator.manual_seed(int(draw.integers(2**62))))
        return rotations, torch.from_numpy(draw.uniform(-settings.shift_px, settings.shift_px, (n, 2))).float()
    columns = _draw_rows(Path(data_dir) / settings.pose_table, "pose_table", n, draw)
    angles = torch.from_numpy(np.stack([columns["rot_deg"], columns["tilt_deg"], draw.uniform(0, 360, n)], 1))
    shifts_A = torch.from_numpy(np.stack([columns["shift_x_A"], columns["shift_y_A"]], 1))
    near = perturb(from_euler(angles).float(), VIEW_SPREAD_DEG, generator.manual_seed(int(draw.integers(2**62))))
    return near, (shifts_A / settings.pixel_A).float()


def _draw_rows(path: Path, parameter: str, n: int, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the columns of ``n`` rows of a CSV file, sampled with replacement; ``parameter`` names the setting in messages."""
    if not path.is_file():
        raise HetacumnError(f"{path}: no such file; expected the CSV table of {parameter}")
    table = pd.read_csv(path)
    rows = draw.integers(len(table), size=n)
    return {name: table[name].to_numpy()[rows] for name in table.columns}


def _draw_optics(settings: Simulation, draw: np.random.Generator, data_dir: Path | str) -> Optics:
    n = settings.particles
    if settings.ctf_table is not None:
        columns = _draw_rows(Path(data_dir) / settings.ctf_table, "ctf_table", n, draw)
    else:
        mean = draw.uniform(*settings.defocus_A, n)
        half = draw.uniform(0, settings.astigmatism_A, n) / 2
        columns = {"defocus_u_A": mean + half, "defocus_v_A": mean - half}
        columns["astigmatism_deg"] = draw.uniform(0, 180, n)
        for name in ("voltage_kv", "cs_mm", "amplitude_contrast"):
            columns[name] = np.full(n, getattr(settings, name))
    tensors = {name: torch.from_numpy(np.asarray(values)).float() for name, values in columns.items()}
    return Optics(**tensors, phase_shift_deg=torch.zeros(n), pixel_A=settings.pixel_A)


def _noise_filter(
    settings: Simulation,
) -> Callable[[Float[np.ndarray, "b box box"]], Float[np.ndarray, "b box box"]]:
    """Return a function that filters white noise to the spectrum of the settings, with unit variance per pixel."""
    if settings.noise == "white":
        return lambda noise: noise
    box = settings.box
    k = (frequency_grid(box) / settings.pixel_A).norm(dim=1).view(box, box)
    power = settings.noise_floor + 1 / (1 + (k * settings.noise_knee_A).square())
    amplitude = (power / power.mean()).sqrt()
    return lambda noise: ifft2c(fft2c(torch.from_numpy(noise)) * amplitude).numpy()

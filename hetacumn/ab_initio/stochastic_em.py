"""Fits of volumes by stochastic expectation-maximisation (EM).

Every step takes a few images, weighs all poses of a grid by their posterior, and moves the voxels along the gradient of the
expected log-likelihood.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from tqdm import tqdm

from hetacumn.ab_initio.config import AbInitioConfig, EMSchedule
from hetacumn.compute.batches import batch_slices
from hetacumn.particles.observations import Observations, signal_nats
from hetacumn.physics.fourier import padded_size
from hetacumn.physics.slices import Slicer, Stencil, make_stencil
from hetacumn.physics.symmetry import align_axes, symmetrised, symmetry_rotations
from hetacumn.physics.volumes import soft_sphere
from hetacumn.search.grid import (
    PairedSlices,
    images_at_once,
    log_likelihood,
    matched_images,
    open_rotations,
    posterior_,
    sum_and_difference_,
    unique_poses,
)
from hetacumn.search.reference import explained_share

SYMMETRIC_SHARE = 0.9  # least share of the evidence that a volume with the right symmetry explains
SYMMETRY_SAMPLE = 500  # images that test the symmetry
SYMMETRIC_FROM = 0.1  # Fourier radius in cycles per pixel at the first step of EM that imposes a symmetry


def voxel_unit(data: Observations, box: int) -> float:
    """Estimate the typical voxel value from the signal power of the images, for learning rates and random volumes."""
    power = 2 * signal_nats(data, 0.25 * box) / float(data.within(0.25 * box).ctf.square().mean())
    return max(power, 1e-3) ** 0.5 / box**1.5


@dataclass(frozen=True)
class _Stage:
    """The stencil of a rotation grid, used up to the fraction ``until`` of the run."""

    stencil: Stencil
    until: float


def anneal(schedule: EMSchedule, done: float) -> tuple[float, float, float]:
    """Return the Fourier radius, the sharpness of the posterior and the learning rate at the fraction ``done`` of the steps.

    The radius is in cycles per pixel. The sharpness is the factor of the log-likelihood in the posterior.
    """
    radius = schedule.radius[0] + (schedule.radius[1] - schedule.radius[0]) * min(1.0, done / 0.8)
    sharpness = min(1.0, schedule.temper ** (1 - 2 * done))
    return radius, sharpness, schedule.rate * (1 if done < 0.6 else 0.1 ** ((done - 0.6) / 0.4))


def stochastic_em(
    data: Observations,
    start: Float[Tensor, "v box box box"],
    schedule: EMSchedule,
    config: AbInitioConfig,
    generator: torch.Generator,
    progress: tqdm,
) -> tuple[Float[Tensor, "v box box box"], float]:
    """Fit volumes, beginning with ``start``, by EM with a posterior over all poses of a grid and all volumes.

    If ``schedule`` has a symmetry, the volumes are symmetric, and the grid contains one of the equivalent rotations.
    ``config`` gives the shifts, the batch and the padding. ``generator`` is on the CPU. Returns the volumes, and the mean log
    evidence per image over the last 20 % of the steps.
    """
    steps, radius, coarse = schedule.steps, schedule.radius, schedule.coarse_radius
    box, device = start.shape[-1], start.device
    shifts = config.grid.shifts(box, config.grid.step_px).to(device)
    size, group = padded_size(box, config.padding), symmetry_rotations(schedule.symmetry).to(device)
    switch = 0.8 * (coarse - radius[0]) / (radius[1] - radius[0])
    stages = []
    for i, grid in enumerate(schedule.grids):
        last = i == len(schedule.grids) - 1
        rotations = unique_poses(*grid, group).first
        outer = data.plane.count((radius[1] if last else coarse) * box)
        stencil = make_stencil(rotations, data.k[:outer], size, box)
        stages.append(_Stage(stencil, 1.0 if last else switch))
    mask = soft_sphere(box, device=device)
    unit = voxel_unit(data, box)
    voxels = (start / unit).clone().requires_grad_()
    optimiser = torch.optim.Adam([voxels], lr=schedule.rate, betas=(0.8, 0.99))
    evidence = []
    for step in range(steps):
        done = step / max(steps - 1, 1)
        stage = next(stage for stage in stages if done <= stage.until)
        reached, sharpness, optimiser.param_groups[0]["lr"] = anneal(schedule, done)
        m = min(data.plane.count(reached * box), stage.stencil.shape[1])
        rows = torch.randint(len(data), (config.batch,), generator=generator).to(device, non_blocking=True)
        part = Observations(data.y[rows, :m], data.ctf[rows, :m], data.plane)
        slicer = Slicer(symmetrised(voxels * mask * unit, group), config.padding)
        flat = slicer.read(stage.stencil.narrow(m)).transpose(1, 2).flatten(0, 1)  # (r * v, m)
        with torch.no_grad():
            gradient, log_sum = _expected_gradient(part, flat, shifts, sharpness)
            evidence.append(log_sum.mean())
        optimiser.zero_grad()
        flat.backward(gradient)
        optimiser.step()
        progress.update()
    score = torch.stack(evidence[-max(1, steps // 5) :]).mean()
    return symmetrised(voxels.detach() * mask * unit, group), float(score)


def _expected_gradient(
    part: Observations, slices: Complex[Tensor, "s m"], shifts_px: Float[Tensor, "t 2"], sharpness: float
) -> tuple[Complex[Tensor, "s m"], Float[Tensor, " n"]]:
    """Compute the gradient of the expected misfit per image with respect to the slices, and the log evidence of each image.

    The expectation is over the posterior of all shifts, and of all slices with and without a half turn in the image plane.
    """
    paired = PairedSlices.of(slices)
    pull, push, evidence = torch.zeros_like(paired.parts), torch.zeros_like(paired.power), []
    for rows in batch_slices(len(part), images_at_once(len(part), paired, shifts_px)):
        images = part[rows]
        share = log_likelihood(images, paired, shifts_px)  # (2, b, t, s)
        log_sum = posterior_(share, sharpness)
        of_parts = sum_and_difference_(share)  # a half turn conjugates the slice: it changes the sign of the imaginary part
        pull += torch.bmm(of_parts.flatten(1, 2).mT, matched_images(images, shifts_px))
        push += of_parts[0].sum(1).T @ (images.ctf.square() * images.weight)
        evidence.append(log_sum)
    return (push * slices - torch.complex(*pull)) / len(part), torch.cat(evidence)


def smooth_noise(
    count: int, box: int, generator: torch.Generator, cells: int
) -> Float[Tensor, "{max(count,0)} {box} {box} {box}"]:
    """Sample smooth random fields of unit variance, with features of about ``box / cells`` voxels."""
    field = torch.randn(max(count, 1), cells, cells, cells, generator=generator)[:, None]
    field = torch.nn.functional.interpolate(field, size=(box,) * 3, mode="trilinear")[:, 0]
    return (field / field.std(dim=(1, 2, 3), keepdim=True))[:count]


def random_volumes(count: int, data: Observations, generator: torch.Generator) -> Float[Tensor, "{count} box box box"]:
    """Sample volumes to start EM from: smooth random noise in a soft ball, in the scale of the images."""
    box, device = data.plane.box, data.y.device
    noise = smooth_noise(count, box, generator, box // 4).to(device)
    ball = torch.exp(-2 * (1 - soft_sphere(box, edge=box / 2 - 2, device=device)).square())
    return voxel_unit(data, box) * ball * (0.5 + 0.5 * noise)


def consensus(
    data: Observations,
    config: AbInitioConfig,
    generator: torch.Generator,
    progress: tqdm,
    guess: Float[Tensor, "box box box"] | None = None,
) -> Float[Tensor, "box box box"]:
    """Fit one volume by several EM runs from smooth random noise, and return the likeliest volume, with its symmetry imposed.

    The first run starts from ``guess`` if one is given. Runs that end in the correct fold reach the same likelihood, and few
    runs end in a wrong fold. The function therefore stops as soon as the two best runs agree in their likelihood.
    """
    found, schedule = [], replace(config.consensus, symmetry="C1")
    for restart in range(schedule.restarts):
        progress.set_postfix_str(f"consensus, restart {restart + 1}")
        noise = random_volumes(1, data, generator)  # also for the guess, so that later restarts do not depend on it
        start = noise if restart or guess is None else guess[None]
        volume, score = stochastic_em(data, start, schedule, config, generator, progress)
        found.append((score, volume[0]))
        found.sort(key=lambda pair: -pair[0])
        if len(found) > 1 and found[0][0] - found[1][0] < schedule.agreement * abs(found[0][0]):
            break
    progress.update((schedule.restarts - len(found)) * schedule.steps)
    return with_symmetry(data, found[0][1], config, generator, progress)


def with_symmetry(
    data: Observations, volume: Float[Tensor, "box box box"], config: AbInitioConfig, generator: torch.Generator, progress: tqdm
) -> Float[Tensor, "box box box"]:
    """Place the symmetry axes of a volume on the axes of the group ``config.consensus.symmetry``, and refit it with symmetry.

    EM from noise without symmetry is more reliable than EM from noise with symmetry, which may place the axes wrongly. The
    function warns if the symmetric volume explains less than :data:`SYMMETRIC_SHARE` of the evidence that the given volume
    explains. Without a symmetry, it returns the volume unchanged.
    """
    symmetry = config.consensus.symmetry
    if symmetry == "C1":
        return volume
    schedule = replace(config.division.together, radius=(SYMMETRIC_FROM, config.consensus.radius[1]), symmetry=symmetry)
    progress.total += schedule.steps
    aligned = align_axes(volume, symmetry_rotations(symmetry).to(volume))
    found = stochastic_em(data, aligned[None], schedule, config, generator, progress)[0][0]
    box, sample = data.plane.box, data.evenly_spaced(SYMMETRY_SAMPLE)
    share = explained_share(sample, found, volume, schedule.radius[1] * box, config.poses(box, found.device))
    if share < SYMMETRIC_SHARE:
        warnings.warn(
            f"symmetry {symmetry}: the symmetric volume explains {100 * share:.0f} % of the evidence that a volume without "
            "symmetry explains; the molecule may have another symmetry",
            stacklevel=2,
        )
    return found


def poses_are_open(
    data: Observations, volumes: Float[Tensor, "v box box box"], config: AbInitioConfig, sample: int = 200
) -> bool:
    """Return whether the posterior of the median image is spread over more than ``open_poses`` rotations of the grid.

    The function examines ``sample`` images. If the posterior is narrower, the grid is too coarse for the images, and the
    likeliest pose is a better estimate than the posterior on the grid. Returns False if ``config.soft`` has no steps.
    """
    if not config.soft.steps:
        return False
    spread = torch.linspace(0, len(data) - 1, min(sample, len(data)), device=volumes.device).long()
    band = data[spread].within(config.soft.radius[1] * data.plane.box)
    grid, shifts = config.weighed_poses(data.plane.box, volumes.device)
    return float(open_rotations(band, volumes, grid, shifts, padding=config.padding).median()) > config.open_poses


def soften(
    data: Observations,
    volumes: Float[Tensor, "v box box box"],
    config: AbInitioConfig,
    steps: int,
    generator: torch.Generator,
    progress: tqdm,
) -> Float[Tensor, "v box box box"]:
    """Refit volumes by ``steps`` of EM on the schedule ``config.soft``, which weighs all poses and volumes of each image."""
    return stochastic_em(data, volumes, replace(config.soft, steps=steps), config, generator, progress)[0]

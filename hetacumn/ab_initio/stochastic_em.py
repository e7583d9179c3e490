"""Volumes by stochastic EM: every step takes a few images, weighs all poses of a grid by their posterior, and moves the
voxels along the gradient of the expected log-likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from hetacumn.ab_initio.config import AbInitioConfig, EMSchedule
from hetacumn.compute.batches import batch_slices
from hetacumn.particles.observations import Observations, signal_nats
from hetacumn.physics.fourier import padded_size
from hetacumn.physics.slices import Slicer, Stencil, make_stencil
from hetacumn.physics.volumes import soft_sphere
from hetacumn.search.grid import images_at_once, log_likelihood, open_rotations, pose_grid, posterior_


def voxel_unit(data: Observations, box: int) -> float:
    """The scale of a voxel that the images' signal power suggests, for learning rates and random starts."""
    power = 2 * signal_nats(data, 0.25 * box) / float(data.within(0.25 * box).ctf.square().mean())
    return max(power, 1e-3) ** 0.5 / box**1.5


@dataclass(frozen=True)
class _Stage:
    """A grid of poses and where its slices read the transform, for the steps up to ``until`` (a fraction of the run)."""

    rotations: Tensor
    stencil: Stencil
    until: float


def stochastic_em(
    data: Observations,
    start: Tensor,
    schedule: EMSchedule,
    config: AbInitioConfig,
    generator: torch.Generator,
    progress: tqdm,
) -> tuple[Tensor, float]:
    """Fit ``(v, box, box, box)`` volumes by EM with an exhaustive pose posterior, on a schedule.

    ``config`` gives the shifts, the batch and the padding. Returns the volumes, and the mean log evidence per image over
    the last fifth of the run.
    """
    steps, radius, coarse = schedule.steps, schedule.radius, schedule.coarse_radius
    box, device = start.shape[-1], start.device
    shifts = config.grid.shifts(box, config.grid.step_px).to(device)
    size = padded_size(box, config.padding)
    switch = 0.8 * (coarse - radius[0]) / (radius[1] - radius[0])
    stages = []
    for i, grid in enumerate(schedule.grids):
        last = i == len(schedule.grids) - 1
        rotations = pose_grid(*grid).to(device)
        outer = data.plane.count((radius[1] if last else coarse) * box)
        stencil = make_stencil(rotations, data.k[:outer], size, box)
        stages.append(_Stage(rotations, stencil, 1.0 if last else switch))
    mask = soft_sphere(box, device=device)
    unit = voxel_unit(data, box)
    voxels = (start / unit).clone().requires_grad_()
    optimiser = torch.optim.Adam([voxels], lr=schedule.rate, betas=(0.8, 0.99))
    evidence = []
    for step in range(steps):
        done = step / max(steps - 1, 1)
        stage = next(stage for stage in stages if done <= stage.until)
        m = data.plane.count((radius[0] + (radius[1] - radius[0]) * min(1.0, done / 0.8)) * box)
        m = min(m, stage.stencil.shape[1])
        sharpness = min(1.0, schedule.temper ** (1 - 2 * done))
        optimiser.param_groups[0]["lr"] = schedule.rate * (1 if done < 0.6 else 0.1 ** ((done - 0.6) / 0.4))
        rows = torch.randint(len(data), (config.batch,), generator=generator).to(device, non_blocking=True)
        part = Observations(data.y[rows, :m], data.ctf[rows, :m], data.plane)
        slicer = Slicer(voxels * mask * unit, config.padding)
        flat = slicer.read(stage.stencil.narrow(m)).transpose(1, 2).flatten(0, 1)  # (r * v, m)
        with torch.no_grad():
            gradient, log_sum = _expected_gradient(part, flat, shifts, sharpness)
            evidence.append(log_sum.mean())
        optimiser.zero_grad()
        flat.backward(gradient)
        optimiser.step()
        progress.update()
    last = torch.stack(evidence[-max(1, steps // 5) :]).mean()
    return (voxels.detach() * mask * unit), float(last)


def _expected_gradient(part: Observations, slices: Tensor, shifts_px: Tensor, sharpness: float) -> tuple[Tensor, Tensor]:
    """The gradient ``(s, m)`` of the mean misfit by the slices ``(s, m)``, all slices and shifts weighed by their posterior;
    and the log evidence of each image ``(b,)``.
    """
    pull, push, evidence = 0.0, 0.0, []
    batch = images_at_once(len(part), slices, shifts_px)
    for rows in batch_slices(len(part), batch):
        some = part[rows]
        share, log_sum = posterior_(log_likelihood(some, slices, shifts_px).flatten(1), sharpness)  # (b, t * s)
        share = share.unflatten(1, (len(shifts_px), -1))
        moved = some.plane.translate((some.y * some.ctf * some.weight)[:, None], -shifts_px)
        pull = pull + share.flatten(0, 1).T @ torch.view_as_real(moved).flatten(0, 1).flatten(1)
        push = push + share.sum(1).T @ (some.ctf.square() * some.weight)
        evidence.append(log_sum)
    pull = torch.view_as_complex(pull.unflatten(1, (-1, 2)).contiguous())
    return (push * slices - pull) / len(part), torch.cat(evidence)


def smooth_noise(count: int, box: int, generator: torch.Generator, cells: int) -> Tensor:
    """Random fields ``(count, box, box, box)`` of unit variance with features of about ``box / cells`` voxels."""
    field = torch.randn(max(count, 1), cells, cells, cells, generator=generator)[:, None]
    field = torch.nn.functional.interpolate(field, size=(box,) * 3, mode="trilinear")[:, 0]
    return (field / field.std(dim=(1, 2, 3), keepdim=True))[:count]


def consensus(
    data: Observations, config: AbInitioConfig, generator: torch.Generator, progress: tqdm, guess: Tensor | None = None
) -> Tensor:
    """One volume ``(box, box, box)``: the likeliest of several restarts from smooth random noise, the first from a ``guess``
    if there is one.

    A right fold is found again and again with the same likelihood, a wrong one seldom: as soon as two restarts agree on
    the best likelihood the others are spared.
    """
    box, unit, found = data.plane.box, voxel_unit(data, data.plane.box), []
    schedule = config.consensus
    for restart in range(schedule.restarts):
        progress.set_postfix_str(f"consensus, restart {restart + 1}")
        noise = smooth_noise(1, box, generator, box // 4).to(data.y.device)
        ball = torch.exp(-2 * (1 - soft_sphere(box, edge=box / 2 - 2, device=noise.device)).square())
        start = unit * ball * (0.5 + 0.5 * noise) if restart or guess is None else guess[None]
        volume, score = stochastic_em(data, start, schedule, config, generator, progress)
        found.append((score, volume[0]))
        found.sort(key=lambda pair: -pair[0])
        if len(found) > 1 and found[0][0] - found[1][0] < schedule.agreement * abs(found[0][0]):
            break
    progress.update((schedule.restarts - len(found)) * schedule.steps)
    return found[0][1]


def poses_are_open(data: Observations, volumes: Tensor, config: AbInitioConfig, sample: int = 200) -> bool:
    """Whether the median posterior of some images is spread over more than ``open_poses`` rotations of the grid.

    Where it is not, the grid is coarser than the images tell, and its posterior is worth less than the likeliest pose.
    """
    if not config.soft.steps:
        return False
    spread = torch.linspace(0, len(data) - 1, min(sample, len(data)), device=volumes.device).long()
    band = data[spread].within(config.soft.radius[1] * data.plane.box)
    rotations, shifts = config.weighed_poses(data.plane.box, volumes.device)
    return float(open_rotations(band, volumes, rotations, shifts, padding=config.padding).median()) > config.open_poses


def soften(
    data: Observations, volumes: Tensor, config: AbInitioConfig, steps: int, generator: torch.Generator, progress: tqdm
) -> Tensor:
    """``(k, box, box, box)`` volumes fitted again by EM, all poses and volumes of each image weighed."""
    return stochastic_em(data, volumes, replace(config.soft, steps=steps), config, generator, progress)[0]

"""A linear subspace of volumes fitted to posed images, by probabilistic PCA."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from hetacumn.ab_initio.config import AbInitioConfig
from hetacumn.ab_initio.stochastic_em import smooth_noise, voxel_unit
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations
from hetacumn.physics.slices import Slicer
from hetacumn.physics.volumes import soft_sphere
from hetacumn.search.subspace import ComponentPrior, latent_posterior


@dataclass(frozen=True)
class SubspaceFit:
    """A fit of the subspace: gradient ``steps``, Adam's ``rate`` in units of the voxels' scale, images of a ``batch``, the
    ``padding`` of volumes, and the expected power of a component as a share of the mean's (0: no prior).
    """

    steps: int
    batch: int
    padding: float
    component_share: float
    rate: float = 0.03

    @classmethod
    def of(cls, config: AbInitioConfig, steps: int, rate: float = 0.03) -> SubspaceFit:
        """The fit in the settings of an ab initio start."""
        return cls(steps, 2 * config.batch, config.padding, config.effort.component_share, rate)


def fit_subspace(
    data: Observations, basis: Tensor, poses: Poses, fit: SubspaceFit, generator: torch.Generator, progress: tqdm
) -> Tensor:
    """Probabilistic PCA of volumes at given poses, from a ``basis`` ``(1 + q, box, box, box)`` on.

    Gradient ascent on the log evidence, z integrated out, and the log prior of components
    (:class:`~hetacumn.search.subspace.ComponentPrior`).
    """
    box, steps = basis.shape[-1], fit.steps
    mask, unit = soft_sphere(box, device=basis.device), voxel_unit(data, box)
    prior = ComponentPrior(box, fit.component_share, basis.device) if fit.component_share else None
    voxels = (basis / unit).clone().requires_grad_()
    optimiser = torch.optim.Adam([voxels], lr=fit.rate)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = fit.rate * min(1.0, 2 * (1 - step / steps)) + 1e-4
        rows = torch.randint(len(data), (fit.batch,), generator=generator).to(basis.device, non_blocking=True)
        volumes = voxels * mask * unit
        loss = -latent_posterior(data[rows], Slicer(volumes, fit.padding), poses[rows]).log_evidence.mean()
        if prior is not None:
            loss = loss + prior.penalty(volumes) / len(data)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        progress.update()
    return voxels.detach() * mask * unit


def principal(volumes: Tensor, weights: Tensor, components: int, generator: torch.Generator, unit: float) -> Tensor:
    """Mean and principal components of K weighted volumes as a basis ``(1 + components, ...)`` for z of unit variance.

    Components beyond K - 1 start as faint smooth noise.
    """
    box = volumes.shape[-1]
    mean = (weights[:, None, None, None] * volumes).sum(0)
    scaled = ((volumes - mean) * weights.sqrt()[:, None, None, None]).flatten(1)
    _, values, directions = torch.linalg.svd(scaled, full_matrices=False)
    found = min(len(volumes) - 1, components)
    parts = (values[:found, None] * directions[:found]).unflatten(1, (box,) * 3)
    faint = 0.1 * unit * smooth_noise(components - found, box, generator, box // 4).to(volumes)
    return torch.cat([mean[None], parts, faint * soft_sphere(box, device=volumes.device)])

"""Linear subspaces of volumes: the principal subspace of K volumes, and fits to posed images by probabilistic PCA."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from hetacumn.ab_initio.config import AbInitioConfig
from hetacumn.ab_initio.division import search_one_by_one
from hetacumn.ab_initio.start import Start
from hetacumn.ab_initio.stochastic_em import smooth_noise, voxel_unit
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations, far_above
from hetacumn.physics.alignment import Placement
from hetacumn.physics.slices import Slicer
from hetacumn.physics.volumes import soft_sphere
from hetacumn.search.clusters import Clusters, move_frames
from hetacumn.search.focus import WHOLE, Focus
from hetacumn.search.grid import search_grid
from hetacumn.search.refinement import Tangent, climb, misfit
from hetacumn.search.state import State
from hetacumn.search.subspace import ComponentPrior, infer_latents, latent_posterior

UNFIT = 3.0  # an image is unfit if its misfit exceeds the median misfit by more than this number of standard deviations


@dataclass(frozen=True)
class SubspaceFit:
    """Settings of a subspace fit.

    - ``steps``: gradient steps.
    - ``batch``: images per step.
    - ``padding``: zero-padding factor of volumes.
    - ``component_share``: expected power of a component as a fraction of the power of the mean volume; 0 for no prior.
    - ``rate``: learning rate of Adam, in units of the typical voxel value.
    - ``focus``: the region in which the components differ from 0.
    """

    steps: int
    batch: int
    padding: float
    component_share: float
    rate: float = 0.03
    focus: Focus = WHOLE

    @classmethod
    def of(cls, config: AbInitioConfig, steps: int, rate: float = 0.03, focus: Focus = WHOLE) -> SubspaceFit:
        """Return the settings of a fit for given settings of the *ab initio* start."""
        return cls(steps, 2 * config.batch, config.padding, config.effort.component_share, rate, focus)


def fit_subspace(
    data: Observations,
    basis: Float[Tensor, "volumes box box box"],
    poses: Poses,
    fit: SubspaceFit,
    generator: torch.Generator,
    progress: tqdm,
) -> Float[Tensor, "volumes box box box"]:
    """Fit mean and components to posed images by probabilistic PCA, starting from ``basis``.

    Gradient ascent maximises the log evidence, with z integrated out, plus the log prior of the components
    (:class:`~hetacumn.search.subspace.ComponentPrior`).
    """
    box, steps = basis.shape[-1], fit.steps
    support, unit = fit.focus.support(len(basis), box, basis.device), voxel_unit(data, box)
    prior = ComponentPrior(box, fit.component_share, basis.device) if fit.component_share else None
    voxels = (basis / unit).clone().requires_grad_()
    optimiser = torch.optim.Adam([voxels], lr=fit.rate)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = fit.rate * min(1.0, 2 * (1 - step / steps)) + 1e-4
        rows = torch.randint(len(data), (fit.batch,), generator=generator).to(basis.device, non_blocking=True)
        volumes = voxels * support * unit
        loss = -latent_posterior(data[rows], Slicer(volumes, fit.padding), poses[rows]).log_evidence.mean()
        if prior is not None:
            loss = loss + prior.penalty(volumes) / len(data)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        progress.update()
    return voxels.detach() * support * unit


def principal(
    volumes: Float[Tensor, "k box box box"],
    weights: Float[Tensor, " k"],
    components: int,
    generator: torch.Generator,
    unit: float,
) -> Float[Tensor, "1+{components} box box box"]:
    """Compute mean and principal components of K weighted volumes, scaled so that z has unit variance.

    Components beyond K - 1 are smooth noise of low amplitude, 0.1 of ``unit``, the typical voxel value.
    """
    box = volumes.shape[-1]
    mean = (weights[:, None, None, None] * volumes).sum(0)
    scaled = ((volumes - mean) * weights.sqrt()[:, None, None, None]).flatten(1)
    _, values, directions = torch.linalg.svd(scaled, full_matrices=False)
    found = min(len(volumes) - 1, components)
    parts = (values[:found, None] * directions[:found]).unflatten(1, (box,) * 3)
    faint = 0.1 * unit * smooth_noise(components - found, box, generator, box // 4).to(volumes)
    return torch.cat([mean[None], parts, faint * soft_sphere(box, device=volumes.device)])


def span(
    data: Observations,
    volumes: Float[Tensor, "k box box box"],
    route: str,
    config: AbInitioConfig,
    generator: torch.Generator,
    one_by_one: bool = False,
) -> Start:
    """Find the likeliest pose of each image under K volumes, and compute the principal subspace of the volumes and the latents.

    With ``one_by_one`` the volumes compete after Gauss-Newton steps (:func:`~hetacumn.ab_initio.division.search_one_by_one`).
    """
    band, box, device = data.within(config.classes.radius[1] * data.plane.box), data.plane.box, volumes.device
    if one_by_one:
        poses, labels = search_one_by_one(data, volumes, config.competing_poses(box, device), config)
        share = labels.bincount(minlength=len(volumes)) / len(labels)
    else:
        found = search_grid(band, volumes, *config.poses(box, device), padding=config.padding)
        poses, share = found.poses, found.log_volume.exp().mean(0)
    basis = principal(volumes, share, config.components, generator, voxel_unit(data, box))
    latents = torch.zeros(len(data), config.components, device=device)
    if len(volumes) > 1:
        latents = infer_latents(band, Slicer(basis, config.padding), poses).mean
    return Start(basis, poses, latents, route, {})


def move_clusters(
    data: Observations,
    start: Start,
    clusters: Clusters,
    places: list[Placement],
    config: AbInitioConfig,
    generator: torch.Generator,
) -> Start:
    """Apply the placements of clusters to volumes and poses, and compute the subspace of the volumes and the latents again."""
    volumes, poses = move_frames(clusters, start.poses, places)
    share = clusters.counts.float() / len(clusters.labels)
    basis = principal(volumes, share, config.components, generator, voxel_unit(data, data.plane.box))
    band = data.within(config.classes.radius[1] * data.plane.box)
    return replace(start, basis=basis, poses=poses, latents=infer_latents(band, Slicer(basis, config.padding), poses).mean)


def unfit_images(data: Observations, start: Start, config: AbInitioConfig) -> Bool[Tensor, " n"]:
    """Return which images are unfit: their misfit exceeds the median by more than :data:`UNFIT` standard deviations."""
    radius = config.refine.fit
    tangent = Tangent(start.basis, config.padding)
    _, value = climb(data, tangent, State(start.poses, start.latents), (radius,))
    return far_above(misfit(value, tangent.band(data, radius)), UNFIT)

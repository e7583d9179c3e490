"""The posterior of the conformation of a posed image, in closed form for a linear subspace of volumes.

For volumes ``V(z) = V_0 + Σ_j z_j V_j`` and ``z ~ N(0, I)``, the noise-free image at a given pose is linear in z. Therefore

    p(z | Y, pose) = N(M⁻¹ b, M⁻¹),   M = I + AᵀA,   b = Aᵀ r,

where the columns of ``A`` are the CTF-filtered slices of ``V_j``, and ``r`` is the image minus the CTF-filtered slice of
``V_0``, both in units of the noise (probabilistic PCA, Tipping & Bishop 1999).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.compute.batches import batch_slices
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations
from hetacumn.physics.slices import Slicer
from hetacumn.search.state import State

LEAST_POWER = 1e-4  # smallest power of a shell in the prior, as a fraction of the strongest shell's


def volumes_at(latents: Float[Tensor, "n q"], basis: Float[Tensor, "1+q box box box"]) -> Float[Tensor, "n box box box"]:
    """Compute the volume V(z) of each latent, for a basis of mean and components."""
    return torch.einsum("nj,jxyz->nxyz", mixing_of(latents), basis)


@dataclass(frozen=True)
class LatentPosterior:
    """The normal posterior of z of each posed image, and the log evidence of the image.

    ``mean`` and ``precision`` (inverse covariance) describe the posterior. ``log_evidence`` is the log-likelihood with z
    integrated out, without the constant ``-½ Σ w |Y|²`` of each image.
    """

    mean: Float[Tensor, "n q"]
    precision: Float[Tensor, "n q q"]
    log_evidence: Float[Tensor, " n"]


def mixing_of(latents: Float[Tensor, "n q"]) -> Float[Tensor, "n 1+q"]:
    """Return the weights of mean and components in V(z): latents with a column of ones in front."""
    return torch.cat([latents.new_ones(len(latents), 1), latents], dim=1)


def latent_posterior(data: Observations, slicer: Slicer, poses: Poses) -> LatentPosterior:
    """Compute the posterior of z at given poses.

    ``slicer`` holds ``1 + q`` volumes: the mean, then the components. The posterior is differentiable in the volumes.
    """
    slices = slicer.read(slicer.stencil(poses.rotations, data.k)) * (data.ctf * data.weight.sqrt())[..., None]
    model = torch.view_as_real(slices).movedim(-1, 1).flatten(1, 2)  # (n, 2m, 1 + q)
    centred = data.plane.translate(data.y, -poses.shifts_px) * data.weight.sqrt()
    image = torch.view_as_real(centred).movedim(-1, 1).flatten(1, 2)
    gram = model.mT @ model
    match = (model.mT @ image[..., None]).squeeze(-1)
    b = match[:, 1:] - gram[:, 1:, 0]
    precision = gram[:, 1:, 1:] + torch.eye(b.shape[1], device=b.device)
    factor, _ = torch.linalg.cholesky_ex(precision)  # precision is positive; a check would wait for the device
    mean = torch.cholesky_solve(b[..., None], factor).squeeze(-1)
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    evidence = match[:, 0] - 0.5 * gram[:, 0, 0] + 0.5 * (b * mean).sum(-1) - 0.5 * log_det
    return LatentPosterior(mean, precision, evidence)


class ComponentPrior:
    """A prior of components: their expected power in each Fourier shell is ``share`` times the power of the mean volume.

    Each coefficient of a component's transform is N(0, share · P). P is the mean power of the mean volume in the shell of the
    coefficient, but at least :data:`LEAST_POWER` times the power of the strongest shell. This lower limit prevents very large
    gradients in shells of low power. The prior extends the regularised likelihood of one volume (Scheres 2012) to components.
    Without the prior, components that the images do not need fit noise, and the poses follow this noise. ``box`` is the number
    of voxels per side.
    """

    def __init__(self, box: int, share: float, device: torch.device) -> None:
        self.share = share
        axis, half = torch.fft.fftfreq(box, 1 / box, device=device), torch.fft.rfftfreq(box, 1 / box, device=device)
        shell = (axis[:, None, None].square() + axis[:, None].square() + half.square()).sqrt().round().long()
        mates = torch.where((half > 0) & (half < box // 2), 2.0, 1.0)  # coefficients of the full transform per one of this half
        self.shell, self.weight = shell.flatten(), mates.expand(shell.shape).flatten()
        self.counts = axis.new_zeros(box).index_add(0, self.shell, self.weight)  # coefficients per shell, up to the corners

    def penalty(self, basis: Float[Tensor, "volumes box box box"]) -> Float[Tensor, ""]:
        """Compute minus the log density of the components of a basis given its mean, without the normalising constant."""
        power = torch.fft.rfftn(basis, dim=(1, 2, 3), norm="ortho").flatten(1).abs().square() * self.weight
        of_mean = torch.zeros_like(self.counts).index_add(0, self.shell, power[0].detach()) / self.counts.clamp(min=1)
        expected = self.share * torch.maximum(of_mean, LEAST_POWER * of_mean.amax())
        return 0.5 * (power[1:].sum(0) / expected[self.shell]).sum()


@torch.no_grad()
def infer_latents(data: Observations, slicer: Slicer, poses: Poses, batch: int = 500) -> LatentPosterior:
    """Compute the :func:`latent_posterior` of any number of images, ``batch`` images at a time, without gradients."""
    parts = [latent_posterior(data[rows], slicer, poses[rows]) for rows in batch_slices(len(data), batch)]
    return LatentPosterior(
        torch.cat([p.mean for p in parts]),
        torch.cat([p.precision for p in parts]),
        torch.cat([p.log_evidence for p in parts]),
    )


@torch.no_grad()
def likeliest_copies(data: Observations, slicer: Slicer, poses: Poses, group: Float[Tensor, "g 3 3"]) -> State:
    """Choose the likeliest of the poses ``R g`` of each image, for the rotations ``g`` of a point group.

    The evidence of a pose is the log-likelihood with z integrated out. Returns the chosen poses, and the posterior means of z.
    """
    copies = [Poses(poses.rotations @ g, poses.shifts_px) for g in group]
    found = [infer_latents(data, slicer, copy) for copy in copies]
    best = torch.stack([one.log_evidence for one in found]).argmax(0)
    rows = torch.arange(len(best), device=best.device)
    rotations = torch.stack([copy.rotations for copy in copies])[best, rows]
    return State(Poses(rotations, poses.shifts_px), torch.stack([one.mean for one in found])[best, rows])

"""Decoders, which map a latent z to a volume: two kinds behind one interface, :class:`Decoder`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from tqdm import tqdm

from hetacumn.compute.precision import autocast
from hetacumn.physics.rotations import random_rotations
from hetacumn.physics.slices import Slicer
from hetacumn.search.focus import WHOLE, Focus
from hetacumn.search.subspace import mixing_of

#: A function that renders the slice of each latent at a rotation and at integer frequencies (kx, ky).
Drawing = Callable[[Float[Tensor, "b q"], Float[Tensor, "b 3 3"], Float[Tensor, "m 2"]], Complex[Tensor, "b m"]]

IMITATION_STEPS, IMITATION_SLICES, IMITATION_RATE = 1500, 64, 3e-3  # gradient steps, slices per step, Adam's rate


@runtime_checkable
class Decoder(Protocol):
    """The interface of decoders, which are PyTorch modules. A ``basis`` is a mean volume and ``q`` components."""

    box: int
    latent_dim: int

    def volumes(self, z: Float[Tensor, "b q"]) -> Float[Tensor, "b box box box"]:
        """Compute the density V(z) of each latent."""
        ...

    def drawing(self, highest: float | None = None) -> Drawing:
        """Return a function that renders slices.

        The function is valid until the weights change. ``highest`` is the highest integer frequency to be rendered, None for
        all frequencies.
        """
        ...

    def linear_basis(self) -> Float[Tensor, "1+q box box box"]:
        """Return the mean and the components of a linear approximation of V(z) about z = 0."""
        ...

    def start_from(
        self,
        basis: Float[Tensor, "1+q box box box"],
        latents: Float[Tensor, "n q"],
        k: Float[Tensor, "m 2"],
        generator: torch.Generator,
    ) -> None:
        """Initialise the weights from the volumes of a ``basis``.

        ``latents`` are examples of z that the decoder will render. ``k`` are the integer frequencies of an image.
        """
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Iterate over the weights."""
        ...


class VoxelDecoder(nn.Module):
    """A decoder of explicit volumes, ``V(z) = V_0 + Σ_j z_j V_j``, masked by a soft sphere and by the ``focus``.

    ``basis`` holds the initial mean and components. Voxels are stored divided by ``unit``, the standard deviation of the mean
    volume, so that one learning rate suits every dataset. ``padding`` is the zero-padding factor before the Fourier transform.
    """

    unit: Float[Tensor, ""]
    mask: Float[Tensor, "j box box box"]

    def __init__(self, basis: Float[Tensor, "j box box box"], padding: float = 2.0, focus: Focus = WHOLE) -> None:
        super().__init__()
        self.box, self.latent_dim, self.padding = basis.shape[-1], len(basis) - 1, padding
        self.register_buffer("unit", _unit_of(basis))
        self.register_buffer("mask", focus.support(len(basis), self.box, basis.device), persistent=False)
        self.voxels = nn.Parameter(basis / self.unit)

    def linear_basis(self) -> Float[Tensor, "{1+self.latent_dim} {self.box} {self.box} {self.box}"]:
        """Return the mean volume and the components, multiplied by the mask and by ``unit``."""
        return self.voxels * (self.mask * self.unit)

    def volumes(self, z: Float[Tensor, "b {self.latent_dim}"]) -> Float[Tensor, "b {self.box} {self.box} {self.box}"]:
        """Return V(z) of each latent."""
        return torch.einsum("bj,jxyz->bxyz", mixing_of(z), self.linear_basis())

    def drawing(self, highest: float | None = None) -> Drawing:
        """Transform the volumes once, and return a function that reads slices of the transform."""
        return partial(_mixed_slices, Slicer(self.linear_basis(), self.padding, highest))

    @torch.no_grad()
    def start_from(
        self,
        basis: Float[Tensor, "{1+self.latent_dim} {self.box} {self.box} {self.box}"],
        latents: Float[Tensor, "n {self.latent_dim}"],
        k: Float[Tensor, "m 2"],
        generator: torch.Generator,
    ) -> None:
        """Set the voxels to the mean volume and the components in ``basis``."""
        unit = _unit_of(basis)
        self.unit.copy_(unit)
        self.voxels.copy_(basis / unit)


def _unit_of(basis: Float[Tensor, "j box box box"]) -> Float[Tensor, ""]:
    """Return the standard deviation of the first volume."""
    return basis[0].std().clamp(min=1e-6).clone()


def _mixed_slices(
    slicer: Slicer, z: Float[Tensor, "b q"], rotations: Float[Tensor, "b 3 3"], k: Float[Tensor, "m 2"]
) -> Complex[Tensor, "b m"]:
    return slicer.read_mixed(slicer.stencil(rotations, k), mixing_of(z))


class CoordinateDecoder(nn.Module):
    """A decoder by an MLP from an encoded Fourier coordinate and z to the transform at this coordinate, as in cryoDRGN.

    The output is Hermitian by construction, so that volumes are real. The initial output is near zero. ``scale`` is the
    expected amplitude of the coefficients of a slice. ``layers`` is the number of hidden layers, each of ``width`` units.
    """

    scale: Float[Tensor, ""]
    bands: Float[Tensor, " bands"]

    def __init__(self, box: int, latent_dim: int, width: int = 128, layers: int = 3, scale: float = 1.0) -> None:
        super().__init__()
        self.box, self.latent_dim = box, latent_dim
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("bands", torch.pi * 2.0 ** torch.arange(6), persistent=False)
        sizes = [3 * (1 + 2 * len(self.bands)) + latent_dim] + [width] * layers
        blocks = [block for a, b in pairwise(sizes) for block in (nn.Linear(a, b), nn.GELU())]
        self.network = nn.Sequential(*blocks, nn.Linear(width, 2))

    def _transform(self, z: Float[Tensor, "b {self.latent_dim}"], points: Float[Tensor, "b m 3"]) -> Complex[Tensor, "b m"]:
        """Compute the transform ``(f(k) + conj f(-k)) / 2`` at points, which are integer frequencies (kx, ky, kz)."""
        there, back = self._evaluate(z, points), self._evaluate(z, -points)
        return 0.5 * torch.complex(there[..., 0] + back[..., 0], there[..., 1] - back[..., 1])

    def _evaluate(self, z: Float[Tensor, "b {self.latent_dim}"], points: Float[Tensor, "b m 3"]) -> Float[Tensor, "b m 2"]:
        """Compute the network's output f at points, as real and imaginary parts."""
        unit = points / (self.box / 2)
        waves = (unit[..., None] * self.bands).flatten(-2)
        encoded = torch.cat([unit, waves.sin(), waves.cos(), z[:, None].expand(-1, points.shape[1], -1)], dim=-1)
        with autocast(points.device):
            values = self.network(encoded)
        return values.float() * (self.scale * torch.exp(-3 * unit.square().sum(-1, keepdim=True)))

    def drawing(self, highest: float | None = None) -> Drawing:
        """Return a function that evaluates the network at every point of a slice."""
        return lambda z, rotations, k: self._transform(z, k @ rotations[:, :2, :])

    def volumes(self, z: Float[Tensor, "b {self.latent_dim}"]) -> Float[Tensor, "b {self.box} {self.box} {self.box}"]:
        """Evaluate the transform of V(z) within the Nyquist sphere for each latent, and return the inverse transforms."""
        axis = torch.arange(self.box, device=z.device, dtype=torch.float32) - self.box // 2
        kz, ky, kx = torch.meshgrid(axis, axis, axis, indexing="ij")
        points = torch.stack([kx, ky, kz], dim=-1).flatten(0, 2)
        inside = (points.square().sum(-1) < (self.box // 2) ** 2).float()
        full = torch.stack([self._transform(one[None], points[None])[0] * inside for one in z])
        full = torch.fft.ifftshift(full.unflatten(1, (self.box,) * 3), dim=(-3, -2, -1))
        return torch.fft.fftshift(torch.fft.ifftn(full, dim=(-3, -2, -1)), dim=(-3, -2, -1)).real * self.box

    def linear_basis(self) -> Float[Tensor, "{1+self.latent_dim} {self.box} {self.box} {self.box}"]:
        """Return V(0) as the mean, and central differences between z_j = ±1 as the components."""
        steps = torch.eye(self.latent_dim, device=self.scale.device)
        components = (self.volumes(steps) - self.volumes(-steps)) / 2
        return torch.cat([self.volumes(torch.zeros_like(steps[:1])), components])

    def start_from(
        self,
        basis: Float[Tensor, "{1+self.latent_dim} {self.box} {self.box} {self.box}"],
        latents: Float[Tensor, "n {self.latent_dim}"],
        k: Float[Tensor, "m 2"],
        generator: torch.Generator,
    ) -> None:
        """Train the network to render the volumes of the basis; see :func:`imitate`."""
        imitate(self, basis.to(self.scale.device), latents, k, generator)


def imitate(
    decoder: CoordinateDecoder,
    basis: Float[Tensor, "j box box box"],
    latents: Float[Tensor, "n j-1"],
    k: Float[Tensor, "m 2"],
    generator: torch.Generator,
    steps: int = IMITATION_STEPS,
) -> None:
    """Fit the network to slices of the linear subspace ``basis``.

    The slices have uniformly random rotations and the frequencies ``k``; their z are sampled from ``latents``.
    """
    drawn = VoxelDecoder(basis).drawing()
    optimiser = torch.optim.Adam(decoder.parameters(), lr=IMITATION_RATE)
    for step in tqdm(range(steps), desc="decoder imitates the start", mininterval=5):
        optimiser.param_groups[0]["lr"] = IMITATION_RATE * (1 - step / steps)
        rows = torch.randint(len(latents), (IMITATION_SLICES,), generator=generator, device=latents.device)
        rotations = random_rotations(IMITATION_SLICES, generator, latents.device)
        with torch.no_grad():
            target = drawn(latents[rows], rotations, k)
        loss = (decoder.drawing()(latents[rows], rotations, k) - target).abs().square().sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

"""Toy particles for tests: projections of Gaussian blobs in closed form, independent of the package's slicer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations
from hetacumn.physics.half_plane import HalfPlane
from hetacumn.physics.optics import Optics
from hetacumn.physics.rotations import inplane, random_rotations
from hetacumn.physics.slices import Slicer


@dataclass(frozen=True)
class Toy:
    """Particles with the true volumes ``(k, box, box, box)`` in the scale of the images, poses and classes."""

    data: Observations
    volumes: Tensor
    poses: Poses
    classes: Tensor

    def basis(self, latent_dim: int = 1) -> Tensor:
        """Return a basis: the mean of the first two volumes, half their difference, and zeros for further components.

        The first volume has z = -1 and the second z = +1.
        """
        mean = self.volumes[:2].mean(0)
        parts = torch.zeros(latent_dim, *mean.shape, device=mean.device)
        parts[0] = self.volumes[min(1, len(self.volumes) - 1)] - mean
        return torch.cat([mean[None], parts])

    def latents(self, latent_dim: int = 1) -> Tensor:
        """Return the true latents of the particles in the subspace of :meth:`basis`."""
        z = torch.zeros(len(self.data), latent_dim, device=self.volumes.device)
        z[:, 0] = 2.0 * self.classes - 1
        return z


def hinged(blobs, degrees: float):
    """Return the blobs with an arm of seven further blobs, rotated about a hinge by ``degrees``."""
    other = blobs.moved()
    along = torch.linspace(0.04, 0.24, 7)[:, None]
    arm = along * torch.tensor([[1.0, 0.0, 0.25]]) @ inplane(torch.tensor(float(degrees))).T
    other.points = torch.cat([0.9 * blobs.points, torch.tensor([0.12, 0.0, 0.05]) + arm])
    return other


def make_toy(
    molecules,
    n: int,
    box: int,
    snr: float,
    device="cpu",
    shift_px: float = 1.0,
    seed: int = 0,
    rotations: Tensor | None = None,
    shifts_px: Tensor | None = None,
) -> Toy:
    """Simulate ``n`` particles, of the molecules in turn, at random poses, with a CTF and white noise of unit variance.

    ``snr`` is the variance of the clean images divided by the variance of the noise, both over the whole box.
    """
    generator = torch.Generator().manual_seed(seed)
    rotations = random_rotations(n, generator) if rotations is None else rotations.cpu()
    shifts = shift_px * (2 * torch.rand(n, 2, generator=generator) - 1) if shifts_px is None else shifts_px.cpu()
    classes = torch.arange(n) % len(molecules)
    clean = torch.stack(
        [
            molecules[k].moved(r, (*(t / box).tolist(), 0.0)).projection(box)
            for k, r, t in zip(classes.tolist(), rotations, shifts, strict=True)
        ]
    )
    plane = HalfPlane(box)
    defocus = 8_000 + 10_000 * torch.rand(n, generator=generator)
    ones = torch.ones(n)
    optics = Optics(
        defocus + 250,
        defocus - 250,
        180 * torch.rand(n, generator=generator),
        300 * ones,
        2.7 * ones,
        0.1 * ones,
        0 * ones,
        pixel_A=120.0 / box,
    )
    ctf = optics.ctf(plane.k / box)
    clean = plane.pack(clean) * ctf
    scale = (snr / plane.unpack(clean).var(dim=(1, 2)).mean()).sqrt()
    y = scale * clean + plane.pack(torch.randn(n, box, box, generator=generator))
    volumes = scale * torch.stack([molecule.volume(box) for molecule in molecules])
    data = Observations(y.to(device), ctf.to(device), HalfPlane(box, device=device))
    poses = Poses(rotations.to(device), shifts.to(device))
    return Toy(data, volumes.to(device), poses, classes.to(device))


def likelihood_at(data: Observations, volumes: Tensor, mixing: Tensor, poses: Poses) -> Tensor:
    """Return ``½‖Y‖² - ½‖Y - X‖²`` ``(n,)``, summed over pixels.

    Y is an image, and X is the projection of the image's own mixture ``(n, j)`` of the volumes at its pose, with its CTF.
    """
    slices = torch.einsum("bjm,bj->bm", Slicer(volumes)(poses.rotations, data.k), mixing.to(torch.complex64))
    images = data.plane.unpack(data.y)
    models = data.plane.unpack(data.plane.translate(slices * data.ctf, poses.shifts_px))
    return 0.5 * (images.square() - (images - models).square()).sum((1, 2))

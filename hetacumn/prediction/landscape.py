"""Axes of the latent space of a stack: independent motions, and paths along them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from sklearn.decomposition import FastICA
from torch import Tensor


@dataclass(frozen=True)
class LatentAxes:
    """Statistically independent directions of a latent space, sorted by how much a unit step changes the volume, largest first.

    - ``coordinates``: positions of the particles along each direction, with unit variance.
    - ``middle``: the mean latent.
    - ``directions``: change of z for a unit step along each direction.
    - ``readout``: change of the positions for a unit step of each latent.
    """

    coordinates: Float[Tensor, "n k"]
    middle: Float[Tensor, " q"]
    directions: Float[Tensor, "k q"]
    readout: Float[Tensor, "k q"]

    def place(self, z: Float[Tensor, "m q"]) -> Float[Tensor, "m k"]:
        """Return the positions of latents along each direction."""
        return (z - self.middle) @ self.readout.T

    def path(self, axis: int, points: int) -> Float[Tensor, "{points} q"]:
        """Return equally spaced latents along an axis, from the 5th to the 95th percentile of the particles."""
        low, high = torch.quantile(self.coordinates[:, axis], torch.tensor([0.05, 0.95])).tolist()
        return self.middle + torch.linspace(low, high, points)[:, None] * self.directions[axis]


def latent_axes(
    latents: Float[Tensor, "n q"], count: int, basis: Float[Tensor, "1+q box box box"], seed: int = 0
) -> LatentAxes:
    """Find the ``count`` independent components (FastICA, Hyvärinen & Oja 2000) that change the volume most.

    ``basis`` is the mean volume, followed by the change of the volume for a unit step of each latent. Principal axes mix
    motions of equal size, whereas independent components separate motions that are statistically independent. A large motion
    follows a curve that spans more than one latent dimension. The function therefore computes components in all dimensions.
    Components that only describe curvature change the volume less and are sorted after the motions.
    """
    z = latents.cpu().double().numpy()
    middle = z.mean(0)
    _, scales, principal = np.linalg.svd(z - middle, full_matrices=False)
    used = int((scales > 1e-6 * max(scales[0], 1e-12)).sum()) or 1
    plane = (z - middle) @ principal[:used].T
    if used > 1:
        fitted = FastICA(used, whiten="unit-variance", max_iter=2000, tol=1e-5, random_state=seed).fit(plane)
        readout, directions = fitted.components_ @ principal[:used], fitted.mixing_.T @ principal[:used]
    else:
        scale = max(plane.std(), 1e-12)
        readout, directions = principal[:1] / scale, scale * principal[:1]
    change = directions @ basis[1:].flatten(1).cpu().double().numpy()  # change of the volume for a unit step
    order = np.argsort(-np.linalg.norm(change, axis=1), kind="stable")[:count]
    readout, directions = readout[order], directions[order]
    largest = directions[np.arange(len(order)), np.abs(directions).argmax(1)]
    sign = np.where(largest < 0, -1.0, 1.0)[:, None]  # fix the free sign of an axis: its largest component is positive
    readout, directions = sign * readout, sign * directions
    coordinates = (z - middle) @ readout.T
    return LatentAxes(*(torch.from_numpy(part).float() for part in (coordinates, middle, directions, readout)))


def latent_path(latents: Float[Tensor, "n q"], points: int) -> Float[Tensor, "{points} q"]:
    """Return equally spaced latents along the first principal axis, from its 5th to its 95th percentile."""
    centre = latents.mean(0)
    axis = torch.linalg.svd(latents - centre, full_matrices=False).Vh[0]
    low, high = torch.quantile((latents - centre) @ axis, torch.tensor([0.05, 0.95], device=latents.device))
    return centre + torch.linspace(float(low), float(high), points, device=latents.device)[:, None] * axis

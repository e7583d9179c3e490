"""The latent space of a whole stack: paths through it, and independent motions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from sklearn.decomposition import FastICA
from torch import Tensor


@dataclass(frozen=True)
class LatentAxes:
    """Independent directions of a latent space, the direction that changes the molecule most first.

    ``coordinates`` of the particles along each direction have unit variance; ``middle`` is the mean latent; ``directions``
    are the steps of z for a unit step along each.
    """

    coordinates: Float[Tensor, "n k"]
    middle: Float[Tensor, " q"]
    directions: Float[Tensor, "k q"]

    def path(self, axis: int, points: int) -> Float[Tensor, "{points} q"]:
        """List latents along an axis, from the 5th to the 95th percentile of the particles."""
        low, high = torch.quantile(self.coordinates[:, axis], torch.tensor([0.05, 0.95])).tolist()
        return self.middle + torch.linspace(low, high, points)[:, None] * self.directions[axis]


def latent_axes(
    latents: Float[Tensor, "n q"], count: int, basis: Float[Tensor, "1+q box box box"], seed: int = 0
) -> LatentAxes:
    """Find the ``count`` independent components (FastICA, Hyvärinen & Oja 2000) that change the volume most.

    ``basis`` is the mean volume and the change of the volume by a unit step of each latent. Principal axes mix motions of
    equal size; independent components separate two motions that particles make independently. A large motion bends through
    more than one dimension: components are sought in all, and the bends, which change the volume less, come after the
    motions.
    """
    z = latents.cpu().double().numpy()
    middle = z.mean(0)
    _, scales, principal = np.linalg.svd(z - middle, full_matrices=False)
    used = int((scales > 1e-6 * max(scales[0], 1e-12)).sum()) or 1
    plane = (z - middle) @ principal[:used].T
    if used > 1:
        fitted = FastICA(used, whiten="unit-variance", max_iter=2000, tol=1e-5, random_state=seed).fit(plane)
        sources, directions = fitted.transform(plane), fitted.mixing_.T @ principal[:used]
    else:
        scale = max(plane.std(), 1e-12)
        sources, directions = plane / scale, scale * principal[:1]
    change = directions @ basis[1:].flatten(1).cpu().double().numpy()  # of the volume, for a step of one
    order = np.argsort(-np.linalg.norm(change, axis=1), kind="stable")[:count]
    sources, directions = sources[:, order], directions[order]
    largest = directions[np.arange(len(order)), np.abs(directions).argmax(1)]
    sign = np.where(largest < 0, -1.0, 1.0)  # the sign of an axis is free: its largest step is made positive
    return LatentAxes(*(torch.from_numpy(part).float() for part in (sources * sign, middle, directions * sign[:, None])))


def latent_path(latents: Float[Tensor, "n q"], points: int) -> Float[Tensor, "{points} q"]:
    """List latents along the first principal axis, from its 5th to its 95th percentile."""
    centre = latents.mean(0)
    axis = torch.linalg.svd(latents - centre, full_matrices=False).Vh[0]
    low, high = torch.quantile((latents - centre) @ axis, torch.tensor([0.05, 0.95], device=latents.device))
    return centre + torch.linspace(float(low), float(high), points, device=latents.device)[:, None] * axis

"""Clusters of latents, and the volumes at their centres."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from sklearn.mixture import GaussianMixture
from torch import Tensor

from hetacumn.search.subspace import volumes_at


@dataclass(frozen=True)
class Clusters:
    """Clusters of latents: the cluster of each image, the centres, the volumes at the centres, and the counts of images."""

    labels: Int[Tensor, " n"]
    centres: Float[Tensor, "k q"]
    volumes: Float[Tensor, "k box box box"]
    counts: Int[Tensor, " k"]


def find_clusters(latents: Float[Tensor, "n q"], basis: Float[Tensor, "1+q box box box"], count: int) -> Clusters:
    """Divide latents into ``count`` clusters by a Gaussian mixture, or into fewer where some stay empty.

    ``basis`` is the mean volume and the components, and gives the volumes of the latents.
    """
    mixture = GaussianMixture(count, n_init=3, reg_covar=1e-3, random_state=0)
    labels = mixture.fit_predict(latents.cpu().double().numpy())
    _, labels, counts = torch.from_numpy(labels).to(latents.device).unique(return_inverse=True, return_counts=True)
    centres = torch.stack([latents[labels == k].mean(0) for k in range(len(counts))])
    return Clusters(labels, centres, volumes_at(centres, basis), counts)

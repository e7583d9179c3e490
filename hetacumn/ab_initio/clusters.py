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
    """Clusters of latents: the cluster of each image, the mean latents, the volumes at these means, and the image counts."""

    labels: Int[Tensor, " n"]
    centres: Float[Tensor, "k q"]
    volumes: Float[Tensor, "k box box box"]
    counts: Int[Tensor, " k"]


def find_clusters(latents: Float[Tensor, "n q"], basis: Float[Tensor, "1+q box box box"], count: int) -> Clusters:
    """Divide latents into ``count`` clusters by a Gaussian mixture; clusters without images are dropped.

    ``basis`` is the mean volume and the components, from which the volumes at the centres are computed.
    """
    mixture = GaussianMixture(count, n_init=3, reg_covar=1e-3, random_state=0)
    labels = mixture.fit_predict(latents.cpu().double().numpy())
    _, labels, counts = torch.from_numpy(labels).to(latents.device).unique(return_inverse=True, return_counts=True)
    centres = torch.stack([latents[labels == k].mean(0) for k in range(len(counts))])
    return Clusters(labels, centres, volumes_at(centres, basis), counts)

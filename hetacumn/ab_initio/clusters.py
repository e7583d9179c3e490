"""Clusters of latents, and the volumes at their centres."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from hetacumn.search.subspace import volumes_at


@dataclass(frozen=True)
class Clusters:
    """Clusters of latents.

    ``labels`` ``(n,)``: the cluster of each image. ``centres`` ``(k, q)``, ``volumes`` ``(k, box, box, box)`` at the centres,
    and ``counts`` ``(k,)`` of images.
    """

    labels: Tensor
    centres: Tensor
    volumes: Tensor
    counts: Tensor


def find_clusters(latents: Tensor, basis: Tensor, count: int) -> Clusters:
    """Divide latents ``(n, q)`` into ``count`` clusters by a Gaussian mixture, or into fewer where some stay empty.

    ``basis`` ``(1 + q, box, box, box)`` gives the volumes of the latents.
    """
    mixture = GaussianMixture(count, n_init=3, reg_covar=1e-3, random_state=0)
    labels = mixture.fit_predict(latents.cpu().double().numpy())
    _, labels, counts = torch.from_numpy(labels).to(latents.device).unique(return_inverse=True, return_counts=True)
    centres = torch.stack([latents[labels == k].mean(0) for k in range(len(counts))])
    return Clusters(labels, centres, volumes_at(centres, basis), counts)

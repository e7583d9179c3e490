"""Classes of particles: clusters in the latent space, or what is likelier over all poses.

Where images tell their pose, z tells the class, and a Gaussian mixture of all z finds the classes. Where poses stay open, z at
the likeliest pose would be that of its noise: there the class is the likelier by the images themselves, all poses weighed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from hetacumn.errors import HetacumnError

SPREADS = ("full", "tied")  # of classes in the latent space: each its own, or one for all


@dataclass(frozen=True)
class Classes:
    """``labels`` ``(n,)`` from 0, the largest class first, and the latent ``centres`` ``(k, q)``."""

    labels: Tensor
    centres: Tensor


def classify(latents: Tensor, classes: int | None, seed: int = 0, most: int = 8) -> Classes:
    """Gaussian mixture on latents ``(n, q)``; the number of classes given, or of the least BIC up to ``most``.

    BIC also tells whether each class has a spread of its own or all have one, that of the noise, as of faint images.
    """
    z = latents.cpu().double().numpy()
    if classes is not None and not 1 <= classes <= len(z):
        raise HetacumnError(f"{classes} classes of {len(z)} particles; expected 1 to {len(z)}")
    if len(z) == 1:
        return Classes(torch.zeros(1, dtype=torch.long), latents.cpu().float())
    counts = [classes] if classes else range(1, min(most, len(z)) + 1)
    best = _of_least_bic([GaussianMixture(k, covariance_type=spread, n_init=5, reg_covar=1e-4, random_state=seed)
                          for k in counts for spread in SPREADS], z)  # fmt: skip
    order = np.argsort(-best.weights_)
    rank = np.argsort(order)
    return Classes(torch.from_numpy(rank[best.predict(z)]).long(), torch.from_numpy(best.means_[order]).float())


def centres_of(latents: Tensor, classes: int | None, seed: int = 0) -> Tensor:
    """The centres ``(k, q)`` of classes of *some* latents ``(n, q)``, which may be fewer than the classes; on their device."""
    return classify(latents, classes and min(classes, len(latents)), seed).centres.to(latents.device)


def classify_as(latents: Tensor, known: Tensor, labels: Tensor) -> Tensor:
    """The classes ``(n,)`` of latents ``(n, q)`` under the Gaussian mixture that gave ``known`` ones their ``labels``."""
    z, known_z, labels = latents.cpu().double().numpy(), known.double().numpy(), labels.numpy()
    present = np.unique(labels)
    members = [known_z[labels == k] for k in present]
    shares, means = [len(some) / len(labels) for some in members], [some.mean(0) for some in members]
    own = np.stack([1e-4 * np.eye(known_z.shape[1]) + (some - mean).T @ (some - mean) / len(some)
                    for some, mean in zip(members, means, strict=True)])  # fmt: skip
    inverses = {"full": np.linalg.inv(own), "tied": np.linalg.inv(np.tensordot(shares, own, 1))}
    best = _of_least_bic([
        GaussianMixture(len(members), covariance_type=spread, reg_covar=1e-4, weights_init=shares, means_init=means,
                        precisions_init=inverses[spread])
        for spread in SPREADS
    ], known_z)  # fmt: skip
    return torch.from_numpy(present[best.predict(z)]).long()


def _of_least_bic(mixtures: list[GaussianMixture], z: np.ndarray) -> GaussianMixture:
    """The mixtures fitted to ``(n, q)`` latents, and the best of them."""
    return min((mixture.fit(z) for mixture in mixtures), key=lambda fit: fit.bic(z))


def likelier(log_likelihood: Tensor, centres: Tensor, rounds: int = 100, sort: bool = True) -> Classes:
    """The likelier of the classes at ``centres`` ``(k, q)`` by ``(n, k)`` log-likelihoods; how large the classes are is found
    by EM. Without ``sort`` they keep the order of ``centres``."""
    scores = log_likelihood.double()
    log_share = torch.zeros(len(centres), dtype=scores.dtype, device=scores.device)
    for _ in range(rounds):
        log_share = (scores + log_share).log_softmax(1).logsumexp(0) - np.log(len(scores))
    labels = (scores + log_share).argmax(1)
    if not sort:
        return Classes(labels.cpu(), centres.cpu())
    order = labels.bincount(minlength=len(centres)).argsort(descending=True, stable=True)
    return Classes(order.argsort()[labels].cpu(), centres[order].cpu())

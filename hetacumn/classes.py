"""Classes of particles: clusters in the latent space, or what is likelier over all poses.

Where images tell their pose, z tells the class, and a Gaussian mixture of all z finds the classes. Where poses stay open, z at
the likeliest pose would be that of its noise: there the class is the likelier by the images themselves, all poses weighed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import MultivariateNormal

from hetacumn.errors import HetacumnError

SPREADS = ("full", "tied")  # of classes in the latent space: each its own, or one for all


@dataclass(frozen=True)
class Mixture:
    """Gaussians in the latent space, in double precision: ``weights`` ``(k,)``, ``means`` ``(k, q)``, ``covariances``
    ``(k, q, q)``."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    @classmethod
    def of(cls, content: dict[str, list]) -> Mixture:
        """What :meth:`content` wrote."""
        return cls(**{name: torch.tensor(values, dtype=torch.float64) for name, values in content.items()})

    def content(self) -> dict[str, list]:
        """As JSON has it."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}

    def probabilities(self, latents: Tensor) -> Tensor:
        """That each of latents ``(n, q)`` is of each of them, ``(n, k)``."""
        gaussians = MultivariateNormal(self.means, self.covariances)
        return (gaussians.log_prob(latents.cpu().double()[:, None]) + self.weights.log()).softmax(1)


@dataclass(frozen=True)
class Classes:
    """``probabilities`` ``(n, k)`` of classes, the largest first, their latent ``centres`` ``(k, q)``, and the ``mixture`` that
    tells those of others likewise, where they are of one."""

    probabilities: Tensor
    centres: Tensor
    mixture: Mixture | None = None

    @property
    def labels(self) -> Tensor:
        """The likeliest class of each, ``(n,)``, from 0."""
        return self.probabilities.argmax(1)


def classify(latents: Tensor, classes: int | None, seed: int = 0, most: int = 8) -> Classes:
    """Gaussian mixture on latents ``(n, q)``; the number of classes given, or of the least BIC up to ``most``.

    BIC also tells whether each class has a spread of its own or all have one, that of the noise, as of faint images.
    """
    z = latents.cpu().double().numpy()
    if classes is not None and not 1 <= classes <= len(z):
        raise HetacumnError(f"{classes} classes of {len(z)} particles; expected 1 to {len(z)}")
    if len(z) == 1:
        alone = Mixture(torch.ones(1).double(), torch.from_numpy(z), 1e-4 * torch.eye(z.shape[1]).double()[None])
        return Classes(torch.ones(1, 1), latents.cpu().float(), alone)
    counts = [classes] if classes else range(1, min(most, len(z)) + 1)
    mixtures = [GaussianMixture(k, covariance_type=spread, n_init=5, reg_covar=1e-4, random_state=seed).fit(z)
                for k in counts for spread in SPREADS]  # fmt: skip
    best = min(mixtures, key=lambda fit: fit.bic(z))
    order = np.argsort(-best.weights_)
    spreads = np.broadcast_to(best.covariances_, (len(order), *best.covariances_.shape[-2:]))[order]
    mixture = Mixture(*(torch.from_numpy(part) for part in (best.weights_[order], best.means_[order], spreads)))
    return Classes(mixture.probabilities(latents), mixture.means.float(), mixture)


def centres_of(latents: Tensor, classes: int | None, seed: int = 0) -> Tensor:
    """The centres ``(k, q)`` of classes of *some* latents ``(n, q)``, which may be fewer than the classes; on their device."""
    return classify(latents, classes and min(classes, len(latents)), seed).centres.to(latents.device)


def likelier(log_likelihood: Tensor, centres: Tensor, rounds: int = 100, sort: bool = True) -> Classes:
    """The likelier of the classes at ``centres`` ``(k, q)`` by ``(n, k)`` log-likelihoods; how large the classes are is found
    by EM. Without ``sort`` they keep the order of ``centres``."""
    scores = log_likelihood.double()
    log_share = torch.zeros(len(centres), dtype=scores.dtype, device=scores.device)
    for _ in range(rounds):
        log_share = (scores + log_share).log_softmax(1).logsumexp(0) - np.log(len(scores))
    found = Classes((scores + log_share).softmax(1).cpu(), centres.cpu())
    if not sort:
        return found
    order = found.labels.bincount(minlength=len(centres)).argsort(descending=True, stable=True)
    return Classes(found.probabilities[:, order], found.centres[order])

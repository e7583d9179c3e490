"""Classes of particles: clusters in the latent space, or the likelier class over all poses.

Where images determine their poses, z tells the class, and a Gaussian mixture of all z finds the classes. Where poses stay open,
z at the likeliest pose mostly describes noise: there the class is the one whose volume explains the image best, with all poses
weighed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import MultivariateNormal

from hetacumn.common.errors import HetacumnError

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
        """Rebuild a mixture from the result of :meth:`content`."""
        return cls(**{name: torch.tensor(values, dtype=torch.float64) for name, values in content.items()})

    def content(self) -> dict[str, list]:
        """The fields by name, as JSON has them."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}

    def probabilities(self, latents: Tensor) -> Tensor:
        """Compute the probability of each class for latents ``(n, q)``: ``(n, k)``."""
        gaussians = MultivariateNormal(self.means, self.covariances)
        return (gaussians.log_prob(latents.cpu().double()[:, None]) + self.weights.log()).softmax(1)


@dataclass(frozen=True)
class Classes:
    """``probabilities`` ``(n, k)`` of classes, the largest class first; their latent ``centres`` ``(k, q)``; and the
    ``mixture`` that classifies other particles alike, where classes come from one."""

    probabilities: Tensor
    centres: Tensor
    mixture: Mixture | None = None

    @property
    def labels(self) -> Tensor:
        """The likeliest class of each particle, ``(n,)``, from 0."""
        return self.probabilities.argmax(1)


def classify(latents: Tensor, classes: int | None, seed: int = 0, most: int = 8) -> Classes:
    """Fit a Gaussian mixture to latents ``(n, q)``, with a given number of classes or the one of least BIC up to ``most``.

    BIC also decides whether each class has its own covariance, or all share one (the noise of faint images).
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


def class_centres(latents: Tensor, classes: int | None, seed: int = 0) -> Tensor:
    """Find the centres ``(k, q)`` of the classes of *some* latents ``(n, q)``, which may be fewer than the classes."""
    return classify(latents, classes and min(classes, len(latents)), seed).centres.to(latents.device)


def classify_by_likelihood(log_likelihood: Tensor, centres: Tensor, rounds: int = 100, sort: bool = True) -> Classes:
    """Classify by ``(n, k)`` log-likelihoods of the classes at ``centres`` ``(k, q)``; EM finds the sizes of the classes.

    Without ``sort`` the classes keep the order of ``centres``.
    """
    scores = log_likelihood.double()
    log_share = torch.zeros(len(centres), dtype=scores.dtype, device=scores.device)
    for _ in range(rounds):
        log_share = (scores + log_share).log_softmax(1).logsumexp(0) - np.log(len(scores))
    found = Classes((scores + log_share).softmax(1).cpu(), centres.cpu())
    if not sort:
        return found
    order = found.labels.bincount(minlength=len(centres)).argsort(descending=True, stable=True)
    return Classes(found.probabilities[:, order], found.centres[order])

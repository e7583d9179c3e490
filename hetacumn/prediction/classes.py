"""Classes of particles: clusters in the latent space, or the likelier class over all poses.

Where images determine their poses, z tells the class, and a Gaussian mixture of all z finds the classes. Where poses stay open,
z at the likeliest pose mostly describes noise: there the class is the one whose volume explains the image best, with all poses
weighed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import MultivariateNormal

from hetacumn.common.errors import HetacumnError

SPREADS = ("full", "tied")  # covariances of the classes: one per class, or one for all classes


@dataclass(frozen=True)
class Mixture:
    """Gaussians in the latent space, in double precision."""

    weights: Float[Tensor, " k"]
    means: Float[Tensor, "k q"]
    covariances: Float[Tensor, "k q q"]

    @classmethod
    def of(cls, content: dict[str, list]) -> Mixture:
        """Rebuild a mixture from the result of :meth:`content`."""
        return cls(**{name: torch.tensor(values, dtype=torch.float64) for name, values in content.items()})

    def content(self) -> dict[str, list]:
        """Return the fields by name, as JSON has them."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}

    def probabilities(self, latents: Float[Tensor, "n q"]) -> Float[Tensor, "n k"]:
        """Compute the probability of each class for latents."""
        gaussians = MultivariateNormal(self.means, self.covariances)
        return (gaussians.log_prob(latents.cpu().double()[:, None]) + self.weights.log()).softmax(1)


@dataclass(frozen=True)
class Classes:
    """Probabilities of the classes of particles, the largest class first, and the latent ``centres`` of the classes.

    ``mixture`` classifies other particles alike; it is None where the classes do not come from a mixture.
    """

    probabilities: Float[Tensor, "n k"]
    centres: Float[Tensor, "k q"]
    mixture: Mixture | None = None

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """The likeliest class of each particle, from 0."""
        return self.probabilities.argmax(1)


def classify(latents: Float[Tensor, "n q"], classes: int | None, seed: int = 0, most: int = 8) -> Classes:
    """Fit a Gaussian mixture to latents, with a given number of classes or the number of least BIC up to ``most``.

    BIC also decides whether each class has its own covariance, or all share one (the noise of faint images).
    """
    z = latents.cpu().double().numpy()
    if classes is not None and not 1 <= classes <= len(z):
        raise HetacumnError(f"{classes} classes for {len(z)} particles; expected 1 to {len(z)}")
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


def class_centres(latents: Float[Tensor, "n q"], classes: int | None, seed: int = 0) -> Float[Tensor, "k q"]:
    """Find the centres of the classes of *some* latents, which may be fewer than the classes."""
    return classify(latents, classes and min(classes, len(latents)), seed).centres.to(latents.device)


def classify_by_likelihood(
    log_likelihood: Float[Tensor, "n k"], centres: Float[Tensor, "k q"], rounds: int = 100, sort: bool = True
) -> Classes:
    """Classify by log-likelihoods of the classes at latent ``centres``; EM finds the sizes of the classes.

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

"""Classification of particles by their latents, or by their class likelihoods marginalised over all poses.

If the images determine their poses, z separates the classes, and a Gaussian mixture of all latents finds the classes. If many
poses fit an image almost equally well, z at the most likely pose mostly describes noise. An image then belongs to the class
whose volume has the highest likelihood, marginalised over all poses.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import MultivariateNormal

from hetacumn.ab_initio.evidence import mixture_log_shares
from hetacumn.common.errors import HetacumnError
from hetacumn.search.clusters import fit_mixtures


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture in the latent space, in double precision."""

    weights: Float[Tensor, " k"]
    means: Float[Tensor, "k q"]
    covariances: Float[Tensor, "k q q"]

    @classmethod
    def of(cls, content: dict[str, list]) -> Mixture:
        """Create a mixture from the result of :meth:`content`."""
        return cls(**{name: torch.tensor(values, dtype=torch.float64) for name, values in content.items()})

    def content(self) -> dict[str, list]:
        """Return the fields by name, as nested lists for JSON."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}

    def probabilities(self, latents: Float[Tensor, "n q"]) -> Float[Tensor, "n k"]:
        """Compute the probability of each class for each latent."""
        gaussians = MultivariateNormal(self.means, self.covariances)
        return (gaussians.log_prob(latents.cpu().double()[:, None]) + self.weights.log()).softmax(1)


@dataclass(frozen=True)
class Classes:
    """Class probabilities of particles and the latent ``centres`` of the classes, with the largest class first.

    ``mixture`` classifies further particles into these classes. It is None if the classes do not come from a mixture.
    """

    probabilities: Float[Tensor, "n k"]
    centres: Float[Tensor, "k q"]
    mixture: Mixture | None = None

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """The most probable class of each particle, from 0."""
        return self.probabilities.argmax(1)


def classify(latents: Float[Tensor, "n q"], classes: int, seed: int = 0) -> Classes:
    """Fit a Gaussian mixture of ``classes`` components to latents, and sort the classes by weight, the largest first.

    BIC selects between one covariance per class and one covariance for all classes. The single covariance suits low-signal
    images, whose latents are mostly noise.

    Raises:
        HetacumnError: ``classes`` is out of range.
    """
    z = latents.cpu().double().numpy()
    if not 1 <= classes <= len(z):
        raise HetacumnError(f"{classes} classes for {len(z)} particles; expected 1 to {len(z)}")
    if len(z) == 1:
        alone = Mixture(torch.ones(1).double(), torch.from_numpy(z), 1e-4 * torch.eye(z.shape[1]).double()[None])
        return Classes(torch.ones(1, 1), latents.cpu().float(), alone)
    best = min(fit_mixtures(z, classes, 5, seed), key=lambda fit: fit.bic(z))
    order = np.argsort(-best.weights_)
    spreads = np.broadcast_to(best.covariances_, (len(order), *best.covariances_.shape[-2:]))[order]
    mixture = Mixture(*(torch.from_numpy(part) for part in (best.weights_[order], best.means_[order], spreads)))
    return Classes(mixture.probabilities(latents), mixture.means.float(), mixture)


def classify_from(latents: Float[Tensor, "n q"], usable: Bool[Tensor, " n"], classes: int, seed: int = 0) -> Classes:
    """Fit a mixture to the latents of ``usable`` particles (:func:`classify`), and classify all particles by this mixture.

    If fewer particles are usable than there are classes, all particles are used.
    """
    if usable.all() or usable.sum() < classes:
        return classify(latents, classes, seed)
    found = classify(latents[usable.to(latents.device)], classes, seed)
    return found if found.mixture is None else replace(found, probabilities=found.mixture.probabilities(latents))


def class_centres(latents: Float[Tensor, "n q"], classes: int, seed: int = 0) -> Float[Tensor, "k q"]:
    """Compute the class centres of a sample of latents. The number of classes is limited to the number of latents."""
    return classify(latents, min(classes, len(latents)), seed).centres.to(latents.device)


def classify_by_likelihood(
    log_likelihood: Float[Tensor, "n k"], centres: Float[Tensor, "k q"], rounds: int = 100, sort: bool = True
) -> Classes:
    """Classify particles by the log-likelihoods of the classes at latent ``centres``; EM estimates the class weights.

    With ``sort`` the largest class comes first; without it the classes keep the order of ``centres``.
    """
    scores = log_likelihood.double()
    found = Classes((scores + mixture_log_shares(scores, rounds)).softmax(1).cpu(), centres.cpu())
    if not sort:
        return found
    order = found.labels.bincount(minlength=len(centres)).argsort(descending=True, stable=True)
    return Classes(found.probabilities[:, order], found.centres[order])

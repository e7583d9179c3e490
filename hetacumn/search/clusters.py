"""Clusters of latents, the volumes at their centres, and the alignment of these volumes to one frame.

Images do not determine how two conformations are placed relative to each other. If one part of a molecule rotates, a consensus
reconstruction, or an alignment by the greatest overlap, rotates each whole conformation by about half of this motion. The
largest rigid body that the conformations share does not move, and therefore defines the frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.mixture import GaussianMixture
from torch import Tensor

from hetacumn.particles.metadata import Poses
from hetacumn.physics.alignment import Placement, place_core, place_either_hand, place_volume, settle_hand
from hetacumn.physics.rotations import Frame
from hetacumn.search.subspace import volumes_at

SPREADS = ("full", "tied")  # one covariance per component of a mixture, or one for all components


@dataclass(frozen=True)
class Clusters:
    """Clusters of latents: the cluster of each image, the mean latents, the volumes at these means, and the image counts."""

    labels: Int[Tensor, " n"]
    centres: Float[Tensor, "k q"]
    volumes: Float[Tensor, "k box box box"]
    counts: Int[Tensor, " k"]


def fit_mixtures(z: Float[np.ndarray, "n q"], count: int, runs: int, seed: int) -> list[GaussianMixture]:
    """Fit a Gaussian mixture of ``count`` components for each of :data:`SPREADS`; keep the best of ``runs`` runs."""
    return [
        GaussianMixture(count, covariance_type=spread, n_init=runs, reg_covar=1e-4, random_state=seed).fit(z)
        for spread in SPREADS
    ]


def find_clusters(
    latents: Float[Tensor, "n q"],
    basis: Float[Tensor, "1+q box box box"],
    count: int,
    fit: Bool[Tensor, " n"] | None = None,
) -> Clusters:
    """Divide latents into ``count`` clusters by a Gaussian mixture; clusters without images are dropped.

    ``basis`` is the mean volume and the components, from which the volumes at the centres are computed. ``fit`` marks the
    images to which the mixture is fitted; None marks all images. All images receive a cluster.
    """
    fit = torch.ones_like(latents[:, 0], dtype=torch.bool) if fit is None else fit
    z = latents.cpu().double().numpy()
    mixture = GaussianMixture(count, n_init=3, reg_covar=1e-3, random_state=0).fit(z[fit.cpu().numpy()])
    shares = torch.from_numpy(mixture.predict_proba(z)).to(latents.device)
    shares = shares[:, shares[fit].argmax(1).unique()]
    labels = shares.argmax(1)
    counts = labels.bincount(minlength=shares.shape[1])
    centres = torch.stack([latents[fit & (labels == k)].mean(0) for k in range(len(counts))])
    return Clusters(labels, centres, volumes_at(centres, basis), counts)


def align_volumes(
    volumes: Float[Tensor, "k box box box"], generator: torch.Generator, independent: bool = False
) -> Float[Tensor, "k box box box"]:
    """Align volumes to the first one by their common rigid body.

    The hand is that of the highest correlation. If the fits of the volumes were ``independent``, so that each volume may have
    either hand, the common rigid body decides (:func:`~hetacumn.physics.alignment.place_either_hand`).
    """
    first, aligned = volumes[0], [volumes[0]]
    for volume in volumes[1:]:
        if independent:
            place = place_either_hand(volume, first, generator)
        else:
            place = place_core(volume, first, place_volume(volume, first), generator)
        aligned.append(place.apply(volume))
    return torch.stack(aligned)


def align_conformations(
    clusters: Clusters, poses: Poses, generator: torch.Generator, hands: bool = False
) -> tuple[Float[Tensor, "k box box box"], Poses, list[int]]:
    """Align the volumes of clusters to the volume of the largest cluster, by their common rigid body.

    If ``hands`` is true, the function also mirrors volumes of the other hand. It returns the aligned volumes, the poses of all
    images in the new frames, and the indices of the mirrored clusters.
    """
    volumes, first, mirrored = clusters.volumes.clone(), int(clusters.counts.argmax()), []
    rotations, shifts_px = poses.rotations.clone(), poses.shifts_px.clone()
    here = Placement(Frame(torch.eye(3, device=volumes.device), False), torch.zeros(3, device=volumes.device))
    for k in range(len(volumes)):
        if k == first:
            continue
        place = place_core(volumes[k], volumes[first], here, generator)
        if hands:
            place = settle_hand(volumes[k], volumes[first], place)
        if place.frame.mirrored:
            mirrored.append(k)
        volumes[k] = place.apply(volumes[k])
        members = clusters.labels == k  # x_old = ±G x + t, R x_old = ±R G x + R t; the minus rotates the image by 180°
        shifts_px[members] += (rotations[members] @ place.shift_px)[:, :2]
        rotations[members] = place.frame.apply(rotations[members])
    return volumes, Poses(rotations, shifts_px), mirrored

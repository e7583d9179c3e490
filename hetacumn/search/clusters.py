"""Clusters of latents, the volumes at their centres, and the alignment of these volumes to one frame.

Images do not determine how two conformations are placed relative to each other. If one part of a molecule rotates, a consensus
reconstruction, or an alignment by the greatest overlap, rotates each whole conformation by about half of this motion. The
largest rigid body that the conformations share does not move, and therefore defines the frame. If this body is small, or
similar to another part, the placement of two distant conformations may be wrong. Neighbouring conformations then define the
frame (:mod:`hetacumn.physics.common_frame`).
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
from hetacumn.physics.common_frame import largest_difference_deg, place_together
from hetacumn.search.subspace import volumes_at

AGREE_DEG = 5.0  # two sets of placements agree if no rotation differs by more
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
    either hand, the common rigid body decides (:func:`~hetacumn.physics.alignment.place_either_hand`). :func:`place_all`
    replaces the placements of three or more volumes that do not lie in one frame.
    """
    first, places = volumes[0], [Placement.identity(volumes.device)]
    for volume in volumes[1:]:
        if independent:
            places.append(place_either_hand(volume, first, generator))
        else:
            places.append(place_core(volume, first, place_volume(volume, first), generator))
    places = place_all(volumes, 0, places)
    return torch.stack([first, *(place.apply(volume) for place, volume in zip(places[1:], volumes[1:], strict=True))])


def place_conformations(clusters: Clusters, generator: torch.Generator, hands: bool = False) -> list[Placement]:
    """Place the volumes of clusters on the volume of the largest cluster, by their common rigid body.

    If ``hands`` is true, the function also mirrors volumes of the other hand. :func:`place_all` replaces the placements of
    three or more volumes that do not lie in one frame.
    """
    volumes, first = clusters.volumes, int(clusters.counts.argmax())
    here = Placement.identity(volumes.device)
    places = [here] * len(volumes)
    for k in range(len(volumes)):
        if k == first:
            continue
        places[k] = place_core(volumes[k], volumes[first], here, generator)
        if hands:
            places[k] = settle_hand(volumes[k], volumes[first], places[k])
    return place_all(volumes, first, places, hands)


def place_all(
    volumes: Float[Tensor, "k box box box"], first: int, places: list[Placement], hands: bool = True
) -> list[Placement]:
    """Return the placements of all volumes by :func:`~hetacumn.physics.common_frame.place_together`.

    The given ``places`` on the volume ``first`` are returned if they agree within :data:`AGREE_DEG`, or if there are only two
    volumes: the placement of a single volume on another one is exact if their common rigid body is large.
    """
    if len(volumes) < 3:
        return places
    together = place_together(volumes, first, places, hands)
    return together if largest_difference_deg(together, places) > AGREE_DEG else places


def place_again(clusters: Clusters) -> tuple[list[Placement], float | None]:
    """Place the volumes of clusters, which should lie in one frame already, on the volume of the largest cluster.

    Returns the placements, and the largest angle in degrees by which they rotate a volume, or 180 if they mirror a volume. This
    angle measures, without a truth, whether the volumes lie in one frame; it is None for fewer than three volumes.
    """
    here = [Placement.identity(clusters.volumes.device)] * len(clusters.volumes)
    if len(here) < 3:
        return here, None
    places = place_together(clusters.volumes, int(clusters.counts.argmax()), here)
    return places, largest_difference_deg(places, here)


def move_frames(clusters: Clusters, poses: Poses, places: list[Placement]) -> tuple[Float[Tensor, "k box box box"], Poses]:
    """Apply the placements to the volumes of clusters; return the volumes, and the poses of all images in the new frames."""
    volumes, rotations, shifts_px = clusters.volumes.clone(), poses.rotations.clone(), poses.shifts_px.clone()
    first = int(clusters.counts.argmax())  # stays in its frame
    for k, place in enumerate(places):
        if k == first:
            continue
        volumes[k] = place.apply(volumes[k])
        members = clusters.labels == k  # x_old = ±G x + t, R x_old = ±R G x + R t; the minus rotates the image by 180°
        shifts_px[members] += (rotations[members] @ place.shift_px)[:, :2]
        rotations[members] = place.frame.apply(rotations[members])
    return volumes, Poses(rotations, shifts_px)

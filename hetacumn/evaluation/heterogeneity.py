"""Metrics of heterogeneous reconstructions, with the definitions of CryoBench (Jeon et al. 2024, arXiv 2408.05526).

A *space* describes each image by a point, as an array ``(n, d)``; the distance of two images is the Euclidean distance of their
points. Three spaces are compared: the true conformations (:func:`conformation_space`), the latents z, and the poses (the nine
entries of each rotation matrix).

Images of one true conformation have the same point. CryoBench takes such images in the order of the file, or adds small noise
to their points. The functions here treat ties exactly instead: an image that is as near as the k-th neighbour is a neighbour,
and tied images share their mean rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from sklearn.metrics import adjusted_mutual_info_score
from torch import Tensor

from hetacumn.compute.batches import batch_slices
from hetacumn.physics.alignment import align_volume
from hetacumn.physics.fourier import crop_large_volumes, crop_volumes
from hetacumn.physics.fsc import fsc
from hetacumn.physics.rotations import Frame
from hetacumn.simulation.molecules import Atoms

ROWS_AT_ONCE = 500  # images whose distances from all images are in memory at once
COMPARED_BOX = 32  # largest box of the volumes that define a distance of conformations


def compare_conformations(
    found: Float[Tensor, "box box box"],
    true: Float[Tensor, "full full full"],
    aligned: bool = True,
    frame: Frame | None = None,
) -> Float[Tensor, " shells"]:
    """Compute the FSC of a volume with the volume of its true conformation, at the smaller box and without a mask.

    A volume that is not ``aligned``, because its poses were found *ab initio*, is first aligned to the true volume in rotation,
    shift and hand. Like CryoBench, the function aligns each volume on its own. The alignment begins with ``frame``, or with a
    search of all rotations and both hands; see :func:`~hetacumn.physics.alignment.align_volume`.
    """
    box = min(found.shape[-1], true.shape[-1])
    found, true = crop_volumes(found, box), crop_volumes(true, box)
    return fsc(found if aligned else align_volume(found, true, frame), true)


def area_under_fsc(curves: Float[Tensor, "*batch shells"], box: int) -> Float[Tensor, "*batch"]:
    """Integrate FSC curves over the spatial frequency in cycles per pixel of images of ``box`` pixels (AUC-FSC).

    Shell ``s`` is at ``s / box``, and shell 0 counts as 1. CryoBench uses images of 128 px. Volumes of fewer voxels over the
    same field of view have curves of fewer shells, and the area of ``m`` voxels is at most ``(m / 2 - 1) / box``.
    """
    ones = torch.ones_like(curves[..., :1])
    return torch.trapezoid(torch.cat([ones, curves[..., 1:]], -1), dx=1 / box)


def conformation_space(
    states: Sequence[Atoms], volumes: Float[Tensor, "k box box box"], classes: Int[Tensor, " n"]
) -> Float[Tensor, "n d"]:
    """Return the space of the true conformations of images with the true ``classes``, in at most as many dimensions as states.

    The distance of two conformations of the same atoms is their RMSD in Å, without superposition. If the numbers of atoms
    differ, the distance is the norm of the difference of the true ``volumes``.
    """
    if len({len(state.weights) for state in states}) == 1:
        features = torch.stack([state.positions_A.flatten() for state in states]).double() / len(states[0].weights) ** 0.5
    else:
        features = crop_large_volumes(volumes, COMPARED_BOX).flatten(1).double()
    left, lengths, _ = torch.linalg.svd(features - features.mean(0), full_matrices=False)
    return (left * lengths)[classes].float()


def latent_space(latents: Float[Tensor, "n q"], components: Float[Tensor, "q box box box"]) -> Float[Tensor, "n q"]:
    """Return the space of the latents in which a distance is the norm of the difference of the volumes V(z).

    ``components`` are the changes of the volume for a unit step of each latent. The distances are those of
    :func:`~hetacumn.reconstruction.kernel_maps.latent_distances`.
    """
    _, lengths, axes = torch.linalg.svd(components.flatten(1).double().T, full_matrices=False)
    return (latents.double() @ (lengths[:, None] * axes).T).float()


def neighbourhood_similarity(true: Float[Tensor, "n d"], found: Float[Tensor, "n q"], neighbours: int = 200) -> float:
    """Compute the mean fraction of the nearest images in the space ``found`` that are among the nearest in the space ``true``.

    CryoBench computes the similarity for 200 to 4,000 neighbours among a fifth of 100,000 images. The similarity is 1 if both
    spaces have the same neighbours. Chance is the mean fraction of all images that are neighbours in ``true``; without ties
    this fraction is ``neighbours / n``.

    Raises:
        ValueError: there are no more images than neighbours.
    """
    if len(true) <= neighbours:
        raise ValueError(f"{len(true)} images; expected more than the {neighbours} neighbours")
    hits = torch.zeros((), dtype=torch.double)
    for rows in batch_slices(len(true), ROWS_AT_ONCE):
        distances = _distances(true, rows)
        near = distances <= distances.kthvalue(neighbours, dim=1, keepdim=True).values
        chosen = _distances(found, rows).topk(neighbours, largest=False).indices
        hits += near.gather(1, chosen).double().mean(1).sum()
    return float(hits / len(true))


def information_imbalance(first: Float[Tensor, "n d"], second: Float[Tensor, "n q"]) -> float:
    """Compute the information imbalance Δ(first → second) of Glielmo et al. (2022, PNAS Nexus 1, pgac039).

    The imbalance is 2 / n times the mean rank, in the space ``second``, of the image that is nearest in the space ``first``. A
    number near 0 means that ``first`` predicts the distances in ``second``; 1 means that ``first`` has no information about
    them. If several images are nearest, the function uses the mean of their ranks. The imbalance from a space of ``k``
    conformations with equal numbers of images to itself is ``1 / k``.
    """
    total = 0.0
    for rows in batch_slices(len(first), ROWS_AT_ONCE):
        distances = _distances(first, rows)
        nearest = (distances == distances.amin(1, keepdim=True)).double()
        ranks = torch.from_numpy(rankdata(_distances(second, rows).numpy(), axis=1))
        total += float(((ranks * nearest).sum(1) / nearest.sum(1)).sum())
    return 2 / len(first) ** 2 * total


def adjusted_mutual_information(predicted: ArrayLike, true: ArrayLike) -> float:
    """Compute the adjusted mutual information of two partitions: 1 for equal partitions, 0 on average for random ones."""
    return float(adjusted_mutual_info_score(true, predicted))


def _distances(space: Float[Tensor, "n d"], rows: slice) -> Float[Tensor, "b n"]:
    """Return the distances of some images from all images; the distance of an image from itself is infinite.

    The distance of two images with equal points is exactly 0.
    """
    distances = torch.cdist(space[rows], space, compute_mode="donot_use_mm_for_euclid_dist")
    own = torch.arange(len(space))[rows]
    distances[torch.arange(len(own)), own] = torch.inf
    return distances

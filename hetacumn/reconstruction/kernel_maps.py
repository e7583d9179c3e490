"""Maps at points of the latent space, by kernel regression at the full box.

The map at a latent z is the back-projection of the particles nearest to z, at their predicted poses. The distance of two
latents is the norm of the difference of their volumes V(z). Few particles give a sharp but noisy map, and many particles give a
clean map of several conformations. The best number depends on the frequency: a motion blurs high frequencies first, which
favours few particles, but the signal-to-noise ratio falls with the frequency, which favours many. For each shell,
cross-validation between half sets selects the number, as in RECOVAR (Gilles & Singer 2025): the half map of the nearest n
particles is compared with the other half map of the fewest particles. The noise of the two half maps is independent.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hetacumn.particles.metadata import Poses
from hetacumn.particles.source_images import SourceImages
from hetacumn.reconstruction.back_projection import FourierSums
from hetacumn.reconstruction.class_maps import ClassMap, Report, back_project_rows, make_class_map, split_halves

FEWEST, MOST = 200, 3200  # numbers of particles of a map; each number is twice the one before


@dataclass(frozen=True)
class KernelMap:
    """The map at one point of the latent space.

    - ``maps``: half maps, sums and curves, with the best number of particles in each shell.
    - ``particles``: number of particles in each of the ``box // 2`` shells.
    """

    maps: ClassMap
    particles: Int[Tensor, " shells"]


@dataclass(frozen=True)
class KernelRegression:
    """Kernel regression of full-box maps.

    - ``images``: the raw images of the stack.
    - ``poses``: poses of all rows of the stack.
    - ``seed``: seed of the split into half sets, if the particle table has no rlnRandomSubset.
    - ``device``, ``report``: as in :class:`~hetacumn.reconstruction.class_maps.ClassReconstruction`.
    """

    images: SourceImages
    poses: Poses
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    report: Report = lambda what, count: None

    def map_of(self, nearest: Int[np.ndarray, " n"]) -> KernelMap:
        """Reconstruct the map at a point, from the rows of the stack in the order of their distance from this point."""
        counts = _counts(len(nearest))
        halves = split_halves(np.sort(nearest[: counts[-1]]), self.images.half_sets, self.seed)
        levels = [self._levels(half, nearest, counts) for half in halves]
        choice = choose_levels(*levels)
        chosen = [FourierSums.by_shell(half, choice) for half in levels]
        return KernelMap(make_class_map(chosen[0], chosen[1], self.images.pixel_A), torch.tensor(counts)[choice.cpu()])

    def _levels(self, half: Int[np.ndarray, " m"], nearest: Int[np.ndarray, " n"], counts: list[int]) -> list[FourierSums]:
        """Return the sums of the particles of a half set among the nearest ``counts[0]``, ``counts[1]``, … particles."""
        levels: list[FourierSums] = []
        for fewer, more in zip([0, *counts[:-1]], counts, strict=True):
            ring = np.sort(np.intersect1d(nearest[fewer:more], half))
            sums = back_project_rows(self.images, ring, self.poses, self.device, self.report)
            levels.append(sums + levels[-1] if levels else sums)
        return levels


def nearest_particles(
    latents: Float[Tensor, "n q"], z: Float[Tensor, " q"], components: Float[Tensor, "q box box box"]
) -> Int[np.ndarray, " n"]:
    """Return all rows of ``latents`` in the order of their distance from ``z``, see :func:`latent_distances`."""
    return latent_distances(latents, z, components).argsort(stable=True).numpy()


def latent_distances(
    latents: Float[Tensor, "n q"], z: Float[Tensor, " q"], components: Float[Tensor, "q box box box"]
) -> Float[Tensor, " n"]:
    """Return the distance of each latent from ``z``: the norm of the difference of their volumes.

    ``components`` are the changes of the volume for a unit step of each latent.
    """
    flat, away = components.flatten(1), latents - z
    return ((away @ (flat @ flat.T)) * away).sum(1).clamp(min=0).sqrt()


def _counts(particles: int) -> list[int]:
    """Return the numbers of particles of the maps that are compared."""
    counts = [min(FEWEST, particles)]
    while counts[-1] < min(MOST, particles // 2):
        counts.append(min(2 * counts[-1], particles))
    return counts


def choose_levels(first: list[FourierSums], second: list[FourierSums]) -> Int[Tensor, " shells"]:
    """Choose the level of each shell with the smallest squared difference from the first level of the other half.

    The levels of a half set contain more and more particles. The squared differences are averaged over five shells.
    """
    errors = []
    for own, other in ((first, second), (second, first)):
        target = other[0].transform()
        errors.append(torch.stack([other[0].shell_sum((level.transform() - target).abs().square()) for level in own]))
    error = errors[0] + errors[1]
    smooth = torch.nn.functional.avg_pool1d(error[:, None], 5, stride=1, padding=2, count_include_pad=False)[:, 0]
    return smooth.argmin(0)

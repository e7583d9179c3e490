"""The extent of the shift grid, chosen by the evidence of the images.

Particles are not always centred. If the grid is too small, shifted images get wrong poses and then form classes of their own. A
grid that is too large costs time. The evidence of an image is its mean likelihood over the grid, so that a larger grid without
better poses has a lower evidence.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from hetacumn.ab_initio.config import AbInitioConfig
from hetacumn.particles.observations import Observations
from hetacumn.search.grid import search_grid

SAMPLE = 500  # images, evenly spaced in the stack
LARGEST_FACTOR = 3  # in units of the extent of the settings
LARGEST_EXTENT = 0.25  # as a fraction of the box; a larger extent of the settings stays as it is
SIGNIFICANT = 1.0  # standard errors of the mean gain in evidence


def choose_factor(data: Observations, volume: Float[Tensor, "box box box"], config: AbInitioConfig) -> int:
    """Return the factor of ``config.grid.extent`` with the highest mean evidence of a sample of images under a volume.

    All grids have the same spacing. The function stops at the first factor whose gain in evidence is not significant.
    """
    band = data.evenly_spaced(SAMPLE).within(config.consensus.radius[1] * data.plane.box)

    def evidence(factor: int) -> Float[Tensor, " m"]:
        rotations, shifts = config.widened(factor).poses(data.plane.box, volume.device)
        return search_grid(band, volume[None], rotations, shifts, padding=config.padding).log_evidence

    best, highest = 1, evidence(1)
    for factor in range(2, LARGEST_FACTOR + 1):
        if factor * config.grid.extent > LARGEST_EXTENT:
            break
        wider = evidence(factor)
        gain = wider - highest
        if gain.mean() <= SIGNIFICANT * gain.std() / len(gain) ** 0.5:
            break
        best, highest = factor, wider
    return best

"""Volumes of cryobench.py at latents: kernel regressions of the images at predicted poses."""

from __future__ import annotations

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from hetacumn.particles.predictions import Predictions
from hetacumn.physics.rotations import Frame, align
from hetacumn.reconstruction.kernel_maps import FEWEST, KernelRegression, nearest_particles
from hetacumn.simulation.truth import Truth


def kernel_maps(
    regression: KernelRegression,
    found: Predictions,
    truth: Truth,
    points: Float[Tensor, "m q"],
    components: Float[Tensor, "q box box box"],
) -> Iterator[tuple[Float[Tensor, "full full full"], Frame]]:
    """Yield the kernel regression at each of some latents, and the frame of the predicted poses of the nearest images."""
    for point in points:
        nearest = nearest_particles(found.latents, point, components)
        few = nearest[:FEWEST]
        yield regression.map_of(nearest).maps.filtered, align(found.rotations[few], truth.rotations[few])

"""An interactive surface of a volume, drawn by k3d in the browser."""

from __future__ import annotations

import k3d
import numpy as np
from jaxtyping import Float
from torch import Tensor

CONTOUR = 0.25  # contour level of a surface, as a fraction of the largest density
DISTANCE = 0.9  # distance of the camera, in units of the field of view


class SurfaceView:
    """A plot of one surface, seen along -y with z up. All volumes have the same field of view of ``extent_A`` Å.

    - ``plot``: the widget.
    - ``surface``: the object of k3d; None until the first volume.
    """

    def __init__(self, extent_A: float, colour: str, height_px: int = 400) -> None:
        self.extent_A, self.colour, self.contour = extent_A, colour, CONTOUR
        self.plot = k3d.plot(
            height=height_px, grid_visible=False, menu_visibility=False, camera_auto_fit=False, axes_helper=0.0
        )
        self.plot.camera = [0.0, -DISTANCE * extent_A, 0.2 * DISTANCE * extent_A, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]  # from, at, up
        self.surface: k3d.objects.MarchingCubes | None = None
        self._highest = 1.0

    def show(self, volume: Float[Tensor, "box box box"], highest: float) -> None:
        """Show the surface at ``contour`` times the density ``highest``; it replaces the surface before."""
        self._highest, field = highest, volume.numpy().astype(np.float32)
        if self.surface is None:
            half = self.extent_A / 2
            self.surface = k3d.marching_cubes(
                field,
                level=self.contour * highest,
                color=int(self.colour[1:], 16),
                flat_shading=False,
                bounds=[-half, half] * 3,
            )
            self.plot += self.surface
        else:
            with self.surface.hold_sync():
                self.surface.scalar_field, self.surface.level, self.surface.visible = field, self.contour * highest, True

    def set_contour(self, fraction: float) -> None:
        """Set the contour level, as a fraction of the largest density."""
        self.contour = fraction
        if self.surface is not None:
            self.surface.level = fraction * self._highest

    def clear(self) -> None:
        """Hide the surface."""
        if self.surface is not None:
            self.surface.visible = False

"""Interactive views in the browser: the latent space with a path and a selection (plotly), and surfaces of volumes (k3d)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import k3d
import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float, Int
from matplotlib.path import Path as Outline
from torch import Tensor

from hetacumn import plots

CONTOUR = 0.25  # contour level of a surface, as a fraction of the largest density
DISTANCE = 0.9  # distance of the camera, in units of the field of view
PATH_COLOUR = plots.CLASS_COLOURS[4]
NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?"  # pattern of a coordinate in the outline of a lasso


class LatentPlot:
    """The plot: its widget is ``figure``. It calls ``choose`` with the rows that the user selects by lasso, box or click."""

    def __init__(self, choose: Callable[[Int[np.ndarray, " m"]], None]) -> None:
        layout = {
            "width": 435,
            "height": 400,
            "margin": {"l": 50, "r": 10, "t": 10, "b": 45},
            "dragmode": "lasso",
            "template": "simple_white",
            "showlegend": False,
        }
        particles = go.Scattergl(mode="markers", hovertemplate="row %{customdata}<extra></extra>")
        line, dot = {"color": PATH_COLOUR, "width": 2}, {"color": PATH_COLOUR, "line": {"color": "white", "width": 1}}
        path = go.Scattergl(mode="lines+markers", line=line, marker={"size": 7} | dot, hoverinfo="skip")
        position = go.Scattergl(mode="markers", marker={"size": 14} | dot, hoverinfo="skip")
        self.figure = go.FigureWidget([particles, path, position], layout)
        self._particles, self._path, self._position = self.figure.data
        self._choose, self._follows_outlines = choose, True
        self._rows = np.arange(0)
        # plotly may lose a selection event if a hover event follows at once, but it always sends the outlines
        self.figure.layout.on_change(lambda *_: self._take_outlines(), "selections")
        self._position.on_selection(lambda *_: self._restore_marks())  # plotly removes all marks together with the outlines
        self._particles.on_deselect(lambda *_: choose(np.arange(0)))
        self._particles.on_click(lambda trace, points, how: choose(np.asarray(points.point_inds, dtype=np.int64)))

    def draw_particles(
        self, coordinates: Float[np.ndarray, "n 2"], marker: Mapping[str, object], labels: tuple[str, str]
    ) -> None:
        """Draw the particles; ``marker`` has plotly's form, and ``labels`` are the labels of the axes."""
        with self.figure.batch_update():
            self._particles.x, self._particles.y = coordinates.T
            self._particles.marker, self._particles.customdata = marker, np.arange(1, len(coordinates) + 1)
            self.figure.layout.xaxis.title.text, self.figure.layout.yaxis.title.text = labels

    def draw_path(self, path: Float[np.ndarray, "p 2"], position: Float[np.ndarray, "1 2"]) -> None:
        """Draw a path and a position on it, above the particles."""
        with self.figure.batch_update():
            self._path.x, self._path.y = path.T
            self._position.x, self._position.y = position.T

    def mark(self, rows: Int[np.ndarray, " m"], keep_outlines: bool = False) -> None:
        """Mark the selected rows, and remove outlines unless ``keep_outlines``: they are wrong after a change of axes."""
        self._rows = rows
        if not keep_outlines:
            self._follows_outlines = False
            self.figure.plotly_relayout({"selections": []})
            self._follows_outlines = True
        self._restore_marks()

    def _restore_marks(self) -> None:
        """Mark the selected rows and the path, because plotly draws marked points above all others."""
        for trace, rows in zip(self.figure.data, (self._rows, np.arange(len(self._path.x)), np.arange(1)), strict=True):
            trace.selectedpoints = None  # a browser that has lost its marks gets new marks only after this change
            trace.selectedpoints = rows.tolist() if len(self._rows) else None

    def _take_outlines(self) -> None:
        if self._follows_outlines:
            outlines = self.figure.layout.to_plotly_json().get("selections", [])
            points = np.stack([self._particles.x, self._particles.y], axis=1)
            self._choose(np.flatnonzero(_inside(outlines, points)))


def _inside(outlines: Iterable[Mapping[str, Any]], points: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
    """Return which points lie inside any outline of a lasso or a box; ``outlines`` have plotly's form."""
    found = np.zeros(len(points), dtype=bool)
    for one in outlines:
        if one["type"] == "path":
            corners = np.array(re.findall(NUMBER, one["path"]), dtype=float).reshape(-1, 2)
        else:
            corners = np.array([(one[x], one[y]) for x, y in (("x0", "y0"), ("x1", "y0"), ("x1", "y1"), ("x0", "y1"))])
        found |= Outline(corners).contains_points(points)
    return found


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

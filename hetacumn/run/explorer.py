"""Interactive exploration of a finished run: the latent space, selected particles, and volumes along a path.

:class:`Explorer` shows an :class:`~hetacumn.prediction.answer.Answer` with JupyterLab widgets. plotly plots the latent space,
and k3d renders surfaces; neither needs internet access.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int
from matplotlib.path import Path as Outline
from torch import Tensor

from hetacumn import plots
from hetacumn.common.errors import HetacumnError
from hetacumn.common.project import project_root
from hetacumn.physics.rotations import to_euler
from hetacumn.prediction.answer import Answer
from hetacumn.run.surface_view import CONTOUR, SurfaceView
from hetacumn.search.subspace import volumes_at

SHOWN = 7  # number of images of a selection to show
MOST_USED = 3000  # particles used for the average and volume of a selection; the limit keeps the response fast
POINTS = 11  # latents of the path that the latent space shows
COLOUR_FIELDS = {"class probability": "class_probabilities", "log-likelihood ratio": "log_ratios"}
AXIS_LABELS = {"independent motions": ("motion 1 (sd)", "motion 2 (sd)"), "UMAP": ("UMAP 1", "UMAP 2")}
NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?"  # in the outline of a lasso
PATH_COLOUR = plots.CLASS_COLOURS[4]
DEFAULT_RUNS = ("results/adk/hetacumn-refined", "results/tour/model")  # of the main pipeline and of lesson 1


def default_run() -> Path:
    """Return the folder of a finished run of the main pipeline, or else of lesson 1.

    Raises:
        HetacumnError: there is neither run.
    """
    folders = [project_root() / name for name in DEFAULT_RUNS]
    found = next((folder for folder in folders if (folder / "predictions.star").is_file()), None)
    if found is None:
        raise HetacumnError(
            f"no finished run in {folders[0]} or {folders[1]}; expected one: run notebooks/lessons/1_tour.ipynb (takes a "
            "minute) or `make repro`, or set the folder of a run"
        )
    return found


class Explorer:
    """Widgets for a finished run. Display the attribute ``box`` in a notebook.

    Code may also set the values of the widgets. ``truth`` holds the true classes of the particles, from 0, if known. ``rows``
    are the selected particles. ``path`` contains latents along the path that follows the density between ``ends``.
    """

    def __init__(self, run: Answer, truth: Int[np.ndarray, " n"] | None = None) -> None:
        self.run = run
        self.labels = {"class": run.predictions.classes.numpy()} | ({} if truth is None else {"truth": truth})
        self.rows, self._follows_lasso = np.arange(0), True
        known = [name for name, field in COLOUR_FIELDS.items() if getattr(run.predictions, field) is not None]
        colours = ["class", "defocus (µm)", "tilt of view (°)", *known, *list(self.labels)[1:]]
        axes = ["principal axes", "independent motions", *(["UMAP"] if importlib.util.find_spec("umap") else [])]
        self.colour = ipywidgets.Dropdown(options=colours, description="colour", layout=_width(212))
        self.axes = ipywidgets.Dropdown(options=axes, description="axes", layout=_width(212))
        motions = [(f"motion {i}", i) for i in range(1, 1 + run.motions.coordinates.shape[1])]
        self.motion = ipywidgets.Dropdown(options=motions, description="path", layout=_width(170))
        self.slider = ipywidgets.FloatSlider(0.0, min=0.0, max=1.0, step=0.05, description="position", layout=_width(230))
        self.contour = ipywidgets.FloatSlider(
            CONTOUR, min=0.05, max=0.9, step=0.01, description="contour", tooltip="fraction of the largest density",
            layout=_width(400),
        )  # fmt: skip
        self.begin, self.end = (_button(f"{name} of path = selection") for name in ("start", "end"))
        self.stem = ipywidgets.Text(str(run.folder / "selection"), description="file", layout=_width(400))
        self.write = _button("write STAR and MRC")
        self.message = ipywidgets.HTML("Draw a lasso around particles, or click one.")
        self.legend = ipywidgets.HTML()
        self.picture = ipywidgets.Image(format="png", layout={"max_width": "95%", "display": "none"})

        extent_A = run.stack.box * run.voxel_A
        self.along = SurfaceView(extent_A, plots.CLASS_COLOURS[0])
        self.of_selection = SurfaceView(extent_A, plots.CLASS_COLOURS[1])
        self.scatter = _scatter_plot()
        self._draw_scatter()
        self._take_path(run.ends(1))
        self._connect()
        self.box = self._arrange()

    def choose(self, rows: Int[np.ndarray, " m"] | Sequence[int]) -> None:
        """Select particles by their rows, from 0: mark them in the plot, and show their images, average and volume."""
        self._remove_outlines()
        self._select(np.asarray(rows, dtype=np.int64))

    def _select(self, rows: Int[np.ndarray, " m"]) -> None:
        self.rows = rows
        self._mark_rows()
        if not len(self.rows):
            self.message.value, self.picture.layout.display = "No particle is selected.", "none"
            self.of_selection.clear()
            return
        class_sizes = np.bincount(self.run.predictions.classes[torch.from_numpy(self.rows)].numpy())
        counts = ", ".join(f"{n:,} of class {k + 1}" for k, n in enumerate(class_sizes) if n)
        first = f"; the volume uses the first {MOST_USED:,}" if len(self.rows) > MOST_USED else ""
        self.message.value = f"{len(self.rows):,} particle{'s' * (len(self.rows) > 1)}: {counts}{first}"
        self.picture.value, self.picture.layout.display = self._gallery(), None
        volume = self.run.reconstruct(self.rows[:MOST_USED])
        self.of_selection.show(volume, float(volume.max()))

    def latent(self) -> Float[Tensor, " q"]:
        """Return the latent at the position of the slider along the path."""
        position = float(self.slider.value) * (len(self.path) - 1)
        before = min(int(position), len(self.path) - 2)
        return torch.lerp(self.path[before], self.path[before + 1], position - before)

    def _mark_rows(self) -> None:
        trace = self.scatter.data[0]
        trace.selectedpoints = None  # without this change, plotly sends nothing to a browser that has removed the marks
        trace.selectedpoints = self.rows.tolist() if len(self.rows) else None

    def _remove_outlines(self) -> None:
        """Remove the outlines of lassos, which belong to the axes in which they were drawn."""
        self._follows_lasso = False
        self.scatter.plotly_relayout({"selections": []})
        self._follows_lasso = True

    def _take_outlines(self) -> None:
        """Select the particles inside the outlines of lassos and boxes."""
        if self._follows_lasso:
            outlines = self.scatter.layout.to_plotly_json().get("selections", [])
            self._select(np.flatnonzero(_inside(outlines, self.run.coordinates(self.axes.value))))

    def _draw_scatter(self) -> None:
        coordinates, trace = self.run.coordinates(self.axes.value), self.scatter.data[0]
        marker: dict[str, object] = {"size": 4, "opacity": 0.6}
        if self.colour.value in self.labels:
            labels = self.labels[self.colour.value]
            palette = np.array(plots.CLASS_COLOURS)
            marker |= {"color": palette[labels % len(palette)].tolist(), "showscale": False}
            self.legend.value = _legend(labels)
        else:
            marker |= {
                "color": self._values(),
                "colorscale": "Cividis",
                "showscale": True,
                "colorbar": {"title": {"text": self.colour.value, "side": "right"}, "thickness": 12},
            }
            self.legend.value = ""
        with self.scatter.batch_update():
            trace.x, trace.y, trace.marker = coordinates[:, 0], coordinates[:, 1], marker
            trace.customdata = np.arange(1, len(coordinates) + 1)
            first, second = AXIS_LABELS.get(self.axes.value, ("z, 1st axis", "z, 2nd axis"))
            self.scatter.layout.xaxis.title.text, self.scatter.layout.yaxis.title.text = first, second

    def _draw_path(self) -> None:
        """Draw the path and the position of the slider in the latent space."""
        line, here = (self.run.coordinates(self.axes.value, z) for z in (self.path, self.latent()[None]))
        with self.scatter.batch_update():
            for trace, points in zip(self.scatter.data[1:], (line, here), strict=True):
                trace.x, trace.y = points.T

    def _values(self) -> Float[np.ndarray, " n"]:
        if self.colour.value.startswith("defocus"):
            optics = self.run.stack.metadata.optics
            return ((optics.defocus_u_A + optics.defocus_v_A) / 2e4).numpy()
        if self.colour.value in COLOUR_FIELDS:
            return getattr(self.run.predictions, COLOUR_FIELDS[self.colour.value]).numpy()
        return to_euler(self.run.predictions.rotations)[:, 1].numpy()

    def _gallery(self) -> bytes:
        """Plot the average of the selected, centred images, and the first of these images, as PNG."""
        data, poses = self.run.posed(self.rows[:MOST_USED])
        centred = data.plane.unpack(data.plane.translate(data.y, -poses.shifts_px)).numpy()
        titles = ["average", *(str(i + 1) for i in self.rows[:SHOWN])]
        figure = plots.pictures(np.stack([centred.mean(0), *centred[:SHOWN]]), titles, pixel_A=self.run.stack.pixel_A)
        png = BytesIO()
        figure.savefig(png, format="png", dpi=plots.DPI)
        return png.getvalue()

    def _connect(self) -> None:
        self.axes.observe(lambda _: self._take_axes(), "value")
        self.colour.observe(lambda _: self._draw_scatter(), "value")
        self.motion.observe(lambda change: self._take_path(self.run.ends(change["new"])), "value")
        self.slider.observe(lambda _: self._show_position(), "value")
        self.contour.observe(lambda change: self._set_contour(change["new"]), "value")
        self.begin.on_click(lambda _: self._take_end(0))
        self.end.on_click(lambda _: self._take_end(1))
        self.write.on_click(lambda _: self._write())
        # plotly may lose the event of a selection if a hover event follows at once; it never loses the outlines
        self.scatter.layout.on_change(lambda *_: self._take_outlines(), "selections")
        particles = self.scatter.data[0]
        particles.on_selection(lambda *_: self._mark_rows())  # plotly has marked no particle if outlines were removed
        particles.on_deselect(lambda *_: self.choose([]))
        particles.on_click(lambda trace, points, how: self.choose(points.point_inds))

    def _take_axes(self) -> None:
        self._draw_scatter()
        self._draw_path()
        self._remove_outlines()
        self._mark_rows()

    def _take_path(self, ends: Float[Tensor, "2 q"]) -> None:
        """Show the path between two ends. Its surfaces have one contour level, from the largest density of all its volumes."""
        self.ends, self.path = ends, self.run.density_path(ends, POINTS)
        self._highest = float(volumes_at(self.path, self.run.basis).max())
        self._show_position()

    def _take_end(self, which: int) -> None:
        if len(self.rows):
            ends = self.ends.clone()
            ends[which] = self.run.predictions.latents[torch.from_numpy(self.rows)].mean(0)
            self._take_path(ends)

    def _show_position(self) -> None:
        self.along.show(self.run.volume(self.latent()), self._highest)
        self._draw_path()

    def _set_contour(self, fraction: float) -> None:
        for view in (self.along, self.of_selection):
            view.set_contour(fraction)

    def _write(self) -> None:
        if not len(self.rows):
            self.message.value = "No particle is selected; no file is written."
            return
        paths = self.run.export(self.rows, self.stem.value)
        self.message.value = f"{len(self.rows)} particles written to {paths[0]}, their volume to {paths[1]}"

    def _arrange(self) -> ipywidgets.Widget:
        """Arrange latent space and path beside each other; the selection follows where the window has space for it."""
        across, down = ipywidgets.HBox, ipywidgets.VBox
        size = {"width": "410px", "height": "370px", "overflow": "hidden"}
        path, selection = (ipywidgets.Box([view.plot], layout=size) for view in (self.along, self.of_selection))
        columns = [
            down([across([self.axes, self.colour]), self.scatter, self.legend]),
            down([across([self.motion, self.slider]), path, self.contour]),
            down([self.message, self.begin, self.end, self.stem, self.write], layout=_width(435)),
            selection,
        ]
        return down([ipywidgets.Box(columns, layout={"flex_flow": "row wrap"}), self.picture])


def _width(width_px: int) -> dict[str, str]:
    return {"width": f"{width_px}px"}


def _button(text: str) -> ipywidgets.Button:
    return ipywidgets.Button(description=text, layout=_width(200))


def _legend(labels: Int[np.ndarray, " n"]) -> str:
    """Return the colours of the classes that occur, and the numbers of their particles, as HTML."""
    colours, (found, counts) = plots.CLASS_COLOURS, np.unique(labels, return_counts=True)
    entries = [
        f'<span style="color: {colours[k % len(colours)]}">●</span>&nbsp;class&nbsp;{k + 1}&nbsp;({count:,})'
        for k, count in zip(found.tolist(), counts.tolist(), strict=True)
    ]
    return f'<div style="width: 430px; line-height: 1.3; text-align: center">{" &ensp;".join(entries)}</div>'


def _inside(outlines: Iterable[Mapping[str, Any]], points: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
    """Return which points lie inside any of the outlines, in plotly's form, that a user has drawn with the lasso or the box."""
    found = np.zeros(len(points), dtype=bool)
    for one in outlines:
        if one["type"] == "path":
            corners = np.array(re.findall(NUMBER, one["path"]), dtype=float).reshape(-1, 2)
        else:
            corners = np.array([(one[x], one[y]) for x, y in (("x0", "y0"), ("x1", "y0"), ("x1", "y1"), ("x0", "y1"))])
        found |= Outline(corners).contains_points(points)
    return found


def _scatter_plot() -> go.FigureWidget:
    """Make the plot of the latent space: the particles, the path, and the position of the slider."""
    layout = {
        "width": 435,
        "height": 400,
        "margin": {"l": 50, "r": 10, "t": 10, "b": 45},
        "dragmode": "lasso",
        "template": "simple_white",
        "showlegend": False,
    }
    particles = go.Scattergl(mode="markers", hovertemplate="row %{customdata}<extra></extra>")
    fixed = {"hoverinfo": "skip", "unselected": {"marker": {"opacity": 1}}}  # a selection does not fade the path
    path = go.Scatter(mode="lines+markers", line={"color": PATH_COLOUR, "width": 2}, marker={"size": 5}, **fixed)
    position = {"size": 13, "color": PATH_COLOUR, "line": {"color": "white", "width": 2}}
    return go.FigureWidget([particles, path, go.Scatter(mode="markers", marker=position, **fixed)], layout)

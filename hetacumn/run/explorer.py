"""Interactive exploration of a finished run: the latent space, selected particles, and volumes along a path.

:class:`Explorer` shows an :class:`~hetacumn.prediction.answer.Answer` with JupyterLab widgets. plotly plots the latent space,
and k3d renders surfaces; neither needs internet access.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import ipywidgets
import k3d
import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hetacumn import plots
from hetacumn.common.errors import HetacumnError
from hetacumn.common.project import project_root
from hetacumn.physics.rotations import to_euler
from hetacumn.prediction.answer import Answer

SHOWN = 7  # number of images of a selection to show
MOST_USED = 3000  # particles used for the average and volume of a selection; the limit keeps the response fast
LEVEL = 0.25  # contour level of surfaces, as a fraction of the largest density
COLOUR_FIELDS = {"class probability": "class_probabilities", "log-likelihood ratio": "log_ratios"}
DISTANCE = 0.9  # distance of the camera, in units of the box
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

    Code may also set the values of the widgets. ``truth`` holds the true classes of the particles, from 0, if known.
    """

    def __init__(self, run: Answer, truth: Int[np.ndarray, " n"] | None = None) -> None:
        self.run = run
        self.labels = {"class": run.predictions.classes.numpy()} | ({} if truth is None else {"truth": truth})
        self.rows = np.arange(0)
        known = [name for name, field in COLOUR_FIELDS.items() if getattr(run.predictions, field) is not None]
        colours = ["class", "defocus (µm)", "tilt of view (°)", *known, *list(self.labels)[1:]]
        axes = ["principal axes", "independent motions", *(["UMAP"] if importlib.util.find_spec("umap") else [])]
        self.colour = ipywidgets.Dropdown(options=colours, description="colour")
        self.axes = ipywidgets.Dropdown(options=axes, description="axes")
        motions = [(f"motion {i + 1}", i) for i in range(run.motions.coordinates.shape[1])]
        self.motion = ipywidgets.Dropdown(options=motions, description="path")
        self.slider = ipywidgets.FloatSlider(0.0, min=0.0, max=1.0, step=0.05, description="position")
        self.begin, self.end = (_button(f"{name} of path = selection") for name in ("start", "end"))
        self.stem = ipywidgets.Text(str(run.folder / "selection"), description="file")
        self.write = _button("write STAR and MRC")
        self.message = ipywidgets.HTML("Draw a lasso around particles, or click one.")
        self.picture = ipywidgets.Image(format="png", layout={"max_width": "95%", "display": "none"})
        self.ends = self._ends_of(0)

        layout = {
            "width": 560,
            "height": 460,
            "margin": {"l": 50, "r": 10, "t": 10, "b": 45},
            "dragmode": "lasso",
            "template": "simple_white",
        }
        self.scatter = go.FigureWidget(go.Scattergl(mode="markers"), layout)
        self.along, self.of_selection = _surface_plot(run.stack.box), _surface_plot(run.stack.box)
        self.surface = _add_surface(self.along, run.volume(self.ends[0]), plots.CLASS_COLOURS[0])
        self.selected = None
        self._draw_scatter()
        self._connect()
        self.box = self._arrange()

    def choose(self, rows: Int[np.ndarray, " m"] | Sequence[int]) -> None:
        """Select particles by their rows, from 0, and show their images, average and volume."""
        self.rows = np.asarray(rows, dtype=np.int64)
        if not len(self.rows):
            self.message.value = "No particle is selected."
            return
        class_sizes = np.bincount(self.run.predictions.classes[torch.from_numpy(self.rows)].numpy())
        counts = ", ".join(f"{n} of class {k + 1}" for k, n in enumerate(class_sizes) if n)
        first = f"; the volume uses the first {MOST_USED}" if len(self.rows) > MOST_USED else ""
        self.message.value = f"{len(self.rows)} particles: {counts}{first}"
        self.picture.value, self.picture.layout.display = self._gallery(), None
        volume = self.run.reconstruct(self.rows[:MOST_USED])
        if self.selected is None:
            self.selected = _add_surface(self.of_selection, volume, plots.CLASS_COLOURS[1])
        else:
            _set_surface(self.selected, volume)

    def latent(self) -> Float[Tensor, " q"]:
        """Return the latent at the position of the slider along the path."""
        first, last = self.ends
        return torch.lerp(first, last, float(self.slider.value))

    def _ends_of(self, motion: int) -> list[Float[Tensor, " q"]]:
        path = self.run.motions.path(motion, 2)
        return [path[0], path[1]]

    def _draw_scatter(self) -> None:
        coordinates, trace = self.run.coordinates(self.axes.value), self.scatter.data[0]
        marker: dict[str, object] = {"size": 4, "opacity": 0.6}
        if self.colour.value in self.labels:
            labels = self.labels[self.colour.value]
            palette = np.array(plots.CLASS_COLOURS)
            marker |= {"color": palette[labels % len(palette)].tolist(), "showscale": False}
        else:
            marker |= {
                "color": self._values(),
                "colorscale": "Cividis",
                "showscale": True,
                "colorbar": {"title": {"text": self.colour.value}},
            }
        with self.scatter.batch_update():
            trace.x, trace.y, trace.marker = coordinates[:, 0], coordinates[:, 1], marker
            names = {"independent motions": ("motion 1 (sd)", "motion 2 (sd)"), "UMAP": ("UMAP 1", "UMAP 2")}
            first, second = names.get(self.axes.value, ("z, 1st axis", "z, 2nd axis"))
            self.scatter.layout.xaxis.title.text, self.scatter.layout.yaxis.title.text = first, second

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
        self.axes.observe(lambda _: self._draw_scatter(), "value")
        self.colour.observe(lambda _: self._draw_scatter(), "value")
        self.motion.observe(self._take_motion, "value")
        self.slider.observe(lambda _: self._show_path(), "value")
        self.begin.on_click(lambda _: self._take_end(0))
        self.end.on_click(lambda _: self._take_end(1))
        self.write.on_click(lambda _: self._write())
        self.scatter.data[0].on_selection(lambda trace, points, how: self.choose(points.point_inds))
        self.scatter.data[0].on_click(lambda trace, points, how: self.choose(points.point_inds))

    def _take_motion(self, change: dict) -> None:
        self.ends = self._ends_of(change["new"])
        self._show_path()

    def _take_end(self, which: int) -> None:
        if len(self.rows):
            self.ends[which] = self.run.predictions.latents[torch.from_numpy(self.rows)].mean(0)
            self._show_path()

    def _show_path(self) -> None:
        _set_surface(self.surface, self.run.volume(self.latent()))

    def _write(self) -> None:
        if not len(self.rows):
            self.message.value = "No particle is selected; no file is written."
            return
        paths = self.run.export(self.rows, self.stem.value)
        self.message.value = f"{len(self.rows)} particles written to {paths[0]}, their volume to {paths[1]}"

    def _arrange(self) -> ipywidgets.Widget:
        across, down = ipywidgets.HBox, ipywidgets.VBox
        size = {"width": "420px", "height": "410px", "overflow": "hidden"}
        surfaces = [
            down([ipywidgets.HTML(f"<b>{title}</b>"), ipywidgets.Box([plot], layout=size)])
            for title, plot in (("volume along the path", self.along), ("volume of the selection", self.of_selection))
        ]
        return down(
            [
                across([self.axes, self.colour]),
                across(
                    [self.scatter, down([self.motion, self.slider, self.begin, self.end, self.stem, self.write, self.message])]
                ),
                self.picture,
                across(surfaces),
            ]
        )


def _button(text: str) -> ipywidgets.Button:
    return ipywidgets.Button(description=text, layout={"width": "220px"})


def _surface_plot(box: int) -> k3d.Plot:
    plot = k3d.plot(height=400, grid_visible=False, menu_visibility=False, camera_auto_fit=False, axes_helper=0.0)
    plot.camera = [0.0, -DISTANCE * box, 0.2 * DISTANCE * box, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]  # from, at, up
    return plot


def _add_surface(plot: k3d.Plot, volume: Float[Tensor, "box box box"], colour: str) -> k3d.objects.MarchingCubes:
    half = volume.shape[-1] / 2
    surface = k3d.marching_cubes(
        volume.numpy().astype(np.float32),
        level=LEVEL * float(volume.max()),
        color=int(colour[1:], 16),
        flat_shading=False,
        bounds=[-half, half] * 3,
    )
    plot += surface
    return surface


def _set_surface(surface: k3d.objects.MarchingCubes, volume: Float[Tensor, "box box box"]) -> None:
    surface.scalar_field = volume.numpy().astype(np.float32)
    surface.level = LEVEL * float(volume.max())

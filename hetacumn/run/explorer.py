"""Interactive exploration of a finished run: the latent space, selected particles, and volumes along a path.

:class:`Explorer` shows an :class:`~hetacumn.prediction.answer.Answer` with JupyterLab widgets. plotly plots the latent space,
and k3d renders surfaces; neither needs internet access. Surfaces show volumes at the training box, which change at once with
every selection and position, or maps at the full box, which the user can reconstruct from the raw images.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

import ipywidgets
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hetacumn import plots
from hetacumn.common.errors import HetacumnError
from hetacumn.common.project import project_root
from hetacumn.physics.fourier import crop_large_volumes
from hetacumn.physics.rotations import to_euler
from hetacumn.prediction.answer import Answer
from hetacumn.reconstruction.motion_maps import PathMaps
from hetacumn.reconstruction.reconstruct import SELECTION
from hetacumn.run.views import CONTOUR, LatentPlot, SurfaceView
from hetacumn.search.subspace import volumes_at

SHOWN = 7  # number of images of a selection to show
MOST_USED = 3000  # particles used for the average and volume of a selection; the limit keeps the response fast
POINTS = 10  # number of latents, and of maps, along a path
SHOWN_BOX = 128  # box to which larger maps are Fourier-cropped for display; the files keep the full box
TRAINING_BOX, FULL_BOX = "training box", "full box"
COLOUR_FIELDS = {"class probability": "class_probabilities", "log-likelihood ratio": "log_ratios"}
AXIS_LABELS = {"independent motions": ("motion 1 (sd)", "motion 2 (sd)"), "UMAP": ("UMAP 1", "UMAP 2")}
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

    Code may also set the values of the widgets. ``truth`` contains the true classes of the particles, from 0, if known.
    ``rows`` contains the rows of the selected particles. ``path`` contains latents along the density path between ``ends``.
    ``path_maps`` contains the full-box maps at these latents; None until they are made.
    """

    def __init__(self, run: Answer, truth: Int[np.ndarray, " n"] | None = None) -> None:
        self.run = run
        self.labels = {"class": run.predictions.classes.numpy()} | ({} if truth is None else {"truth": truth})
        self.rows = np.arange(0)
        self.path_maps: PathMaps | None = None
        known = [name for name, field in COLOUR_FIELDS.items() if getattr(run.predictions, field) is not None]
        colours = ["class", "defocus (µm)", "tilt of view (°)", *known, *list(self.labels)[1:]]
        axes = ["principal axes", "independent motions", *(["UMAP"] if importlib.util.find_spec("umap") else [])]
        self.colour = ipywidgets.Dropdown(options=colours, description="colour", layout=_width(212))
        self.axes = ipywidgets.Dropdown(options=axes, description="axes", layout=_width(212))
        motions = [(f"motion {i}", i) for i in range(1, 1 + run.motions.coordinates.shape[1])]
        self.motion = ipywidgets.Dropdown(options=motions, description="path", layout=_width(180))
        self.detail = ipywidgets.Dropdown(options=[TRAINING_BOX, FULL_BOX], description="volumes", layout=_width(220))
        self.slider = ipywidgets.FloatSlider(0.0, min=0.0, max=1.0, step=0.05, description="position", layout=_width(400))
        self.contour = ipywidgets.FloatSlider(
            CONTOUR, min=0.05, max=0.9, step=0.01, description="contour", tooltip="fraction of the largest density",
            layout=_width(400),
        )  # fmt: skip
        self.begin, self.end = (_button(f"{name} of path = selection") for name in ("start", "end"))
        self.make_path, self.make_selection = (_button(f"full-box map{s}") for s in ("s of the path", " of the selection"))
        self.stem = ipywidgets.Text(str(run.folder / "selection"), description="file", layout=_width(400))
        self.write = _button("write STAR and MRC")
        self.message = ipywidgets.HTML("Draw a lasso around particles, or click one.")
        self.progress, self.legend = ipywidgets.Output(), ipywidgets.HTML()
        self.picture = ipywidgets.Image(format="png", layout={"max_width": "95%", "display": "none"})

        extent_A = run.stack.box * run.voxel_A
        self.along = SurfaceView(extent_A, plots.CLASS_COLOURS[0])
        self.of_selection = SurfaceView(extent_A, plots.CLASS_COLOURS[1])
        self.latent_plot = LatentPlot(lambda rows: self._select(rows, keep_outlines=True))
        self._draw_particles()
        self._take_path(run.ends(1))
        self._connect()
        self.box = self._arrange()

    def choose(self, rows: Int[np.ndarray, " m"] | Sequence[int]) -> None:
        """Select particles by their rows, from 0: mark them in the plot, and show their images, average and volume."""
        self._select(np.asarray(rows, dtype=np.int64))

    def _select(self, rows: Int[np.ndarray, " m"], keep_outlines: bool = False) -> None:
        self.rows = rows
        self.latent_plot.mark(rows, keep_outlines)
        if not len(rows):
            self.message.value, self.picture.layout.display = "No particle is selected.", "none"
            self.of_selection.clear()
            return
        class_sizes = np.bincount(self.run.predictions.classes[torch.from_numpy(rows)].numpy())
        counts = ", ".join(f"{n:,} of class {k + 1}" for k, n in enumerate(class_sizes) if n)
        first = f"; the volume uses the first {MOST_USED:,}" if len(rows) > MOST_USED else ""
        self.message.value = f"{len(rows):,} particle{'s' * (len(rows) > 1)}: {counts}{first}"
        self.picture.value, self.picture.layout.display = self._gallery(), None
        volume = self.run.reconstruct(rows[:MOST_USED])
        self.of_selection.show(volume, float(volume.max()))

    def latent(self) -> Float[Tensor, " q"]:
        """Return the latent at the position of the slider along the path; at the full box, the latent of the nearest map."""
        position = float(self.slider.value) * (len(self.path) - 1)
        if self._at_full_box():
            position = round(position)
        before = min(int(position), len(self.path) - 2)
        return torch.lerp(self.path[before], self.path[before + 1], position - before)

    def path_folder(self) -> Path:
        """Return the folder of the maps of the path: ``motion_N``, as ``hetacumn reconstruct``, or ``path_selection``."""
        motion = self.motion.value
        return self.run.folder / (f"motion_{motion}" if self.ends.equal(self.run.ends(motion)) else f"path_{SELECTION}")

    def _draw_particles(self) -> None:
        marker: dict[str, object] = {"size": 4, "opacity": 0.6}
        self.legend.value = ""
        if self.colour.value in self.labels:
            labels = self.labels[self.colour.value]
            palette = np.array(plots.CLASS_COLOURS)
            marker |= {"color": palette[labels % len(palette)].tolist(), "showscale": False}
            self.legend.value = _legend(labels)
        else:
            bar = {"title": {"text": self.colour.value, "side": "right"}, "thickness": 12}
            marker |= {"color": self._values(), "colorscale": "Cividis", "showscale": True, "colorbar": bar}
        names = AXIS_LABELS.get(self.axes.value, ("z, 1st axis", "z, 2nd axis"))
        self.latent_plot.draw_particles(self.run.coordinates(self.axes.value), marker, names)

    def _draw_path(self) -> None:
        self.latent_plot.draw_path(*(self.run.coordinates(self.axes.value, z) for z in (self.path, self.latent()[None])))

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
        self.colour.observe(lambda _: self._draw_particles(), "value")
        self.motion.observe(lambda change: self._take_path(self.run.ends(change["new"])), "value")
        self.detail.observe(lambda _: self._show_path(), "value")
        self.slider.observe(lambda _: self._show_position(), "value")
        self.contour.observe(lambda change: self._set_contour(change["new"]), "value")
        self.begin.on_click(lambda _: self._take_end(0))
        self.end.on_click(lambda _: self._take_end(1))
        self.make_path.on_click(lambda _: self._run_long(self._make_path_maps))
        self.make_selection.on_click(lambda _: self._run_long(self._make_selection_map))
        self.write.on_click(lambda _: self._write())

    def _take_axes(self) -> None:
        self._draw_particles()
        self._draw_path()
        self.latent_plot.mark(self.rows)

    def _take_path(self, ends: Float[Tensor, "2 q"]) -> None:
        """Show the path between two ends, with its maps at the full box if they exist."""
        self.ends, path = ends, partial(self.run.density_path, ends)
        self.path_maps = PathMaps.find(self.path_folder(), path)
        self.path = path(POINTS if self.path_maps is None else len(self.path_maps.table))
        self._show_path()

    def _take_end(self, which: int) -> None:
        if len(self.rows):
            ends = self.ends.clone()
            ends[which] = self.run.predictions.latents[torch.from_numpy(self.rows)].mean(0)
            self._take_path(ends)

    def _at_full_box(self) -> bool:
        return self.detail.value == FULL_BOX and self.path_maps is not None

    def _show_path(self) -> None:
        """Show the volumes of the path. The largest density of all these volumes sets the contour level of every surface."""
        if self.path_maps is not None and self._at_full_box():
            self._volumes, _ = self.path_maps.read(SHOWN_BOX)
            self.message.value = f"{len(self._volumes)} full-box maps; ChimeraX opens {self.path_maps.morph}"
        else:
            self._volumes = volumes_at(self.path, self.run.basis)
            if self.detail.value == FULL_BOX:
                self.message.value = (
                    "This path has no full-box maps yet. The button <i>full-box maps of the path</i> reconstructs them."
                )
        self._show_position()

    def _show_position(self) -> None:
        if self._at_full_box():
            volume = self._volumes[round(self.slider.value * (len(self.path) - 1))]
        else:
            volume = self.run.volume(self.latent())
        self.along.show(volume, float(self._volumes.max()))
        self._draw_path()

    def _set_contour(self, fraction: float) -> None:
        for view in (self.along, self.of_selection):
            view.set_contour(fraction)

    def _run_long(self, work: Callable[[], None]) -> None:
        """Run ``work``, which takes minutes, with its progress bar, and show an error as a message."""
        self.message.value = "Reading the raw images; this takes minutes."
        with self.progress:
            try:
                work()
            except HetacumnError as error:
                self.message.value = str(error)
        self.progress.clear_output()

    def _make_path_maps(self) -> None:
        self.path_maps = self.run.path_maps(self.path, self.path_folder())
        self.detail.value = FULL_BOX
        self._show_path()

    def _make_selection_map(self) -> None:
        found = self.run.maps(rows=self.rows)
        volume = crop_large_volumes(found.maps[SELECTION] * found.masks[SELECTION], SHOWN_BOX)
        self.of_selection.show(volume, float(volume.max()))
        self.message.value = f"{len(self.rows):,} particles: {found.results[0].resolution_A:.1f} Å, in {found.folder}"

    def _write(self) -> None:
        if not len(self.rows):
            self.message.value = "No particle is selected; no file is written."
            return
        paths = self.run.export(self.rows, self.stem.value)
        self.message.value = f"{len(self.rows)} particles written to {paths[0]}, their volume to {paths[1]}"

    def _arrange(self) -> ipywidgets.Widget:
        """Place latent space and path side by side; the selection is placed where the window has space for it."""
        across, down = ipywidgets.HBox, ipywidgets.VBox
        size = {"width": "410px", "height": "350px", "overflow": "hidden"}
        path, selection = (ipywidgets.Box([view.plot], layout=size) for view in (self.along, self.of_selection))
        buttons = [across(pair) for pair in ((self.begin, self.end), (self.make_path, self.make_selection))]
        columns = [
            down([across([self.axes, self.colour]), self.latent_plot.figure, self.legend]),
            down([across([self.motion, self.detail]), self.slider, path, self.contour]),
            down([self.message, self.progress, *buttons, self.stem, self.write], layout=_width(435)),
            selection,
        ]
        return down([ipywidgets.Box(columns, layout={"flex_flow": "row wrap"}), self.picture])


def _width(width_px: int) -> dict[str, str]:
    return {"width": f"{width_px}px"}


def _button(text: str) -> ipywidgets.Button:
    return ipywidgets.Button(description=text, layout=_width(212))


def _legend(labels: Int[np.ndarray, " n"]) -> str:
    """Return a legend as HTML: the colour and the number of particles of each class that occurs."""
    colours, (found, counts) = plots.CLASS_COLOURS, np.unique(labels, return_counts=True)
    entries = [
        f'<span style="color: {colours[k % len(colours)]}">●</span>&nbsp;class&nbsp;{k + 1}&nbsp;({count:,})'
        for k, count in zip(found.tolist(), counts.tolist(), strict=True)
    ]
    return f'<div style="width: 430px; line-height: 1.3; text-align: center">{" &ensp;".join(entries)}</div>'

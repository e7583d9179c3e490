"""Looking around in a finished run: its latent space, some of its particles, volumes along a path.

:class:`Finished` reads a run back and answers questions; :class:`Explorer` puts widgets for JupyterLab around it: plotly for
the latent space, k3d for surfaces. Neither asks another host.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import ipywidgets
import k3d
import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from hetacumn import plots, project, star
from hetacumn.backprojection import back_project
from hetacumn.errors import HetacumnError
from hetacumn.evaluation import read_volumes
from hetacumn.landscape import LatentAxes, latent_axes
from hetacumn.observations import Observations, observe
from hetacumn.particles import Poses
from hetacumn.predictions import Predictions
from hetacumn.prepared import Prepared, reopen
from hetacumn.so3 import to_euler
from hetacumn.subspace import volumes_at
from hetacumn.training import read_run
from hetacumn.volumes import soft_sphere, write_mrc

SHOWN = 7  # images of a selection
LEVEL = 0.25  # of the largest density: where surfaces are drawn
DISTANCE = 0.9  # of the camera, in boxes
MOST_USED = 3000  # particles of a selection that its volume is made of, so that one does not wait
MOTIONS = 2
USUAL = ("results/adk/hetacumn-refined", "results/tour/model")  # runs of the main pipeline and of lesson 1


@dataclass(frozen=True)
class Finished:
    """A finished run: what was predicted of the particles of ``stack``; ``basis`` ``(1 + q, box, box, box)`` of V(z)."""

    folder: Path
    stack: Prepared
    found: Predictions
    basis: Tensor
    voxel_A: float
    motions: LatentAxes

    @classmethod
    def open(cls, folder: Path | str, prepared: Path | str = "") -> Finished:
        """The run of a folder that `03_predict` wrote; ``prepared`` where its images are, if not where the run says.

        Raises:
            HetacumnError: a file missing, or images that are not those of the predictions.
        """
        folder = Path(folder)
        stack = reopen(prepared or read_run(folder).get("prepared") or folder / "prepared")
        found = Predictions.read(folder)
        if found.names != stack.names:
            raise HetacumnError(f"{stack.folder}: not the particles of {folder / 'predictions.star'}; expected the images that "
                                "these predictions are of")
        basis, voxel_A = read_volumes(folder / "volumes", "basis_")
        return cls(folder, stack, found, basis, voxel_A, latent_axes(found.latents, MOTIONS, basis))

    def volume(self, z: Tensor) -> Tensor:
        """V(z) ``(box, box, box)`` of one latent ``(q,)``."""
        return volumes_at(z[None], self.basis)[0]

    def places(self, axes: str) -> np.ndarray:
        """Where the particles lie ``(n, 2)``: by principal axes, independent motions, or UMAP (McInnes et al. 2018)."""
        z = self.found.latents
        if axes == "independent motions":
            two = self.motions.coordinates
        elif axes == "UMAP":
            from umap import UMAP

            two = torch.from_numpy(UMAP(random_state=0).fit_transform(z.numpy()))
        else:
            centred = z - z.mean(0)
            two = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
        return torch.nn.functional.pad(two, (0, 2 - min(2, two.shape[1])))[:, :2].numpy()

    def posed(self, rows: np.ndarray) -> tuple[Observations, Poses]:
        """Some particles as the likelihood sees them, and their predicted poses."""
        index = torch.from_numpy(rows)
        shifts_px = self.stack.shifts_in_prepared_A(self.found.shifts_A)[index] / self.stack.pixel_A
        return observe(self.stack.read(rows)), Poses(self.found.rotations[index], shifts_px)

    def reconstruct(self, rows: np.ndarray) -> Tensor:
        """The volume of some particles, by weighted back-projection at their poses; of the first few thousand of them."""
        volume = back_project(*self.posed(rows[:MOST_USED]))
        return volume * soft_sphere(volume.shape[-1])

    def export(self, rows: np.ndarray, stem: Path | str) -> tuple[Path, Path]:
        """Write ``<stem>.star``, the predictions of some particles for RELION and others, and their volume ``<stem>.mrc``."""
        table, paths = star.read_table(self.folder / "predictions.star"), [Path(f"{stem}.{kind}") for kind in ("star", "mrc")]
        star.write_table(paths[0], table.particles.iloc[rows].reset_index(drop=True), table.optics)
        write_mrc(paths[1], self.reconstruct(rows), self.voxel_A)
        return paths[0], paths[1]


def usual_run() -> Path:
    """The main pipeline's run, or that of lesson 1, whichever is there.

    Raises:
        HetacumnError: neither is.
    """
    folders = [project.root() / name for name in USUAL]
    found = next((folder for folder in folders if (folder / "predictions.star").is_file()), None)
    if found is None:
        raise HetacumnError(f"no finished run in {folders[0]} or {folders[1]}; expected one: run "
                            "notebooks/lessons/1_tour.ipynb (a minute), or `make repro`, or name a folder of your own")
    return found


class Explorer:
    """Widgets around a run: ``box`` is what to display. Every control may be set from code as well, and then does the same."""

    def __init__(self, run: Finished, truth: np.ndarray | None = None):
        self.run, self.truth = run, truth
        self.rows = np.arange(0)
        colours = ["class", "defocus (µm)", "tilt of view (°)", *(["truth"] if truth is not None else [])]
        axes = ["principal axes", "independent motions", *(["UMAP"] if importlib.util.find_spec("umap") else [])]
        self.colour = ipywidgets.Dropdown(options=colours, description="colour")
        self.axes = ipywidgets.Dropdown(options=axes, description="axes")
        motions = [(f"motion {i + 1}", i) for i in range(run.motions.coordinates.shape[1])]
        self.motion = ipywidgets.Dropdown(options=motions, description="path")
        self.slider = ipywidgets.FloatSlider(0.0, min=0.0, max=1.0, step=0.05, description="along it")
        self.begin, self.end = (_button(f"{name} of path = selection") for name in ("start", "end"))
        self.stem = ipywidgets.Text(str(run.folder / "selection"), description="file")
        self.write = _button("write STAR and MRC")
        self.said = ipywidgets.HTML("Draw a lasso around particles, or click one.")
        self.picture = ipywidgets.Image(format="png", layout={"max_width": "95%", "display": "none"})
        self.ends = self._ends_of(0)

        layout = {"width": 560, "height": 460, "margin": {"l": 50, "r": 10, "t": 10, "b": 45}, "dragmode": "lasso",
                  "template": "simple_white"}
        self.scatter = go.FigureWidget(go.Scattergl(mode="markers"), layout)
        self.along, self.of_selection = _surface_plot(run.stack.box), _surface_plot(run.stack.box)
        self.surface = _add_surface(self.along, run.volume(self.ends[0]), plots.CLASS_COLOURS[0])
        self.selected = None
        self._draw_scatter()
        self._connect()
        self.box = self._arrange()

    def choose(self, rows: np.ndarray | Sequence[int]) -> None:
        """Select particles: their images, average and volume are shown."""
        self.rows = np.asarray(rows, dtype=np.int64)
        if not len(self.rows):
            self.said.value = "Nothing is selected."
            return
        of_classes = np.bincount(self.run.found.classes[torch.from_numpy(self.rows)].numpy())
        counts = ", ".join(f"{n} of class {k + 1}" for k, n in enumerate(of_classes) if n)
        self.said.value = f"{len(self.rows)} particles: {counts}"
        self.picture.value, self.picture.layout.display = self._gallery(), None
        volume = self.run.reconstruct(self.rows)
        if self.selected is None:
            self.selected = _add_surface(self.of_selection, volume, plots.CLASS_COLOURS[1])
        else:
            _set_surface(self.selected, volume)

    def latent(self) -> Tensor:
        """The latent ``(q,)`` that the slider stands at."""
        return torch.lerp(*self.ends, float(self.slider.value))

    def _ends_of(self, motion: int) -> list[Tensor]:
        path = self.run.motions.path(motion, 2)
        return [path[0], path[1]]

    def _draw_scatter(self) -> None:
        places, trace = self.run.places(self.axes.value), self.scatter.data[0]
        marker = {"size": 4, "opacity": 0.6}
        if self.colour.value in ("class", "truth"):
            labels = self.run.found.classes.numpy() if self.colour.value == "class" else self.truth
            palette = np.array(plots.CLASS_COLOURS)
            marker |= {"color": palette[labels % len(palette)].tolist(), "showscale": False}
        else:
            marker |= {"color": self._values(), "colorscale": "Cividis", "showscale": True,
                       "colorbar": {"title": {"text": self.colour.value}}}
        with self.scatter.batch_update():
            trace.x, trace.y, trace.marker = places[:, 0], places[:, 1], marker
            names = {"independent motions": ("motion 1 (sd)", "motion 2 (sd)"), "UMAP": ("UMAP 1", "UMAP 2")}
            first, second = names.get(self.axes.value, ("z, 1st axis", "z, 2nd axis"))
            self.scatter.layout.xaxis.title.text, self.scatter.layout.yaxis.title.text = first, second

    def _values(self) -> np.ndarray:
        if self.colour.value.startswith("defocus"):
            optics = self.run.stack.optics
            return ((optics.defocus_u_A + optics.defocus_v_A) / 2e4).numpy()
        return to_euler(self.run.found.rotations)[:, 1].numpy()

    def _gallery(self) -> bytes:
        """The average of the selected images, moved to the middle, and the first of them."""
        data, poses = self.run.posed(self.rows[:MOST_USED])
        centred = data.plane.unpack(data.plane.translate(data.y, -poses.shifts_px)).numpy()
        figure = plots.pictures(np.stack([centred.mean(0), *centred[:SHOWN]]),
                                 ["average", *(str(i + 1) for i in self.rows[:SHOWN])])
        drawn = BytesIO()
        figure.savefig(drawn, format="png", dpi=plots.DPI)
        return drawn.getvalue()

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
            self.ends[which] = self.run.found.latents[torch.from_numpy(self.rows)].mean(0)
            self._show_path()

    def _show_path(self) -> None:
        _set_surface(self.surface, self.run.volume(self.latent()))

    def _write(self) -> None:
        if not len(self.rows):
            self.said.value = "Nothing is selected, nothing is written."
            return
        paths = self.run.export(self.rows, self.stem.value)
        self.said.value = f"{len(self.rows)} particles written to {paths[0]}, their volume to {paths[1]}"

    def _arrange(self) -> ipywidgets.Widget:
        across, down = ipywidgets.HBox, ipywidgets.VBox
        size = {"width": "420px", "height": "410px", "overflow": "hidden"}
        surfaces = [down([ipywidgets.HTML(f"<b>{title}</b>"), ipywidgets.Box([plot], layout=size)])
                    for title, plot in (("volume along the path", self.along), ("volume of the selection", self.of_selection))]
        return down([
            across([self.axes, self.colour]),
            across([self.scatter, down([self.motion, self.slider, self.begin, self.end, self.stem, self.write, self.said])]),
            self.picture,
            across(surfaces),
        ])


def _button(text: str) -> ipywidgets.Button:
    return ipywidgets.Button(description=text, layout={"width": "220px"})


def _surface_plot(box: int) -> k3d.Plot:
    plot = k3d.plot(height=400, grid_visible=False, menu_visibility=False, camera_auto_fit=False, axes_helper=0.0)
    plot.camera = [0.0, -DISTANCE * box, 0.2 * DISTANCE * box, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]  # from, at, up
    return plot


def _add_surface(plot: k3d.Plot, volume: Tensor, colour: str) -> k3d.objects.MarchingCubes:
    half = volume.shape[-1] / 2
    surface = k3d.marching_cubes(volume.numpy().astype(np.float32), level=LEVEL * float(volume.max()),
                                 color=int(colour[1:], 16), flat_shading=False, bounds=[-half, half] * 3)
    plot += surface
    return surface


def _set_surface(surface: k3d.objects.MarchingCubes, volume: Tensor) -> None:
    surface.scalar_field = volume.numpy().astype(np.float32)
    surface.level = LEVEL * float(volume.max())

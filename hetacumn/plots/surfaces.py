"""Volumes as surfaces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from scipy.ndimage import zoom
from skimage.measure import marching_cubes

from hetacumn.plots.theme import CLASS_COLOURS, WIDTH_IN, in_order, method_style

SMOOTH_BOX = 96  # volumes of fewer voxels along a side are interpolated before their surface is drawn


@dataclass(frozen=True)
class View:
    """A view of volumes.

    Attributes:
        axes_xyz: The axes of the view as rows: towards the viewer, to the right, up.
        centre: The centre of the view along the axes, in voxels from the origin.
        reach: Half the extent of the view, in voxels.
    """

    axes_xyz: Float[np.ndarray, "3 3"]
    centre: Float[np.ndarray, " 3"]
    reach: float

    def from_the_side(self) -> "View":
        """Turn the view by 90° about the upward axis."""
        order, signs = [1, 0, 2], np.array([1.0, -1.0, 1.0])
        return View(self.axes_xyz[order] * signs[:, None], self.centre[order] * signs, self.reach)


def volume_surfaces(
    truth: Float[np.ndarray, "k z y x"],
    estimates: Mapping[str, Float[np.ndarray, "k _z _y _x"]],
    titles: Sequence[str] | None = None,
    reference: str = "truth",
) -> Figure:
    """Draw class volumes as surfaces, the truth above every method: one column per class, all from one side.

    The truth is cut at a quarter of its highest density, an estimate where it encloses as many voxels. The view is across
    the two longest principal axes.

    Args:
        truth: True volumes, or any volumes if there are no estimates.
        estimates: Volumes by method, in the frame of the truth.
        titles: The titles of the columns; class 1, class 2, … if None.
        reference: The name of the first row.
    """
    rows = {reference: truth, **{method_style(m).label: estimates[m] for m in in_order(set(estimates))}}
    margin, size = 0.4, min((WIDTH_IN - 0.4) / len(truth), 1.35)
    width, height = margin + size * len(truth), margin + size * len(rows)
    figure = Figure(figsize=(width, height), layout=None)
    view = _principal_view(truth)
    for row, (name, volumes) in enumerate(rows.items()):
        bottom = size * (len(rows) - 1 - row)
        for k, volume in enumerate(volumes):
            left = margin + k * size
            place = left / width, bottom / height, size / width, size / height
            axis = figure.add_axes(place, projection="3d")
            share = float((truth[k] > 0.25 * truth[k].max()).mean())
            level = float(np.quantile(volume, 1 - share))
            _draw_surface(axis, volume, level, CLASS_COLOURS[k % len(CLASS_COLOURS)], view)
        if estimates:
            figure.text(0.04 / width, (bottom + size / 2) / height, name.replace(", ", ",\n"), rotation=90, va="center",
                        ha="left", ma="center", linespacing=1.0)  # fmt: skip
    for k, title in enumerate(titles or [f"class {k + 1}" for k in range(len(truth))]):
        left = margin + (k + 0.5) * size
        figure.text(left / width, 1 - 0.08 / height, title, va="top", ha="center")
    return figure


def path_surfaces(volumes: Float[np.ndarray, "p z y x"], max_volumes: int = 5) -> Figure:
    """Draw volumes along a path as surfaces, from the front (above) and from the side (below).

    Args:
        volumes: Volumes in their order along the path.
        max_volumes: The number of volumes that are drawn, evenly from the first to the last, with their numbers.
    """
    numbers = np.linspace(0, len(volumes) - 1, min(max_volumes, len(volumes))).round().astype(int)
    size = WIDTH_IN / len(numbers)
    height = 2 * size + 0.5  # with room for a title
    figure = Figure(figsize=(WIDTH_IN, height), layout=None)
    front = _principal_view(volumes)
    level = 0.25 * float(np.max(volumes))
    for k, number in enumerate(numbers):
        for row, view in enumerate((front, front.from_the_side())):
            place = k / len(numbers), (1 - row) * size / height, 1 / len(numbers), size / height
            axis = figure.add_axes(place, projection="3d")
            _draw_surface(axis, volumes[number], level, CLASS_COLOURS[0], view)
        figure.text((k + 0.5) / len(numbers), 2 * size / height, str(number + 1), va="bottom", ha="center")
    return figure


def _principal_view(volumes: Float[np.ndarray, "k z y x"]) -> View:
    """Find the view along the shortest principal axis of the space that any volume fills, with the longest axis up."""
    filled = volumes.max(0)
    zyx = np.argwhere(filled > 0.2 * filled.max()) - filled.shape[-1] // 2
    points = zyx[:, ::-1].astype(float)
    _, vectors = np.linalg.eigh(np.cov(points.T))
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), range(3)])  # eigenvectors have no sign
    if np.linalg.det(vectors) < 0:
        vectors[:, 0] *= -1
    low, high = (points @ vectors).min(0), (points @ vectors).max(0)
    return View(vectors.T, (low + high) / 2, float((high - low).max()) / 2 + 1)


def _draw_surface(axis: Axes3D, volume: Float[np.ndarray, "z y x"], level: float, colour: str, view: View) -> None:
    """Draw the surface where the density is ``level``, lit from the upper left."""
    reach = view.reach
    axis.set_axis_off()
    axis.set_proj_type("ortho")
    axis.view_init(elev=0, azim=0)
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(-reach, reach))
    axis.set_box_aspect((1, 1, 1), zoom=1.65)
    finer = 2 if volume.shape[-1] < SMOOTH_BOX else 1
    fine = zoom(np.asarray(volume, dtype=float), finer, order=3, mode="grid-constant", grid_mode=True)
    if not fine.min() < level < fine.max():
        axis.text2D(0.5, 0.5, "no volume", transform=axis.transAxes, ha="center", va="center", fontsize=8)
        return
    vertices, faces, _, _ = marching_cubes(fine, level)
    voxels_xyz = ((vertices[:, ::-1] + 0.5) / finer - 0.5) - volume.shape[-1] // 2
    triangles = (voxels_xyz @ view.axes_xyz.T - view.centre)[faces]
    flat = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    smooth = np.zeros_like(vertices, dtype=float)
    np.add.at(smooth, faces, flat[:, None])  # a corner has the mean normal of the faces around it
    normals = smooth[faces].mean(1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-9)
    light = np.array([0.75, -0.4, 0.55])
    diffuse = np.clip(normals @ (light / np.linalg.norm(light)), 0, 1)[:, None]
    nearness = np.clip((triangles[:, :, 0].mean(1) / reach + 1) / 2, 0, 1)[:, None]
    shade = (0.35 + 0.65 * diffuse) * (0.7 + 0.3 * nearness)
    colours = np.clip(np.array(to_rgb(colour)) * shade + 0.2 * diffuse**12, 0, 1)
    surface = Poly3DCollection(triangles, facecolors=colours, edgecolors=colours, linewidths=0.2)
    surface.set_clip_on(False)  # the surface may reach beyond its panel
    axis.add_collection3d(surface)

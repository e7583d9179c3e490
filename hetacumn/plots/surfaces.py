"""Volumes as surfaces."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import fill

import numpy as np
from jaxtyping import Float
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from scipy.ndimage import zoom
from skimage.measure import marching_cubes

from hetacumn.plots.images import scale_bar_A
from hetacumn.plots.theme import CLASS_COLOURS, WIDTH_IN, dataset_label, in_order, method_style

SMOOTH_BOX = 96  # volumes of fewer voxels along a side are interpolated before their surface is computed
CHARACTER_IN = 0.07  # width of a character of 8 pt
BAR_IN = 0.25  # below the last row, for the scale bar
WIDEST = 1.2  # reach of a view that holds the surfaces of estimates, relative to the reach for the truth


@dataclass(frozen=True)
class View:
    """A view of volumes.

    Attributes:
        axes_xyz: The axes of the view as rows: towards the viewer, to the right, up.
        centre: The coordinates of the centre of the view along the three axes, in voxels from the origin of the volumes.
        reach: Half the extent of the view, in voxels.
    """

    axes_xyz: Float[np.ndarray, "3 3"]
    centre: Float[np.ndarray, " 3"]
    reach: float

    def from_the_side(self) -> "View":
        """Rotate the view by 90° about the upward axis."""
        order, signs = [1, 0, 2], np.array([1.0, -1.0, 1.0])
        return View(self.axes_xyz[order] * signs[:, None], self.centre[order] * signs, self.reach)

    def wide_enough(self, volume: Float[np.ndarray, "z y x"], level: float) -> "View":
        """Widen the view to the surface of a volume at ``level``, by :data:`WIDEST` at most."""
        zyx = np.argwhere(volume > level) - volume.shape[-1] // 2
        across = abs(zyx[:, ::-1] @ self.axes_xyz.T - self.centre)[:, 1:]
        return replace(self, reach=float(np.clip(across.max(initial=0.0) + 1, self.reach, WIDEST * self.reach)))


def volume_surfaces(
    truth: Float[np.ndarray, "k z y x"],
    estimates: Mapping[str, Float[np.ndarray, "k _z _y _x"]],
    titles: Sequence[str] | None = None,
    reference: str = "truth",
    voxel_A: float | None = None,
) -> Figure:
    """Show class volumes as surfaces, all from one side: first the true volumes, then the volumes of each method.

    Each row shows one class if there are more volume sets than classes, and one set otherwise. The surface of a true volume is
    at a quarter of its highest density. The surface of an estimate encloses the same fraction of the box as the surface of the
    true volume. The view is along the shortest principal axis.

    Args:
        truth: True volumes, or any volumes if there are no estimates.
        estimates: Volumes by method, in the frame of the truth.
        titles: The names of the classes; class 1, class 2, … if None.
        reference: The name of the first set.
        voxel_A: The size of a voxel in Å; the figure then has a scale bar at its lower left.
    """
    sets = {reference: truth, **{method_style(m).two_lines: estimates[m] for m in in_order(set(estimates))}}
    classes = list(titles) if titles else [f"class {k + 1}" for k in range(len(truth))]
    across = len(sets) > len(truth)
    rows, columns = (classes, list(sets)) if across else (list(sets), classes)
    left = 0.1 if not estimates else 0.25 if across else 0.65
    top = 1.15 if across else 0.6  # with room for a title
    size = min((WIDTH_IN - left) / len(columns), 1.5)
    figure = Figure(figsize=(left + size * len(columns), top + size * len(rows) + BAR_IN), layout=None)
    levels = [[enclosing_level(volume, truth[k]) for k, volume in enumerate(volumes)] for volumes in sets.values()]
    view = first = principal_view(truth)
    for volumes, cuts in zip(sets.values(), levels, strict=True):
        wider = (first.wide_enough(volume, cut) for volume, cut in zip(volumes, cuts, strict=True))
        view = max(view, *wider, key=lambda one: one.reach)
    for i, volumes in enumerate(sets.values()):
        for k, volume in enumerate(volumes):
            row, column = (k, i) if across else (i, k)
            axis = add_panel(figure, left + column * size, top + row * size, size)
            show_surface(axis, volume, levels[i][k], CLASS_COLOURS[k % len(CLASS_COLOURS)], view)
            if voxel_A is not None and (row, column) == (len(rows) - 1, 0):
                add_bar(axis, view, voxel_A)
    _name_rows_and_columns(figure, rows if estimates else [], columns, (left, top, size))
    return figure


def map_surfaces(maps: Mapping[str, Float[np.ndarray, "z y x"]], voxel_A: float) -> Figure:
    """Show maps as surfaces, from the front (above) and from the side (below), each at a quarter of its highest density.

    Args:
        maps: The maps by name, in one frame.
        voxel_A: The size of a voxel in Å, for the scale bar at the lower left.
    """
    left, top = 0.3, 0.6
    size = min((WIDTH_IN - left) / len(maps), 2.2)
    figure = Figure(figsize=(left + size * len(maps), top + 2 * size + BAR_IN), layout=None)
    front = principal_view(np.stack(list(maps.values())))
    for k, volume in enumerate(maps.values()):
        level = 0.25 * float(np.quantile(volume, 0.9999))
        for row, view in enumerate((front, front.from_the_side())):
            axis = add_panel(figure, left + k * size, top + row * size, size)
            show_surface(axis, volume, level, CLASS_COLOURS[k % len(CLASS_COLOURS)], view)
            if (row, k) == (1, 0):
                add_bar(axis, view, voxel_A)
    names = [name.replace("_", " ") for name in maps]
    _name_rows_and_columns(figure, ["front", "side (90°)"], names, (left, top, size))
    return figure


def full_box_surfaces(
    volumes: Mapping[str, Sequence[Float[np.ndarray, "_z _y _x"]]], voxels_A: Mapping[str, tuple[float, float]]
) -> Figure:
    """Show a volume at the training box beside the map at the full box and the true volume, one column per dataset.

    All surfaces of a dataset enclose equal volumes, and have the same view.

    Args:
        volumes: By dataset: the volume at the training box, the map at the full box, and the true volume, in one frame.
        voxels_A: By dataset: the size of a voxel in Å at the training box, and of both other volumes.
    """
    rows = ["training box", "full box", "true volume"]
    left, top = 0.3, 0.55
    size = min((WIDTH_IN - left) / len(volumes), 1.9)
    figure = Figure(figsize=(left + size * len(volumes), top + len(rows) * size + BAR_IN), layout=None)
    for column, (dataset, shown) in enumerate(volumes.items()):
        small_A, full_A = voxels_A[dataset]
        view = principal_view(shown[-1][None])
        for row, (volume, voxel_A) in enumerate(zip(shown, (small_A, full_A, full_A), strict=True)):
            factor = full_A / voxel_A
            scaled = replace(view, centre=view.centre * factor, reach=view.reach * factor)
            axis = add_panel(figure, left + column * size, top + row * size, size)
            colour = CLASS_COLOURS[column % len(CLASS_COLOURS)]
            show_surface(axis, volume, enclosing_level(volume, shown[-1]), colour, scaled)
            if row == len(rows) - 1:
                add_bar(axis, scaled, voxel_A)
    _name_rows_and_columns(figure, rows, [dataset_label(dataset) for dataset in volumes], (left, top, size))
    return figure


def path_surfaces(volumes: Float[np.ndarray, "p z y x"], max_volumes: int = 5, voxel_A: float | None = None) -> Figure:
    """Show volumes along a path as surfaces, from the front (above) and from the side (below).

    Args:
        volumes: Volumes in their order along the path.
        max_volumes: The largest number of volumes shown, evenly spaced from the first to the last. Labels state the numbers.
        voxel_A: The size of a voxel in Å; the figure then has a scale bar at its lower left.
    """
    numbers = np.linspace(0, len(volumes) - 1, min(max_volumes, len(volumes))).round().astype(int)
    left, top = 0.3, 0.65  # with room for a title
    size = (WIDTH_IN - left) / len(numbers)
    figure = Figure(figsize=(WIDTH_IN, top + 2 * size + BAR_IN), layout=None)
    front = principal_view(volumes)
    level = 0.25 * float(np.max(volumes))
    for k, number in enumerate(numbers):
        for row, view in enumerate((front, front.from_the_side())):
            axis = add_panel(figure, left + k * size, top + row * size, size)
            show_surface(axis, volumes[number], level, CLASS_COLOURS[0], view)
            if voxel_A is not None and (row, k) == (1, 0):
                add_bar(axis, view, voxel_A)
    _name_rows_and_columns(figure, ["front", "side (90°)"], [f"volume {number + 1}" for number in numbers], (left, top, size))
    return figure


def path_movie(volumes: Float[np.ndarray, "p z y x"], voxel_A: float) -> Iterator[Figure]:
    """Show each volume along a path in a figure of its own, from the front (left) and from the side (right), for a movie.

    Args:
        volumes: Volumes in their order along the path.
        voxel_A: The size of a voxel in Å.
    """
    front, level, size = principal_view(volumes), 0.25 * float(np.max(volumes)), 2.4
    for number, volume in enumerate(volumes, 1):
        figure = Figure(figsize=(2 * size, size + BAR_IN + 0.3), layout=None)
        for column, view in enumerate((front, front.from_the_side())):
            axis = add_panel(figure, column * size, 0.3, size)
            show_surface(axis, volume, level, CLASS_COLOURS[0], view)
            if column == 0:
                add_bar(axis, view, voxel_A)
        figure.text(0.5, 0.95, f"volume {number} of {len(volumes)}", ha="center", fontsize=9)
        yield figure


def add_panel(figure: Figure, left_in: float, top_in: float, size_in: float) -> Axes3D:
    """Add a square panel for a surface; ``left_in`` and ``top_in`` are distances from the upper left corner, in inches."""
    width, height = figure.get_size_inches()
    place = left_in / width, 1 - (top_in + size_in) / height, size_in / width, size_in / height
    return figure.add_axes(place, projection="3d")


def add_bar(axis: Axes3D, view: View, voxel_A: float, fontsize: float = 8) -> None:
    """Add a scale bar with its length in Å below the panel of a surface with voxels of ``voxel_A`` Å."""
    length_A = scale_bar_A(2 * view.reach * voxel_A)
    near, left, low = view.reach, -0.95 * view.reach, -1.1 * view.reach
    axis.plot([near, near], [left, left + length_A / voxel_A], [low, low], color="black", linewidth=2, solid_capstyle="butt",
              clip_on=False, label="scale bar")  # fmt: skip
    right = left + length_A / voxel_A + 0.06 * view.reach
    axis.text(near, right, low, f"{length_A:g} Å", fontsize=fontsize, va="center", clip_on=False)


def enclosing_level(volume: Float[np.ndarray, "z y x"], truth: Float[np.ndarray, "k j i"]) -> float:
    """Find the contour level that encloses the same fraction of the box as 25 % of the maximum of ``truth``."""
    return float(np.quantile(volume, 1 - float((truth > 0.25 * truth.max()).mean())))


def _name_rows_and_columns(
    figure: Figure, rows: Sequence[str], columns: Sequence[str], left_top_size_in: tuple[float, float, float]
) -> None:
    """Write the names of rows left of their panels and the names of columns above them; lengths are in inches."""
    left, top, size = left_top_size_in
    width, height = figure.get_size_inches()
    for row, name in enumerate(rows):
        figure.text(0.05 / width, 1 - (top + (row + 0.5) * size) / height, _wrap(name, size), rotation=90, va="center",
                    ha="left", ma="center", fontsize=8)  # fmt: skip
    for column, name in enumerate(columns):
        figure.text(
            (left + (column + 0.5) * size) / width,
            1 - (top - 0.18) / height,  # above an estimate that extends beyond its panel
            _wrap(name, size),
            va="bottom",
            ha="center",
            fontsize=8,
        )


def _wrap(name: str, width_in: float) -> str:
    """Break each line of a name so that it fits into a width in inches."""
    return "\n".join(fill(line, max(8, int(width_in / CHARACTER_IN))) for line in name.splitlines())


def principal_view(volumes: Float[np.ndarray, "k z y x"]) -> View:
    """Find the view along the shortest principal axis of the space that the volumes fill together, with the longest axis up."""
    filled = volumes.max(0)
    zyx = np.argwhere(filled > 0.2 * filled.max()) - filled.shape[-1] // 2
    points = zyx[:, ::-1].astype(float)
    _, vectors = np.linalg.eigh(np.cov(points.T))
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), range(3)])  # eigenvectors have no sign
    if np.linalg.det(vectors) < 0:
        vectors[:, 0] *= -1
    low, high = (points @ vectors).min(0), (points @ vectors).max(0)
    return View(vectors.T, (low + high) / 2, float((high - low).max()) / 2 + 1)


def show_surface(axis: Axes3D, volume: Float[np.ndarray, "z y x"], level: float, colour: str, view: View) -> None:
    """Show the surface where the density is ``level``, lit from the upper left."""
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
    shade = (0.45 + 0.65 * diffuse) * (0.7 + 0.3 * nearness)
    colours = np.clip(np.array(to_rgb(colour)) * shade + 0.2 * diffuse**12, 0, 1)
    surface = Poly3DCollection(triangles, facecolors=colours, edgecolors=colours, linewidths=0.5)
    surface.set_clip_on(False)  # the surface may extend beyond its panel
    axis.add_collection3d(surface)

"""Particles in the latent space."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hetacumn.plots.theme import CLASS_COLOURS, CLASS_MARKERS, WIDTH_IN, dataset_label, legend_below, panels

PATH_COLOUR = CLASS_COLOURS[4]


def latent_scatter(
    latents: Mapping[str, Float[np.ndarray, "_n _d"]],
    classes: Mapping[str, Int[np.ndarray, " _n"]],
    max_particles: int = 2000,
    coloured_by: str = "",
) -> Figure:
    """Plot the latent space along its two principal components, one point per particle: one panel per dataset.

    Colour and marker show the class. The label of an axis states the fraction of the variance along the component.

    Args:
        latents: Latent coordinates by dataset.
        classes: Classes by dataset, from 0.
        max_particles: The largest number of particles in a panel; the panel shows the first particles.
        coloured_by: A title of the legend that names the origin of the classes, such as "true class"; none if empty.
    """
    figure, axes = panels(1, len(latents), WIDTH_IN / max(len(latents), 2) + 0.5)
    for axis, (dataset, z) in zip(axes[0], latents.items(), strict=True):
        scatter_classes(axis, z, classes[dataset], max_particles)
        axis.set_title(dataset_label(dataset))
        axis.set_box_aspect(1)
    legend_below(figure, axes[0], coloured_by, marker_scale=2)
    return figure


def scatter_classes(
    axis: Axes, z: Float[np.ndarray, "n d"], classes: Int[np.ndarray, " n"], max_particles: int, size: float = 3
) -> None:
    """Plot latents along their two principal components on ``axis``, with the colour and the marker of each class.

    Args:
        axis: The panel.
        z: Latent coordinates, without unit.
        classes: Classes, from 0.
        max_particles: The largest number of particles in the panel; the panel shows the first particles.
        size: The size of a marker in points.
    """
    mean, directions, fractions = _principal_axes(z)
    plane = (z[:max_particles].astype(float) - mean) @ directions.T
    for k in np.unique(classes):
        points = plane[classes[:max_particles] == k]
        marker, colour = CLASS_MARKERS[k % len(CLASS_MARKERS)], CLASS_COLOURS[k % len(CLASS_COLOURS)]
        axis.plot(*points.T, marker, color=colour, markersize=size, alpha=0.6, markeredgewidth=0, label=f"class {k + 1}")
    axis.set_xlabel(_component_label(0, fractions))
    axis.set_ylabel(_component_label(1, fractions))


def _component_label(i: int, fractions: Float[np.ndarray, " 2"]) -> str:
    """Return an axis label: the number of the principal component, and the fraction of the variance along it."""
    return f"latent PC {i + 1} ({100 * fractions[i]:.0f} % of variance)"


def latent_density(latents: Float[np.ndarray, "n d"], path: Float[np.ndarray, "p d"]) -> Figure:
    """Plot the density of particles in the latent space along its two principal components, and a path with numbered ends.

    Args:
        latents: Latent coordinates of the particles.
        path: Latent coordinates of the points on the path.
    """
    figure = Figure(figsize=(0.75 * WIDTH_IN, 0.65 * WIDTH_IN), layout="constrained")
    axis = figure.subplots()
    mean, directions, fractions = _principal_axes(latents)
    plane, line = ((z - mean) @ directions.T for z in (latents, path))
    cells = axis.hexbin(*plane.T, gridsize=60, mincnt=1, cmap="Greys", bins="log", linewidths=0.1)
    figure.colorbar(cells, ax=axis, label="particles per cell (log scale)", shrink=0.8, format="%g")
    axis.plot(*line.T, "-o", color=PATH_COLOUR, markeredgecolor="white", markeredgewidth=0.8, linewidth=2, markersize=6,
              label=f"path of volumes 1 to {len(line)}")  # fmt: skip
    for number in (0, len(line) - 1):
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
        axis.annotate(str(number + 1), line[number], xytext=(0, 8), textcoords="offset points", ha="center",
                      color=PATH_COLOUR, fontweight="bold", bbox=box)  # fmt: skip
    axis.set(xlabel=_component_label(0, fractions), ylabel=_component_label(1, fractions))
    axis.set_box_aspect(1)
    axis.set_aspect("equal", adjustable="datalim")
    legend_below(figure, [axis])
    return figure


def motion_scatter(
    found: Float[np.ndarray, "n m"], true: Float[np.ndarray, "n m"], names: Sequence[str], correlations: Sequence[float]
) -> Figure:
    """Plot recovered coordinates of motions against the true ones as a density of particles: one panel per motion.

    Args:
        found: Recovered coordinates, in standard deviations, of arbitrary sign.
        true: True coordinates, from 0 to 1.
        names: The names of the motions.
        correlations: The absolute rank correlation of each motion.
    """
    figure, axes = panels(1, len(names), 3.2, sharey=True)
    for i, (axis, name) in enumerate(zip(axes[0], names, strict=True)):
        part = name.replace("_", " ")
        cells = axis.hexbin(true[:, i], found[:, i], gridsize=40, mincnt=1, cmap="Greys", linewidths=0.1)
        axis.set(
            xlabel=f"true motion of {part} (0 and 1: its ends)", title=f"{part}: |Spearman correlation| {correlations[i]:.3f}"
        )
        figure.colorbar(cells, ax=axis, label="particles per cell" if i == len(names) - 1 else None)
    axes[0, 0].set_ylabel("recovered coordinate\n(standard deviations, sign arbitrary)")
    return figure


def _principal_axes(
    latents: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "2 d"], Float[np.ndarray, " 2"]]:
    """Compute the mean of latents, their two principal directions, and the fraction of the variance along each.

    If the latents have one dimension, the second direction and its fraction are 0.
    """
    z = latents.astype(float)
    mean = z.mean(axis=0)
    _, sizes, directions = np.linalg.svd(z - mean, full_matrices=False)
    fractions = sizes**2 / max((sizes**2).sum(), 1e-12)
    lacking = max(0, 2 - len(directions))
    return mean, np.pad(directions[:2], ((0, lacking), (0, 0))), np.pad(fractions[:2], (0, lacking))

"""Particles in the latent space."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from hetacumn.plots.theme import CLASS_COLOURS, CLASS_MARKERS, WIDTH_IN, dataset_label, legend_below, panels


def latent_scatter(
    latents: Mapping[str, Float[np.ndarray, "_n _d"]],
    classes: Mapping[str, Int[np.ndarray, " _n"]],
    max_particles: int = 2000,
) -> Figure:
    """Draw the latent space along its two principal axes, one point per particle, coloured by class: one panel per dataset.

    The labels of the axes name the share of the variance that each axis explains.

    Args:
        latents: Latent coordinates by dataset.
        classes: Classes by dataset, from 0.
        max_particles: The number of particles that are drawn, from the first.
    """
    figure, axes = panels(1, len(latents), WIDTH_IN / max(len(latents), 2) + 0.5)
    for axis, (dataset, z) in zip(axes[0], latents.items(), strict=True):
        mean, directions, share = _principal_axes(z)
        plane = (z[:max_particles].astype(float) - mean) @ directions.T
        for k in np.unique(classes[dataset]):
            points = plane[classes[dataset][:max_particles] == k]
            marker, colour = CLASS_MARKERS[k % len(CLASS_MARKERS)], CLASS_COLOURS[k % len(CLASS_COLOURS)]
            axis.plot(*points.T, marker, color=colour, markersize=3, alpha=0.6, markeredgewidth=0, label=f"class {k + 1}")
        axis.set_title(dataset_label(dataset))
        axis.set_xlabel(f"z, 1st axis ({share[0]:.0%} of variance)")
        axis.set_ylabel(f"z, 2nd axis ({share[1]:.0%})")
        axis.set_box_aspect(1)
    legend_below(figure, axes[0])
    return figure


def latent_density(latents: Float[np.ndarray, "n d"], path: Float[np.ndarray, "p d"]) -> Figure:
    """Draw the density of particles in the latent space along its two principal axes, and a path with numbered ends.

    Args:
        latents: Latent coordinates of the particles.
        path: Latent coordinates of the points on the path.
    """
    figure, axes = panels(1, 1, 0.62 * WIDTH_IN)
    axis = axes[0, 0]
    mean, directions, _ = _principal_axes(latents)
    plane, line = ((z - mean) @ directions.T for z in (latents, path))
    cells = axis.hexbin(*plane.T, gridsize=60, mincnt=1, cmap="Greys", bins="log", linewidths=0.1)
    figure.colorbar(cells, ax=axis, label="particles", shrink=0.8)
    axis.plot(*line.T, "-o", color=CLASS_COLOURS[0], markersize=4)
    for number in (0, len(line) - 1):
        axis.annotate(str(number + 1), line[number], xytext=(5, 5), textcoords="offset points",
                      color=CLASS_COLOURS[0], fontweight="bold")  # fmt: skip
    axis.set(xlabel="z, 1st axis", ylabel="z, 2nd axis")
    axis.set_aspect("equal", adjustable="datalim")
    return figure


def motion_scatter(
    found: Float[np.ndarray, "n m"], true: Float[np.ndarray, "n m"], names: Sequence[str], correlations: Sequence[float]
) -> Figure:
    """Draw recovered coordinates of motions against the true ones as a density of particles: one panel per motion.

    Args:
        found: Recovered coordinates, in standard deviations, of arbitrary sign.
        true: True coordinates, from 0 to 1.
        names: The names of the motions.
        correlations: The absolute rank correlation of each motion.
    """
    figure, axes = panels(1, len(names), 2.9)
    for i, (axis, name) in enumerate(zip(axes[0], names, strict=True)):
        axis.hexbin(true[:, i], found[:, i], gridsize=40, mincnt=1, cmap="Greys", linewidths=0.1)
        axis.set(xlabel=f"true motion of {name} (0 to 1)", title=f"{name}: |rank correlation| {correlations[i]:.3f}")
    axes[0, 0].set_ylabel("recovered coordinate (s.d.; sign arbitrary)")
    return figure


def _principal_axes(
    latents: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "2 d"], Float[np.ndarray, " 2"]]:
    """Find the mean of latents, their two principal directions, and the share of the variance along each.

    Where there is one dimension, the second direction and its share are 0.
    """
    z = latents.astype(float)
    mean = z.mean(axis=0)
    _, sizes, directions = np.linalg.svd(z - mean, full_matrices=False)
    share = sizes**2 / max((sizes**2).sum(), 1e-12)
    lacking = max(0, 2 - len(directions))
    return mean, np.pad(directions[:2], ((0, lacking), (0, 0))), np.pad(share[:2], (0, lacking))

"""Where particles lie in the latent space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from hetacumn.plots.look import CLASS_COLOURS, CLASS_MARKERS, WIDTH_IN, legend_below, name_of, panels


def latent_scatter(latents: Mapping[str, np.ndarray], classes: Mapping[str, np.ndarray],
                   most: int = 2000) -> Figure:
    """The latent space by its two main axes, coloured by true class: a panel a dataset.

    ``latents[dataset]`` ``(n, d)`` and ``classes[dataset]`` ``(n,)``; the first ``most`` particles are drawn.
    The axes say how much of the variance each explains.
    """
    figure, axes = panels(1, len(latents), WIDTH_IN / max(len(latents), 2) + 0.5)
    for axis, (dataset, z) in zip(axes[0], latents.items(), strict=True):
        middle, directions, share = _main_plane(z)
        plane = (np.asarray(z[:most], dtype=float) - middle) @ directions.T
        for k in np.unique(classes[dataset]):
            points = plane[classes[dataset][:most] == k]
            marker, colour = CLASS_MARKERS[k % len(CLASS_MARKERS)], CLASS_COLOURS[k % len(CLASS_COLOURS)]
            axis.plot(*points.T, marker, color=colour, markersize=3, alpha=0.6, markeredgewidth=0, label=f"class {k + 1}")
        axis.set_title(name_of(dataset))
        axis.set_xlabel(f"z, 1st axis ({share[0]:.0%} of variance)")
        axis.set_ylabel(f"z, 2nd axis ({share[1]:.0%})")
        axis.set_box_aspect(1)
    legend_below(figure, axes[0])
    return figure


def latent_density(latents: np.ndarray, path: np.ndarray) -> Figure:
    """How densely particles lie in the latent space, by its two main axes, and a path through it, numbered.

    ``latents`` ``(n, d)``, ``path`` ``(p, d)``.
    """
    figure, axes = panels(1, 1, 0.62 * WIDTH_IN)
    axis = axes[0, 0]
    middle, directions, _ = _main_plane(latents)
    plane, line = ((np.asarray(z) - middle) @ directions.T for z in (latents, path))
    shown = axis.hexbin(*plane.T, gridsize=60, mincnt=1, cmap="Greys", bins="log", linewidths=0.1)
    figure.colorbar(shown, ax=axis, label="particles", shrink=0.8)
    axis.plot(*line.T, "-o", color=CLASS_COLOURS[0], markersize=4)
    for number in (0, len(line) - 1):
        axis.annotate(str(number + 1), line[number], xytext=(5, 5), textcoords="offset points",
                      color=CLASS_COLOURS[0], fontweight="bold")
    axis.set(xlabel="z, 1st axis", ylabel="z, 2nd axis")
    axis.set_aspect("equal", adjustable="datalim")
    return figure


def _main_plane(latents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The middle ``(d,)`` of latents ``(n, d)``, their two main directions ``(2, d)``, and what share of the variance each
    explains ``(2,)``; the second is 0 where there is one dimension."""
    z = np.asarray(latents, dtype=float)
    middle = z.mean(axis=0)
    _, sizes, directions = np.linalg.svd(z - middle, full_matrices=False)
    share = sizes**2 / max((sizes**2).sum(), 1e-12)
    lacking = max(0, 2 - len(directions))
    return middle, np.pad(directions[:2], ((0, lacking), (0, 0))), np.pad(share[:2], (0, lacking))


def motion_scatter(found: np.ndarray, true: np.ndarray, names: Sequence[str], correlations: Sequence[float]) -> Figure:
    """Recovered coordinates ``(n, d)`` against the true ones, a panel a motion; shading is particles per bin."""
    figure, axes = panels(1, len(names), 2.9)
    for i, (axis, name) in enumerate(zip(axes[0], names, strict=True)):
        axis.hexbin(true[:, i], found[:, i], gridsize=40, mincnt=1, cmap="Greys", linewidths=0.1)
        axis.set(xlabel=f"true motion of {name} (0 to 1)", title=f"{name}: |rank correlation| {correlations[i]:.3f}")
    axes[0, 0].set_ylabel("recovered coordinate (s.d.; sign arbitrary)")
    return figure

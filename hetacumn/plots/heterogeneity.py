"""Figure of the metrics of heterogeneous reconstructions."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from hetacumn.plots.theme import CLASS_COLOURS, DASHES, WIDTH_IN, legend_below

MOST_POINTS = 5000  # largest number of points of a panel
COLUMNS = 4  # panels of latents side by side


def heterogeneity_scores(
    curves: Mapping[str, Float[np.ndarray, "_m _shells"]],
    areas: Mapping[str, Float[np.ndarray, " _m"]],
    latents: Mapping[str, Float[np.ndarray, "_n _q"]],
    conformations: Float[np.ndarray, " n"],
    field_A: float,
) -> Figure:
    """Plot mean FSC curves, the area under each curve against its conformation, and latents coloured by conformation.

    Args:
        curves: FSC curves of volumes with their true volumes by method, sorted by conformation.
        areas: The area under each curve by method.
        latents: Latents of all images by method; the figure shows their two principal axes. A comma in the name of a method
            starts a new line of the title.
        conformations: The true conformation of each image, from 0 to 1; the colours are cyclic.
        field_A: Field of view of the volumes in Å.
    """
    rows = 1 + -(-len(latents) // COLUMNS)
    figure = Figure(figsize=(WIDTH_IN, 1.2 + 1.9 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, COLUMNS)
    fsc, area = figure.add_subplot(grid[0, : COLUMNS // 2]), figure.add_subplot(grid[0, COLUMNS // 2 :])
    for i, (method, own) in enumerate(curves.items()):
        colour, dash = CLASS_COLOURS[i % len(CLASS_COLOURS)], DASHES[i % len(DASHES)]
        fsc.plot(np.arange(own.shape[1]) / field_A, own.mean(0), color=colour, linestyle=dash, label=method)
        area.plot(np.linspace(0, 1, len(areas[method])), areas[method], color=colour, linestyle=dash, label=method)
    fsc.set(xlabel="spatial frequency (1/Å)", ylabel="mean FSC with the true volume", ylim=(0, 1), xlim=(0, None))
    area.set(xlabel="conformation", ylabel="area under the FSC", ylim=(0, None), xlim=(0, 1))
    for place, (method, own) in enumerate(latents.items()):
        axis = figure.add_subplot(grid[1 + place // COLUMNS, place % COLUMNS])
        centred = own - own.mean(0)
        plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
        plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))  # one latent dimension has no second axis
        some = np.random.default_rng(0).permutation(len(own))[:MOST_POINTS]
        axis.scatter(plane[some, 0], plane[some, 1], s=2, c=conformations[some], cmap="twilight", vmin=0, vmax=1, linewidths=0)
        axis.set(title=method.replace(", ", "\n"), xticks=[], yticks=[], xlabel="first axis of z")
        if place % COLUMNS == 0:
            axis.set_ylabel("second axis of z")
    legend_below(figure, [fsc, area])
    return figure

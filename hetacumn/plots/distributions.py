"""Distributions over particles: latents, viewing directions, defocus, pose errors, likelihoods."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, PercentFormatter

from hetacumn.plots.theme import (
    BOUND_COLOUR,
    CLASS_COLOURS,
    CLASS_HATCHES,
    CLASS_MARKERS,
    NEUTRAL_COLOUR,
    WIDTH_IN,
    dataset_label,
    in_order,
    legend_below,
    method_style,
    panels,
)

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


def energy_landscape(
    energy_kT: Float[np.ndarray, "cells cells"], error_kT: Float[np.ndarray, "cells cells"], axes: Float[np.ndarray, "2 cells"]
) -> Figure:
    """Plot the energy of two motions (left) and its standard error (right) in kT as contours; NaN where they are unknown.

    Args:
        energy_kT: The negative logarithm of the density of particles, relative to the densest point.
        error_kT: The standard error of the energy.
        axes: The coordinates of the two motions, in standard deviations.
    """
    figure, panes = panels(1, 2, 3.0, sharey=True)
    for pane, values, label, colours in (
        (panes[0, 0], energy_kT, "−log density (kT), relative\nto the densest point", "viridis"),
        (panes[0, 1], error_kT, "standard error (kT),\nbootstrap of the particles", "Greys"),
    ):
        figure.colorbar(pane.contourf(*axes, values.T, levels=12, cmap=colours), ax=pane, label=label, format="%.2g")
        pane.set(xlabel="motion 1 (sd)")
    panes[0, 0].contour(*axes, energy_kT.T, levels=np.arange(1, 20), colors="white", linewidths=0.5)
    panes[0, 0].set_ylabel("motion 2 (sd)")
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


def view_distribution(rot_deg: Float[np.ndarray, " n"], tilt_deg: Float[np.ndarray, " n"]) -> Figure:
    """Plot the distribution of viewing directions on an equal-area map of the sphere.

    Grey is the number of particles in a bin over the mean of all bins. A uniform distribution is 1 everywhere.

    Args:
        rot_deg: The first Euler angle of RELION, in degrees.
        tilt_deg: The second Euler angle of RELION, in degrees, from 0 to 180.
    """
    figure = Figure(figsize=(WIDTH_IN, 0.5 * WIDTH_IN), layout="constrained")
    axis = figure.add_subplot(projection="mollweide")
    longitude = np.linspace(-np.pi, np.pi, 37)
    latitude = np.arcsin(np.linspace(-1, 1, 19))  # bins of equal area
    wrapped = np.deg2rad((rot_deg + 180) % 360 - 180)
    counts, _, _ = np.histogram2d(np.pi / 2 - np.deg2rad(tilt_deg), wrapped, bins=(latitude, longitude))
    finer = 6  # matplotlib renders the edges of a cell straight, and the edges on the map are curved
    rows, columns = (
        np.interp(np.arange(finer * (len(edges) - 1) + 1) / finer, np.arange(len(edges)), edges)
        for edges in (latitude, longitude)
    )
    mesh = axis.pcolormesh(columns, rows, np.kron(counts / counts.mean(), np.ones((finer, finer))), cmap="Greys", vmin=0)
    figure.colorbar(mesh, ax=axis, label="particles per bin, relative to\na uniform distribution", shrink=0.7)
    rot, tilt = np.arange(-120, 121, 60), np.arange(30, 151, 30)
    box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}
    axis.set_xticks(np.deg2rad(rot), [f"{value}".replace("-", "−") for value in rot], fontsize=8, bbox=box)
    axis.set_yticks(np.deg2rad(90 - tilt), [f"{value}" for value in tilt])
    axis.set(xlabel="rot: first Euler angle of RELION (°), along the equator", ylabel="tilt: second Euler angle (°)")
    axis.grid(alpha=0.3)
    return figure


def defocus_histogram(defocus_u_A: Float[np.ndarray, " n"], defocus_v_A: Float[np.ndarray, " n"]) -> Figure:
    """Plot histograms of the mean defocus and the astigmatism of the particles, in µm.

    Args:
        defocus_u_A: The defocus along the first axis, in Å; positive is underfocus.
        defocus_v_A: The defocus along the second axis, in Å.
    """
    figure, axes = panels(1, 2, 2.3, sharey=False)
    u, v = defocus_u_A.astype(float), defocus_v_A.astype(float)
    for axis, values, label in zip(
        axes[0], ((u + v) / 2e4, abs(u - v) / 1e4), ("mean defocus (U + V) / 2 (µm)", "astigmatism |U − V| (µm)"), strict=True
    ):
        seaborn.histplot(x=values, bins=40, element="step", color=NEUTRAL_COLOUR, alpha=1, linewidth=0.5, ax=axis)
        axis.set(xlabel=label, ylabel="")
    axes[0, 0].set_ylabel("particles per bin")
    return figure


def pose_error_histogram(
    errors_deg: Mapping[str, Mapping[str, Float[np.ndarray, " _n"]]], bounds_deg: Mapping[str, float] | pd.Series
) -> Figure:
    """Plot histograms of the rotation errors on a log axis, and their bound: one panel per dataset, one area per method.

    Args:
        errors_deg: Rotation errors by dataset and method, in degrees.
        bounds_deg: The bound of the median error by dataset, in degrees.
    """
    figure, axes = panels(1, len(errors_deg), 2.8, sharey=True)
    lowest, highest = 0.1, 180.0
    bins = np.linspace(np.log10(lowest), np.log10(highest), 46)
    for axis, (dataset, by_method) in zip(axes[0], errors_deg.items(), strict=True):
        for method in in_order(set(by_method)):
            look = method_style(method)
            seaborn.histplot(
                x=np.clip(by_method[method], lowest, highest), bins=bins, log_scale=True, stat="probability",
                element="step", color=look.colour, alpha=0.2, linestyle=look.line, linewidth=1.4, label=look.explained,
                ax=axis,
            )  # fmt: skip
        axis.axvline(
            bounds_deg[dataset],
            color=BOUND_COLOUR,
            linewidth=2.5,
            alpha=0.7,
            label="pose bound (median error of a search with the true volumes)",
        )
        axis.set(title=dataset_label(dataset), xlim=(lowest, highest), xlabel="rotation error (°, log scale)", ylabel="")
        axis.xaxis.set_major_locator(FixedLocator([0.1, 1, 10, 100]))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    axes[0, 0].set_ylabel("particles per bin (%)")
    legend_below(figure, axes[0])
    return figure


def pose_changes(rotation_deg: Float[np.ndarray, " n"], shift_px: Float[np.ndarray, " n"]) -> Figure:
    """Plot histograms of the change of each pose from the given pose: rotation in degrees, and shift in pixels.

    A line marks the median. The axes end at the 99th percentile.
    """
    figure, axes = panels(1, 2, 2.6, sharey=True)
    for axis, values, name in zip(axes[0], (rotation_deg, shift_px), ("rotation (°)", "shift (px)"), strict=True):
        most = max(float(np.quantile(values, 0.99)), 1e-3)
        axis.hist(values, bins=40, range=(0, most), color=NEUTRAL_COLOUR)
        axis.axvline(float(np.median(values)), color=PATH_COLOUR, label="median")
        axis.set_xlabel(f"change from the given pose: {name}")
    axes[0, 0].set_ylabel("particles")
    legend_below(figure, [axes[0, 0]])
    return figure


def log_ratio_histogram(groups: Mapping[str, Float[np.ndarray, " _n"]]) -> Figure:
    """Plot stacked histograms of log-likelihood ratios, one ratio per image and one area per group.

    Images without a molecule form a separate peak near 0.

    Args:
        groups: Log-likelihood with a molecule minus log-likelihood without a molecule, in nats, for the images of each group.
    """
    groups = {name: values for name, values in groups.items() if len(values)}
    figure, axes = panels(1, 1, 2.6)
    axis = axes[0, 0]
    ratios = np.concatenate(list(groups.values()))
    lowest, highest = min(0.0, float(np.quantile(ratios, 0.001))), max(1.0, float(np.quantile(ratios, 0.999)))
    names = np.repeat(list(groups), [len(values) for values in groups.values()])
    colours = [CLASS_COLOURS[i % len(CLASS_COLOURS)] for i in range(len(groups))]
    seaborn.histplot(
        x=ratios.clip(lowest, highest), hue=names, hue_order=list(groups), palette=colours,
        bins=np.linspace(lowest, highest, 61).tolist(), multiple="stack", element="step", alpha=1, linewidth=0.5,
        edgecolor="black", legend=False, ax=axis,
    )  # fmt: skip
    for i, (name, area) in enumerate(zip(groups, reversed(axis.collections), strict=True)):
        area.set(label=name, hatch=CLASS_HATCHES[i % len(CLASS_HATCHES)])
    axis.legend(reverse=True)  # the first group is the uppermost of the stack
    axis.set(
        xlabel="log-likelihood gain of an image (nats): with the molecule minus without",
        ylabel="images per bin",
        xlim=(lowest, highest),
    )
    return figure

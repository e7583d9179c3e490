"""Distributions over particles: viewing directions, defocus, pose errors, likelihoods."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, PercentFormatter

from hetacumn.plots.theme import (
    BOUND_COLOUR,
    CLASS_COLOURS,
    CLASS_HATCHES,
    NEUTRAL_COLOUR,
    WIDTH_IN,
    dataset_label,
    in_order,
    legend_below,
    method_style,
    panels,
)


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

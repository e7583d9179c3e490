"""Curves over spatial frequency: FSC and noise power."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Real
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from hetacumn.physics.fsc import resolution_A
from hetacumn.plots.theme import (
    CLASS_COLOURS,
    CLASS_MARKERS,
    DASHES,
    NEUTRAL_COLOUR,
    Array,
    dataset_label,
    in_order,
    legend_below,
    method_style,
    panels,
    unique,
)

HIGHEST_FSC = 0.9999  # of the axis of half maps; a higher FSC is shown there


def fsc_curves(table: pd.DataFrame) -> Figure:
    """Plot the FSC of class volumes with the true volumes: one row per method, one column per dataset.

    A line is the mean over the classes; its band extends from the worst to the best class. Each method has panels of its own,
    so that no curve hides an equal one. The number in a panel is the resolution of the worst class in Å, at an FSC of 0.5.

    Args:
        table: Rows with dataset, method, class, frequency_per_A (every shell below Nyquist) and fsc.
    """
    datasets, methods = unique(table, "dataset"), in_order(set(table["method"]))
    figure, axes = panels(len(methods), len(datasets), 0.68 * len(methods) + 1.1, sharex="col", sharey=True)
    for column, dataset in enumerate(datasets):
        rows = table[table["dataset"] == dataset]
        frequencies = np.unique(rows["frequency_per_A"])
        nyquist = float(frequencies[-1] + frequencies[1] - frequencies[0])  # the shell after the last
        for axis, method in zip(axes[:, column], methods, strict=True):
            look, own = method_style(method), rows[rows["method"] == method]
            classes = own.groupby("frequency_per_A")["fsc"].agg(["mean", "min", "max"])
            axis.fill_between(classes.index, classes["min"], classes["max"], color=look.colour, alpha=0.3, linewidth=0)
            axis.plot(
                classes.index, classes["mean"], color=look.colour, linestyle=look.line, marker=look.marker, markersize=3.5
            )
            axis.axhline(0.5, color="black", linewidth=0.8, linestyle="--")
            axis.set(xlim=(0, nyquist), ylim=(-0.15, 1.1), yticks=(0, 0.5, 1))
            curves = [torch.tensor(curve["fsc"].to_numpy()) for _, curve in own.groupby("class")]
            if curves:
                worst_A = max(resolution_A(curve, 1 / (2 * nyquist)) for curve in curves)
                axis.text(0.03, 0.08, f"{worst_A:.3g} Å", transform=axis.transAxes, fontsize=8,
                          bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8})  # fmt: skip
        axes[0, column].set_title(f"{dataset_label(dataset)}\nNyquist: {1 / nyquist:.3g} Å")
        axes[-1, column].set_xlabel("spatial frequency (1/Å)")
        _tick_resolutions(axes[-1, column], nyquist)
    for axis, method in zip(axes[:, 0], methods, strict=True):
        axis.set_ylabel(method_style(method).two_lines, rotation=0, ha="right", va="center", fontsize=8)
    figure.supylabel("FSC with the true volume", fontsize=9)
    figure.supxlabel("Line: mean over classes. Band: worst to best class. Dashed: FSC 0.5.\n"
                     "Number: resolution of the worst class at FSC 0.5.", fontsize=8)  # fmt: skip
    return figure


def full_box_fsc(table: pd.DataFrame, trained_A: Mapping[str, float]) -> Figure:
    """Plot the FSC of full-box maps with the truth, one panel per dataset, one line per method.

    A line is the mean over the states; its band extends from the worst to the best state. The gray line is the bound: maps of
    all images of each true state at their true poses.

    Args:
        table: Rows with dataset, method (``true poses`` for the bound), state, frequency_per_A and fsc.
        trained_A: The resolution in Å at the Nyquist frequency of the training box, by dataset; a dotted line marks it.
    """
    datasets = unique(table, "dataset")
    figure, axes = panels(1, len(datasets), 2.9, sharey=True)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        rows = table[table["dataset"] == dataset]
        frequencies = np.unique(rows["frequency_per_A"])
        nyquist = float(frequencies[-1] + frequencies[1] - frequencies[0])  # the shell after the last
        for method in in_order(set(rows["method"])):
            bound, look = method == "true poses", method_style(method)
            states = rows[rows["method"] == method].groupby("frequency_per_A")["fsc"].agg(["mean", "min", "max"])
            colour, line = (NEUTRAL_COLOUR, "-") if bound else (look.colour, look.line)
            axis.fill_between(states.index, states["min"], states["max"], color=colour, alpha=0.2, linewidth=0)
            label = "true poses and classes (bound)" if bound else look.explained
            axis.plot(states.index, states["mean"], color=colour, linestyle=line, linewidth=4 if bound else 1.5, label=label,
                      zorder=1 if bound else 2)  # fmt: skip
        axis.axhline(0.5, color="black", linewidth=0.8, linestyle="--", label="FSC 0.5")
        axis.axvline(1 / trained_A[dataset], color="black", linewidth=0.8, linestyle=":", label="Nyquist of the training box")
        axis.set(xlim=(0, nyquist), ylim=(-0.1, 1.05), title=dataset_label(dataset), xlabel="spatial frequency (1/Å)")
        _tick_resolutions(axis, nyquist)
    axes[0, 0].set_ylabel("FSC with the true volume,\ninside a mask")
    legend_below(figure, axes.flat)
    return figure


def map_fsc(
    curves: Mapping[str, Float[np.ndarray, " _shells"]],
    voxel_A: float,
    compared: str = "the half maps",
    threshold: float = 0.143,
) -> Figure:
    """Plot the FSC between two maps, one line per pair, and a threshold as a dashed line.

    The vertical axis is linear in log(1 - FSC): curves near 1, which a linear axis shows as one line, stay apart.
    The legend states the resolution of each pair at the threshold.

    Args:
        curves: FSC by class, in order; the curve named ``all`` is black and comes last.
        voxel_A: The size of a voxel, in Å.
        compared: The name of the compared maps.
        threshold: The FSC at which the resolution is read.
    """
    figure, axes = panels(1, 1, 3.4)
    axis = axes[0, 0]
    for i, name in enumerate(sorted(curves, key=lambda name: name == "all")):
        curve = curves[name]
        colour, dashes, marker = "black", "-", ""
        if name != "all":
            colour, dashes, marker = (looks[i % len(looks)] for looks in (CLASS_COLOURS, DASHES, CLASS_MARKERS))
        limit_A = resolution_A(torch.as_tensor(curve), voxel_A, threshold)
        label = f"{'all particles' if name == 'all' else name}: {limit_A:.3g} Å{' (Nyquist)' if limit_A <= 2 * voxel_A else ''}"
        axis.plot(np.arange(len(curve)) / (2 * len(curve) * voxel_A), np.minimum(curve, HIGHEST_FSC), label=label, color=colour,
                  linestyle=dashes, marker=marker, markersize=4, markevery=(i % 3, 3), clip_on=False)  # fmt: skip
    nyquist = 1 / (2 * voxel_A)
    axis.axhline(threshold, color="black", linewidth=0.8, linestyle="--", label=f"FSC {threshold:g}")
    axis.set_yscale("function", functions=(_stretch_fsc, _unstretch_fsc))
    axis.set(xlim=(0, nyquist), ylim=(-0.3, HIGHEST_FSC), xlabel="spatial frequency (1/Å), up to Nyquist")
    axis.set_ylabel(f"FSC of {compared}\n(scale: log of 1 − FSC)")
    axis.yaxis.set_major_locator(FixedLocator([0, 0.5, 0.9, 0.99, 0.999, HIGHEST_FSC]))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{'≥ ' if value == HIGHEST_FSC else ''}{value:g}"))
    _tick_resolutions(axis, nyquist)
    legend_below(figure, [axis], "resolution, where the FSC falls below the dashed line")
    return figure


def half_map_fsc(table: pd.DataFrame, voxel_A: float, trained_A: float) -> Figure:
    """Plot the FSC of half maps, one panel per group: without mask, with mask, and corrected for the mask.

    The title of a panel states the resolution at which the corrected FSC falls below 0.143.

    Args:
        table: Rows with group, frequency_per_A, unmasked, masked, randomised and corrected.
        voxel_A: The size of a voxel, in Å.
        trained_A: The resolution, in Å, at the Nyquist frequency of the training box; a dotted line marks it.
    """
    groups = unique(table, "group")
    columns = min(len(groups), 4)
    rows = -(-len(groups) // columns)
    figure, axes = panels(rows, columns, 1.9 * rows + 0.8, sharex=True, sharey=True)
    nyquist = 1 / (2 * voxel_A)
    kinds = {
        "unmasked": "without mask",
        "masked": "with mask",
        "randomised": "with mask, phases randomised",
        "corrected": "corrected for the mask",
    }
    for axis, group in zip(axes.flat, groups, strict=False):
        own = table[table["group"] == group]
        for i, (kind, label) in enumerate(kinds.items()):
            colour = "black" if kind == "corrected" else CLASS_COLOURS[i]
            axis.plot(own["frequency_per_A"], own[kind], color=colour, linestyle=DASHES[(i + 1) % len(DASHES)], label=label)
        axis.axhline(0.143, color="black", linewidth=0.8, linestyle=(0, (6, 3)), label="FSC 0.143")
        axis.axvline(1 / trained_A, color="black", linewidth=0.8, linestyle=":", label="Nyquist of the training box")
        limit_A = resolution_A(torch.tensor(own["corrected"].to_numpy()), voxel_A, 0.143)
        axis.set(xlim=(0, nyquist), ylim=(-0.1, 1.05), title=f"{group.replace('_', ' ')}: {limit_A:.3g} Å")
    for axis in axes.flat[len(groups) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("spatial frequency (1/Å)")
        _tick_resolutions(axis, nyquist)
    for axis in axes[:, 0]:
        axis.set_ylabel("FSC of the half maps")
    legend_below(figure, axes.flat)
    return figure


def _stretch_fsc(fsc: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Map an FSC below 1 to -log10(1 - FSC)."""
    return -np.log10(1 - np.minimum(fsc, 1 - 1e-9))


def _unstretch_fsc(stretched: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Invert :func:`_stretch_fsc`."""
    return 1 - 10.0**-stretched


def noise_spectrum(power: Real[Array, " shells"], pixel_A: float) -> Figure:
    """Plot the mean power of the noise in each shell of spatial frequency.

    Args:
        power: The power; white noise of unit variance has power 1.
        pixel_A: The size of a pixel, in Å.
    """
    figure, axes = panels(1, 1, 2.4)
    axis = axes[0, 0]
    frequencies = np.arange(len(power)) / (2 * len(power) * pixel_A)
    axis.plot(frequencies, power, color=CLASS_COLOURS[0], label="background of the particles")
    axis.axhline(1, color="black", linewidth=0.8, linestyle="--", label="white noise")
    nyquist = 1 / (2 * pixel_A)
    _tick_resolutions(axis, nyquist)
    axis.set(
        xlim=(0, nyquist),
        ylim=(0, None),
        xlabel="spatial frequency (1/Å)",
        ylabel="noise power (white noise: 1)",
    )
    legend_below(figure, [axis])
    return figure


def _tick_resolutions(axis: Axes, nyquist_per_A: float) -> None:
    """Set ticks at round resolutions in Å, from Nyquist down, at distances of at least a fifth of the axis."""
    chosen: list[int] = []
    for resolution in [*range(2, 15), 16, 18, 20, 25, 30, 35, 40, 50, 60, 80, 100, 150, 200, 300]:
        frequency = 1 / resolution
        if frequency <= nyquist_per_A and (not chosen or 1 / chosen[-1] - frequency > 0.2 * nyquist_per_A):
            chosen.append(resolution)
    axis.set_xticks([1 / r for r in chosen], [f"1/{r}" for r in chosen])

"""Curves: of any quantity, of training, of time and memory, and over spatial frequency."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float, Real
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from hetacumn.plots.theme import (
    CLASS_COLOURS,
    CLASS_MARKERS,
    WIDTH_IN,
    Array,
    dataset_label,
    in_order,
    legend_below,
    method_style,
    panels,
    unique,
)

DASHES = ("-", "--", "-.", ":")


def curves(
    x: Real[Array, " n"], lines: Mapping[str, Real[Array, " n"]], x_label: str, y_label: str, log: bool = False
) -> Figure:
    """Draw curves that differ in colour and dashes.

    Args:
        x: The common horizontal coordinates.
        lines: The vertical coordinates by the name of the curve.
        x_label: The label of the horizontal axis.
        y_label: The label of the vertical axis.
        log: Make the horizontal axis logarithmic.
    """
    figure = Figure(figsize=(WIDTH_IN, 2.6), layout="constrained")
    axis = figure.subplots()
    for i, (name, line) in enumerate(lines.items()):
        axis.plot(x, line, color=CLASS_COLOURS[i % len(CLASS_COLOURS)], linestyle=DASHES[i % len(DASHES)], label=name)
    axis.set(xlabel=x_label, ylabel=y_label, xscale="log" if log else "linear")
    axis.legend()
    return figure


def training_curves(
    histories: Mapping[str, Mapping[str, pd.DataFrame]], quantities: Mapping[str, str], x: tuple[str, str]
) -> Figure:
    """Draw the quantities that training recorded: one row per quantity, one column per dataset, one line per method.

    Args:
        histories: Tables by dataset and method.
        quantities: The columns and their axis labels; a column that no table has is left out.
        x: The column and the label of the horizontal axis.
    """
    present = {name for by_method in histories.values() for history in by_method.values() for name in history}
    quantities = {name: label for name, label in quantities.items() if name in present}
    height = 1.35 * len(quantities) + 0.7
    figure, axes = panels(len(quantities), len(histories), height, sharex="col", sharey="row")
    for column, (dataset, by_method) in enumerate(histories.items()):
        for line, (name, label) in zip(axes, quantities.items(), strict=True):
            for method in in_order(set(by_method)):
                history, look = by_method[method], method_style(method)
                if name in history:
                    rows = history[[x[0], name]].dropna()
                    line[column].plot(rows[x[0]], rows[name], color=look.colour, linestyle=look.line, label=look.label)
            if column == 0:
                line[0].set_ylabel(label)
        axes[0, column].set_title(dataset_label(dataset))
        axes[-1, column].set_xlabel(x[1])
    figure.align_ylabels(axes[:, 0])
    legend_below(figure, axes.flat)
    return figure


def scaling(table: pd.DataFrame) -> Figure:
    """Draw time and memory against the number of particles; a line shows time in proportion to the largest stack.

    Args:
        table: Rows with particles, stage, seconds and peak_memory_mb.
    """
    figure, axes = panels(1, 2, 2.9)
    time, memory = axes[0]
    for i, stage in enumerate(unique(table, "stage")):
        rows, colour, marker = table[table["stage"] == stage].sort_values("particles"), CLASS_COLOURS[i], CLASS_MARKERS[i]
        largest = rows.iloc[-1]
        time.plot(rows["particles"], rows["seconds"], marker, color=colour, label=stage)
        time.plot(rows["particles"], rows["particles"] * largest["seconds"] / largest["particles"], "-", lw=0.8, color=colour)
        memory.plot(rows["particles"], rows["peak_memory_mb"] / 1000, marker + "-", color=colour)
    time.set(xscale="log", yscale="log", xlabel="particles", ylabel="seconds")
    highest_gb = table["peak_memory_mb"].max() / 1000
    memory.set(xscale="log", xlabel="particles", ylabel="peak memory (GB)", ylim=(0, 1.3 * highest_gb))
    for axis in (time, memory):
        axis.set_xticks(sorted(set(table["particles"])))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.minorticks_off()
    legend_below(figure, axes.flat)
    return figure


def fsc_curves(table: pd.DataFrame) -> Figure:
    """Draw the FSC of class volumes with the truth: one panel per dataset, one line per method.

    A line is the mean over the classes, its band reaches from the worst to the best class. A later line is thinner, and
    the markers of the methods stand at different shells, so that no curve hides an equal one.

    Args:
        table: Rows with dataset, method, class, frequency_per_A (every shell below Nyquist) and fsc.
    """
    datasets = unique(table, "dataset")
    methods = in_order(set(table["method"]))
    figure, axes = panels(1, len(datasets), 2.8, sharey=True)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        rows = table[table["dataset"] == dataset]
        widths = np.linspace(2.8, 1.2, len(methods))
        for place, (method, width) in enumerate(zip(methods, widths, strict=True)):
            look = method_style(method)
            by_shell = rows[rows["method"] == method].groupby("frequency_per_A")["fsc"]
            classes = by_shell.agg(["mean", "min", "max"])
            axis.fill_between(classes.index, classes["min"], classes["max"], color=look.colour, alpha=0.12, linewidth=0)
            axis.plot(classes.index, classes["mean"], color=look.colour, linestyle=look.line, linewidth=width,
                      label=look.label, marker=look.marker, markevery=[])  # fmt: skip
            marked = classes.iloc[place :: len(methods)]
            axis.scatter(marked.index, marked["mean"], s=36, c=look.colour, marker=look.marker, edgecolors="white",
                         linewidths=0.5, zorder=3, clip_on=False)  # fmt: skip
        frequencies = np.unique(rows["frequency_per_A"])
        nyquist = frequencies[-1] + frequencies[1] - frequencies[0]  # the shell after the last
        axis.axhline(0.5, color="black", linewidth=0.8, linestyle="--")
        axis.axvline(nyquist, color="black", linewidth=0.8)
        axis.text(nyquist, 1.03, "Nyquist", ha="right", va="bottom", fontsize=8)
        axis.set(xlim=(0, nyquist * 1.01), ylim=(-0.1, 1.02), xlabel="spatial frequency (1/Å)")
        axis.set_title(dataset_label(dataset), loc="left")
        _tick_resolutions(axis, nyquist)
    axes[0, 0].set_ylabel("FSC with the truth")
    legend_below(figure, axes[0])
    return figure


def map_fsc(
    curves: Mapping[str, Float[np.ndarray, " _shells"]],
    voxel_A: float,
    compared: str = "the half maps",
    threshold: float = 0.143,
) -> Figure:
    """Draw the FSC between two maps, one line per pair, and a threshold as a dashed line.

    Args:
        curves: FSC by class, in order; the curve named ``all`` is black and comes last.
        voxel_A: The size of a voxel, in Å.
        compared: The name of the compared maps.
        threshold: The FSC at which the resolution is read.
    """
    figure, axes = panels(1, 1, 2.8)
    axis = axes[0, 0]
    for i, name in enumerate(sorted(curves, key=lambda name: name == "all")):
        curve = curves[name]
        colour, dashes = CLASS_COLOURS[i % len(CLASS_COLOURS)], DASHES[i % len(DASHES)]
        if name == "all":
            colour, dashes = "black", "-"
        axis.plot(np.arange(len(curve)) / (2 * len(curve) * voxel_A), curve, label=name, color=colour, linestyle=dashes)
    nyquist = 1 / (2 * voxel_A)
    axis.axhline(threshold, color="black", linewidth=0.8, linestyle="--")
    axis.set(xlim=(0, nyquist), ylim=(-0.1, 1.02), xlabel="spatial frequency (1/Å)", ylabel=f"FSC of {compared}")
    _tick_resolutions(axis, nyquist)
    legend_below(figure, [axis])
    return figure


def noise_spectrum(power: Real[Array, " shells"], pixel_A: float) -> Figure:
    """Draw the mean power of the noise in each shell.

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
    axis.set(xlim=(0, nyquist), ylim=(0, None), xlabel="spatial frequency (1/Å)", ylabel="power of the noise")
    legend_below(figure, [axis])
    return figure


def _tick_resolutions(axis: Axes, nyquist_per_A: float) -> None:
    """Set ticks at round resolutions in Å, from Nyquist down, no two nearer than a fifth of the axis."""
    chosen: list[int] = []
    for resolution in [*range(2, 15), 16, 18, 20, 25, 30, 35, 40, 50, 60, 80, 100, 150, 200, 300]:
        frequency = 1 / resolution
        if frequency <= nyquist_per_A and (not chosen or 1 / chosen[-1] - frequency > 0.2 * nyquist_per_A):
            chosen.append(resolution)
    axis.set_xticks([1 / r for r in chosen], [f"1/{r}" for r in chosen])

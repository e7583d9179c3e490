"""Curves of any quantity, of training, of time and memory, and over spatial frequency."""

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
#: A column of a table and the label of its axis.
Column = tuple[str, str]
HIGHEST_FSC = 0.9999  # of the axis of half maps; a higher FSC is shown there


def curves(
    x: Real[Array, " n"], lines: Mapping[str, Real[Array, " n"]], x_label: str, y_label: str, log: bool = False
) -> Figure:
    """Plot curves that differ in colour and dashes.

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
    histories: Mapping[str, Mapping[str, pd.DataFrame]], quantities: Mapping[str, str], x: Column | Mapping[str, Column]
) -> Figure:
    """Plot the quantities that training recorded: one row per quantity, one column per dataset, one line per method.

    Args:
        histories: Tables by dataset and method.
        quantities: The columns and their axis labels; a column that no table has is left out.
        x: The column and the label of the horizontal axis, or both by quantity.
    """
    present = {name for by_method in histories.values() for history in by_method.values() for name in history}
    quantities = {name: label for name, label in quantities.items() if name in present}
    steps = {name: x[name] if isinstance(x, Mapping) else x for name in quantities}
    figure, axes = panels(len(quantities), len(histories), 1.55 * len(quantities) + 0.9, sharey="row")
    for column, (dataset, by_method) in enumerate(histories.items()):
        for row, (name, label) in enumerate(quantities.items()):
            axis, (step, step_label) = axes[row, column], steps[name]
            for method in in_order(set(by_method)):
                history, look = by_method[method], method_style(method)
                if name in history and step in history:
                    rows = history[[step, name]].dropna()
                    marker = look.marker if len(rows) == 1 else ""  # a line of one point is invisible
                    axis.plot(rows[step], rows[name], marker=marker, linestyle=look.line, color=look.colour,
                              label=look.explained)  # fmt: skip
            if column == 0:
                axis.set_ylabel(label)
            if row == len(quantities) - 1 or list(steps.values())[row + 1] != steps[name]:
                axis.set_xlabel(step_label)
            else:
                axis.tick_params(labelbottom=False)
        axes[0, column].set_title(dataset_label(dataset))
    for axis in axes.flat:
        axis.set_xlim(left=0)
    figure.align_ylabels(axes[:, 0])
    legend_below(figure, axes.flat)
    return figure


def scaling(table: pd.DataFrame) -> Figure:
    """Plot time and memory against the number of particles, one colour per stage.

    A thin reference line through the point of the largest stack is proportional to the number of particles.

    Args:
        table: Rows with particles, stage, seconds and peak_memory_mb.
    """
    figure, axes = panels(1, 2, 2.9)
    time, memory = axes[0]
    for i, stage in enumerate(unique(table, "stage")):
        rows, colour, marker = table[table["stage"] == stage].sort_values("particles"), CLASS_COLOURS[i], CLASS_MARKERS[i]
        largest = rows.iloc[-1]
        time.plot(rows["particles"], rows["seconds"], marker, color=colour, label=stage)
        time.plot(rows["particles"], rows["particles"] * largest["seconds"] / largest["particles"], DASHES[i % len(DASHES)],
                  lw=0.8, color=colour, label=f"{stage}: time proportional to particles")  # fmt: skip
        memory.plot(rows["particles"], rows["peak_memory_mb"] / 1000, marker, linestyle=DASHES[i % len(DASHES)], color=colour,
                    markerfacecolor="none")  # fmt: skip
    time.set(xscale="log", yscale="log", xlabel="number of particles", ylabel="time (s)", title="time")
    time.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    highest_gb = table["peak_memory_mb"].max() / 1000
    memory.set(
        xscale="log", xlabel="number of particles", ylabel="peak memory (GB)", title="memory", ylim=(0, 1.3 * highest_gb)
    )
    for axis in (time, memory):
        axis.set_xticks(sorted(set(table["particles"])))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.minorticks_off()
    legend_below(figure, axes.flat)
    return figure


def mixture_scores(table: pd.DataFrame) -> Figure:
    """Plot accuracy and rotation error against the number of species in a mixture, one line per method.

    A point is the mean over seeds; its bar extends from the lowest to the highest value.

    Args:
        table: Rows with species, seed, method, accuracy (0 to 1) and rotation_median_deg.
    """
    figure, axes = panels(1, 2, 2.9)
    quantities = {"accuracy": "accuracy by majority vote", "rotation_median_deg": "median rotation error (°)"}
    for axis, (quantity, label) in zip(axes[0], quantities.items(), strict=True):
        for method in in_order(set(table["method"])):
            look, by_size = method_style(method), table[table["method"] == method].groupby("species")[quantity]
            seeds = by_size.agg(["mean", "min", "max"])
            spread = [seeds["mean"] - seeds["min"], seeds["max"] - seeds["mean"]]
            axis.errorbar(seeds.index, seeds["mean"], spread, color=look.colour, linestyle=look.line, marker=look.marker,
                          capsize=2, clip_on=False, label=look.explained)  # fmt: skip
        axis.set(xlabel="species in the mixture", ylabel=label, xticks=sorted(set(table["species"])), ylim=(0, None))
    axes[0, 0].set_ylim(0, 1)
    legend_below(figure, axes.flat)
    return figure


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

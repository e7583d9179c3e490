"""Curves: of anything, of training, of the FSC and the noise over spatial frequency."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hetacumn.plots.look import CLASS_COLOURS, WIDTH_IN, in_order, legend_below, look_of, name_of, panels

DASHES = ("-", "--", "-.", ":")


def curves(x: np.ndarray, lines: Mapping[str, np.ndarray], x_label: str, y_label: str, log: bool = False) -> Figure:
    """Lines ``(n,)`` by name over ``x`` ``(n,)``, told apart by colour and dashes."""
    figure = Figure(figsize=(WIDTH_IN, 2.6), layout="constrained")
    axis = figure.subplots()
    for i, (name, line) in enumerate(lines.items()):
        axis.plot(x, line, color=CLASS_COLOURS[i % len(CLASS_COLOURS)], linestyle=DASHES[i % len(DASHES)], label=name)
    axis.set(xlabel=x_label, ylabel=y_label, xscale="log" if log else "linear")
    axis.legend()
    return figure


def training_curves(histories: Mapping[str, Mapping[str, pd.DataFrame]], quantities: Mapping[str, str],
                    x: tuple[str, str]) -> Figure:
    """What training saw of itself: a row a quantity, a column a dataset, a line a method.

    ``histories[dataset][method]``: a table with the columns in ``quantities`` (column to axis label) and
    ``x`` (column, axis label). What a method has no column for is left out, and what none has, too.
    """
    columns = {name for by_method in histories.values() for history in by_method.values() for name in history}
    quantities = {name: label for name, label in quantities.items() if name in columns}
    height = 1.35 * len(quantities) + 0.7
    figure, axes = panels(len(quantities), len(histories), height, sharex="col", sharey="row")
    for column, (dataset, by_method) in enumerate(histories.items()):
        for line, (name, label) in zip(axes, quantities.items(), strict=True):
            for method in in_order(set(by_method)):
                history = by_method[method]
                if name in history:
                    rows = history[[x[0], name]].dropna()
                    method_label, colour, _, dashes = look_of(method)
                    line[column].plot(rows[x[0]], rows[name], color=colour, linestyle=dashes,
                                      label=method_label)
            if column == 0:
                line[0].set_ylabel(label)
        axes[0, column].set_title(name_of(dataset))
        axes[-1, column].set_xlabel(x[1])
    figure.align_ylabels(axes[:, 0])
    legend_below(figure, axes.flat)
    return figure


def fsc_curves(table: pd.DataFrame) -> Figure:
    """FSC of the class volumes with the truth: a panel a dataset, a line a method (mean over its classes).

    ``table``: dataset, method, class, frequency_per_A (every shell below Nyquist), fsc. The band is from
    the worst to the best class.
    """
    datasets = list(dict.fromkeys(table["dataset"]))
    figure, axes = panels(1, len(datasets), 2.8, sharey=True)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        rows = table[table["dataset"] == dataset]
        for method in in_order(set(rows["method"])):
            label, colour, _, line = look_of(method)
            of_method = rows[rows["method"] == method].groupby("frequency_per_A")["fsc"]
            curves = of_method.agg(["mean", "min", "max"])
            band = {"color": colour, "alpha": 0.12, "linewidth": 0}
            axis.fill_between(curves.index, curves["min"], curves["max"], **band)
            axis.plot(curves.index, curves["mean"], color=colour, linestyle=line, label=label)
        frequencies = np.unique(rows["frequency_per_A"])
        nyquist = frequencies[-1] + frequencies[1] - frequencies[0]  # the shell after the last
        axis.axhline(0.5, color="black", linewidth=0.8, linestyle="--")
        axis.axvline(nyquist, color="black", linewidth=0.8)
        axis.text(nyquist, 1.03, "Nyquist", ha="right", va="bottom", fontsize=8)
        axis.set(xlim=(0, nyquist * 1.01), ylim=(-0.1, 1.02), xlabel="spatial frequency (1/Å)")
        axis.set_title(name_of(dataset), loc="left")
        _tick_resolutions(axis, nyquist)
    axes[0, 0].set_ylabel("FSC with the truth")
    legend_below(figure, axes[0])
    return figure


def map_fsc(curves: Mapping[str, np.ndarray], voxel_A: float, of: str = "the half maps", threshold: float = 0.143) -> Figure:
    """FSC between two maps, a line a pair; ``curves[name]`` ``(box // 2,)``; the dashed line is the ``threshold``.

    Classes come in their order and colours; the map of ``all`` particles is black.
    """
    figure, axes = panels(1, 1, 2.8)
    axis = axes[0, 0]
    for i, name in enumerate(sorted(curves, key=lambda name: name == "all")):
        curve, of_all = curves[name], name == "all"
        axis.plot(np.arange(len(curve)) / (2 * len(curve) * voxel_A), curve, label=name,
                  color="black" if of_all else CLASS_COLOURS[i % len(CLASS_COLOURS)],
                  linestyle="-" if of_all else DASHES[i % len(DASHES)])
    nyquist = 1 / (2 * voxel_A)
    axis.axhline(threshold, color="black", linewidth=0.8, linestyle="--")
    axis.set(xlim=(0, nyquist), ylim=(-0.1, 1.02), xlabel="spatial frequency (1/Å)", ylabel=f"FSC of {of}")
    _tick_resolutions(axis, nyquist)
    legend_below(figure, [axis])
    return figure


def noise_spectrum(power: np.ndarray, pixel_A: float) -> Figure:
    """Mean power of the noise in each shell ``(box // 2,)``, 1 being that of white noise of unit variance."""
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
    """Ticks at round resolutions in Å, from Nyquist down, no two nearer than a fifth of the axis."""
    chosen = []
    for resolution in [*range(2, 15), 16, 18, 20, 25, 30, 35, 40, 50, 60, 80, 100, 150, 200, 300]:
        frequency = 1 / resolution
        if frequency <= nyquist_per_A and (not chosen or 1 / chosen[-1] - frequency > 0.2 * nyquist_per_A):
            chosen.append(resolution)
    axis.set_xticks([1 / r for r in chosen], [f"1/{r}" for r in chosen])

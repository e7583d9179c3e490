"""Bars: accuracies of methods, the worth of their parts, and the time of the stages of a run."""

from collections.abc import Mapping
from typing import cast

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, PercentFormatter

from hetacumn.plots.theme import (
    BOUND_COLOUR,
    CLASS_COLOURS,
    CLASS_HATCHES,
    NEUTRAL_COLOUR,
    MethodStyle,
    dataset_label,
    in_order,
    legend_below,
    method_style,
    panels,
    unique,
)


def accuracy_bars(table: pd.DataFrame) -> Figure:
    """Draw the share of particles that each method puts into the right class, and its bounds: one panel per dataset.

    A bar is the mean over seeds of the accuracy on all particles, a diamond that on unseen particles. The solid line is
    the Bayes bound of a method that searches poses, the dotted line the bound of a method that knows them.

    Args:
        table: Rows with dataset, method, accuracy, accuracy_unseen, bound_marginal and bound_known_pose (0 to 1).
    """
    datasets = unique(table, "dataset")
    styles = {method: method_style(method) for method in in_order(set(table["method"]))}
    figure, axes = panels(1, len(datasets), 0.3 * len(styles) + 1.25, sharey=True)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        rows = table[table["dataset"] == dataset]
        _mean_bars(axis, rows, "accuracy", styles)
        seaborn.pointplot(
            rows, x="accuracy_unseen", y="method", order=list(styles), errorbar=None, linestyle="none", marker="D",
            color="white", markeredgecolor="black", markeredgewidth=1, markersize=5, clip_on=False, zorder=5, ax=axis,
        )  # fmt: skip
        for bar in cast(list[Rectangle], axis.patches):
            share = bar.get_width()
            left = 0.02 if share > 0.45 else share + 0.06  # a label in a short bar would cover the diamond
            axis.text(left, bar.get_y() + bar.get_height() / 2, f"{100 * share:.1f} %", va="center", fontsize=8,
                      bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"})  # fmt: skip
        axis.axvline(rows["bound_marginal"].mean(), color=BOUND_COLOUR, linewidth=2.5, zorder=3)
        axis.axvline(rows["bound_known_pose"].mean(), color="black", linestyle=":", zorder=4)
        axis.set(title=dataset_label(dataset), xlim=(0, 1.02), xlabel="accuracy", ylabel="")
        axis.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    figure.legend(
        handles=[
            Line2D([], [], color="white", marker="D", markeredgecolor="black", label="unseen particles"),
            Line2D([], [], color=BOUND_COLOUR, linewidth=2.5, label="Bayes bound"),
            Line2D([], [], color="black", linestyle=":", label="Bayes bound, poses known"),
        ],
        loc="outside lower center", ncols=3,
    )  # fmt: skip
    return figure


def ablation_bars(table: pd.DataFrame, names: Mapping[str, str], quantities: Mapping[str, str]) -> Figure:
    """Draw the worth of each part of the method: one row per quantity, one panel per dataset.

    Bars are means over seeds, points the seeds. A quantity that differs twentyfold has a logarithmic axis.

    Args:
        table: Rows with dataset, method, seed and the quantities.
        names: The methods and their names in the figure, in order, the whole method first.
        quantities: The columns and their axis labels.
    """
    datasets = unique(table, "dataset")
    colours = [CLASS_COLOURS[0]] + [NEUTRAL_COLOUR] * (len(names) - 1)
    styles = {method: MethodStyle(name, colour, "", "-") for (method, name), colour in zip(names.items(), colours, strict=True)}
    height = len(quantities) * (0.22 * len(names) + 0.6) + 0.2
    figure, axes = panels(len(quantities), len(datasets), height, sharey=True, sharex="row")
    for line, (quantity, label) in zip(axes, quantities.items(), strict=True):
        values = table.loc[table["method"].isin(list(names)), quantity].dropna()
        for axis, dataset in zip(line, datasets, strict=True):
            rows = table[table["dataset"] == dataset]
            _mean_bars(axis, rows, quantity, styles)
            seaborn.stripplot(
                rows, x=quantity, y="method", order=list(styles), jitter=False, color="white", edgecolor="black",
                linewidth=1, size=4, ax=axis,
            )  # fmt: skip
            if values.min() > 0 and values.max() > 20 * values.min():
                axis.set(xscale="log", xlim=(values.min() / 1.5, 1.5 * values.max()))
                axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set(xlabel=label, ylabel="")
    for axis, dataset in zip(axes[0], datasets, strict=True):
        axis.set_title(dataset_label(dataset))
    return figure


def stage_bars(table: pd.DataFrame, stages: Mapping[str, str]) -> Figure:
    """Draw the time of the stages of a run, one after the other: one panel per dataset, one bar per device.

    Args:
        table: Rows with dataset, device and the time of each stage in seconds.
        stages: The columns of the stages and their names.
    """
    datasets, devices = unique(table, "dataset"), unique(table, "device")
    figure, axes = panels(1, len(datasets), 0.35 * len(devices) + 1.1, sharey=True, sharex=True)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        rows = table[table["dataset"] == dataset].set_index("device")[list(stages)].reindex(devices)
        ends = rows.cumsum(axis=1)
        for i, (stage, name) in enumerate(stages.items()):
            axis.barh(range(len(devices)), rows[stage], left=ends[stage] - rows[stage], height=0.6, color=CLASS_COLOURS[i],
                      hatch=CLASS_HATCHES[i], edgecolor="black", linewidth=0.5, label=name)  # fmt: skip
        for place, end in enumerate(ends.iloc[:, -1]):
            label = " not run" if np.isnan(end) else f" {end:.0f} s"
            axis.text(np.nan_to_num(end), place, label, va="center", fontsize=8)
        axis.set(title=dataset_label(dataset), xlabel="seconds", ylim=(len(devices) - 0.5, -0.5))
        axis.set_yticks(range(len(devices)), devices)
        axis.tick_params(axis="y", length=0)
    axes[0, 0].set_xlim(0, 1.25 * table[list(stages)].sum(axis=1).max())
    legend_below(figure, axes[0])
    return figure


def _mean_bars(axis: Axes, rows: pd.DataFrame, quantity: str, styles: Mapping[str, MethodStyle]) -> None:
    """Draw the mean of a quantity, a horizontal bar a method; a method without rows leaves a gap."""
    looks = list(styles.values())
    seaborn.barplot(
        rows, x=quantity, y="method", order=list(styles), hue="method", hue_order=list(styles),
        palette=[look.colour for look in looks], saturation=1, errorbar=None, width=0.72, edgecolor="black", linewidth=0.5,
        legend=False, ax=axis,
    )  # fmt: skip
    for bar in cast(list[Rectangle], axis.patches):
        bar.set_hatch(looks[round(bar.get_y() + bar.get_height() / 2)].hatch)
    axis.set_yticks(range(len(looks)), [look.label for look in looks])
    axis.tick_params(axis="y", length=0)

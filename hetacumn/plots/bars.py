"""Bars: accuracies of methods, contributions of their parts, settled shares of classes, times of the stages of a run."""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, PercentFormatter

from hetacumn.plots.theme import (
    BOUND_COLOUR,
    CLASS_COLOURS,
    CLASS_HATCHES,
    NEUTRAL_COLOUR,
    WIDTH_IN,
    MethodStyle,
    dataset_label,
    in_order,
    legend_below,
    method_style,
    panels,
    unique,
)

#: The columns of the Bayes bounds, and their names beside the bars.
BOUNDS = {
    "bound_marginal": "Bayes bound\npose unknown",
    "bound_known_pose": "Bayes bound\npose known",
}


def accuracy_bars(table: pd.DataFrame) -> Figure:
    """Plot the fraction of particles that each method assigns to the right class, and its bounds: one panel per dataset.

    A bar and its number are the mean over seeds of the accuracy on all particles. A diamond is the mean on the particles that
    training never saw. The hollow bars below are the Bayes bounds: the accuracy of a classifier that knows the true volumes,
    without and with the true poses. A vertical line continues the first bound through the bars of the methods.

    Args:
        table: Rows with dataset, method, accuracy, accuracy_unseen, bound_marginal and bound_known_pose (0 to 1).
    """
    datasets = unique(table, "dataset")
    styles = {method: method_style(method) for method in in_order(set(table["method"]))}
    names = [look.two_lines for look in styles.values()] + list(BOUNDS.values())
    places = [*range(len(styles)), *(len(styles) + 0.3 + i for i in range(len(BOUNDS)))]
    figure, axes = panels(1, len(datasets), 0.36 * len(names) + 1.1, sharey=True)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        rows = table[table["dataset"] == dataset]
        _mean_bars(axis, rows, "accuracy", styles)
        seaborn.pointplot(
            rows, x="accuracy_unseen", y="method", order=list(styles), errorbar=None, linestyle="none", marker="D",
            color="white", markeredgecolor="black", markeredgewidth=1, markersize=5, clip_on=False, zorder=5, ax=axis,
        )  # fmt: skip
        bounds = rows[list(BOUNDS)].mean()
        axis.barh(places[len(styles):], bounds, height=0.72, color="white", edgecolor=BOUND_COLOUR, linewidth=1.5,
                  clip_on=False)  # fmt: skip
        axis.axvline(bounds["bound_marginal"], color=BOUND_COLOUR, linewidth=1.5, zorder=3)
        for bar in cast(list[Rectangle], axis.patches):
            _write_right(axis, bar, f"{100 * bar.get_width():.2f} %")
        axis.set(title=dataset_label(dataset), xlim=(0, 1), xlabel="accuracy", ylabel="")
        axis.set_yticks(places, names)
        axis.set_ylim(places[-1] + 0.6, -0.6)
        axis.xaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
        axis.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    _write_note(
        figure,
        "Bar and number: all particles. Diamond: particles that training never saw.\n"
        "Bayes bound: accuracy of a classifier that knows the true volumes.",
    )
    return figure


def _write_right(axis: Axes, bar: Rectangle, text: str) -> None:
    """Write a text to the right of the panel, level with a bar, where the text covers no mark."""
    axis.text(1.07, bar.get_y() + bar.get_height() / 2, text, transform=axis.get_yaxis_transform(), va="center", fontsize=8)


def _write_note(figure: Figure, text: str) -> None:
    """Write a line below all panels."""
    figure.supxlabel(text, fontsize=8)


def ablation_bars(table: pd.DataFrame, names: Mapping[str, str], quantities: Mapping[str, str]) -> Figure:
    """Plot the contribution of each part of the method: one row per quantity, one panel per dataset.

    Bars and numbers are means over seeds; each point is one seed. The axis of a quantity is logarithmic if its largest value
    exceeds 20 times its smallest value.

    Args:
        table: Rows with dataset, method, seed and the quantities.
        names: The methods and their names in the figure, in order. The first is the complete method, without a part removed.
        quantities: The columns and their axis labels.
    """
    datasets = unique(table, "dataset")
    colours = [CLASS_COLOURS[0]] + [NEUTRAL_COLOUR] * (len(names) - 1)
    styles = {method: MethodStyle(name, colour, "", "-") for (method, name), colour in zip(names.items(), colours, strict=True)}
    height = len(quantities) * (0.22 * len(names) + 0.6) + 0.5
    figure, axes = panels(len(quantities), len(datasets), height, sharey=True, sharex="row")
    for line, (quantity, label) in zip(axes, quantities.items(), strict=True):
        values = table.loc[table["method"].isin(list(names)), quantity].dropna()
        for axis, dataset in zip(line, datasets, strict=True):
            rows = table[table["dataset"] == dataset]
            _mean_bars(axis, rows, quantity, styles)
            log = values.min() > 0 and values.max() > 20 * values.min()
            decimals = 3 - int(np.floor(np.log10(values.abs().max() or 1)))
            for bar in cast(list[Rectangle], axis.patches):
                number = f"{bar.get_width():.3g}" if log else f"{bar.get_width():.{max(0, decimals)}f}"
                _write_right(axis, bar, number.replace("-", "−"))
            seaborn.stripplot(
                rows, x=quantity, y="method", order=list(styles), jitter=False, color="white", edgecolor="black",
                linewidth=1, size=4, ax=axis, clip_on=False,
            )  # fmt: skip
            if log:
                axis.set(xscale="log", xlim=(values.min() / 1.5, 1.5 * values.max()))
                axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            elif values.min() < 0:
                axis.axvline(0, color="black", linewidth=0.8)
            axis.set(xlabel=label, ylabel="")
    for axis, dataset in zip(axes[0], datasets, strict=True):
        axis.set_title(dataset_label(dataset))
    _write_note(figure, "Bar and number: mean over seeds. Points: single seeds.")
    return figure


def settled_bars(shares: Sequence[float | None], threshold: float) -> Figure:
    """Plot the settled share of each class (:mod:`hetacumn.prediction.trust`), and the threshold as a dashed line.

    Args:
        shares: The share of each class, from 0 to 1; None for a class that is not tested.
        threshold: The least share of a class whose poses are determined.
    """
    figure, axes = panels(1, 1, 0.3 * len(shares) + 0.9)
    axis = axes[0, 0]
    for k, share in enumerate(shares):
        look = {"color": CLASS_COLOURS[k % len(CLASS_COLOURS)], "hatch": CLASS_HATCHES[k % len(CLASS_HATCHES)]}
        axis.barh(k, share or 0.0, height=0.7, edgecolor="black", linewidth=0.5, **look)
        doubt = "" if share is None or share >= threshold else ": not determined"
        text = "too few images" if share is None else f"{100 * share:.0f} %{doubt}"
        axis.text(1.02, k, text, transform=axis.get_yaxis_transform(), va="center", fontsize=8)
    axis.axvline(threshold, color=BOUND_COLOUR, linestyle="--", linewidth=1.5)
    axis.set(xlim=(0, 1), xlabel="settled share: images with the same pose after an independent start", ylabel="")
    axis.set_yticks(range(len(shares)), [f"class {k + 1}" for k in range(len(shares))])
    axis.set_ylim(len(shares) - 0.4, -0.6)
    axis.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    return figure


def stage_bars(table: pd.DataFrame, stages: Mapping[str, str]) -> Figure:
    """Plot the times of the stages of a run, one after the other: one panel per dataset, one bar per device.

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
        axis.set(title=dataset_label(dataset), xlabel="time (s)", ylim=(len(devices) - 0.5, -0.5))
        axis.set_yticks(range(len(devices)), devices)
        axis.tick_params(axis="y", length=0)
    axes[0, 0].set_xlim(0, 1.25 * table[list(stages)].sum(axis=1).max())
    legend_below(figure, axes[0])
    return figure


def busy_bars(table: pd.DataFrame) -> Figure:
    """Plot the time of each phase of a run, and the part of this time in which the GPU was busy: one row per phase.

    Args:
        table: Rows with dataset, phase, seconds and busy_share (0 to 1; NaN where unknown). Rows without seconds, and the
            phase ``all``, are left out.
    """
    table = table[table["seconds"].notna() & (table["phase"] != "all")]  # "all" is the sum of the phases of a dataset
    names = [f"{row.dataset}, {row.phase}" for row in table.itertuples()]
    figure = Figure(figsize=(WIDTH_IN, 1.1 + 0.28 * len(names)), layout="constrained")
    axis, places = figure.add_subplot(), range(len(names))
    axis.barh(
        places, table["seconds"], height=0.7, color="white", edgecolor="black", linewidth=0.5, label="GPU idle or unknown"
    )
    axis.barh(places, table["seconds"] * table["busy_share"].fillna(0), height=0.7, color=CLASS_COLOURS[0], edgecolor="black",
              linewidth=0.5, label="GPU busy")  # fmt: skip
    for place, (seconds, busy) in enumerate(zip(table["seconds"].to_numpy(), table["busy_share"].to_numpy(float), strict=True)):
        share = "" if np.isnan(busy) else f", {busy:.0%} busy"
        axis.text(seconds, place, f" {seconds:.1f} s{share}", va="center", fontsize=8)
    axis.set(xlabel="time (s)", xlim=(0, 1.3 * max(table["seconds"], default=1)), ylim=(len(names) - 0.4, -0.6))
    axis.set_yticks(places, names)
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _mean_bars(axis: Axes, rows: pd.DataFrame, quantity: str, styles: Mapping[str, MethodStyle]) -> None:
    """Plot the mean of a quantity as one horizontal bar per method; a method without rows leaves a gap."""
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


def state_numbers(table: pd.DataFrame) -> Figure:
    """Plot the true and the found number of states of each stack, one line per stack.

    Args:
        table: Rows with the columns stack, states (true number) and found (found number); a stack may have several rows.
    """
    stacks = list(dict.fromkeys(table["stack"]))
    figure = Figure(figsize=(WIDTH_IN, 1.2 + 0.35 * len(stacks)), layout="constrained")
    axis = figure.add_subplot()
    places = [stacks.index(stack) for stack in table["stack"]]
    axis.plot(table["states"], places, linestyle="none", marker="o", markersize=14, markerfacecolor="none",
              markeredgecolor=BOUND_COLOUR, markeredgewidth=2, label="true number of states")  # fmt: skip
    axis.plot(table["found"], places, linestyle="none", marker="D", markersize=6, color=CLASS_COLOURS[0], label="found number")
    axis.set(xlim=(0, max(table["states"].max(), table["found"].max()) + 1), xlabel="number of states")
    axis.set(ylim=(len(stacks) - 0.4, -0.6), yticks=range(len(stacks)), yticklabels=stacks)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(axis="x", alpha=0.4)
    figure.legend(loc="outside lower center", ncols=2)
    return figure

"""Accuracies against signal and time, and the confusion of classes."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from hetacumn.plots.theme import BOUND_COLOUR, WIDTH_IN, dataset_label, in_order, legend_below, method_style, panels, unique

#: The limits of accuracies on a logit scale; an accuracy beyond a limit is drawn at the limit.
LOGIT_LIMITS = (0.2, 0.9999)


def confusion_matrix(confusions: Mapping[str, Mapping[str, Int[np.ndarray, "_k _k"] | list[list[int]]]]) -> Figure:
    """Draw the labels of each true class, in per cent of the class: one row per dataset, one column per method.

    Args:
        confusions: Counts by dataset and method, true classes down, the matched estimated classes across.
    """
    methods = in_order({m for by_method in confusions.values() for m in by_method})
    size = WIDTH_IN / (len(methods) + 0.3)
    figure, axes = panels(len(confusions), len(methods), (size + 0.25) * len(confusions) + 0.3)
    for axis, method in zip(axes[0], methods, strict=True):
        axis.set_title(method_style(method).label.replace(", ", ",\n"))
    for line, (dataset, by_method) in zip(axes, confusions.items(), strict=True):
        for axis, method in zip(line, methods, strict=True):
            if method not in by_method:
                axis.set_visible(False)
                continue
            percent = _percent_of_rows(np.asarray(by_method[method]))
            classes = [str(k + 1) for k in range(len(percent))]
            seaborn.heatmap(
                percent, vmin=0, vmax=100, cmap="Blues", cbar=False, square=True, annot=True, fmt=".0f",
                annot_kws={"fontsize": 8}, xticklabels=classes, yticklabels=classes, ax=axis,
            )  # fmt: skip
            axis.tick_params(length=0, labelrotation=0)
        line[0].set_ylabel(f"{dataset_label(dataset)}\ntrue class")
    figure.supxlabel("estimated class, matched (numbers: % of the true class)", fontsize=9)
    return figure


def _percent_of_rows(counts: Int[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    """Divide counts by the sums of their rows, in per cent; a row without counts is 0."""
    return np.asarray(100 * counts / np.maximum(counts.sum(1, keepdims=True), 1))


def accuracy_lines(table: pd.DataFrame, x: tuple[str, str]) -> Figure:
    """Draw accuracy against a number, and the Bayes bound: one panel per dataset, one line per method.

    A point is the mean over seeds, its bar reaches from the worst to the best seed. Accuracy has a logit scale, on which
    99 and 99.9 % are as far apart as 90 and 99 %.

    Args:
        table: Rows with dataset, method, accuracy, bound_marginal and the column of ``x``.
        x: The column and the label of the horizontal axis, which is logarithmic.
    """
    column, label = x
    datasets = unique(table, "dataset")
    figure, axes = panels(1, len(datasets), 3.0, sharey=True)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        rows = table[table["dataset"] == dataset]
        for method in in_order(set(rows["method"])):
            look = method_style(method)
            by_x = rows[rows["method"] == method].groupby(column)["accuracy"]
            seeds = by_x.agg(["mean", "min", "max"]).dropna().clip(*LOGIT_LIMITS)
            spread = [seeds["mean"] - seeds["min"], seeds["max"] - seeds["mean"]]
            axis.errorbar(seeds.index, seeds["mean"], spread, color=look.colour, linestyle=look.line, marker=look.marker,
                          markersize=4, label=look.label, capsize=2)  # fmt: skip
        bound = rows.groupby(column)["bound_marginal"].mean().dropna().clip(*LOGIT_LIMITS)
        axis.plot(bound.index, bound, color=BOUND_COLOUR, label="Bayes bound", marker="_", markersize=8, zorder=1)
        axis.set(title=dataset_label(dataset), xscale="log", xlabel=label)
        ticks = sorted(rows[column].unique())
        axis.set_xticks(ticks, labels=[f"{value:g}" for value in ticks])
        axis.minorticks_off()
        _set_logit_axis(axis)
    axes[0, 0].set_ylabel("accuracy")
    legend_below(figure, axes.flat)
    return figure


def accuracy_against_time(table: pd.DataFrame) -> Figure:
    """Draw accuracy against training time: one panel per dataset, one point per run, hollow where the run met its time limit.

    Args:
        table: Rows with dataset, method, accuracy, train_seconds, bound_marginal and finished.
    """
    datasets = unique(table, "dataset")
    columns = min(len(datasets), 3)
    lines = -(-len(datasets) // columns)
    figure, axes = panels(lines, columns, 2.1 * lines + 0.9, sharey=True, sharex=True)
    for axis in axes.flat[len(datasets):]:  # fmt: skip
        axis.set_visible(False)
    for axis, dataset in zip(axes.flat, datasets, strict=False):
        rows = table[table["dataset"] == dataset].dropna(subset=["accuracy", "train_seconds"])
        for method in in_order(set(rows["method"])):
            look = method_style(method)
            runs = rows[rows["method"] == method]
            fill = [look.colour if finished else "white" for finished in runs["finished"]]
            # A refined prediction has the training time of its model, and its point lies within the point of the model.
            edge = "white" if method == "hetacumn-refined" else look.colour
            axis.scatter(runs["train_seconds"] / 60, runs["accuracy"].clip(*LOGIT_LIMITS), c=fill, s=look.area,
                         marker=look.marker, label=look.label, edgecolors=edge, zorder=3, clip_on=False)  # fmt: skip
        bound = np.clip(rows["bound_marginal"].mean(), *LOGIT_LIMITS)
        axis.axhline(bound, color=BOUND_COLOUR, label="Bayes bound")
        axis.set(title=dataset_label(dataset), xscale="log", xlim=(0.2, 60), xlabel="time of one core (min)")
        axis.xaxis.set_major_locator(FixedLocator([0.2, 1, 5, 30]))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.minorticks_off()
        _set_logit_axis(axis)
        axis.tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    axes[0, 0].scatter([], [], s=34, c="white", edgecolors="black", label="hollow: stopped at its limit")
    legend_below(figure, axes.flat)
    return figure


def _set_logit_axis(axis: Axes) -> None:
    """Give the vertical axis a logit scale from :data:`LOGIT_LIMITS`, with accuracies in per cent."""
    lowest, highest = LOGIT_LIMITS
    axis.set_yscale("logit")
    axis.set_ylim(lowest, 0.99994)
    axis.yaxis.set_major_locator(FixedLocator([0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 0.997, 0.999, highest]))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{'≥ ' if value == highest else ''}{100 * value:g} %"))
    axis.yaxis.set_minor_locator(FixedLocator([]))

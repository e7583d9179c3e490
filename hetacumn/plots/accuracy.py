"""Accuracies against signal, training set and time, and the confusion of classes."""

from collections.abc import Mapping

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
    CLASS_MARKERS,
    WIDTH_IN,
    dataset_label,
    in_order,
    legend_below,
    method_style,
    panels,
    unique,
)

#: The limits of accuracies on a logit scale; an accuracy beyond a limit is shown at the limit.
LOGIT_LIMITS = (0.2, 0.9999)
LOGIT_TICKS = (0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 0.997, 0.999, LOGIT_LIMITS[1])
CLOSE = 0.35  # natural-log odds within which two markers overlap
SIDESTEP = 0.1  # distance of two shifted markers, in gaps between two horizontal positions
SHIFTED = "markers that would hide each other are shifted sideways"


def confusion_matrix(confusions: Mapping[str, Mapping[str, Int[np.ndarray, "_k _k"] | list[list[int]]]]) -> Figure:
    """Plot the predicted classes of each true class, in per cent of the true class: one row per dataset, one column per method.

    Args:
        confusions: Counts by dataset and method, true classes down, the matched predicted classes across.
    """
    methods = in_order({m for by_method in confusions.values() for m in by_method})
    size = WIDTH_IN / (len(methods) + 0.3)
    figure, axes = panels(len(confusions), len(methods), (size + 0.25) * len(confusions) + 0.45)
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
                annot_kws={"fontsize": 8}, xticklabels=classes, yticklabels=classes, linewidths=0.5, linecolor="0.7", ax=axis,
            )  # fmt: skip
            axis.tick_params(length=0, labelrotation=0)
        line[0].set_ylabel(f"{dataset_label(dataset)}\ntrue class")
    figure.supxlabel(
        "predicted class, matched to the true classes\nnumber: % of the particles of the true class",
        fontsize=9,
    )
    return figure


def _percent_of_rows(counts: Int[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    """Divide counts by the sums of their rows, in per cent; a row without counts is 0."""
    return np.asarray(100 * counts / np.maximum(counts.sum(1, keepdims=True), 1))


def accuracy_lines(table: pd.DataFrame, x: tuple[str, str], y_label: str = "accuracy (logit scale)") -> Figure:
    """Plot accuracy and the Bayes bound against the column of ``x``: one panel per dataset, one line per method.

    A point is the mean over seeds; its bar extends from the worst to the best seed. Accuracy has a logit scale, on which
    99 and 99.9 % are as far apart as 90 and 99 %. Points that would hide each other are shifted sideways.

    Args:
        table: Rows with dataset, method, accuracy, bound_marginal and the column of ``x``.
        x: The column and the label of the horizontal axis, which is logarithmic.
        y_label: The label of the vertical axis.
    """
    column, label = x
    datasets, methods = unique(table, "dataset"), in_order(set(table["method"]))
    figure, axes = panels(1, len(datasets), 3.1 + 0.1 * len(methods), sharey=True)
    lowest = table["accuracy"].min()
    for axis, dataset in zip(axes[0], datasets, strict=True):
        rows = table[table["dataset"] == dataset]
        ticks = np.array(sorted(rows[column].unique()))
        gap = float(np.diff(np.log(ticks)).min()) if len(ticks) > 1 else 0.0
        means = rows.pivot_table(index=column, columns="method", values="accuracy")
        factors = (SIDESTEP * gap * means.apply(_sidesteps, axis=1)).map(np.exp)
        for method in methods:
            look = method_style(method)
            by_x = rows[rows["method"] == method].groupby(column)["accuracy"]
            seeds = by_x.agg(["mean", "min", "max"]).dropna().clip(*LOGIT_LIMITS)
            spread = [seeds["mean"] - seeds["min"], seeds["max"] - seeds["mean"]]
            shifted = seeds.index * factors[method].loc[seeds.index] if method in factors else seeds.index
            axis.errorbar(shifted, seeds["mean"], spread, color=look.colour, linestyle=look.line,
                          marker=look.marker, markersize=0.9 * look.area**0.5, markeredgecolor="white", markeredgewidth=0.5,
                          label=look.explained, capsize=2, clip_on=False, zorder=3)  # fmt: skip
        bound = rows.groupby(column)["bound_marginal"].mean().dropna().clip(*LOGIT_LIMITS)
        _plot_bound(axis, bound.index.to_numpy(), bound.to_numpy())
        axis.set(title=dataset_label(dataset), xscale="log", xlabel=label)
        axis.set_xticks(ticks, labels=[f"{value:g}" for value in ticks])
        axis.minorticks_off()
        _set_logit_axis(axis, lowest)
    axes[0, 0].set_ylabel(y_label)
    legend_below(figure, axes.flat, SHIFTED if len(methods) > 1 else "")
    return figure


def _sidesteps(accuracies: pd.Series) -> pd.Series:
    """Compute by how many steps each marker moves sideways, so that markers of nearly equal height are side by side."""
    odds = accuracies.dropna().clip(*LOGIT_LIMITS).map(lambda p: np.log(p / (1 - p))).sort_values(kind="stable")
    groups = (odds.diff() > CLOSE).cumsum()
    places = groups.groupby(groups).cumcount() - (groups.groupby(groups).transform("size") - 1) / 2
    return places.reindex(accuracies.index)


def _plot_bound(axis: Axes, x: Float[np.ndarray, " n"], accuracies: Float[np.ndarray, " n"]) -> None:
    """Plot the Bayes bound as a broad pale band behind the methods, so that a method at the bound hides no part of it."""
    axis.plot(x, accuracies, color=BOUND_COLOUR, alpha=0.35, linewidth=6, solid_capstyle="butt", zorder=1, clip_on=False,
              label="Bayes bound (true volumes known)")  # fmt: skip


def accuracy_against_time(table: pd.DataFrame) -> Figure:
    """Plot accuracy against training time: one panel per dataset, one point per run.

    The point of a run that was stopped at its time limit is hollow.

    Args:
        table: Rows with dataset, method, accuracy, train_seconds, bound_marginal and finished.
    """
    datasets = unique(table, "dataset")
    columns = min(len(datasets), 3)
    lines = -(-len(datasets) // columns)
    figure, axes = panels(lines, columns, 2.3 * lines + 1.5, sharey=True, sharex=True)
    for axis in axes.flat[len(datasets):]:  # fmt: skip
        axis.set_visible(False)
    limits = (0.2, 60)
    for axis, dataset in zip(axes.flat, datasets, strict=False):
        rows = table[table["dataset"] == dataset].dropna(subset=["accuracy", "train_seconds"])
        for method in in_order(set(rows["method"])):
            look = method_style(method)
            runs = rows[rows["method"] == method]
            fill = [look.colour if finished else "none" for finished in runs["finished"]]
            # The white edge separates overlapping points: a refined prediction has the training time of its model.
            edge = ["white" if finished else look.colour for finished in runs["finished"]]
            axis.scatter(runs["train_seconds"] / 60, runs["accuracy"].clip(*LOGIT_LIMITS), c=fill, s=look.area,
                         marker=look.marker, label=look.explained, edgecolors=edge, zorder=3, clip_on=False,
                         linewidths=[0.5 if finished else 1.2 for finished in runs["finished"]])  # fmt: skip
        bound = np.clip(rows["bound_marginal"].mean(), *LOGIT_LIMITS)
        _plot_bound(axis, np.array(limits), np.array([bound, bound]))
        axis.set(title=dataset_label(dataset), xscale="log", xlim=limits, xlabel="training time (min)")
        axis.xaxis.set_major_locator(FixedLocator([0.2, 1, 5, 30]))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.minorticks_off()
        _set_logit_axis(axis)
        axis.tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy (logit scale)")
    axes[0, 0].scatter([], [], s=34, c="white", edgecolors="black", label="hollow marker: stopped at its time limit")
    legend_below(figure, axes.flat, "training time on one CPU core")
    return figure


def state_scores(table: pd.DataFrame) -> Figure:
    """Plot accuracy and found poses of each true state against their bounds: one column per dataset.

    A point is the mean over seeds; its bar extends from the worst to the best seed. A pale band is the mean of the bound, which
    a classifier with the true volumes reaches.

    Args:
        table: Rows with dataset, seed, method, state, accuracy, bound, poses_within_10deg and bound_within_10deg (0 to 1).
    """
    quantities = {
        "accuracy": ("bound", "accuracy"),
        "poses_within_10deg": ("bound_within_10deg", "poses within 10°"),
    }
    datasets, methods = unique(table, "dataset"), in_order(set(table["method"]))
    figure, axes = panels(len(quantities), len(datasets), 2.0 * len(quantities) + 0.6, sharey=True, sharex="col")
    for line, (quantity, (bound, label)) in zip(axes, quantities.items(), strict=True):
        for axis, dataset in zip(line, datasets, strict=True):
            rows = table[table["dataset"] == dataset]
            bounds = rows.groupby("state")[bound].mean()
            axis.hlines(bounds, bounds.index - 0.4, bounds.index + 0.4, color=BOUND_COLOUR, alpha=0.35, linewidth=6,
                        clip_on=False, label="true volumes known")  # fmt: skip
            for i, method in enumerate(methods):
                look = method_style(method)
                seeds = rows[rows["method"] == method].groupby("state")[quantity].agg(["mean", "min", "max"])
                spread = [seeds["mean"] - seeds["min"], seeds["max"] - seeds["mean"]]
                axis.errorbar(seeds.index + SIDESTEP * (i - (len(methods) - 1) / 2), seeds["mean"], spread, color=look.colour,
                              linestyle="none", marker=look.marker, markersize=0.9 * look.area**0.5, markeredgecolor="white",
                              markeredgewidth=0.5, capsize=2, clip_on=False, label=look.explained)  # fmt: skip
            axis.set(ylim=(0, 1), xlim=(bounds.index.min() - 0.6, bounds.index.max() + 0.6), xticks=bounds.index)
            axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        line[0].set_ylabel(label)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        axis.set_title(dataset_label(dataset))
    for axis in axes[-1]:
        axis.set_xlabel("true state")
    legend_below(figure, axes.flat)
    return figure


def settled_shares(table: pd.DataFrame, determined: float, found: float = 0.5) -> Figure:
    """Plot the settled share of each class against the share of its images with the true pose.

    A stack has its own colour and marker. Points near the diagonal have a calibrated share. Dashed lines are the limits of the
    two decisions: a class left of the vertical line gets a warning, and a state below the horizontal line is not found.

    Args:
        table: Rows with stack, settled and true_share (0 to 1); rows with NaN are left out.
        determined: The least settled share without a warning.
        found: The least share of true poses of a state that is found.
    """
    figure = Figure(figsize=(WIDTH_IN, 0.62 * WIDTH_IN), layout="constrained")
    axis = figure.add_subplot()
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axis.axvline(determined, color=BOUND_COLOUR, linestyle="--", linewidth=1.5)
    axis.axhline(found, color=BOUND_COLOUR, linestyle="--", linewidth=1.5)
    for i, (stack, rows) in enumerate(table.dropna(subset=["settled", "true_share"]).groupby("stack", sort=False)):
        colour, marker = CLASS_COLOURS[i % len(CLASS_COLOURS)], CLASS_MARKERS[i // len(CLASS_COLOURS)]
        axis.plot(rows["settled"], rows["true_share"], color=colour, linestyle="none", marker=marker, markersize=7,
                  markeredgecolor="black", markeredgewidth=0.5, clip_on=False, label=str(stack), zorder=3)  # fmt: skip
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="settled share of the class", ylabel="images within 10° of the true pose")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axis.set_aspect("equal")
    figure.legend(loc="outside right center", fontsize=8)
    return figure


def _set_logit_axis(axis: Axes, lowest: float = LOGIT_LIMITS[0]) -> None:
    """Set the vertical axis to a logit scale in per cent, from a tick below ``lowest`` up to :data:`LOGIT_LIMITS`."""
    below = [tick for tick in LOGIT_TICKS if tick < 0.9 * lowest or 1 - tick > 1.5 * (1 - lowest)]
    axis.set_yscale("logit")
    axis.set_ylim(below[-1] if below else LOGIT_LIMITS[0], 0.99994)
    highest = LOGIT_LIMITS[1]
    axis.yaxis.set_major_locator(FixedLocator(LOGIT_TICKS))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{'≥ ' if value == highest else ''}{100 * value:g} %"))
    axis.yaxis.set_minor_locator(FixedLocator([]))

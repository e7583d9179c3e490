"""How right methods are, how fast, and how much of it each of their parts is worth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, PercentFormatter

from hetacumn.plots.look import CLASS_COLOURS, CLASS_MARKERS, WIDTH_IN, in_order, legend_below, look_of, name_of, panels

BOUND_COLOUR = "#D55E00"
DRAWN = (0.2, 0.9999)  # accuracies on a logit scale: what is beyond is drawn here
POINTS = {  # marker and size of those that are drawn as points
    "relion": ("s", 34), "cryodrgn2": ("^", 40), "drgnai": ("v", 40), "em": ("P", 44), "amortized": ("<", 40),
    "hetacumn-bare": (">", 40), "hetacumn": ("o", 90), "hetacumn-refined": ("D", 24),
}  # fmt: skip


def confusion_matrix(confusions: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """How each true class was labelled, in per cent of it: a row a dataset, a column a method.

    ``confusions[dataset][method]``: counts ``(K, K)``, true classes down, the matched estimated ones across.
    """
    methods = in_order({m for by_method in confusions.values() for m in by_method})
    size = WIDTH_IN / (len(methods) + 0.3)
    figure, axes = panels(len(confusions), len(methods), (size + 0.25) * len(confusions) + 0.3)
    for axis, method in zip(axes[0], methods, strict=True):
        axis.set_title(look_of(method)[0].replace(", ", ",\n"))
    for line, (dataset, by_method) in zip(axes, confusions.items(), strict=True):
        for axis, method in zip(line, methods, strict=True):
            if method not in by_method:
                axis.set_visible(False)
                continue
            counts = np.asarray(by_method[method])
            share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
            axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
            for (true, found), value in np.ndenumerate(share):
                axis.text(found, true, f"{value:.0f}", ha="center", va="center", fontsize=8,
                          color="white" if value > 55 else "black")
            ticks = range(len(counts))
            axis.set(xticks=ticks, yticks=ticks, xticklabels=[k + 1 for k in ticks],
                     yticklabels=[k + 1 for k in ticks])
            axis.tick_params(length=0)
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(f"{name_of(dataset)}\ntrue class")
    figure.supxlabel("estimated class, matched (numbers: % of the true class)", fontsize=9)
    return figure


def accuracy_bars(table: pd.DataFrame) -> Figure:
    """The share of particles put into the right class, with the best that is possible: a panel a dataset.

    ``table``: rows with dataset, method, accuracy, accuracy_unseen, bound_marginal, bound_known_pose; seeds
    are averaged. Bars are all particles, diamonds the unseen ones; the line is the Bayes bound with poses
    searched, the dotted one that with the true poses.
    """
    columns = ["accuracy", "accuracy_unseen", "bound_marginal", "bound_known_pose"]
    means = table.groupby(["dataset", "method"], sort=False)[columns].mean()
    datasets = list(dict.fromkeys(table["dataset"]))
    methods = in_order(set(table["method"]))
    figure, axes = panels(1, len(datasets), 0.3 * len(methods) + 1.25, sharey=True)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        rows = means.loc[dataset].reindex(methods)
        for place, (method, row) in enumerate(rows.iterrows()):
            _, colour, hatch, _ = look_of(method)
            axis.barh(place, row["accuracy"], height=0.72, color=colour, hatch=hatch, edgecolor="black",
                      linewidth=0.5)
            axis.text(0.02, place, f"{100 * row['accuracy']:.1f} %", va="center", fontsize=8,
                      bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"})
        axis.plot(rows["accuracy_unseen"], range(len(methods)), "D", color="white", markeredgecolor="black",
                  markersize=5, clip_on=False, zorder=5)
        axis.axvline(rows["bound_marginal"].mean(), color=BOUND_COLOUR, zorder=4)
        axis.axvline(rows["bound_known_pose"].mean(), color=BOUND_COLOUR, linestyle=":", zorder=4)
        axis.set(title=name_of(dataset), xlim=(0, 1.02), xlabel="accuracy", ylim=(len(methods) - 0.4, -0.6))
        axis.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axis.set_yticks(range(len(methods)), [look_of(method)[0] for method in methods])
        axis.tick_params(axis="y", length=0)
    figure.legend(
        handles=[
            Line2D([], [], color="white", marker="D", markeredgecolor="black", label="unseen particles"),
            Line2D([], [], color=BOUND_COLOUR, label="Bayes bound"),
            Line2D([], [], color=BOUND_COLOUR, linestyle=":", label="Bayes bound, poses known"),
        ],
        loc="outside lower center", ncols=3,
    )
    return figure


def accuracy_lines(table: pd.DataFrame, x: tuple[str, str]) -> Figure:
    """Accuracy against a number, with the best that is possible: a panel a dataset, a line a method.

    ``table``: rows with dataset, method, accuracy, bound_marginal and the column of ``x`` (column, axis label), which is
    drawn by its logarithm. Seeds are averaged, bars from the worst to the best of them. Accuracy is on a logit scale, on which
    99 and 99.9 % are as far apart as 90 and 99 %.
    """
    datasets = list(dict.fromkeys(table["dataset"]))
    figure, axes = panels(1, len(datasets), 3.0, sharey=True)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        rows = table[table["dataset"] == dataset]
        for method in in_order(set(rows["method"])):
            label, colour, _, dashes = look_of(method)
            found = rows[rows["method"] == method].groupby(x[0])["accuracy"].agg(["mean", "min", "max"]).dropna().clip(*DRAWN)
            spread = [found["mean"] - found["min"], found["max"] - found["mean"]]
            axis.errorbar(found.index, found["mean"], spread, color=colour, linestyle=dashes, marker="o", markersize=3,
                          label=label, capsize=2)
        bound = rows.groupby(x[0])["bound_marginal"].mean().dropna().clip(*DRAWN)
        axis.plot(bound.index, bound, color=BOUND_COLOUR, label="Bayes bound", zorder=1)
        axis.set(title=name_of(dataset), xscale="log", xlabel=x[1])
        axis.set_xticks(sorted(rows[x[0]].unique()), labels=[f"{value:g}" for value in sorted(rows[x[0]].unique())])
        axis.minorticks_off()
        _accuracy_axis(axis)
    axes[0, 0].set_ylabel("accuracy")
    legend_below(figure, axes.flat)
    return figure


def accuracy_against_time(table: pd.DataFrame) -> Figure:
    """What a method reached in how long: a panel a dataset, a point a run, hollow where its time was up before it ended.

    ``table``: rows with dataset, method, accuracy, train_seconds, bound_marginal, finished.
    """
    datasets = list(dict.fromkeys(table["dataset"]))
    columns = min(len(datasets), 3)
    lines = -(-len(datasets) // columns)
    figure, axes = panels(lines, columns, 2.1 * lines + 0.9, sharey=True, sharex=True)
    for axis in axes.flat[len(datasets):]:
        axis.set_visible(False)
    for axis, dataset in zip(axes.flat, datasets, strict=False):
        rows = table[table["dataset"] == dataset].dropna(subset=["accuracy", "train_seconds"])
        for method in in_order(set(rows["method"])):
            label, colour, _, _ = look_of(method)
            mine = rows[rows["method"] == method]
            fill = [colour if finished else "white" for finished in mine["finished"]]
            # A refined answer has the time of the model that it is of, and is drawn within its point.
            marker, size = POINTS.get(method, ("o", 34))
            axis.scatter(mine["train_seconds"] / 60, mine["accuracy"].clip(*DRAWN), c=fill, s=size, marker=marker, label=label,
                         edgecolors="white" if method == "hetacumn-refined" else colour, zorder=3, clip_on=False)
        axis.axhline(np.clip(rows["bound_marginal"].mean(), *DRAWN), color=BOUND_COLOUR, label="Bayes bound")
        axis.set(title=name_of(dataset), xscale="log", xlim=(0.2, 60))
        axis.xaxis.set_major_locator(FixedLocator([0.2, 1, 5, 30]))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.minorticks_off()
        _accuracy_axis(axis)
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("time of one core (min)")
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    axes[0, 0].scatter([], [], s=34, c="white", edgecolors="black", label="hollow: stopped at its limit")
    legend_below(figure, axes.flat)
    return figure


def ablation_bars(table: pd.DataFrame, names: Mapping[str, str], quantities: Mapping[str, str]) -> Figure:
    """What each part of the method is worth: a row a quantity (column to axis label), a panel a dataset.

    ``table``: rows with dataset, method, seed and the quantities; ``names`` of the methods in figures, in their order.
    Bars are means over seeds, points the seeds; a quantity that differs twentyfold is drawn by its logarithm.
    """
    datasets = list(dict.fromkeys(table["dataset"]))
    height = len(quantities) * (0.22 * len(names) + 0.6) + 0.2
    figure, axes = panels(len(quantities), len(datasets), height, sharey=True, sharex="row")
    for axis, dataset in zip(axes[0], datasets, strict=True):
        axis.set_title(name_of(dataset))
    for line, (quantity, label) in zip(axes, quantities.items(), strict=True):
        for axis, dataset in zip(line, datasets, strict=True):
            for place, method in enumerate(names):
                values = table.loc[(table["dataset"] == dataset) & (table["method"] == method), quantity]
                axis.barh(place, values.mean(), height=0.7, color="#0072B2" if place == 0 else "#9A9A9A", edgecolor="black",
                          linewidth=0.5)
                axis.plot(values, [place] * len(values), "o", color="white", markeredgecolor="black", markersize=3.5)
            values = table.loc[table["method"].isin(names), quantity].dropna()
            if values.min() > 0 and values.max() > 20 * values.min():
                axis.set(xscale="log", xlim=(values.min() / 1.5, 1.5 * values.max()))
                axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set(xlabel=label, ylim=(len(names) - 0.4, -0.6))
            axis.set_yticks(range(len(names)), names.values())
            axis.tick_params(axis="y", length=0)
    return figure


def pose_error_histogram(errors_deg: Mapping[str, Mapping[str, np.ndarray]],
                         bounds_deg: Mapping[str, float]) -> Figure:
    """Rotation errors on a logarithmic axis, a histogram a method, and the bound: a panel a dataset.

    ``errors_deg[dataset][method]`` ``(n,)`` and ``bounds_deg[dataset]``, a median, in degrees.
    """
    figure, axes = panels(1, len(errors_deg), 2.6, sharey=True)
    bins = np.geomspace(0.1, 180, 46)
    for axis, (dataset, by_method) in zip(axes[0], errors_deg.items(), strict=True):
        for method in in_order(set(by_method)):
            label, colour, _, line = look_of(method)
            errors = np.clip(by_method[method], bins[0], bins[-1])
            weights = np.full(len(errors), 1 / len(errors))
            axis.hist(errors, bins, weights=weights, color=colour, alpha=0.25)
            axis.hist(errors, bins, weights=weights, color=colour, histtype="step", linewidth=1.4,
                      linestyle=line, label=label)
        axis.axvline(bounds_deg[dataset], color=BOUND_COLOUR, label="bound (median)")
        axis.set(title=name_of(dataset), xscale="log", xlim=(bins[0], bins[-1]), xlabel="rotation error (°)")
        axis.xaxis.set_major_locator(FixedLocator([0.1, 1, 10, 100]))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %", decimals=1))
    axes[0, 0].set_ylabel("particles per bin")
    legend_below(figure, axes[0])
    return figure


def log_ratio_histogram(groups: Mapping[str, np.ndarray]) -> Figure:
    """By how much the molecule raises the log-likelihood of the images, a histogram a group, one upon the other.

    ``groups[name]`` ``(n,)`` in nats. Images without a molecule are a hump of their own about zero.
    """
    figure, axes = panels(1, 1, 2.6)
    every = np.concatenate(list(groups.values()))
    lowest, highest = min(0.0, *np.quantile(every, (0.001, 0.999))), max(1.0, np.quantile(every, 0.999))
    bins = np.linspace(lowest, highest, 61)
    axes[0, 0].hist([np.clip(values, lowest, highest) for values in groups.values()], bins, stacked=True, label=list(groups),
                    color=[CLASS_COLOURS[i % len(CLASS_COLOURS)] for i in range(len(groups))])  # fmt: skip
    axes[0, 0].set(xlabel="log-likelihood ratio: the molecule over none (nats)", ylabel="particles", xlim=(lowest, highest))
    axes[0, 0].legend()
    return figure


def stage_bars(table: pd.DataFrame, stages: Mapping[str, str]) -> Figure:
    """How long the stages of a run take, one after the other: a panel a dataset, a bar a device.

    ``table``: rows with dataset, device and seconds in the columns of ``stages`` (column to name).
    """
    datasets, devices = (list(dict.fromkeys(table[column])) for column in ("dataset", "device"))
    figure, axes = panels(1, len(datasets), 0.35 * len(devices) + 1.1, sharey=True, sharex=True)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        for place, device in enumerate(devices):
            row = table[(table["dataset"] == dataset) & (table["device"] == device)]
            if len(row):
                ends = np.cumsum(row[list(stages)].iloc[0])
                for i, (end, stage) in enumerate(zip(ends, stages, strict=True)):
                    axis.barh(place, row[stage].iloc[0], left=end - row[stage].iloc[0], height=0.6, color=CLASS_COLOURS[i],
                              label=stages[stage])
            told = f" {ends.iloc[-1]:.0f} s" if len(row) else " not run"
            axis.text(ends.iloc[-1] if len(row) else 0, place, told, va="center", fontsize=8)
        axis.set(title=name_of(dataset), xlabel="seconds", ylim=(len(devices) - 0.5, -0.5))
        axis.set_yticks(range(len(devices)), devices)
        axis.tick_params(axis="y", length=0)
    axes[0, 0].set_xlim(0, 1.25 * table[list(stages)].sum(axis=1).max())
    legend_below(figure, axes[0])
    return figure


def scaling(table: pd.DataFrame) -> Figure:
    """Time and memory against the number of particles: points measured, lines of time in proportion to the largest stack.

    ``table``: rows with particles, stage, seconds, peak_memory_mb.
    """
    figure, axes = panels(1, 2, 2.9)
    time, memory = axes[0]
    for i, stage in enumerate(dict.fromkeys(table["stage"])):
        mine, colour = table[table["stage"] == stage].sort_values("particles"), CLASS_COLOURS[i]
        largest = mine.iloc[-1]
        time.plot(mine["particles"], mine["seconds"], CLASS_MARKERS[i], color=colour, label=stage)
        time.plot(mine["particles"], mine["particles"] * largest["seconds"] / largest["particles"], "-", lw=0.8, color=colour)
        memory.plot(mine["particles"], mine["peak_memory_mb"] / 1000, CLASS_MARKERS[i] + "-", color=colour)
    time.set(xscale="log", yscale="log", xlabel="particles", ylabel="seconds")
    most_gb = table["peak_memory_mb"].max() / 1000
    memory.set(xscale="log", xlabel="particles", ylabel="peak memory (GB)", ylim=(0, 1.3 * most_gb))
    for axis in (time, memory):
        axis.set_xticks(sorted(set(table["particles"])))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.minorticks_off()
    legend_below(figure, axes.flat)
    return figure


def _accuracy_axis(axis: Axes) -> None:
    """Accuracies from chance to all but one in ten thousand, on a logit scale."""
    ticks = [0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 0.997, 0.999, DRAWN[1]]
    axis.set_yscale("logit")
    axis.set_ylim(DRAWN[0], 0.99994)
    axis.yaxis.set_major_locator(FixedLocator(ticks))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{'≥ ' if value == DRAWN[1] else ''}{100 * value:g} %"))
    axis.yaxis.set_minor_locator(FixedLocator([]))

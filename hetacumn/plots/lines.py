"""Curves of any quantity, of training, and of mixtures."""

from collections.abc import Mapping

import pandas as pd
from jaxtyping import Real
from matplotlib.figure import Figure

from hetacumn.plots.theme import (
    CLASS_COLOURS,
    DASHES,
    WIDTH_IN,
    Array,
    dataset_label,
    in_order,
    legend_below,
    method_style,
    panels,
)

#: A column of a table and the label of its axis.
Column = tuple[str, str]


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

"""Tables and volumes to figures: computes nothing heavy and saves only where :func:`save` is called.

Class ``k`` has the same colour and marker in every figure, and so has every method its colour and hatch; both
sets are safe for the colour-blind and told apart in grey. Call :func:`style` once before drawing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, PercentFormatter
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from PIL import Image
from scipy.ndimage import zoom
from skimage.measure import marching_cubes

from hetacumn.project import atomic_path

#: Okabe and Ito's colours, dark and light in turn.
CLASS_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442")
CLASS_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")

#: Name in figures, colour, hatch and line of every method, in the order in which they are drawn.
METHODS = {
    "relion": ("RELION", "#009E73", "xxxx", (0, (5, 2))),
    "cryodrgn2": ("cryoDRGN2", "#CC79A7", "", (0, (3, 1, 1, 1))),
    "drgnai": ("cryoDRGN-AI", "#882255", "oo", (0, (3, 1, 1, 1, 1, 1))),
    "drgnai-conf": ("cryoDRGN-AI, z by network", "#AA6688", "..", (0, (2, 2))),
    "em": ("K-class EM", "#9A9A9A", "", ":"),
    "amortized": ("amortized", "#E69F00", "....", (0, (1, 1))),
    "hetacumn-bare": ("HetACUMN, bare", "#56B4E9", "////", "--"),
    "hetacumn-encoder": ("HetACUMN, encoder alone", "#8FBBD9", "\\\\\\\\", (0, (4, 1, 1, 1))),
    "hetacumn": ("HetACUMN", "#0072B2", "", "-"),
    "hetacumn-refined": ("HetACUMN, refined", "#003A5C", "", "-."),
}
#: Names in figures and tables of this project's datasets; any other one has its own.
DATASETS = {
    "adk": "adenylate kinase",
    "ribosome": "ribosome",
    "spliceosome": "spliceosome",
    "small": "small motions",
    "unequal": "unequal classes",
}
POINTS = {  # marker and size of those that are drawn as points
    "relion": ("s", 34), "cryodrgn2": ("^", 40), "drgnai": ("v", 40), "em": ("P", 44), "amortized": ("<", 40),
    "hetacumn-bare": (">", 40), "hetacumn": ("o", 90), "hetacumn-refined": ("D", 24),
}  # fmt: skip
BOUND_COLOUR = "#D55E00"
DRAWN = (0.2, 0.9999)  # accuracies on a logit scale: what is beyond is drawn here
DASHES = ("-", "--", ":", "-.")
WIDTH_IN = 7.2
DPI = 130
SMOOTH_BOX = 96  # volumes of fewer voxels along a side are interpolated before their surface is drawn


def in_order(present: set[str]) -> list[str]:
    """The methods that are present, in the order of :data:`METHODS`, a user's own after them."""
    return [method for method in METHODS if method in present] + sorted(present - METHODS.keys())


def style() -> None:
    """Set matplotlib to this project's style, for the whole session: 9 pt, ticks and legends 8 pt."""
    matplotlib.rcdefaults()
    matplotlib.rcParams.update({
        "figure.dpi": 100,
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "hatch.linewidth": 0.6,
        "lines.linewidth": 1.5,
        "image.cmap": "gray",
    })


def save(figure: Figure, path: Path | str, title: str = "") -> None:
    """Write a PNG of 256 colours, atomically, with a title above it if there is one; the same figure gives the same bytes."""
    if title:
        figure.suptitle(title, fontsize=9)
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, metadata={"Software": None})
    small = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    with atomic_path(path) as temporary:
        small.save(temporary, optimize=True, dpi=(DPI, DPI))


def particle_gallery(clean: Sequence[np.ndarray], noisy: Sequence[np.ndarray], names: Sequence[str],
                     columns: int = 6, kinds: tuple[str, str] = ("clean", "noisy")) -> Figure:
    """Clean particles above the same as the microscope gives them, two rows a dataset.

    ``clean``, ``noisy``: a stack ``(m, y, x)`` a dataset; protein bright in both. ``kinds`` names the two rows.
    """
    size = WIDTH_IN / (columns + 0.5)
    figure, axes = _grid(2 * len(names), columns, size * 2 * len(names))
    for row, (name, stacks) in enumerate(zip(names, zip(clean, noisy, strict=True), strict=True)):
        for half, (stack, kind) in enumerate(zip(stacks, kinds, strict=True)):
            line = axes[2 * row + half]
            for axis, image in zip(line, stack, strict=False):
                low, high = np.percentile(image, (0.5, 99.8))
                axis.imshow(image, cmap=matplotlib.colormaps["gray"].resampled(24), vmin=low, vmax=high,
                            interpolation="nearest")
            for axis in line:
                axis.set_axis_off()
            line[0].text(-0.06, 0.5, f"{name}\n{kind}", transform=line[0].transAxes, rotation=90,
                         ha="right", va="center", ma="center")
    return figure


def pictures(images: np.ndarray, titles: Sequence[str], same_scale: bool = False) -> Figure:
    """Images ``(n, y, x)`` in a row, protein bright; each stretched to its own range, or all to that of the first."""
    figure = Figure(figsize=(WIDTH_IN, WIDTH_IN / len(images) + 0.3), layout="constrained")
    axes = figure.subplots(1, len(images), squeeze=False)[0]
    for axis, image, title in zip(axes, images, titles, strict=True):
        scale = images[0] if same_scale else image
        axis.imshow(image, cmap=matplotlib.colormaps["gray"], vmin=float(scale.min()), vmax=float(scale.max()))
        axis.set_title(title)
        axis.set_axis_off()
    return figure


def curves(x: np.ndarray, lines: Mapping[str, np.ndarray], x_label: str, y_label: str, log: bool = False) -> Figure:
    """Lines ``(n,)`` by name over ``x`` ``(n,)``, told apart by colour and dashes."""
    figure = Figure(figsize=(WIDTH_IN, 2.6), layout="constrained")
    axis = figure.subplots()
    for i, (name, line) in enumerate(lines.items()):
        axis.plot(x, line, color=CLASS_COLOURS[i % len(CLASS_COLOURS)], linestyle=DASHES[i % len(DASHES)], label=name)
    axis.set(xlabel=x_label, ylabel=y_label, xscale="log" if log else "linear")
    axis.legend()
    return figure


def confusion_matrix(confusions: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """How each true class was labelled, in per cent of it: a row a dataset, a column a method.

    ``confusions[dataset][method]``: counts ``(K, K)``, true classes down, the matched estimated ones across.
    """
    methods = in_order({m for by_method in confusions.values() for m in by_method})
    size = WIDTH_IN / (len(methods) + 0.3)
    figure, axes = _grid(len(confusions), len(methods), (size + 0.25) * len(confusions) + 0.3)
    for axis, method in zip(axes[0], methods, strict=True):
        axis.set_title(_look(method)[0].replace(", ", ",\n"))
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
        line[0].set_ylabel(f"{_named(dataset)}\ntrue class")
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
    figure, axes = _grid(1, len(datasets), 0.3 * len(methods) + 1.25, sharey=True)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        rows = means.loc[dataset].reindex(methods)
        for place, (method, row) in enumerate(rows.iterrows()):
            _, colour, hatch, _ = _look(method)
            axis.barh(place, row["accuracy"], height=0.72, color=colour, hatch=hatch, edgecolor="black",
                      linewidth=0.5)
            axis.text(0.02, place, f"{100 * row['accuracy']:.1f} %", va="center", fontsize=8,
                      bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"})
        axis.plot(rows["accuracy_unseen"], range(len(methods)), "D", color="white", markeredgecolor="black",
                  markersize=5, clip_on=False, zorder=5)
        axis.axvline(rows["bound_marginal"].mean(), color=BOUND_COLOUR, zorder=4)
        axis.axvline(rows["bound_known_pose"].mean(), color=BOUND_COLOUR, linestyle=":", zorder=4)
        axis.set(title=_named(dataset), xlim=(0, 1.02), xlabel="accuracy", ylim=(len(methods) - 0.4, -0.6))
        axis.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axis.set_yticks(range(len(methods)), [_look(method)[0] for method in methods])
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
    figure, axes = _grid(1, len(datasets), 3.0, sharey=True)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        rows = table[table["dataset"] == dataset]
        for method in in_order(set(rows["method"])):
            label, colour, _, dashes = _look(method)
            found = rows[rows["method"] == method].groupby(x[0])["accuracy"].agg(["mean", "min", "max"]).dropna().clip(*DRAWN)
            spread = [found["mean"] - found["min"], found["max"] - found["mean"]]
            axis.errorbar(found.index, found["mean"], spread, color=colour, linestyle=dashes, marker="o", markersize=3,
                          label=label, capsize=2)
        bound = rows.groupby(x[0])["bound_marginal"].mean().dropna().clip(*DRAWN)
        axis.plot(bound.index, bound, color=BOUND_COLOUR, label="Bayes bound", zorder=1)
        axis.set(title=_named(dataset), xscale="log", xlabel=x[1])
        axis.set_xticks(sorted(rows[x[0]].unique()), labels=[f"{value:g}" for value in sorted(rows[x[0]].unique())])
        axis.minorticks_off()
        _accuracy_axis(axis)
    axes[0, 0].set_ylabel("accuracy")
    _legend_below(figure, axes.flat)
    return figure


def accuracy_against_time(table: pd.DataFrame) -> Figure:
    """What a method reached in how long: a panel a dataset, a point a run, hollow where its time was up before it ended.

    ``table``: rows with dataset, method, accuracy, train_seconds, bound_marginal, finished.
    """
    datasets = list(dict.fromkeys(table["dataset"]))
    columns = min(len(datasets), 3)
    lines = -(-len(datasets) // columns)
    figure, axes = _grid(lines, columns, 2.1 * lines + 0.9, sharey=True, sharex=True)
    for axis in axes.flat[len(datasets):]:
        axis.set_visible(False)
    for axis, dataset in zip(axes.flat, datasets, strict=False):
        rows = table[table["dataset"] == dataset].dropna(subset=["accuracy", "train_seconds"])
        for method in in_order(set(rows["method"])):
            label, colour, _, _ = _look(method)
            mine = rows[rows["method"] == method]
            fill = [colour if finished else "white" for finished in mine["finished"]]
            # A refined answer has the time of the model that it is of, and is drawn within its point.
            marker, size = POINTS.get(method, ("o", 34))
            axis.scatter(mine["train_seconds"] / 60, mine["accuracy"].clip(*DRAWN), c=fill, s=size, marker=marker, label=label,
                         edgecolors="white" if method == "hetacumn-refined" else colour, zorder=3, clip_on=False)
        axis.axhline(np.clip(rows["bound_marginal"].mean(), *DRAWN), color=BOUND_COLOUR, label="Bayes bound")
        axis.set(title=_named(dataset), xscale="log", xlim=(0.2, 60))
        axis.xaxis.set_major_locator(FixedLocator([0.2, 1, 5, 30]))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.minorticks_off()
        _accuracy_axis(axis)
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("time of one core (min)")
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    _legend_below(figure, axes.flat)
    return figure


def scaling(table: pd.DataFrame) -> Figure:
    """Time and memory against the number of particles: points measured, lines of time in proportion to the largest stack.

    ``table``: rows with particles, stage, seconds, peak_memory_mb.
    """
    figure, axes = _grid(1, 2, 2.9)
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
    _legend_below(figure, axes.flat)
    return figure


def ablation_bars(table: pd.DataFrame, names: Mapping[str, str], quantities: Mapping[str, str]) -> Figure:
    """What each part of the method is worth: a row a quantity (column to axis label), a panel a dataset.

    ``table``: rows with dataset, method, seed and the quantities; ``names`` of the methods in figures, in their order.
    Bars are means over seeds, points the seeds.
    """
    datasets = list(dict.fromkeys(table["dataset"]))
    height = len(quantities) * (0.22 * len(names) + 0.6) + 0.2
    figure, axes = _grid(len(quantities), len(datasets), height, sharey=True, sharex="row")
    for axis, dataset in zip(axes[0], datasets, strict=True):
        axis.set_title(_named(dataset))
    for line, (quantity, label) in zip(axes, quantities.items(), strict=True):
        for axis, dataset in zip(line, datasets, strict=True):
            for place, method in enumerate(names):
                values = table.loc[(table["dataset"] == dataset) & (table["method"] == method), quantity]
                axis.barh(place, values.mean(), height=0.7, color="#0072B2" if place == 0 else "#9A9A9A", edgecolor="black",
                          linewidth=0.5)
                axis.plot(values, [place] * len(values), "o", color="white", markeredgecolor="black", markersize=3.5)
            axis.set(xlabel=label, ylim=(len(names) - 0.4, -0.6))
            axis.set_yticks(range(len(names)), names.values())
            axis.tick_params(axis="y", length=0)
    return figure


def latent_scatter(latents: Mapping[str, np.ndarray], classes: Mapping[str, np.ndarray],
                   most: int = 2000) -> Figure:
    """The latent space by its two main axes, coloured by true class: a panel a dataset.

    ``latents[dataset]`` ``(n, d)`` and ``classes[dataset]`` ``(n,)``; the first ``most`` particles are drawn.
    The axes say how much of the variance each explains.
    """
    figure, axes = _grid(1, len(latents), WIDTH_IN / max(len(latents), 2) + 0.5)
    for axis, (dataset, z) in zip(axes[0], latents.items(), strict=True):
        centred = np.asarray(z, dtype=float) - np.mean(z, axis=0)
        _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
        share = sizes**2 / max((sizes**2).sum(), 1e-12)
        plane = centred[:most] @ directions[:2].T
        for k in np.unique(classes[dataset]):
            points = plane[classes[dataset][:most] == k]
            axis.plot(*points.T, CLASS_MARKERS[k], color=CLASS_COLOURS[k], markersize=3, alpha=0.6,
                      markeredgewidth=0, label=f"class {k + 1}")
        axis.set_title(_named(dataset))
        axis.set_xlabel(f"z, 1st axis ({share[0]:.0%} of variance)")
        axis.set_ylabel(f"z, 2nd axis ({share[1]:.0%})")
        axis.set_box_aspect(1)
    _legend_below(figure, axes[0])
    return figure


def pose_error_histogram(errors_deg: Mapping[str, Mapping[str, np.ndarray]],
                         bounds_deg: Mapping[str, float]) -> Figure:
    """Rotation errors on a logarithmic axis, a histogram a method, and the bound: a panel a dataset.

    ``errors_deg[dataset][method]`` ``(n,)`` and ``bounds_deg[dataset]``, a median, in degrees.
    """
    figure, axes = _grid(1, len(errors_deg), 2.6, sharey=True)
    bins = np.geomspace(0.1, 180, 46)
    for axis, (dataset, by_method) in zip(axes[0], errors_deg.items(), strict=True):
        for method in in_order(set(by_method)):
            label, colour, _, line = _look(method)
            errors = np.clip(by_method[method], bins[0], bins[-1])
            weights = np.full(len(errors), 1 / len(errors))
            axis.hist(errors, bins, weights=weights, color=colour, alpha=0.25)
            axis.hist(errors, bins, weights=weights, color=colour, histtype="step", linewidth=1.4,
                      linestyle=line, label=label)
        axis.axvline(bounds_deg[dataset], color=BOUND_COLOUR, label="bound (median)")
        axis.set(title=_named(dataset), xscale="log", xlim=(bins[0], bins[-1]), xlabel="rotation error (°)")
        axis.xaxis.set_major_locator(FixedLocator([0.1, 1, 10, 100]))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %", decimals=1))
    axes[0, 0].set_ylabel("particles per bin")
    _legend_below(figure, axes[0])
    return figure


def volume_surfaces(truth: np.ndarray, estimates: Mapping[str, np.ndarray], titles: Sequence[str] | None = None) -> Figure:
    """Class volumes as surfaces, the truth above every method: a column a class, all seen from one side.

    ``truth`` and every estimate ``(K, z, y, x)`` in one frame; without estimates the first may be any volumes. The truth
    is cut at a quarter of its highest density, an estimate where it encloses as many voxels. The view is across the two
    longest principal axes. ``titles`` of the columns: class 1, class 2, … if None.
    """
    rows = {"truth": truth, **{_look(m)[0]: estimates[m] for m in in_order(set(estimates))}}
    margin, size = 0.4, min((WIDTH_IN - 0.4) / len(truth), 1.35)
    width, height = margin + size * len(truth), margin + size * len(rows)
    figure = Figure(figsize=(width, height), layout="none")
    axes_xyz, middle, reach = _pose_for_view(truth)
    for row, (name, volumes) in enumerate(rows.items()):
        bottom = size * (len(rows) - 1 - row)
        for k, volume in enumerate(volumes):
            left = margin + k * size
            place = left / width, bottom / height, size / width, size / height
            axis = figure.add_axes(place, projection="3d")
            share = float((truth[k] > 0.25 * truth[k].max()).mean())
            level = float(np.quantile(volume, 1 - share))
            _surface(axis, volume, level, CLASS_COLOURS[k], axes_xyz, middle, reach)
        if estimates:
            figure.text(0.04 / width, (bottom + size / 2) / height, name.replace(", ", ",\n"), rotation=90, va="center",
                        ha="left", ma="center", linespacing=1.0)
    for k, title in enumerate(titles or [f"class {k + 1}" for k in range(len(truth))]):
        left = margin + (k + 0.5) * size
        figure.text(left / width, 1 - 0.08 / height, title, va="top", ha="center")
    return figure


def fsc_curves(table: pd.DataFrame) -> Figure:
    """FSC of the class volumes with the truth: a panel a dataset, a line a method (mean over its classes).

    ``table``: dataset, method, class, frequency_per_A (every shell below Nyquist), fsc. The band is from
    the worst to the best class.
    """
    datasets = list(dict.fromkeys(table["dataset"]))
    figure, axes = _grid(1, len(datasets), 2.8, sharey=True)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        rows = table[table["dataset"] == dataset]
        for method in in_order(set(rows["method"])):
            label, colour, _, line = _look(method)
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
        axis.set_title(_named(dataset), loc="left")
        resolutions_A = _round_resolutions(nyquist)
        axis.set_xticks([1 / r for r in resolutions_A], [f"1/{r}" for r in resolutions_A])
    axes[0, 0].set_ylabel("FSC with the truth")
    _legend_below(figure, axes[0])
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
    figure, axes = _grid(len(quantities), len(histories), height, sharex="col", sharey="row")
    for column, (dataset, by_method) in enumerate(histories.items()):
        for line, (name, label) in zip(axes, quantities.items(), strict=True):
            for method in in_order(set(by_method)):
                history = by_method[method]
                if name in history:
                    rows = history[[x[0], name]].dropna()
                    method_label, colour, _, dashes = _look(method)
                    line[column].plot(rows[x[0]], rows[name], color=colour, linestyle=dashes,
                                      label=method_label)
            if column == 0:
                line[0].set_ylabel(label)
        axes[0, column].set_title(_named(dataset))
        axes[-1, column].set_xlabel(x[1])
    figure.align_ylabels(axes[:, 0])
    _legend_below(figure, axes.flat)
    return figure


def latent_density(latents: np.ndarray, path: np.ndarray) -> Figure:
    """How densely particles lie in the latent space, by its two main axes, and a path through it, numbered.

    ``latents`` ``(n, d)``, ``path`` ``(p, d)``.
    """
    figure, axes = _grid(1, 1, 0.62 * WIDTH_IN)
    axis = axes[0, 0]
    middle = np.mean(latents, axis=0)
    _, _, directions = np.linalg.svd(np.asarray(latents, dtype=float) - middle, full_matrices=False)
    plane, line = ((np.asarray(z) - middle) @ directions[:2].T for z in (latents, path))
    shown = axis.hexbin(*plane.T, gridsize=60, mincnt=1, cmap="Greys", bins="log", linewidths=0.1)
    figure.colorbar(shown, ax=axis, label="particles", shrink=0.8)
    axis.plot(*line.T, "-o", color=CLASS_COLOURS[0], markersize=4)
    for number in (0, len(line) - 1):
        axis.annotate(str(number + 1), line[number], xytext=(5, 5), textcoords="offset points",
                      color=CLASS_COLOURS[0], fontweight="bold")
    axis.set(xlabel="z, 1st axis", ylabel="z, 2nd axis")
    axis.set_aspect("equal", adjustable="datalim")
    return figure


def view_distribution(rot_deg: np.ndarray, tilt_deg: np.ndarray) -> Figure:
    """From where the particles were seen: RELION's rot and tilt ``(n,)`` on an equal-area map of the sphere.

    Grey is particles per bin over the mean: an even distribution is 1 everywhere.
    """
    figure = Figure(figsize=(WIDTH_IN, 0.55 * WIDTH_IN), layout="constrained")
    axis = figure.add_subplot(projection="mollweide")
    longitude = np.linspace(-np.pi, np.pi, 37)
    latitude = np.arcsin(np.linspace(-1, 1, 19))  # bins of equal area
    turned = np.deg2rad((np.asarray(rot_deg) + 180) % 360 - 180)
    counts, _, _ = np.histogram2d(np.pi / 2 - np.deg2rad(tilt_deg), turned, bins=(latitude, longitude))
    mesh = axis.pcolormesh(longitude, latitude, counts / counts.mean(), cmap="Greys", vmin=0)
    figure.colorbar(mesh, ax=axis, label="particles per bin / mean", shrink=0.7)
    axis.set_xticklabels([])
    axis.set(xlabel="rot, -180° to 180°", ylabel="90° − tilt")
    axis.grid(alpha=0.3)
    return figure


def half_map_fsc(curves: Mapping[str, np.ndarray], voxel_A: float) -> Figure:
    """FSC between two half maps, a line a map; ``curves[name]`` ``(box // 2,)``; the dashed line is 0.143."""
    figure, axes = _grid(1, 1, 2.8)
    axis = axes[0, 0]
    for i, (name, curve) in enumerate(curves.items()):
        axis.plot(np.arange(len(curve)) / (2 * len(curve) * voxel_A), curve, label=name,
                  color=CLASS_COLOURS[i % len(CLASS_COLOURS)], linestyle=("-", "--", "-.", ":")[i % 4])
    nyquist = 1 / (2 * voxel_A)
    axis.axhline(0.143, color="black", linewidth=0.8, linestyle="--")
    axis.set(xlim=(0, nyquist), ylim=(-0.1, 1.02), xlabel="spatial frequency (1/Å)", ylabel="FSC of the half maps")
    resolutions_A = _round_resolutions(nyquist)
    axis.set_xticks([1 / r for r in resolutions_A], [f"1/{r}" for r in resolutions_A])
    _legend_below(figure, [axis])
    return figure


def defocus_histogram(defocus_u_A: np.ndarray, defocus_v_A: np.ndarray) -> Figure:
    """Mean defocus of the particles in µm, and their astigmatism, the difference of the two."""
    figure, axes = _grid(1, 2, 2.3)
    u, v = np.asarray(defocus_u_A, dtype=float), np.asarray(defocus_v_A, dtype=float)
    both = ((u + v) / 2e4, abs(u - v) / 1e4)
    for axis, values, label in zip(axes[0], both, ("defocus (µm)", "astigmatism (µm)"), strict=True):
        axis.hist(values, 40, color="#9A9A9A")
        axis.set(xlabel=label)
    axes[0, 0].set_ylabel("particles")
    return figure


def noise_spectrum(power: np.ndarray, pixel_A: float) -> Figure:
    """Mean power of the noise in each shell ``(box // 2,)``, 1 being that of white noise of unit variance."""
    figure, axes = _grid(1, 1, 2.4)
    axis = axes[0, 0]
    frequencies = np.arange(len(power)) / (2 * len(power) * pixel_A)
    axis.plot(frequencies, power, color=CLASS_COLOURS[0], label="background of the particles")
    axis.axhline(1, color="black", linewidth=0.8, linestyle="--", label="white noise")
    nyquist = 1 / (2 * pixel_A)
    resolutions_A = _round_resolutions(nyquist)
    axis.set_xticks([1 / r for r in resolutions_A], [f"1/{r}" for r in resolutions_A])
    axis.set(xlim=(0, nyquist), ylim=(0, None), xlabel="spatial frequency (1/Å)", ylabel="power of the noise")
    _legend_below(figure, [axis])
    return figure


def motion_scatter(found: np.ndarray, true: np.ndarray, names: Sequence[str], correlations: Sequence[float]) -> Figure:
    """Recovered coordinates ``(n, d)`` against the true ones, a panel a motion; shading is particles per bin."""
    figure, axes = _grid(1, len(names), 2.9)
    for i, (axis, name) in enumerate(zip(axes[0], names, strict=True)):
        axis.hexbin(true[:, i], found[:, i], gridsize=40, mincnt=1, cmap="Greys", linewidths=0.1)
        axis.set(xlabel=f"true motion of {name} (0 to 1)", title=f"{name}: rank correlation {correlations[i]:.3f}")
    axes[0, 0].set_ylabel("recovered coordinate (standard deviations)")
    return figure


def path_surfaces(volumes: np.ndarray) -> Figure:
    """Volumes along a path ``(p, z, y, x)`` as surfaces, from the front (above) and from the side."""
    size = WIDTH_IN / len(volumes)
    height = 2 * size + 0.5  # with room for a title
    figure = Figure(figsize=(WIDTH_IN, height), layout="none")
    front, middle, reach = _pose_for_view(volumes)
    order = [1, 0, 2]  # the side: along the second axis
    side = front[order] * np.array([[1.0], [-1.0], [1.0]])
    level = 0.25 * float(np.max(volumes))
    for k, volume in enumerate(volumes):
        for row, (axes_xyz, centre) in enumerate(((front, middle), (side, middle[order] * [1, -1, 1]))):
            place = k / len(volumes), (1 - row) * size / height, 1 / len(volumes), size / height
            axis = figure.add_axes(place, projection="3d")
            _surface(axis, volume, level, CLASS_COLOURS[0], axes_xyz, centre, reach)
        figure.text((k + 0.5) / len(volumes), 2 * size / height, str(k + 1), va="bottom", ha="center")
    return figure


def _named(dataset: str) -> str:
    """A dataset's name in figures."""
    return DATASETS.get(dataset, dataset)


def _look(method: str) -> tuple[str, str, str, str | tuple]:
    """Name in figures, colour, hatch and line of a method; black for one that is not in :data:`METHODS`."""
    return METHODS.get(method, (method, "#000000", "", "-"))


def _accuracy_axis(axis: Axes) -> None:
    """Accuracies from chance to all but one in ten thousand, on a logit scale."""
    ticks = [0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 0.997, 0.999, DRAWN[1]]
    axis.set_yscale("logit")
    axis.set_ylim(DRAWN[0], 0.99994)
    axis.yaxis.set_major_locator(FixedLocator(ticks))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{'≥ ' if value == DRAWN[1] else ''}{100 * value:g} %"))
    axis.yaxis.set_minor_locator(FixedLocator([]))


def _grid(rows: int, columns: int, height_in: float, **shared) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def _legend_below(figure: Figure, axes: Iterable[Axes]) -> None:
    """One legend for all panels, of what any of them has."""
    handles = {}
    for axis in axes:
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center",
                  ncols=len(handles) if len(handles) <= 5 else 4 if len(handles) > 8 else -(-len(handles) // 2))


def _round_resolutions(nyquist_per_A: float) -> list[int]:
    """Resolutions in Å for ticks, from Nyquist down, no two nearer than a fifth of the axis."""
    chosen = []
    for resolution in [*range(2, 15), 16, 18, 20, 25, 30, 35, 40, 50, 60, 80, 100, 150, 200, 300]:
        frequency = 1 / resolution
        if frequency <= nyquist_per_A and (not chosen or 1 / chosen[-1] - frequency > 0.2 * nyquist_per_A):
            chosen.append(resolution)
    return chosen


def _pose_for_view(volumes: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Principal axes of what any class fills, shortest first, as rows ``(3, 3)`` xyz.

    Then the middle of its extent along them ``(3,)`` and half the largest extent, in voxels from the origin.
    """
    filled = volumes.max(0)
    zyx = np.argwhere(filled > 0.2 * filled.max()) - filled.shape[-1] // 2
    points = zyx[:, ::-1].astype(float)
    _, vectors = np.linalg.eigh(np.cov(points.T))
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), range(3)])  # eigenvectors have no sign
    if np.linalg.det(vectors) < 0:
        vectors[:, 0] *= -1
    low, high = (points @ vectors).min(0), (points @ vectors).max(0)
    return vectors.T, (low + high) / 2, float((high - low).max()) / 2 + 1


def _surface(axis: Axes3D, volume: np.ndarray, level: float, colour: str, axes_xyz: np.ndarray,
             middle: np.ndarray, reach: float) -> None:
    """Draw where the density is ``level``, turned to ``axes_xyz`` and lit from the upper left."""
    axis.set_axis_off()
    axis.set_proj_type("ortho")
    axis.view_init(elev=0, azim=0)  # along the first axis, the shortest; the third, the longest, is up
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(-reach, reach))
    axis.set_box_aspect((1, 1, 1), zoom=1.65)
    finer = 2 if volume.shape[-1] < SMOOTH_BOX else 1
    fine = zoom(np.asarray(volume, dtype=float), finer, order=3, mode="grid-constant", grid_mode=True)
    if not fine.min() < level < fine.max():
        axis.text2D(0.5, 0.5, "no volume", transform=axis.transAxes, ha="center", va="center", fontsize=8)
        return
    vertices, faces, _, _ = marching_cubes(fine, level)
    voxels_xyz = ((vertices[:, ::-1] + 0.5) / finer - 0.5) - volume.shape[-1] // 2
    triangles = (voxels_xyz @ axes_xyz.T - middle)[faces]
    flat = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    smooth = np.zeros_like(vertices, dtype=float)
    np.add.at(smooth, faces, flat[:, None])  # every corner has the mean normal of the faces around it
    normals = smooth[faces].mean(1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-9)
    light = np.array([0.75, -0.4, 0.55])
    diffuse = np.clip(normals @ (light / np.linalg.norm(light)), 0, 1)[:, None]
    nearness = np.clip((triangles[:, :, 0].mean(1) / reach + 1) / 2, 0, 1)[:, None]
    shade = (0.35 + 0.65 * diffuse) * (0.7 + 0.3 * nearness)
    colours = np.clip(np.array(to_rgb(colour)) * shade + 0.2 * diffuse**12, 0, 1)
    axis.add_collection3d(Poly3DCollection(triangles, facecolors=colours, edgecolors=colours, linewidths=0.2))

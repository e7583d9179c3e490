"""Pictures of the lessons: a row of images, a few curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure
from torch import Tensor

from hetacumn.plots import CLASS_COLOURS, WIDTH_IN

DASHES = ("-", "--", ":", "-.")


def pictures(images: Tensor, titles: Sequence[str], same_scale: bool = False) -> Figure:
    """Images ``(n, y, x)`` in a row, protein bright; each stretched to its own range, or all to that of the first."""
    figure = Figure(figsize=(WIDTH_IN, WIDTH_IN / len(images) + 0.3), layout="constrained")
    axes = figure.subplots(1, len(images), squeeze=False)[0]
    for axis, image, title in zip(axes, images, titles, strict=True):
        scale = images[0] if same_scale else image
        axis.imshow(image, cmap=matplotlib.colormaps["gray"], vmin=float(scale.min()), vmax=float(scale.max()))
        axis.set_title(title)
        axis.set_axis_off()
    return figure


def curves(x: Tensor, lines: Mapping[str, Tensor], x_label: str, y_label: str, log: bool = False) -> Figure:
    """Lines ``(n,)`` by name over ``x`` ``(n,)``, told apart by colour and dashes."""
    figure = Figure(figsize=(WIDTH_IN, 2.6), layout="constrained")
    axis = figure.subplots()
    for i, (name, line) in enumerate(lines.items()):
        axis.plot(x, line, color=CLASS_COLOURS[i % len(CLASS_COLOURS)], linestyle=DASHES[i % len(DASHES)], label=name)
    axis.set(xlabel=x_label, ylabel=y_label, xscale="log" if log else "linear")
    axis.legend()
    return figure

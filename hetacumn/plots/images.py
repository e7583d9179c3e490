"""Images of particles."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Real
from matplotlib.figure import Figure

from hetacumn.plots.theme import WIDTH_IN, Array, panels


def particle_gallery(
    clean: Sequence[Real[np.ndarray, "_m _y _x"]],
    noisy: Sequence[Real[np.ndarray, "_m _y _x"]],
    names: Sequence[str],
    columns: int = 6,
    kinds: tuple[str, str] = ("clean", "noisy"),
) -> Figure:
    """Draw particles in pairs, without noise above and with noise below: two rows a dataset.

    Args:
        clean: A stack a dataset, protein bright.
        noisy: A stack a dataset, protein bright.
        names: The names of the datasets; a single name is above the figure, several are beside their rows.
        columns: The number of particles in a row.
        kinds: The names of the two rows.
    """
    size = WIDTH_IN / (columns + 0.5)
    figure, axes = panels(2 * len(names), columns, size * 2 * len(names))
    if len(names) == 1:
        figure.suptitle(names[0], fontsize=9)
    for row, (name, stacks) in enumerate(zip(names, zip(clean, noisy, strict=True), strict=True)):
        for half, (stack, kind) in enumerate(zip(stacks, kinds, strict=True)):
            line = axes[2 * row + half]
            for axis, image in zip(line, stack, strict=False):
                low, high = np.percentile(image, (0.5, 99.8))
                grey = matplotlib.colormaps["gray"].resampled(24)
                axis.imshow(image, cmap=grey, vmin=low, vmax=high, interpolation="nearest")
            for axis in line:
                axis.set_axis_off()
            label = kind if len(names) == 1 else f"{name}\n{kind}"
            line[0].text(-0.06, 0.5, label, transform=line[0].transAxes, rotation=90, ha="right", va="center", ma="center")
    return figure


def pictures(images: Real[Array, "n y x"], titles: Sequence[str], same_scale: bool = False) -> Figure:
    """Draw images in a row.

    Args:
        images: Images, bright where values are high.
        titles: A title an image.
        same_scale: Stretch all images to the range of the first, rather than each to its own.
    """
    stack = np.asarray(images)
    figure = Figure(figsize=(WIDTH_IN, WIDTH_IN / len(stack) + 0.3), layout="constrained")
    axes = figure.subplots(1, len(stack), squeeze=False)[0]
    for axis, image, title in zip(axes, stack, titles, strict=True):
        scale = stack[0] if same_scale else image
        axis.imshow(image, cmap=matplotlib.colormaps["gray"], vmin=float(scale.min()), vmax=float(scale.max()))
        axis.set_title(title)
        axis.set_axis_off()
    return figure
